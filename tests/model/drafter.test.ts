// A drafter changes how soon a reply comes, and nothing else: its logits against plain loops in float64, then replies of
// nano with drafters that guess at random or by what nano itself says, against replies without.

import { findGpu, openDevice, type LoadOptions, type Model, type ReplyReport } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { maxAbs, maxAbsDifference, report, row } from '../support/compare.ts';
import {
  bigramDrafter,
  drafterFile,
  NANO,
  randomDrafter,
  referenceGuesses,
  type Cache,
} from '../support/drafter.ts';
import { loadBytes, memorySource, nanoF16, promptNamed } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf } from '../support/gguf.ts';
import { kernelTests } from '../support/kernel-tests.ts';

const nano = nanoF16();
const parsed = parseGguf(nano);
const VOCAB = parsed.tensors.find(({ name }) => name === 'token_embd.weight')?.dims[1] ?? 0;
const story = promptNamed('story').ids;
const long = promptNamed('long').ids;
const GREEDY = { temperature: 0, ignoreEos: true } as const;

const load = (drafter?: Uint8Array, options: LoadOptions = {}) =>
  loadBytes('nano-f16.gguf', nano, {
    ...(drafter && { drafter: memorySource('drafter.gguf', drafter) }),
    ...options,
  });

const models: Model[] = [];
async function kept(drafter?: Uint8Array, options: LoadOptions = {}): Promise<Model> {
  const model = await load(drafter, options);
  models.push(model);
  return model;
}
afterAll(async () => {
  for (const model of models) await model.close();
});

type Options = Parameters<Model['generate']>[1];
const answer = (model: Model, ids: number[], options: Options = GREEDY): Promise<ReplyReport> =>
  model.generate(ids, options).report();

test('every logit of every guess is within 1e-4 of the reference in float64', async () => {
  const gpu = create([]);
  // Collected, Dawn takes the process down with it.
  Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });
  const engine = await kernelTests(await openDevice(gpu));
  const drafter = randomDrafter(parsed);
  const source = engine.addSource(memorySource('nano.gguf', nano));
  const file = engine.addSource(memorySource('drafter.gguf', writeGguf(drafter)));
  const GUESSES = 4;
  // Longer than the window, and not.
  for (const ids of [long.slice(0, 170), story.slice(0, 9)]) {
    const token = 300;
    const request = { ids, token, guesses: GUESSES };
    const options = { kvType: 'f32', drafter: file, tune: false };
    const bytes = await engine.call('draft_probe', [source, JSON.stringify({ ...request, options })])
      .done;
    const floats = new Float32Array(bytes.buffer);
    let at = 0;
    const take = (count: number) => Float64Array.from(floats.subarray(at, (at += count)));
    const cache = (sliding: boolean): Cache => {
      const first = sliding ? Math.max(0, ids.length - NANO.window + 1) : 0;
      const size = (ids.length - first) * NANO.headDims[sliding ? 0 : 1];
      return { first, k: take(size), v: take(size) };
    };
    const stream = take(NANO.width);
    cache(true);
    const state = { stream, sliding: cache(true), global: cache(false), position: ids.length };
    const { logits, guesses } = referenceGuesses(parsed, drafter, state, token, GUESSES);
    expect(floats.length).toBe(at + GUESSES * VOCAB);
    expect(new Set(guesses).size).toBeGreaterThan(1);
    logits.forEach((wanted, n) => {
      const found = row(floats.subarray(at), VOCAB, n);
      const limit = 1e-4 * maxAbs(wanted);
      const difference = maxAbsDifference(found, wanted);
      report(`guess ${n} after ${ids.length} tokens`, difference, limit);
      expect(difference).toBeLessThan(limit);
    });
  }
}, 120_000);

describe('replies', () => {
  /** Beginnings of what nano knows, of different lengths, some longer than its window. */
  const prompts = Array.from({ length: 200 }, (_, i) => {
    const start = (i * 7) % 60;
    return [2, ...(i % 2 ? long : story).slice(start, start + 3 + ((i * 13) % (i % 10 ? 20 : 150)))];
  });
  const TOKENS = 8;
  let plain: Model;
  let drafted: Model;
  let wanted: number[][];
  let knowing: Uint8Array;

  beforeAll(async () => {
    plain = await kept();
    wanted = [];
    for (const ids of prompts)
      wanted.push((await answer(plain, ids, { ...GREEDY, maxTokens: TOKENS })).tokens);
    const follows = new Map<number, number>();
    // Of three in four, so that some guesses are wrong.
    for (const tokens of wanted.filter((_, i) => i % 4))
      tokens.forEach((token, i) => i > 0 && follows.set(tokens[i - 1] ?? 0, token));
    knowing = bigramDrafter(parsed, follows);
    drafted = await kept(knowing, { draftTokens: 3, sessions: 2 });
  }, 180_000);

  test('200 greedy ones are the same, token by token', async () => {
    const total = { drafted: 0, accepted: 0 };
    for (const [i, ids] of prompts.entries()) {
      const { tokens, draft, reason } = await answer(drafted, ids, { ...GREEDY, maxTokens: TOKENS });
      expect(tokens, `prompt ${i}`).toEqual(wanted[i]);
      expect(reason).toBe('length');
      total.drafted += draft?.drafted ?? NaN;
      total.accepted += draft?.accepted ?? NaN;
    }
    console.log(`${total.accepted} of ${total.drafted} guesses came true`);
    expect(total.accepted).toBeGreaterThan(0.3 * total.drafted);
    expect(total.accepted).toBeLessThan(total.drafted);
  }, 180_000);
});
