// Random models of each text family against their own references, and what a layer costs in dispatches.

import type { Model } from 'lapidary/node';
import { expect, test } from 'vitest';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, readFixture, readFloats, readJson } from '../support/fixtures.ts';

interface Reference {
  gguf: string;
  ids: number[];
  logits: { file: string; shape: [number, number] };
}
const references = readJson<Record<string, Reference>>('gemma4/manifest.json');
const kvType = 'f32';

async function withModel<T>(path: string, work: (model: Model) => Promise<T>): Promise<T> {
  const model = await loadBytes(path, readFixture(path), { kvType });
  try {
    return await work(model);
  } finally {
    await model.close();
  }
}

function reference(name: string): Reference {
  const found = references[name];
  if (!found) throw new Error(`no reference is called ${name}`);
  return found;
}

// Windows of 4 and 5 tokens: a prompt of 20 leaves the first keys behind. (The ring that holds them turns in
// session.test.ts only.)
test.each(['tiny-e', 'tiny-dense', 'tiny-moe'])(
  '%s: every logit within 1e-4, relative to the largest',
  async (name) => {
    const { gguf, ids, logits: expected } = reference(name);
    const values = readFloats(`gemma4/${expected.file}`);
    expect(expected.shape[0]).toBe(ids.length);
    await withModel(`gemma4/${gguf}`, async (model) => {
      const vocab = expected.shape[1];
      expect(model.info.vocab).toBe(vocab);
      const all = await model.logits(ids, { all: true });
      const limit = 1e-4 * maxAbs(values);
      report(`${name}, at once`, maxAbsDifference(all, values), limit);
      expect(maxAbsDifference(all, values)).toBeLessThan(limit);
      await model.truncate(0);
      const steps: number[] = [];
      for (let length = 1; length <= ids.length; length++) {
        steps.push(...(await model.logits(ids.slice(0, length))));
      }
      report(`${name}, token by token`, maxAbsDifference(steps, values), limit);
      expect(maxAbsDifference(steps, values)).toBeLessThan(limit);
    });
  },
);

test('tiny-mm text: every logit within 1e-3 of HF', async () => {
  const { ids, shape, text } = readJson<{ ids: number[]; shape: [number, number]; text: string }>(
    'tiny-mm/logits_hf.json',
  );
  const expected = readFloats('tiny-mm/logits_hf.bin');
  expect(expected).toHaveLength(shape[0] * shape[1]);
  await withModel('tiny-mm/tiny-mm-text-f16.gguf.gz', async (model) => {
    expect(model.tokenize(text, { addBos: false, special: 'parse' })).toEqual(ids);
    const logits = await model.logits(ids, { all: true });
    const difference = maxAbsDifference(logits, expected);
    report('tiny-mm text', difference, 1e-3);
    expect(difference).toBeLessThan(1e-3);
    await model.truncate(0);
    const last = await model.logits(ids);
    expect(maxAbsDifference(last, expected.subarray((ids.length - 1) * shape[1]))).toBeLessThan(
      1e-3,
    );
  });
});
