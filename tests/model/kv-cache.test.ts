// Keys and values in 8 bits: how far next-token distributions move, and that every way into and out of such a cache
// agrees with the others.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Model } from 'lapidary/node';
import { maxAbsDifference, report, row } from '../support/compare.ts';
import { models, promptNamed } from '../support/fixtures.ts';
import { sharedGpu } from '../support/shared-gpu.ts';

let shared: Awaited<ReturnType<typeof sharedGpu>>;
let f16: Model;
let q8: Model;
beforeAll(async () => {
  shared = await sharedGpu();
  const options = { stores: [models], gpu: shared.gpu, tune: false, sessions: 2 };
  f16 = await Model.load('nano', { ...options, kvType: 'f16' });
  q8 = await Model.load('nano', { ...options, kvType: 'q8_0' });
}, 600_000);
afterAll(async () => {
  await q8.close();
  await f16.close();
  shared.close();
});

const logProbabilities = (logits: Float32Array): Float64Array => {
  const top = logits.reduce((most, x) => Math.max(most, x), -Infinity);
  let sum = 0;
  for (const x of logits) sum += Math.exp(x - top);
  return Float64Array.from(logits, (x) => x - top - Math.log(sum));
};

// Of the distribution with 8 bits from the one with f16, in nats.
function divergence(expected: Float32Array, found: Float32Array): number {
  const p = logProbabilities(expected);
  const q = logProbabilities(found);
  return p.reduce((sum, x, i) => sum + Math.exp(x) * (x - (q[i] ?? NaN)), 0);
}

test('the cache is little more than half as large', () => {
  expect(q8.info.kvType).toBe('q8_0');
  expect(q8.info.gpuBytes.kv / f16.info.gpuBytes.kv).toBeLessThan(0.6);
});

test('next-token distributions stay within 0.01 nats, 0.001 on average', async () => {
  const { vocab } = f16.info;
  let most = 0;
  let sum = 0;
  let positions = 0;
  for (const name of ['long', 'capital', 'tool_call']) {
    const { ids } = promptNamed(name);
    const expected = await f16.logits(ids, { all: true });
    const found = await q8.logits(ids, { all: true });
    for (let position = 0; position < ids.length; position++) {
      const nats = divergence(row(expected, vocab, position), row(found, vocab, position));
      sum += nats;
      positions++;
      if (!(nats <= most)) most = nats;
    }
  }
  report(`KL of q8_0 from f16, ${positions} positions, mean`, sum / positions, 0.001);
  report('KL of q8_0 from f16, most', most, 0.01);
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThan(0.01);
  expect(sum / positions).toBeLessThan(0.001);
}, 600_000);

test('token by token gives what a prompt at once gives', async () => {
  const { vocab } = q8.info;
  const { ids } = promptNamed('capital');
  await q8.truncate(0);
  const atOnce = await q8.logits(ids, { all: true });
  await q8.truncate(0);
  let worst = 0;
  for (let position = 0; position < ids.length; position++) {
    const found = await q8.logits(ids.slice(0, position + 1));
    const difference = maxAbsDifference(found, row(atOnce, vocab, position));
    if (!(difference <= worst)) worst = difference;
  }
  // Another order of summation may round a value to the neighbouring step of its block.
  report('q8_0, token by token against at once', worst, 0.1);
  expect(worst).toBeLessThan(0.1);
}, 600_000);

test('a snapshot gives the cache back bit for bit, and another type of cache refuses it', async () => {
  const { ids } = promptNamed('long');
  await q8.truncate(0);
  await q8.logits(ids.slice(0, -1));
  const saved = await q8.saveSession();
  const next = await q8.logits(ids);
  await q8.truncate(0);
  await q8.restoreSession(saved);
  expect(await q8.logits(ids)).toEqual(next);
  await expect(f16.restoreSession(saved)).rejects.toMatchObject({ code: 'integrity_error' });
}, 600_000);
