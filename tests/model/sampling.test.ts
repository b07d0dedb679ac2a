// What the options of a generation do, end to end on nano: each test computes from model.logits() what must come out.

import type { GenerateOptions, Model, ReplyEvent, TokenLogprob } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';

const story = promptNamed('story').ids;
/** What ends a reply of nano. */
const ENDS = [1, 106, 50];
const never = Object.fromEntries(ENDS.map((id) => [id, -100]));
/** Nearer than this, two logits may change places between one kernel and another. */
const UNDECIDED = 1e-3;

let model: Model;
beforeAll(async () => {
  model = await loadBytes('nano-f16.gguf', nanoF16(), { kvType: 'f32' });
}, 600_000);
afterAll(() => model?.close());

/** Ids by their logit, the largest first, equal ones by id. */
function ranked(logits: ArrayLike<number>): number[] {
  const of = (id: number) => logits[id] ?? NaN;
  return Array.from(logits, (_, id) => id).sort((a, b) => of(b) - of(a) || a - b);
}

function logSoftmax(logits: Float64Array): Float64Array {
  const most = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
  return logits.map((logit) => logit - most - Math.log(sum));
}

/** Logits after `ids`, with the penalties over the last tokens and the biases of `options`. */
async function adjustedLogits(ids: number[], options: GenerateOptions): Promise<Float64Array> {
  const logits = Float64Array.from(await model.logits(ids));
  const { repeatPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = options;
  const { repeatLastN = 64, logitBias = {} } = options;
  const counts = new Map<number, number>();
  for (const id of repeatLastN > 0 ? ids.slice(-repeatLastN) : []) {
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  for (const [id, count] of counts) {
    const logit = logits[id] ?? NaN;
    logits[id] =
      (logit > 0 ? logit / repeatPenalty : logit * repeatPenalty) -
      count * frequencyPenalty -
      presencePenalty;
  }
  for (const [id, bias] of Object.entries(logitBias)) {
    logits[Number(id)] = (logits[Number(id)] ?? NaN) + bias;
  }
  return logits;
}

/** What greedy must write after `prompt`, token by token. */
async function greedy(prompt: number[], steps: number, options: GenerateOptions) {
  const tokens: number[] = [];
  for (let step = 0; step < steps; step++) {
    const logits = await adjustedLogits([...prompt, ...tokens], options);
    const [best = NaN, second = NaN] = ranked(logits);
    expect((logits[best] ?? NaN) - (logits[second] ?? NaN), `step ${step}`).toBeGreaterThan(
      UNDECIDED,
    );
    tokens.push(best);
  }
  return tokens;
}

async function generated(prompt: number[], options: GenerateOptions): Promise<number[]> {
  return (await model.generate(prompt, { temperature: 0, ...options }).report()).tokens;
}

describe('penalties', () => {
  const STEPS = 20;
  let plain: number[];
  beforeAll(async () => {
    plain = await greedy(story, STEPS, { logitBias: never });
    expect(await generated(story, { logitBias: never, maxTokens: STEPS })).toEqual(plain);
  });

  test.each<[string, GenerateOptions]>([
    ['repeat', { repeatPenalty: 1.3 }],
    ['repeat, below 1', { repeatPenalty: 0.25 }],
    ['presence', { presencePenalty: 3 }],
    ['frequency', { frequencyPenalty: 2.5 }],
    [
      'all three, a short window',
      {
        repeatPenalty: 1.5,
        presencePenalty: 4,
        frequencyPenalty: 3,
        repeatLastN: 8,
      },
    ],
  ])('%s: greedy writes what the penalised logits say', async (_, penalties) => {
    const options = { ...penalties, logitBias: never };
    const expected = await greedy(story, STEPS, options);
    expect(expected).not.toEqual(plain);
    expect(await generated(story, { ...options, maxTokens: STEPS })).toEqual(expected);
  });

  test('a window of -1 is all that came before, beyond the usual 64', async () => {
    const prompt = promptNamed('long').ids.slice(0, 120);
    const options = { presencePenalty: 12, logitBias: never };
    const whole = await greedy(prompt, 8, { ...options, repeatLastN: Infinity });
    expect(await generated(prompt, { ...options, repeatLastN: -1, maxTokens: 8 })).toEqual(whole);
    const usual = await greedy(prompt, 8, options);
    expect(usual).not.toEqual(whole);
    expect(await generated(prompt, { ...options, maxTokens: 8 })).toEqual(usual);
  });

  test('a window looks back just so far', async () => {
    // The story comes back to a word after six tokens, to another after eight.
    const runs: string[] = [plain.join()];
    for (const repeatLastN of [6, 8, 64]) {
      const options = { frequencyPenalty: 12, repeatLastN, logitBias: never };
      const expected = await greedy(story, STEPS, options);
      expect(await generated(story, { ...options, maxTokens: STEPS })).toEqual(expected);
      runs.push(expected.join());
    }
    expect(new Set(runs).size).toBe(runs.length);
    for (const repeatLastN of [5, 0]) {
      const options = { frequencyPenalty: 12, repeatLastN, logitBias: never, maxTokens: STEPS };
      expect(await generated(story, options)).toEqual(plain);
    }
  });
});

describe('logit bias', () => {
  test('forbids a token: the next best takes its place, at every step', async () => {
    const logits = await model.logits(story);
    const [best = NaN, second = NaN] = ranked(logits);
    const options = { logitBias: { ...never, [best]: -100 } };
    const tokens = await generated(story, { ...options, maxTokens: 12 });
    expect(tokens[0]).toBe(second);
    expect(tokens).not.toContain(best);
    expect(tokens).toEqual(await greedy(story, 12, options));
  });

  test('forces a token, greedy and drawn', async () => {
    const [least = NaN] = ranked(await model.logits(story)).slice(-1);
    const logitBias = { [least]: 100 };
    expect(await generated(story, { logitBias, maxTokens: 3 })).toEqual([least, least, least]);
    const drawn = { logitBias, temperature: 1, topK: 0, topP: 1, seed: 5, maxTokens: 3 };
    expect(await generated(story, drawn)).toEqual([least, least, least]);
  });

  test('weighs a token: it wins as soon as its bias exceeds the margin', async () => {
    const logits = await model.logits(story);
    const [best = NaN, , third = NaN] = ranked(logits);
    const margin = (logits[best] ?? NaN) - (logits[third] ?? NaN);
    const first = async (bias: number) =>
      (await generated(story, { logitBias: { [third]: bias }, maxTokens: 1 }))[0];
    expect(await first(margin - UNDECIDED)).toBe(best);
    expect(await first(margin + UNDECIDED)).toBe(third);
  });
});

describe('logprobs', () => {
  const alternatives = 5;
  test.each<[string, GenerateOptions]>([
    ['greedy', { temperature: 0 }],
    ['drawn: of temperature 1, before any cut', { temperature: 1.5, topK: 3, seed: 11 }],
    ['after penalties', { temperature: 0, repeatPenalty: 1.3, presencePenalty: 2 }],
  ])('equal the log-softmax of the logits: %s', async (_, options) => {
    const events: (TokenLogprob & { top: TokenLogprob[] })[] = [];
    const all: GenerateOptions = { ...options, logitBias: never };
    const reply = model.generate(story, { ...all, logprobs: alternatives, maxTokens: 12 });
    for await (const event of reply as AsyncIterable<ReplyEvent>) {
      if (event.type === 'token') events.push(event);
    }
    const { tokens } = await reply.report();
    expect(events.map(({ id }) => id)).toEqual(tokens);
    expect(tokens).toHaveLength(12);
    let worst = 0;
    for (const [step, event] of events.entries()) {
      const ids = [...story, ...tokens.slice(0, step)];
      const logprobs = logSoftmax(await adjustedLogits(ids, all));
      expect(event.text).toBe(model.detokenize([event.id]));
      expect(event.top).toHaveLength(alternatives);
      for (const { id, logprob } of [event, ...event.top]) {
        worst = Math.max(worst, Math.abs(logprob - (logprobs[id] ?? NaN)));
      }
      const values = event.top.map(({ logprob }) => logprob);
      expect(values).toEqual([...values].sort((a, b) => b - a));
      // No token outside the list is likelier than the last one inside.
      const inside = new Set(event.top.map(({ id }) => id));
      const outside = logprobs.filter((_, id) => !inside.has(id));
      expect(Math.max(...outside)).toBeLessThan((values.at(-1) ?? NaN) + 1e-4);
    }
    report(`logprobs, ${_}`, worst, 1e-4);
    expect(worst).toBeLessThan(1e-4);
  });
});

describe('the cuts', () => {
  // Hot, so that what may be drawn is drawn: the cuts themselves are made at temperature 1.
  const hot = { temperature: 100, topK: 0, topP: 1, minP: 0 };
  const ids = [...story, ...promptNamed('noise').ids.slice(1, 5)];
  let order: number[];
  let probabilities: number[];
  beforeAll(async () => {
    const logits = Float64Array.from(await model.logits(ids));
    order = ranked(logits);
    const logprobs = logSoftmax(logits);
    probabilities = order.map((id) => Math.exp(logprobs[id] ?? NaN));
  });

  async function draws(options: GenerateOptions, seeds: number): Promise<Set<number>> {
    const drawn = new Set<number>();
    for (let seed = 1; seed <= seeds; seed++) {
      const [id = NaN] = await generated(ids, { ...hot, ...options, seed, maxTokens: 1 });
      drawn.add(id);
    }
    return drawn;
  }
  /** How many of the likeliest together reach `share` of the first `count`. */
  function reach(share: number, count = order.length): number {
    const first = probabilities.slice(0, count);
    const total = first.reduce((a, b) => a + b);
    let sum = 0;
    return 1 + first.findIndex((p) => (sum += p) >= share * total);
  }
  const least = (share: number) =>
    probabilities.filter((p) => p >= share * (probabilities[0] ?? NaN)).length;
  /** A share that lies between what n and n - 1 tokens reach. */
  const shareOf = (n: number, count = order.length) => {
    const first = probabilities.slice(0, count);
    const total = first.reduce((a, b) => a + b);
    const before = first.slice(0, n - 1).reduce((a, b) => a + b, 0);
    return (before + (first[n - 1] ?? NaN) / 2) / total;
  };

  test.each<[string, () => { options: GenerateOptions; kept: number }]>([
    ['topK 1', () => ({ options: { topK: 1 }, kept: 1 })],
    ['topK 4', () => ({ options: { topK: 4 }, kept: 4 })],
    ['topP', () => ({ options: { topP: shareOf(5) }, kept: reach(shareOf(5)) })],
    [
      'minP',
      () => {
        const minP =
          ((probabilities[3] ?? NaN) + (probabilities[4] ?? NaN)) / 2 / (probabilities[0] ?? NaN);
        return { options: { minP }, kept: least(minP) };
      },
    ],
    // Of the mass of the six: more of them than topP of all would take.
    [
      'topP of topK',
      () => ({ options: { topK: 6, topP: shareOf(3, 6) }, kept: reach(shareOf(3, 6), 6) }),
    ],
  ])('%s restricts the draw to the tokens computed', async (_, make) => {
    const { options, kept } = make();
    expect(kept).toBeLessThanOrEqual(6);
    expect([...(await draws(options, 40))].sort((a, b) => a - b)).toEqual(
      order.slice(0, kept).sort((a, b) => a - b),
    );
  });

  test('no cut: any token, also those beyond the 256 candidates', async () => {
    const drawn = await draws({}, 12);
    expect(drawn.size).toBeGreaterThan(10);
    const best = new Set(order.slice(0, 256));
    expect([...drawn].filter((id) => !best.has(id)).length).toBeGreaterThan(6);
  });

  // top_p may leave more than the candidates at one step and few at the next: then the host draws, and what ran
  // ahead of it is taken back.
  test('a cut beyond the candidates: each token is one that may come', async () => {
    const topP = 0.999;
    const options = { temperature: 3, topK: 0, topP, seed: 4, logitBias: never, maxTokens: 20 };
    const tokens = await generated(ids, options);
    expect(tokens).toHaveLength(20);
    expect(await generated(ids, options)).toEqual(tokens);
    expect(await generated(ids, { ...options, logprobs: 3 })).toEqual(tokens);
    const sizes: number[] = [];
    for (const [step, token] of tokens.entries()) {
      const logits = await adjustedLogits([...ids, ...tokens.slice(0, step)], options);
      const logprobs = logSoftmax(logits);
      let sum = 0;
      let kept = 0;
      const sorted = ranked(logits);
      while (sum < topP) sum += Math.exp(logprobs[sorted[kept++] ?? 0] ?? NaN);
      expect(sorted.slice(0, kept + 2), `step ${step}`).toContain(token);
      sizes.push(kept);
    }
    // Both kinds of step occurred, and so did tokens that only the host can draw.
    expect(Math.min(...sizes)).toBeLessThan(256);
    expect(Math.max(...sizes)).toBeGreaterThan(256);
  });

  test('temperature weighs what is left', async () => {
    // Cold, the likeliest of four always; hot, each of them.
    const [best = NaN] = order;
    expect([...(await draws({ topK: 4, temperature: 0.01 }, 12))]).toEqual([best]);
  });
});

describe('a full context', () => {
  const contextLength = 48;
  let small: Model;
  beforeAll(async () => {
    small = await loadBytes('nano-f16.gguf', nanoF16(), { kvType: 'f32', contextLength });
  }, 600_000);
  afterAll(() => small?.close());

  test.each<[string, GenerateOptions]>([
    ['greedy', { temperature: 0 }],
    ['drawn', { temperature: 1, seed: 3 }],
  ])('ends the reply with the reason context: %s', async (_, options) => {
    const { reason, tokens, usage } = await small
      .generate(story, { ...options, logitBias: never })
      .report();
    expect(reason).toBe('context');
    expect(tokens).toHaveLength(contextLength - story.length);
    expect(usage.promptTokens + usage.completionTokens).toBe(contextLength);
    if (options.temperature === 0) {
      const whole = { logitBias: never, maxTokens: tokens.length };
      expect(tokens).toEqual(await generated(story, whole));
    }
    // The next request is none the worse for it.
    const again = await small.generate(story, { temperature: 0, maxTokens: 3 }).report();
    expect(again).toMatchObject({ reason: 'length', usage: { cachedTokens: story.length - 1 } });
  });
});
