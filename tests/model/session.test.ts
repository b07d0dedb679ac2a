// What the KV cache keeps and forgets must not show in the numbers; the decode loop must do what it promises, counted.
// nano F16 with f32 keys and values, on the prompt of 805 tokens (window 128, batches of 512).

import type { Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { maxAbsDifference, report, row } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';
import { referenceLogits } from '../support/kernel-tests.ts';

const SAME = 1e-4;
const long = promptNamed('long').ids;
const noise = promptNamed('noise').ids;
const story = promptNamed('story').ids;
/** Forbids what ends a reply. */
const never = { 1: -100, 106: -100, 50: -100 };

let model: Model;
beforeAll(async () => {
  model = await loadBytes('nano-f16.gguf', nanoF16(), { kvType: 'f32' });
}, 600_000);
afterAll(() => model?.close());

async function fresh(ids: number[]): Promise<Float32Array> {
  await model.truncate(0);
  return model.logits(ids);
}

/** Tokens of `ids` that a request finds in the cache. */
async function cachedTokens(ids: number[]): Promise<number> {
  const { usage } = await model.generate(ids, { temperature: 0, maxTokens: 1 }).report();
  return usage.cachedTokens;
}

describe('the KV cache', () => {
  test('a prompt in one batch is the prompt token by token', async () => {
    const ids = long.slice(0, 150);
    const vocab = model.info.vocab;
    const batched = await model.logits(ids, { all: true });
    await model.truncate(0);
    let worst = 0;
    for (let length = 1; length <= ids.length; length++) {
      const logits = await model.logits(ids.slice(0, length));
      const difference = maxAbsDifference(logits, row(batched, vocab, length - 1));
      if (!(difference <= worst)) worst = difference;
    }
    report('batched prefill against token by token', worst, SAME);
    expect(worst).toBeLessThan(SAME);
    expect(await cachedTokens([...ids, 5])).toBe(ids.length);
  });

  test.each([
    ['inside the window', 40, 30],
    ['across the window', 120, 60],
    ['beyond the window', 400, 48],
    ['across batches', 500, 305],
  ])('a reused prefix gives what a fresh run gives: %s', async (_, prefix, more) => {
    const ids = long.slice(0, prefix + more);
    const expected = await fresh(ids);
    await fresh(ids.slice(0, prefix));
    const reused = await model.logits(ids);
    const difference = maxAbsDifference(reused, expected);
    report(`prefix of ${prefix}, then ${more}`, difference, SAME);
    expect(difference).toBeLessThan(SAME);
    // And it is a reuse: the same again finds the prefix in the cache.
    await fresh(ids.slice(0, prefix));
    expect(await cachedTokens(ids)).toBe(prefix);
  });

  test('another continuation of a shared prefix', async () => {
    const ids = [...long.slice(0, 90), ...noise];
    const expected = await fresh(ids);
    await fresh(long.slice(0, 150));
    const difference = maxAbsDifference(await model.logits(ids), expected);
    report('a prefix shared in part', difference, SAME);
    expect(difference).toBeLessThan(SAME);
  });

  test('what decoding wrote into the cache is what prefill would have written', async () => {
    await model.truncate(0);
    const { tokens } = await model.generate(story, { temperature: 0, maxTokens: 64 }).report();
    const ids = [...story, ...tokens, ...noise];
    // The last token of the reply was chosen, not run.
    const reused = await model.logits(ids);
    const expected = await fresh(ids);
    const difference = maxAbsDifference(reused, expected);
    report('after decoding', difference, SAME);
    expect(difference).toBeLessThan(SAME);
  });

  test.each([
    ['a little', 300, 330],
    ['past a batch and many windows', 200, 805],
    ['to inside the first window', 100, 200],
  ])('truncation is never having gone further, bit for bit: %s', async (_, keep, far) => {
    const ids = [...long.slice(0, keep), ...noise];
    await fresh(long.slice(0, keep));
    const expected = await model.logits(ids);
    await fresh(long.slice(0, keep));
    await model.logits(long.slice(0, far));
    await model.truncate(keep);
    expect(await model.logits(ids)).toEqual(expected);
  });

  test('truncation after decoding, bit for bit', async () => {
    const ids = [...story, ...noise];
    await fresh(story);
    const expected = await model.logits(ids);
    await model.truncate(0);
    await model.generate(story, { temperature: 0, maxTokens: 40 }).report();
    await model.truncate(story.length);
    expect(await model.logits(ids)).toEqual(expected);
  });
});

// A sliding layer's ring holds 1,152 positions: 128 of the window, 512 of a batch, 512 that can be taken back.
describe('after the ring has turned', () => {
  const RING = 1152;
  const longer = [...long, ...long.slice(1)];
  const before = longer.slice(0, 1120);
  const after = longer.slice(0, 1200);

  test('a reused prefix and decoding across the seam give what fresh runs give', async () => {
    expect(before.length).toBeLessThan(RING);
    const expected = await fresh(after);
    await fresh(before);
    const { submits } = model.counters;
    const reused = await model.logits(after);
    // One submission: all that came before was in the cache.
    expect(model.counters.submits - submits).toBe(1);
    const difference = maxAbsDifference(reused, expected);
    report('prefix of 1120, then 80', difference, SAME);
    expect(difference).toBeLessThan(SAME);
    // All of these have turned the ring: the reference model keeps every key.
    const off = maxAbsDifference(expected, await referenceLogits(nanoF16(), after));
    report('1200 tokens against the reference', off, SAME);
    expect(off).toBeLessThan(SAME);

    const { tokens, usage } = await model
      .generate(before, { temperature: 0, maxTokens: 100, logitBias: never })
      .report();
    expect(usage.cachedTokens).toBe(before.length - 1);
    expect(before.length + tokens.length).toBeGreaterThan(RING);
    const ids = [...before, ...tokens, ...noise];
    const decoded = await model.logits(ids);
    const far = maxAbsDifference(decoded, await fresh(ids));
    report('after decoding from 1120 to 1220', far, SAME);
    expect(far).toBeLessThan(SAME);
    const farOff = maxAbsDifference(decoded, await referenceLogits(nanoF16(), ids));
    report('the same against the reference', farOff, SAME);
    expect(farOff).toBeLessThan(SAME);
  });

  test('truncation is never having gone further, bit for bit', async () => {
    const kept = longer.slice(0, 1180);
    const ids = [...kept, ...noise];
    await fresh(kept);
    const expected = await model.logits(ids);
    await model.truncate(kept.length);
    await model.logits(longer.slice(0, 1250));
    await model.truncate(kept.length);
    const { submits } = model.counters;
    expect(await model.logits(ids)).toEqual(expected);
    expect(model.counters.submits - submits).toBe(1);
  });

  test('a prefix whose window the ring has lost is run anew', async () => {
    const far = 1250;
    await model.logits(longer.slice(0, far));
    // Of positions 0 to 1249 the ring has 98 on. Position 225 sees 98 to 225, position 224 one that is gone.
    const usable = far - RING + 128 - 1;
    const prompt = (prefix: number) => [...longer.slice(0, prefix), ...noise];
    expect(await cachedTokens(prompt(usable))).toBe(usable);
    const reused = await model.logits(prompt(usable));
    // What was written up to 1249 still counts.
    expect(await cachedTokens(prompt(usable - 1))).toBe(0);
    const anew = await model.logits(prompt(usable - 1));
    const worst = Math.max(
      maxAbsDifference(reused, await fresh(prompt(usable))),
      maxAbsDifference(anew, await fresh(prompt(usable - 1))),
    );
    report('at the edge of the ring', worst, SAME);
    expect(worst).toBeLessThan(SAME);
  });
});

describe('seeds', () => {
  const options = { temperature: 1.2, topK: 0, topP: 1, maxTokens: 40 };
  const run = async (seed: number) => {
    await model.truncate(0);
    return (await model.generate(story, { ...options, seed }).report()).tokens;
  };

  test('the same seed gives the same tokens, another seed others', async () => {
    const first = await run(7);
    const other = await run(8);
    expect(await run(7)).toEqual(first);
    expect(other).not.toEqual(first);
  });
});

describe('the decode loop, counted', () => {
  // Outside the layers: two gathers, the per-layer inputs' projection and combination, the head; two choose the token.
  const OUTSIDE_LAYERS = 7;
  // One more where something adjusts the logits.
  test.each([
    ['greedy', 0, { temperature: 0 }],
    ['greedy with penalties', 1, { temperature: 0, repeatPenalty: 1.1, logitBias: never }],
    ['sampled', 1, { temperature: 1, topK: 40, seed: 1, logitBias: never }],
    ['with logprobs', 1, { temperature: 0, logprobs: 5, logitBias: never }],
  ])(
    '%s: one submit a token, few dispatches, nothing created, little read',
    async (_, adjusts, options) => {
      const run = async (maxTokens: number) => {
        await model.truncate(0);
        const before = model.counters;
        const { tokens } = await model.generate(story, { ...options, maxTokens }).report();
        expect(tokens).toHaveLength(maxTokens);
        const after = model.counters;
        return {
          submits: after.submits - before.submits,
          dispatches: after.dispatches - before.dispatches,
          buffers: after.buffersCreated - before.buffersCreated,
          bindings: after.bindingsCreated - before.bindingsCreated,
          bytesRead: after.bytesRead - before.bytesRead,
        };
      };
      // The first run may make what later ones use again.
      await run(8);
      const [few, many] = [await run(8), await run(40)];
      const tokens = 40 - 8;
      expect(many.submits - few.submits).toBe(tokens);
      const dispatches = (many.dispatches - few.dispatches) / tokens;
      const bytes = (many.bytesRead - few.bytesRead) / tokens;
      console.log(`a token: 1 submit, ${dispatches} dispatches, ${bytes} bytes read`);
      expect(dispatches).toBeGreaterThan(model.info.layers);
      // At most seven a layer; hidden.test.ts counts each layer's own.
      expect(dispatches).toBeLessThanOrEqual(7 * model.info.layers + OUTSIDE_LAYERS + adjusts);
      expect(many.buffers).toBe(0);
      expect(many.bindings).toBe(0);
      expect(bytes).toBeGreaterThanOrEqual(4);
      expect(bytes).toBeLessThanOrEqual(4096);
    },
  );

  test('the wasm heap stays under 64 MB', () => {
    console.log(`wasm heap: ${(model.counters.heapBytes / 2 ** 20).toFixed(1)} MiB`);
    expect(model.counters.heapBytes).toBeLessThan(64 * 2 ** 20);
  });
});
