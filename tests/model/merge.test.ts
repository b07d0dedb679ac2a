// An adapter merged into a quantised model: next to what it does at run time. (In F32: adapters.test.ts.)

import { mergeAdapters, Model, type LoadOptions } from 'lapidary/node';
import { expect, test } from 'vitest';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { report, row } from '../support/compare.ts';
import { loadBytes, models, nanoF16, promptNamed } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';

/** Mean over positions of the divergence of `got` from `wanted`, in nats. */
function meanKl(wanted: Float32Array, got: Float32Array, vocab: number): number {
  const logSoftmax = (logits: Float32Array) => {
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
    return Float64Array.from(logits, (logit) => logit - most - Math.log(sum));
  };
  let total = 0;
  for (let at = 0; at < wanted.length / vocab; at++) {
    const q = logSoftmax(row(got, vocab, at));
    logSoftmax(row(wanted, vocab, at)).forEach(
      (logp, i) => (total += Math.exp(logp) * (logp - (q[i] ?? NaN))),
    );
  }
  return total / (wanted.length / vocab);
}

test('nano Q4_K_M, merged in its own types: within 0.001 nats of the adapter at run time', async () => {
  // Strong enough not to be rounded away, in the first and the last layer.
  const adapter = randomAdapter(parseGguf(nanoF16()), {
    seed: 7,
    rank: 8,
    most: 1,
    skip: (name) => !/^blk\.[05]\./.test(name) || /^blk\.5\.attn_[kv]\./.test(name),
  });
  const ids = [...promptNamed('story').ids, ...promptNamed('capital').ids];
  const options: LoadOptions = { stores: [models], kvType: 'f32' };
  const base = await Model.load('nano', options);
  const { vocab } = base.info;
  let plain: Float32Array;
  let wanted: Float32Array;
  try {
    plain = await base.logits(ids, { all: true });
    await base.loadAdapter(adapterSource(adapter));
    wanted = await base.logits(ids, { all: true });
  } finally {
    await base.close();
  }
  const made = await mergeAdapters('nano', [adapterSource(adapter)], { stores: [models] });
  const file = new Uint8Array(await new Response(made.stream()).arrayBuffer());
  expect(new Set(made.matrices.map(({ from, to }) => `${from} ${to}`))).toEqual(
    new Set(['Q4_K Q4_K', 'Q6_K Q6_K']),
  );
  expect(made.report().kept).toBeGreaterThan(0.98);
  const merged = await loadBytes('merged.gguf', file, options);
  const got = await merged.logits(ids, { all: true }).finally(() => merged.close());
  const limit = 0.001;
  report('nano Q4_K_M merged, KL', meanKl(wanted, got, vocab), limit);
  expect(meanKl(wanted, got, vocab)).toBeLessThan(limit);
  expect(meanKl(wanted, plain, vocab)).toBeGreaterThan(10 * limit);
});
