// Adapters merged into a model's file: the same logits as with the adapter at run time.

import { mergeAdapters, type MergeOptions, type Model } from 'lapidary/node';
import { expect, test } from 'vitest';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { maxAbs, maxAbsDifference, report, row } from '../support/compare.ts';
import {
  loadBytes,
  memorySource,
  models,
  promptNamed,
  readFixture,
  readJson,
} from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';

const kvType = 'f32';

async function mergedFile(
  ...[model, adapters, options]: Parameters<typeof mergeAdapters>
): Promise<{ bytes: Uint8Array; kept: number }> {
  const made = await mergeAdapters(model, adapters, options);
  const bytes = new Uint8Array(await new Response(made.stream()).arrayBuffer());
  expect(bytes.length).toBe(made.bytes);
  return { bytes, kept: made.report().kept };
}

async function logitsOf<T>(file: Uint8Array, work: (model: Model) => Promise<T>): Promise<T> {
  const model = await loadBytes('merged.gguf', file, { kvType });
  try {
    return await work(model);
  } finally {
    await model.close();
  }
}

/** Mean over positions of the divergence of `got` from `wanted`, in nats. */
function meanKl(wanted: Float32Array, got: Float32Array, vocab: number): number {
  const logSoftmax = (logits: Float32Array) => {
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
    return Float64Array.from(logits, (logit) => logit - most - Math.log(sum));
  };
  const positions = wanted.length / vocab;
  let total = 0;
  for (let at = 0; at < positions; at++) {
    const p = logSoftmax(row(wanted, vocab, at));
    const q = logSoftmax(row(got, vocab, at));
    p.forEach((logp, i) => (total += Math.exp(logp) * (logp - (q[i] ?? NaN))));
  }
  return total / positions;
}

test('tiny-e in F32: the logits of the adapter at run time, at two scales', async () => {
  const file = readFixture('gemma4/tiny-e.gguf');
  const { ids } = readJson<Record<string, { ids: number[] }>>('gemma4/manifest.json')['tiny-e']!;
  const sharing = (name: string) => /^blk\.[4-9]\.attn_[kv]\./.test(name);
  const first = randomAdapter(parseGguf(file), { seed: 1, rank: 4, skip: sharing });
  const second = randomAdapter(parseGguf(file), { seed: 2, rank: 3, targets: ['attn_o', 'ffn_up'] });
  const options: MergeOptions = { type: 'f32' };
  const { bytes, kept } = await mergedFile(
    memorySource('tiny-e.gguf', file),
    [{ adapter: adapterSource(first), scale: 0.5 }, adapterSource(second)],
    options,
  );
  expect(kept).toBeCloseTo(1, 5);
  const [base, wanted] = await logitsOf(file, async (model) => {
    const plain = await model.logits(ids, { all: true });
    await model.loadAdapter(adapterSource(first), { scale: 0.5 });
    await model.loadAdapter(adapterSource(second));
    return [plain, await model.logits(ids, { all: true })];
  });
  const got = await logitsOf(bytes, (model) => model.logits(ids, { all: true }));
  const limit = 1e-4 * maxAbs(wanted);
  report('tiny-e merged', maxAbsDifference(got, wanted), limit);
  expect(maxAbsDifference(got, wanted)).toBeLessThan(limit);
  expect(maxAbsDifference(base, wanted)).toBeGreaterThan(100 * limit);
});
