// Rows that stand in the place of tokens, as a picture's do, in the models of an independent float64 reference: all logits
// at once, as a prompt gives them, and where the cache holds half of the picture; in one batch and in pieces.

import { openDevice } from 'lapidary/node';
import { beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, readFixture, readFloats, readJson } from '../support/fixtures.ts';
import { idBytes, kernelTests } from '../support/kernel-tests.ts';

interface Reference {
  gguf: string;
  soft: { ids: number[]; rows: { file: string }; logits_causal: { file: string } };
}
const references = readJson<Record<string, Reference>>('gemma4/manifest.json');

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

let engine: Awaited<ReturnType<typeof kernelTests>>;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});

async function softLogits(file: string, ids: number[], rows: Float32Array, batch: number) {
  const source = engine.addSource(memorySource(file, readFixture(`gemma4/${file}`)));
  const args = [source, idBytes(ids), new Uint8Array(rows.buffer), batch];
  return new Float32Array((await engine.call('soft_probe', args).done).buffer);
}

test.each([
  ['tiny-e', 512],
  ['tiny-e', 3],
  ['tiny-dense', 512],
  ['tiny-moe', 512],
  ['tiny-moe', 3],
])(
  '%s, %i tokens at once: every logit within 1e-4, relative to the largest',
  async (name, batch) => {
    const reference = references[name];
    if (!reference) throw new Error(`no reference is called ${name}`);
    const { ids, rows, logits_causal } = reference.soft;
    expect(ids.filter((id) => id < 0)).toHaveLength(4);
    const causal = readFloats(`gemma4/${logits_causal.file}`);
    const last = causal.subarray(-causal.length / ids.length);
    const expected = Float32Array.from([...causal, ...last, ...last]);
    const found = await softLogits(reference.gguf, ids, readFloats(`gemma4/${rows.file}`), batch);
    const limit = 1e-4 * maxAbs(causal);
    report(`${name}, batches of ${batch}`, maxAbsDifference(found, expected), limit);
    expect(maxAbsDifference(found, expected)).toBeLessThan(limit);
  },
);

test('soft tokens without rows, and at the end of a prompt, are refused', async () => {
  const rows = readFloats('gemma4/soft_rows.f32');
  for (const ids of [
    [2, -1, -1, -1, -1, -1, 5],
    [2, 5, -1, -1, -1, -1],
  ]) {
    const failure = await softLogits('tiny-e.gguf', ids, rows, 512).catch(
      (error: unknown) => error,
    );
    expect(failure).toMatchObject({ code: 'invalid_argument' });
  }
});
