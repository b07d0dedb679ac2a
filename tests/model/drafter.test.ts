// A drafter changes how soon a reply comes, and nothing else: its logits against plain loops in float64, then replies of
// nano with drafters that guess at random or by what nano itself says, against replies without.

import { createHash } from 'node:crypto';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Model, openDevice, type LoadOptions, type ReplyReport } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import {
  bigramDrafter,
  drafterFile,
  NANO,
  randomDrafter,
  referenceGuesses,
  type Cache,
} from '../support/drafter.ts';
import {
  loadBytes,
  memorySource,
  models as storeOfNano,
  nanoF16,
  promptNamed,
  readFixture,
} from '../support/fixtures.ts';
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
  const GUESSES = 3;
  // Longer than the window, and not.
  const prompts = [long.slice(0, 170), story].map((ids) => ({ ids, token: 300 }));
  const options = { kvType: 'f32', drafter: file, tune: false };
  const request = JSON.stringify({ options, prompts, guesses: GUESSES });
  const bytes = await engine.call('draft_probe', [source, request]).done;
  const floats = new Float32Array(bytes.buffer);
  let at = 0;
  const take = (count: number) => Float64Array.from(floats.subarray(at, (at += count)));
  for (const { ids, token } of prompts) {
    const cache = (sliding: boolean): Cache => {
      const first = sliding ? Math.max(0, ids.length - NANO.window + 1) : 0;
      const size = (ids.length - first) * NANO.headDims[sliding ? 0 : 1];
      return { first, k: take(size), v: take(size) };
    };
    const stream = take(NANO.width);
    cache(true); // of the first layer
    const state = { stream, sliding: cache(true), global: cache(false), position: ids.length };
    const { logits, guesses } = referenceGuesses(parsed, drafter, state, token, GUESSES);
    expect(new Set(guesses).size).toBeGreaterThan(1);
    logits.forEach((wanted, n) => {
      const limit = 1e-4 * maxAbs(wanted);
      const difference = maxAbsDifference(take(VOCAB), wanted);
      report(`guess ${n} after ${ids.length} tokens`, difference, limit);
      expect(difference).toBeLessThan(limit);
    });
  }
  expect(at).toBe(floats.length);
}, 240_000);

describe('replies', () => {
  const TOKENS = 4;
  const LIMITED = { ...GREEDY, maxTokens: TOKENS };
  // Each goes on from the one before it, whose reply is taken back; they grow past nano's window.
  const prompts = Array.from({ length: 200 }, (_, i) => long.slice(0, i + 3));
  let plain: Model;
  let knowing: Uint8Array;
  let drafted: Model;
  let wanted: number[][];

  beforeAll(async () => {
    plain = await kept();
    wanted = [];
    for (const ids of prompts) wanted.push((await answer(plain, ids, LIMITED)).tokens);
    const follows = new Map<number, number>();
    // Of three in four, so that some guesses are wrong.
    for (const tokens of wanted.filter((_, i) => i % 4))
      tokens.forEach((token, i) => i > 0 && follows.set(tokens[i - 1] ?? 0, token));
    knowing = bigramDrafter(parsed, follows);
    drafted = await kept(knowing, { draftTokens: 2, sessions: 2 });
  }, 240_000);

  test('200 greedy ones are the same, token by token', async () => {
    const total = { drafted: 0, accepted: 0 };
    for (const [i, ids] of prompts.entries()) {
      const { tokens, draft, reason, usage } = await answer(drafted, ids, LIMITED);
      expect(tokens, `prompt ${i}`).toEqual(wanted[i]);
      expect(reason).toBe('length');
      if (i > 0) expect(usage.cachedTokens, `prompt ${i}`).toBe(ids.length - 1);
      total.drafted += draft?.drafted ?? NaN;
      total.accepted += draft?.accepted ?? NaN;
    }
    console.log(`${total.accepted} of ${total.drafted} guesses came true`);
    expect(total.accepted).toBeGreaterThan(0.2 * total.drafted);
    expect(total.accepted).toBeLessThan(total.drafted);
  }, 240_000);

  test('drawn ones are those of the same seed without a drafter', async () => {
    const drawn = [
      { temperature: 1, topK: 64, topP: 0.95 },
      // More than the candidates that the GPU looks at: the host draws.
      { temperature: 1.5, topP: 0.999 },
      { temperature: 0.8, minP: 0.05, logprobs: 3 },
    ];
    for (const [seed, sampling] of drawn.entries()) {
      const options = { ...sampling, seed, maxTokens: 12, ignoreEos: true };
      const [expected, found] = [plain, drafted].map(async (model) => {
        const events = [];
        for await (const event of model.generate(story, options))
          if (event.type === 'token' || event.type === 'text') events.push(event);
        return events;
      });
      expect(await found).toEqual(await expected);
    }
  }, 60_000);

  test('what is drawn has the distribution of the logits', async () => {
    // Three tokens may come; which, is drawn three times. The first comes of the prompt, the others of a round of guesses.
    const HOT = 3;
    const first = await plain.logits(story);
    const ranked = [...first.keys()].sort((a, b) => (first[b] ?? 0) - (first[a] ?? 0));
    const allowed = ranked.slice(0, 3);
    const logitBias = Object.fromEntries(allowed.map((id) => [id, 60]));
    const chances = async (ids: number[]) => {
      const logits = await plain.logits(ids);
      const weights = allowed.map((id) => Math.exp((logits[id] ?? NaN) / HOT));
      const sum = weights.reduce((total, w) => total + w, 0);
      return weights.map((w) => w / sum);
    };
    const expected = new Map<string, number>();
    for (const [a, chance] of (await chances(story)).entries())
      for (const [b, next] of (await chances([...story, allowed[a] ?? 0])).entries())
        expected.set(`${allowed[a]},${allowed[b]}`, chance * next);
    const RUNS = 120;
    const counts = new Map<string, number>();
    const options = {
      temperature: HOT,
      topK: 0,
      topP: 1,
      logitBias,
      maxTokens: 3,
      ignoreEos: true,
    };
    for (let seed = 0; seed < RUNS; seed++) {
      const { tokens, draft } = await answer(drafted, story, { ...options, seed });
      expect(draft?.drafted).toBeGreaterThan(0);
      const key = tokens.slice(0, 2).join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    let square = 0;
    for (const [key, chance] of expected)
      square += ((counts.get(key) ?? 0) - RUNS * chance) ** 2 / (RUNS * chance);
    // 8 degrees of freedom: above 26.1 in one of a thousand.
    report('chi-square', square, 26.1);
    expect(square).toBeLessThan(26.1);
    expect([...counts.keys()].every((key) => expected.has(key))).toBe(true);
  }, 120_000);

  test('those with penalties or a format, side by side, or under an adapter are not guessed', async () => {
    const same = async (options: Options, ids = story) => {
      const found = await answer(drafted, ids, options);
      expect(found.draft).toEqual({ drafted: 0, accepted: 0 });
      expect(found.tokens).toEqual((await answer(plain, ids, options)).tokens);
    };
    await same({ ...LIMITED, repeatPenalty: 1.5 });
    await same({ ...LIMITED, ignoreEos: false, format: 'json', maxTokens: 3 });
    // Each of the two is alone at its end, and guessed from there on.
    const both = await Promise.all(
      [story, long.slice(0, 20)].map((ids) => answer(drafted, ids, { ...LIMITED, maxTokens: 12 })),
    );
    for (const [i, ids] of [story, long.slice(0, 20)].entries()) {
      const alone = await answer(plain, ids, { ...LIMITED, maxTokens: 12 });
      expect(both[i]?.tokens).toEqual(alone.tokens);
    }
    const adapter = adapterSource(randomAdapter(parsed, { seed: 1, rank: 4 }));
    const { id } = await drafted.loadAdapter(adapter);
    expect((await answer(drafted, story, LIMITED)).draft).toEqual({ drafted: 0, accepted: 0 });
    await drafted.removeAdapter(id);
    const after = await answer(drafted, story, LIMITED);
    expect(after.tokens).toEqual((await answer(plain, story, LIMITED)).tokens);
    expect(after.draft?.drafted).toBeGreaterThan(0);
  }, 120_000);

  test('one that is cancelled in the middle leaves nothing wrong behind', async () => {
    const ids = long.slice(0, 60);
    const controller = new AbortController();
    let tokens = 0;
    const reply = drafted.generate(ids, {
      ...GREEDY,
      logprobs: 1,
      maxTokens: 60,
      signal: controller.signal,
    });
    for await (const event of reply)
      if (event.type === 'token' && ++tokens === 5) controller.abort();
    const cut = await reply.report();
    expect(cut.reason).toBe('cancelled');
    const whole = await answer(plain, ids, { ...GREEDY, maxTokens: 16 });
    expect(cut.tokens).toEqual(whole.tokens.slice(0, cut.tokens.length));
    expect((await answer(drafted, ids, { ...GREEDY, maxTokens: 16 })).tokens).toEqual(whole.tokens);
  }, 60_000);

  test('what they leave in the cache is what replies without guesses leave', async () => {
    const ids = long.slice(0, 140);
    const longer = { ...GREEDY, maxTokens: 12 };
    const turns: { tokens: number[]; usage: ReplyReport['usage'] }[][] = [];
    for (const model of [plain, drafted]) {
      await model.truncate(0);
      const { tokens } = await answer(model, ids, longer);
      const more = [...ids, ...tokens, 300, 301];
      const second = await answer(model, more, longer);
      const saved = await model.saveSession();
      await model.truncate(0);
      await model.restoreSession(saved);
      const third = await answer(model, [...more, ...second.tokens, 302], longer);
      turns.push([second, third].map(({ tokens, usage }) => ({ tokens, usage })));
      expect(third.usage.cachedTokens).toBe(more.length + second.tokens.length - 1);
    }
    expect(turns[1]).toEqual(turns[0]);
  }, 60_000);

  test('as many guesses as pay, to the end of the context', async () => {
    const wild = await kept(writeGguf(randomDrafter(parsed, NANO)), { contextLength: 160 });
    expect(wild.info.drafter).toMatchObject({ layers: 4 });
    // To the end of the context.
    const ids = long.slice(0, 20);
    const found = await answer(wild, ids);
    const without = await answer(plain, ids, { ...GREEDY, maxTokens: found.tokens.length });
    expect(found.reason).toBe('context');
    expect(found.tokens).toEqual(without.tokens);
    expect(without.draft).toBeUndefined();
    expect(found.draft?.drafted).toBeGreaterThan(0);
  }, 240_000);
});

test('a drafter beside a model in a store is used by itself; one that does not fit is left out', async () => {
  const store = await mkdtemp(join(tmpdir(), 'lapidary-'));
  try {
    await cp(storeOfNano, store, { recursive: true });
    const manifest = join(store, 'manifests/registry.ollama.ai/library/nano/latest');
    const { layers, ...rest } = JSON.parse(await readFile(manifest, 'utf8')) as {
      layers: object[];
    };
    const loadWith = async (drafter: Uint8Array, options: LoadOptions = {}) => {
      const hex = createHash('sha256').update(drafter).digest('hex');
      await writeFile(join(store, 'blobs', `sha256-${hex}`), drafter);
      const layer = {
        mediaType: 'application/vnd.ollama.image.draft',
        digest: `sha256:${hex}`,
        size: drafter.length,
      };
      await writeFile(manifest, JSON.stringify({ ...rest, layers: [...layers, layer] }));
      const said: string[] = [];
      const onLog = (_: string, text: string) => said.push(text);
      const model = await Model.load('nano', { stores: [store], onLog, ...options });
      const { drafter: used } = model.info;
      await model.close();
      return { used, said: said.join('\n') };
    };
    const good = writeGguf(randomDrafter(parsed));
    const found = await loadWith(good);
    expect(found.used?.layers).toBe(4);
    expect(found.said).not.toContain('drafter');
    const odd = drafterFile(randomDrafter(parsed), {
      'general.architecture': { type: 'string', value: 'another' },
    });
    const other = await loadWith(odd);
    expect(other.used).toBeUndefined();
    expect(other.said).toContain(
      'the drafter beside the model is not used: architecture "another"',
    );
  } finally {
    await rm(store, { recursive: true });
  }
}, 240_000);

test.each([
  ['tiny-e', [1, 1], 4, 'f16'],
  ['tiny-dense', [2, 1], 5, 'f32'],
  ['tiny-moe', [2, 1], 5, 'f16'],
] as const)(
  'replies of %s, by a drafter that knows them, are the same',
  async (name, kvHeads, window, kvType) => {
    const file = readFixture(`gemma4/${name}.gguf`);
    const options = { ...GREEDY, maxTokens: 40 };
    const target = { ...NANO, width: 32, kvHeads: [...kvHeads] as [number, number], window };
    const plain = await loadBytes(name, file, { kvType });
    const ids = [2, 270, 281, 266];
    const { tokens } = await answer(plain, ids, options);
    await plain.close();
    const follows = new Map(tokens.map((token, i) => [tokens[i - 1] ?? 2, token]));
    const drafter = bigramDrafter(parseGguf(file), follows, { ...target, headDims: [8, 16] });
    const model = await loadBytes(name, file, {
      kvType,
      drafter: memorySource('drafter.gguf', drafter),
      draftTokens: 4,
    });
    const found = await answer(model, ids, options);
    await model.close();
    expect(found.tokens).toEqual(tokens);
    expect(found.draft?.accepted).toBeGreaterThan(0);
  },
  120_000,
);

describe('files', () => {
  const good = randomDrafter(parsed);
  const u32 = (value: number) => ({ type: 'u32', value }) as const;
  const text = (value: string) => ({ type: 'string', value }) as const;
  const dims = (...sizes: number[]) => ({ dims: sizes });
  test.each([
    ['of another architecture', { 'general.architecture': text('gemma4') }, {}, 'unsupported'],
    ['of another width of the model', { embedding_length_out: u32(512) }, {}, 'invalid_format'],
    ['of another window', { 'attention.sliding_window': u32(512) }, {}, 'invalid_format'],
    ['of another head size', { 'attention.key_length': u32(256) }, {}, 'invalid_format'],
    ['of other KV heads', { 'attention.head_count_kv': u32(2) }, {}, 'invalid_format'],
    ['of 0 layers', { block_count: u32(0) }, {}, 'invalid_format'],
    ['of too many layers', { block_count: u32(1000000) }, {}, 'invalid_format'],
    [
      'of more layers than it has',
      { block_count: u32(5), nextn_predict_layers: u32(5) },
      {},
      'invalid_format',
    ],
    ['of fewer guessing layers', { nextn_predict_layers: u32(2) }, {}, 'unsupported'],
    ['of 0 heads', { 'attention.head_count': u32(0) }, {}, 'invalid_format'],
    ['with an odd width', { embedding_length: u32(63) }, {}, 'invalid_format'],
    ['with a vast network', { feed_forward_length: u32(4000000000) }, {}, 'invalid_format'],
    ['without a width', { embedding_length: null }, {}, 'not_found'],
    ['without a pattern', { 'attention.sliding_window_pattern': null }, {}, 'not_found'],
    ['without pre_projection', {}, { 'nextn.pre_projection.weight': null }, 'not_found'],
    ['without post_projection', {}, { 'nextn.post_projection.weight': null }, 'not_found'],
    ['without a norm', {}, { 'blk.3.attn_q_norm.weight': null }, 'not_found'],
    ['without a head', {}, { 'token_embd.weight': null }, 'not_found'],
    [
      'with pre_projection turned',
      {},
      { 'nextn.pre_projection.weight': dims(64, 512) },
      'invalid_format',
    ],
    ['of another vocabulary', {}, { 'token_embd.weight': dims(128, VOCAB / 2) }, 'invalid_format'],
    [
      'with other words',
      { 'tokenizer.ggml.tokens': { type: 'strings', value: ['a'] } },
      {},
      'invalid_format',
    ],
    [
      'with queries in a type of no kernel',
      {},
      { 'blk.0.attn_q.weight': { type: GgmlType.Q8_1 } },
      'unsupported',
    ],
  ] as [string, Parameters<typeof drafterFile>[1], Parameters<typeof drafterFile>[2], string][])(
    'one %s is refused',
    async (_, metadata, tensors, code) => {
      await expect(load(drafterFile(good, metadata, tensors))).rejects.toMatchObject({ code });
    },
  );

  test('one that is cut off, empty or no GGUF is refused', async () => {
    const whole = writeGguf(good);
    for (const bytes of [
      whole.slice(0, 0),
      whole.slice(0, 500),
      whole.slice(0, -1000),
      nano.slice(0, 64),
    ])
      await expect(load(bytes)).rejects.toMatchObject({
        code: expect.stringMatching(/^(truncated|invalid_format)$/) as string,
      });
  });
});
