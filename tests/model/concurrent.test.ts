// Several replies at once are each what they are alone, whoever joins, leaves or fails beside them. nano F16 with f32
// keys and values.

import { findGpu, type Model, type ReplyEvent, type ReplyReport } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Engine } from '../../packages/lapidary/src/engine.ts';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed, readFloats, readJson } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { wrappedGpu } from '../support/wrapped-gpu.ts';

const SESSIONS = 3;
const SAME = 1e-4;
const long = promptNamed('long').ids;
const noise = promptNamed('noise').ids;
const story = promptNamed('story').ids;
/** Forbids what ends a reply. */
const never = { 1: -100, 106: -100, 50: -100 };

interface Asked {
  ids: number[];
  options: Parameters<Model['generate']>[1];
}

let model: Model;
const devices: GPUDevice[] = [];
beforeAll(async () => {
  const gpu = await wrappedGpu(async (_, descriptor) => {
    const adapter = await (await findGpu())!.requestAdapter();
    const device = await adapter!.requestDevice(descriptor);
    devices.push(device);
    return device;
  });
  const options = { kvType: 'f32', sessions: SESSIONS, recover: true, gpu } as const;
  model = await loadBytes('nano-f16.gguf', nanoF16(), options);
}, 600_000);
afterAll(() => model?.close());

const start = ({ ids, options }: Asked) => model.generate(ids, { temperature: 0, ...options });

/** What a reply is, without its times and what of it was in the cache. */
const said = ({ reason, tokens, usage }: ReplyReport) => {
  const { promptTokens, completionTokens } = usage;
  return { reason, tokens, promptTokens, completionTokens };
};
async function alone(asked: Asked): Promise<ReplyReport> {
  await model.truncate(0);
  return start(asked).report();
}
/** Each reply alone, then all at once. */
async function expectSame(all: Asked[]): Promise<ReplyReport[]> {
  const expected = [];
  for (const asked of all) expected.push(said(await alone(asked)));
  await model.truncate(0);
  const together = await Promise.all(all.map((asked) => start(asked).report()));
  expect(together.map(said)).toEqual(expected);
  return together;
}

type Token = Extract<ReplyEvent, { type: 'token' }>;
const TOKENS = 8;
const LOGPROBS = 5;

/** The tokens of a reply with the likeliest at each. */
async function tokensOf(ids: number[], maxTokens = TOKENS): Promise<Token[]> {
  const tokens: Token[] = [];
  const options = { temperature: 0, ignoreEos: true, maxTokens, logprobs: LOGPROBS };
  for await (const event of model.generate(ids, options))
    if (event.type === 'token') tokens.push(event);
  return tokens;
}

/** How far log probabilities of replies at once are at most from those alone. */
async function differenceAtOnce(prompts: number[][]): Promise<number> {
  const alone: Token[][] = [];
  for (const ids of prompts) {
    await model.truncate(0);
    alone.push(await tokensOf(ids));
  }
  await model.truncate(0);
  const together = await Promise.all(prompts.map((ids) => tokensOf(ids)));
  const numbers = (all: Token[][]) =>
    all
      .flat()
      .flatMap(({ id, logprob, top }) => [id, logprob, ...(top ?? []).map((t) => t.logprob)]);
  const known = numbers(alone);
  const found = numbers(together);
  expect(found).toHaveLength(prompts.length * TOKENS * (2 + LOGPROBS));
  return Math.max(...found.map((value, i) => Math.abs((value ?? NaN) - (known[i] ?? NaN))));
}

const plain = (ids: number[], maxTokens: number): Asked => ({
  ids,
  options: { maxTokens, logitBias: never },
});

describe('replies at once are what they are alone', () => {
  test('prompts and lengths of all kinds; those that end leave the others', async () => {
    const before = model.counters.submits;
    const all = [plain(story, 24), plain(noise, 8), plain(long.slice(0, 300), 16)];
    const replies = await expectSame(all);
    // Alone each token has its submission; together they share: those of the longest, and of prompts.
    const tokens = replies.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
    expect(tokens).toBe(48);
    expect(model.counters.submits - before).toBeLessThan(tokens + 24 + 8);
  });

  test('drawn with options and seeds of their own', async () => {
    await expectSame([
      { ids: story, options: { temperature: 1, seed: 1, maxTokens: 14, logitBias: never } },
      { ids: story, options: { temperature: 1.3, topK: 5, seed: 2, maxTokens: 10 } },
      { ids: noise, options: { temperature: 0.8, topP: 0.5, topK: 0, seed: 3, maxTokens: 12 } },
    ]);
    // What the candidates do not decide, and what has no cut at all.
    await expectSame([
      { ids: story, options: { temperature: 1, topK: 700, topP: 1, seed: 4, maxTokens: 6 } },
      { ids: noise, options: { temperature: 1, topK: 0, topP: 1, seed: 5, maxTokens: 12 } },
    ]);
  });

  test('with penalties, biases, stop texts and none of them', async () => {
    await expectSame([
      { ids: story, options: { ...plain(story, 16).options, repeatPenalty: 1.4 } },
      { ids: story, options: { ...plain(story, 16).options, frequencyPenalty: 1.5 } },
      { ids: story, options: { ...plain(story, 20).options, stop: ['. '] } },
    ]);
  });

  test('one in a format beside one that is free', async () => {
    const format = {
      type: 'object',
      properties: { name: { enum: ['Mia', 'Tom'] }, old: { type: 'boolean' } },
      required: ['name', 'old'],
      additionalProperties: false,
    };
    const [held] = await expectSame([
      { ids: story, options: { format, maxTokens: 60 } },
      plain(story, 10),
      { ids: noise, options: { format, temperature: 1, seed: 9, maxTokens: 60 } },
    ]);
    const value = JSON.parse(model.detokenize(held!.tokens)) as { name: string; old: boolean };
    expect(['Mia', 'Tom']).toContain(value.name);
    expect(typeof value.old).toBe('boolean');
  });

  test('log probabilities are within the rounding of sums', async () => {
    const worst = await differenceAtOnce([story, noise, long.slice(0, 140)]);
    report('log probabilities of replies at once', worst, SAME);
    expect(worst).toBeLessThan(SAME);
  });

  test("log probabilities are those of HF's logits", async () => {
    const full =
      readJson<Record<string, { shape: [number, number]; offset: number }>>('nano/logits_hf.json');
    const values = readFloats('nano/logits_hf.bin.gz');
    await model.truncate(0);
    // The first token of who comes first is not of a step.
    const first = tokensOf(story, 12);
    const asked = [
      ['capital', 16],
      ['tool_call', 60],
    ] as const;
    const replies = await Promise.all(
      asked.map(([name, length]) => tokensOf(promptNamed(name).ids.slice(0, length), 1)),
    );
    await first;
    let worst = 0;
    replies.forEach(([token], i) => {
      const [name, length] = asked[i]!;
      const { shape, offset } = full[name]!;
      const begin = offset / 4 + (length - 1) * shape[1];
      const row = Array.from(values.subarray(begin, begin + shape[1]));
      const most = Math.max(...row);
      const sum = most + Math.log(row.reduce((total, x) => total + Math.exp(x - most), 0));
      expect(token!.top).toHaveLength(LOGPROBS);
      for (const { id, logprob } of token!.top) {
        worst = Math.max(worst, Math.abs(logprob - (row[id]! - sum)));
      }
    });
    report("log probabilities of a step against HF's", worst, 1e-3);
    expect(worst).toBeLessThan(1e-3);
  });

  test.each([
    {
      name: 'of the head and the per-layer gate: by kernels of its own',
      ...{ targets: ['attn_q', 'ffn_gate', 'ffn_up', 'inp_gate'], head: true, layer: 0 },
    },
    {
      name: "of the other projections: by the products' kernels",
      ...{ targets: ['attn_q', 'attn_output', 'ffn_up', 'ffn_down'], head: false, layer: 1 },
    },
  ])('with an adapter $name', async ({ targets, head, layer }) => {
    const adapter = randomAdapter(parseGguf(nanoF16()), {
      ...{ seed: 1, rank: 4, head, most: 0.1, targets },
      skip: (name) => name.startsWith('blk.') && !name.startsWith(`blk.${layer}.`),
    });
    const base = await tokensOf(story);
    const { id } = await model.loadAdapter(adapterSource(adapter));
    const worst = await differenceAtOnce([story, noise, long.slice(0, 140)]);
    report('log probabilities of replies at once, with an adapter', worst, SAME);
    expect(worst).toBeLessThan(SAME);
    expect(await tokensOf(story)).not.toEqual(base);
    await model.removeAdapter(id);
    expect(await differenceAtOnce([story, noise])).toBeLessThan(SAME);
  });
});

describe('joining and leaving', () => {
  test('in the middle of others, again and again', async () => {
    const asked = [plain(story, 24), plain(noise, 12), plain(long.slice(0, 600), 5)];
    const expected = [];
    for (const each of asked) expected.push(said(await alone(each)));
    await model.truncate(0);
    const others: Promise<ReplyReport>[] = [];
    let tokens = 0;
    let last: ReplyReport | undefined;
    for await (const event of start(asked[0]!)) {
      if (event.type === 'text' && ++tokens === 3) others.push(start(asked[1]!).report());
      if (event.type === 'text' && tokens === 6) others.push(start(asked[2]!).report());
      if (event.type === 'done') last = event;
    }
    expect([last!, ...(await Promise.all(others))].map(said)).toEqual(expected);
  });

  test('more than there are sessions wait in order, and all end', async () => {
    const asked = [5, 7, 9, 4, 6, 3].map((count, i) =>
      plain(long.slice(20 * i, 20 * i + 25), count),
    );
    const expected = [];
    for (const each of asked) expected.push(said(await alone(each)));
    await model.truncate(0);
    const begun: number[] = [];
    const all = asked.map(async (each, i) => {
      let done: ReplyReport | undefined;
      for await (const event of start(each)) {
        if (!begun.includes(i)) begun.push(i);
        if (event.type === 'done') done = event;
      }
      return said(done!);
    });
    expect(await Promise.all(all)).toEqual(expected);
    expect(begun).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test('one that is stopped leaves the others untouched, and its place to who waits', async () => {
    const endless = plain(noise, 400);
    const asked = [plain(story, 20), plain(long.slice(0, 60), 14)];
    const late = plain(long.slice(100, 130), 8);
    const expected = [];
    for (const each of [...asked, late]) expected.push(said(await alone(each)));
    await model.truncate(0);
    const stop = new AbortController();
    const options = { ...endless.options, signal: stop.signal };
    const stopped = start({ ids: noise, options });
    const others = asked.map((each) => start(each).report());
    const waiting = start(late).report();
    let written = 0;
    let done: ReplyReport | undefined;
    for await (const event of stopped) {
      if (event.type === 'text' && ++written === 4) stop.abort();
      if (event.type === 'done') done = event;
    }
    expect(done!.reason).toBe('cancelled');
    // What was under way may still come.
    expect(done!.tokens.length).toBeLessThan(8);
    expect((await Promise.all([...others, waiting])).map(said)).toEqual(expected);
    // It had the stopped one's place; the others' still hold what they wrote.
    for (const [i, { ids }] of asked.entries()) {
      const held = [...ids, ...expected[i]!.tokens];
      const again = await model.generate([...held, 5], { maxTokens: 1 }).report();
      expect(again.usage.cachedTokens).toBe(held.length - 1);
    }
  });

  test('one that is stopped at its prompt, and one that never began', async () => {
    const first = plain(story, 16);
    const expected = said(await alone(first));
    await model.truncate(0);
    const stop = new AbortController();
    const one = start(first).report();
    const gone = [1, 2, 3].map((i) =>
      model.generate(long.slice(i), { maxTokens: 5, signal: stop.signal }).report(),
    );
    setTimeout(() => stop.abort(), 30);
    expect(said(await one)).toEqual(expected);
    for (const each of await Promise.all(gone)) {
      expect(each.reason).toBe('cancelled');
    }
  });

  test('what fails is its own affair', async () => {
    const good = plain(story, 20);
    const expected = said(await alone(good));
    await model.truncate(0);
    const one = start(good).report();
    const [bad, empty] = [
      model.generate(Array<number>(1e5).fill(5)).report(),
      model.generate([]).report(),
    ];
    await expect(bad).rejects.toMatchObject({ code: 'context_overflow' });
    await expect(empty).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(said(await one)).toEqual(expected);
  });

  test('what is no reply comes between them, in its turn', async () => {
    const good = plain(story, 15);
    const expected = said(await alone(good));
    await model.truncate(0);
    const order: string[] = [];
    const note = <T>(name: string, work: Promise<T>) =>
      work.then((value) => (order.push(name), value));
    const [a, b, , vectors, c] = await Promise.all([
      note('a', start(good).report()),
      note('b', start(plain(noise, 5)).report()),
      note('truncate', model.truncate(0)),
      note('embed', model.embed(story)),
      note('c', start(good).report()),
    ]);
    expect([said(a), said(c)]).toEqual([expected, expected]);
    expect(b.tokens).toHaveLength(5);
    expect(vectors.embeddings[0]).toHaveLength(model.info.embedding);
    expect(order.slice(2)).toEqual(['truncate', 'embed', 'c']);
  });
});

describe('the engine itself, without turns before it', () => {
  const inside = () => model as unknown as { engine: Engine; handle: number };
  const call = ({ ids, options }: Asked, signal?: AbortSignal) => {
    const { engine, handle } = inside();
    const request = { tokens: ids, options: { temperature: 0, ...options } };
    return engine.callJson<ReplyReport>('lap_generate', [handle, JSON.stringify(request)], {
      signal,
    });
  };

  test('lets those wait that have no place, in order, and drops who is stopped meanwhile', async () => {
    const asked = [12, 6, 9, 5, 4].map((count, i) => plain(long.slice(20 * i, 20 * i + 25), count));
    const expected = [];
    for (const each of asked) expected.push(said(await alone(each)));
    await model.truncate(0);
    const stop = new AbortController();
    const order: number[] = [];
    const running = asked.map(async (each, i) => {
      const done = await call(each);
      order.push(i);
      return said(done);
    });
    const dropped = call(plain(noise, 50), stop.signal);
    stop.abort();
    expect(await dropped).toMatchObject({ reason: 'cancelled', tokens: [] });
    // It left before any of those before it was done.
    expect(order).toEqual([]);
    expect(await Promise.all(running)).toEqual(expected);
  });

  test('refuses what needs it alone while a reply goes on', async () => {
    const { engine, handle } = inside();
    const busy = { code: 'busy' };
    const reply = call(plain(story, 12));
    const ids = new Uint8Array(Uint32Array.from(story).buffer);
    expect(() => engine.callSync('lap_truncate', handle, 0)).toThrow(/another request/);
    expect(() => engine.callSync('lap_session_save', handle, '{}')).toThrow(/another request/);
    const texts = JSON.stringify({ inputs: [{ tokens: story }] });
    const prompts = JSON.stringify({ prompts: [{ tokens: story }] });
    await expect(engine.call('lap_logits', [handle, ids, 0]).done).rejects.toMatchObject(busy);
    await expect(engine.call('lap_embed', [handle, texts]).done).rejects.toMatchObject(busy);
    await expect(engine.call('lap_prefill', [handle, prompts]).done).rejects.toMatchObject(busy);
    await expect(engine.call('lap_adapters_set', [handle, '[]']).done).rejects.toMatchObject(busy);
    expect((await reply).tokens).toHaveLength(12);
    const logits = engine.call('lap_logits', [handle, ids, 0]).done;
    await expect(call(plain(story, 3))).rejects.toMatchObject(busy);
    expect((await logits).length).toBe(4 * model.info.vocab);
  });
});

test('replies at once go on after the GPU is lost, each after its last token', async () => {
  const asked = [plain(story, 14), plain(noise, 18), plain(long.slice(0, 90), 8)];
  const expected = [];
  for (const each of asked) expected.push(said(await alone(each)));
  await model.truncate(0);
  const before = devices.length;
  const others = asked.slice(1).map((each) => start(each).report());
  let seen = 0;
  let done: ReplyReport | undefined;
  for await (const event of start(asked[0]!)) {
    if (event.type === 'text' && ++seen === 5) devices.at(-1)!.destroy();
    if (event.type === 'done') done = event;
  }
  expect([done!, ...(await Promise.all(others))].map(said)).toEqual(expected);
  expect(devices.length - before).toBe(1);
});

test('more of them than there are sessions, with formats, penalties and draws', async () => {
  const format = { type: 'object', properties: { old: { type: 'boolean' } }, required: ['old'] };
  await expectSame([
    { ids: story, options: { maxTokens: 50, logitBias: never } },
    { ids: long.slice(0, 600), options: { maxTokens: 20, logitBias: never, repeatPenalty: 1.3 } },
    { ids: noise, options: { maxTokens: 36, logitBias: never, temperature: 1, seed: 3 } },
    { ids: story, options: { maxTokens: 40, format } },
    { ids: noise, options: { maxTokens: 18, temperature: 1, topK: 0, topP: 1, seed: 5 } },
  ]);
});

test('none waits for the end of another, and one that is stopped leaves the rest', async () => {
  const all = [story, noise].map((ids) => ({ ids, options: { maxTokens: 60, logitBias: never } }));
  const expected = [];
  for (const asked of all) expected.push(said(await alone(asked)));
  await model.truncate(0);
  const stop = new AbortController();
  const endless = start({ ids: long, options: { logitBias: never, signal: stop.signal } });
  let ended = 0;
  const others = all.map((asked) =>
    start(asked)
      .report()
      .finally(() => ended++),
  );
  let written = 0;
  let last: ReplyReport | undefined;
  for await (const event of endless) {
    if (event.type === 'text') written++;
    // It began first and has no end: only if others have turns between do they end.
    if (ended === all.length && !stop.signal.aborted) stop.abort();
    if (event.type === 'done') last = event;
  }
  expect(last!.reason).toBe('cancelled');
  expect(written).toBeGreaterThan(30);
  expect((await Promise.all(others)).map(said)).toEqual(expected);
});
