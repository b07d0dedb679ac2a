// The measurements on a loaded model.

import { LapidaryError, type GenerateOptions, type Model, type ReplyReport } from 'lapidary';
import { measured } from './stats.js';
import type { Concurrent, Decode, PerToken, Prefill, Profile, Together } from './types.js';

/** Ids from here on are ordinary tokens in every vocabulary of the family. */
const FIRST_ID = 500;
const LAST_ID = 250_000;
const BOS = 2;
/** Tokens of the shorter run whose counts are taken off the longer one's. */
const base = (tokens: number) => Math.min(16, tokens);

/** Prompts of random ordinary tokens, none like another; the same in every run. */
export class Prompts {
  private state = 0x9e3779b9;

  constructor(private readonly vocab: number) {}

  next(length: number): number[] {
    const low = Math.min(FIRST_ID, this.vocab >> 1);
    const range = Math.min(LAST_ID, this.vocab) - low;
    return Array.from({ length }, (_, i) => (i === 0 ? BOS : low + (this.random() % range)));
  }

  /** xorshift32 */
  private random(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state;
  }
}

export interface Times {
  report: ReplyReport;
  /** Milliseconds from the request to the end of the answer. */
  wall: number;
}

/** The usual way to draw tokens (Ollama's defaults for the family), the same ones each time. */
export const DRAWN: GenerateOptions = { temperature: 1, topK: 64, topP: 0.95, seed: 1 };

/** Continues `ids` by exactly `maxTokens` tokens: greedily, unless `sampling` says how. */
export async function run(
  model: Model,
  ids: number[],
  maxTokens: number,
  signal?: AbortSignal,
  sampling: GenerateOptions = { temperature: 0 },
): Promise<Times> {
  const options = { ...sampling, ignoreEos: true, maxTokens, ...(signal && { signal }) };
  const started = performance.now();
  const report = await model.generate(ids, options).report();
  const wall = performance.now() - started;
  if (report.reason === 'cancelled') throw new LapidaryError('cancelled', 'cancelled');
  if (report.tokens.length !== maxTokens) {
    throw new LapidaryError(
      'internal_error',
      `${report.tokens.length} tokens came where ${maxTokens} were asked for (${report.reason})`,
    );
  }
  return { report, wall };
}

/** Why `prompt` tokens and `more` after them cannot be, if so. */
export function noRoom(model: Model, prompt: number, more: number): string | undefined {
  const { contextLength } = model.info;
  return prompt + more > contextLength
    ? `${prompt} + ${more} tokens do not fit the context of ${contextLength}`
    : undefined;
}

export interface Repeats {
  repeats: number;
  signal?: AbortSignal | undefined;
}

/** Tokens a second through prompts of `length` new tokens, to the first token of the answer. */
export async function prefill(
  model: Model,
  prompts: Prompts,
  length: number,
  { repeats, signal }: Repeats,
): Promise<Prefill> {
  const speeds: number[] = [];
  for (let i = -1; i < repeats; i++) {
    await model.truncate(0);
    const { report } = await run(model, prompts.next(length), 1, signal);
    // The first is to warm up.
    if (i >= 0) speeds.push((length * 1000) / report.timings.prefillMs);
  }
  return { promptTokens: length, tokensPerSecond: measured(speeds) };
}

/**
 * Tokens a second of `replies` at once, all of theirs together: after prompts of `context` tokens, which the cache holds
 * but for the last.
 */
export async function concurrent(
  model: Model,
  prompts: Prompts,
  replies: number,
  context: number,
  tokens: number,
  { repeats, signal }: Repeats,
): Promise<Concurrent> {
  const speeds: number[] = [];
  for (let i = -1; i < repeats; i++) {
    const asked = Array.from({ length: replies }, () => prompts.next(context));
    await model.truncate(0);
    await model.prefill(
      asked.map((ids) => ({ tokens: ids })),
      signal && { signal },
    );
    const started = performance.now();
    await Promise.all(asked.map((ids) => run(model, ids, tokens, signal)));
    // The first is to warm up.
    if (i >= 0) speeds.push((replies * tokens * 1000) / (performance.now() - started));
  }
  return { replies, context, tokens, tokensPerSecond: measured(speeds) };
}

/** Tokens of each of the prompts that {@link together} runs. */
export const TOGETHER_TOKENS = 64;

/** Tokens a second through a prompt for each session, with no answer. */
export async function together(
  model: Model,
  prompts: Prompts,
  { repeats, signal }: Repeats,
): Promise<Together> {
  const count = model.info.sessions;
  const time = async (groups: { tokens: number[] }[][]) => {
    await model.truncate(0);
    const started = performance.now();
    for (const group of groups) await model.prefill(group, signal && { signal });
    return (count * TOGETHER_TOKENS * 1000) / (performance.now() - started);
  };
  const shared: number[] = [];
  const single: number[] = [];
  for (let i = -1; i < repeats; i++) {
    const all = Array.from({ length: count }, () => ({ tokens: prompts.next(TOGETHER_TOKENS) }));
    const speeds = [await time([all]), await time(all.map((one) => [one]))] as const;
    // The first is to warm up.
    if (i < 0) continue;
    shared.push(speeds[0]);
    single.push(speeds[1]);
  }
  return {
    prompts: count,
    promptTokens: TOGETHER_TOKENS,
    tokensPerSecond: measured(shared),
    oneByOne: measured(single),
  };
}

/** Milliseconds to the first token of the answer to a new prompt of `length` tokens, as the caller sees them. */
export async function firstToken(
  model: Model,
  prompts: Prompts,
  length: number,
  signal?: AbortSignal,
): Promise<number> {
  await model.truncate(0);
  return (await run(model, prompts.next(length), 1, signal)).wall;
}

/** Tokens a second after a prompt of `context` tokens. The prompt stays in the cache from one time to the next. */
export async function decode(
  model: Model,
  prompts: Prompts,
  context: number,
  tokens: number,
  { repeats, signal }: Repeats,
  sampling?: GenerateOptions,
): Promise<Omit<Decode, 'shareOfPeak'>> {
  const ids = prompts.next(context);
  await model.truncate(0);
  await run(model, ids, tokens, signal, sampling);
  const speeds: number[] = [];
  let repeatable = true;
  // The first run took the whole prompt at once, those after it decode its last token: in another order of
  // summation, so only these are compared.
  let first: string | undefined;
  let draft: Decode['draft'];
  let hits = 0;
  let needed = 0;
  for (let i = 0; i < repeats; i++) {
    const { report } = await run(model, ids, tokens, signal, sampling);
    hits += report.experts?.hits ?? 0;
    needed += (report.experts?.hits ?? 0) + (report.experts?.misses ?? 0);
    // The first token comes out of the prompt's own pass.
    speeds.push(((tokens - 1) * 1000) / report.timings.decodeMs);
    if (report.draft) {
      draft ??= { drafted: 0, accepted: 0 };
      draft.drafted += report.draft.drafted;
      draft.accepted += report.draft.accepted;
    }
    first ??= report.tokens.join();
    repeatable &&= report.tokens.join() === first;
  }
  const tokensPerSecond = measured(speeds);
  const millisecondsPerToken = 1000 / tokensPerSecond.median;
  return {
    ...{ context, tokens, tokensPerSecond, millisecondsPerToken, repeatable },
    ...(draft && { draft }),
    ...(needed > 0 && { expertHits: hits / needed }),
  };
}

/** What one more decoded token costs at the host's door: a longer answer's counts less a shorter one's. */
export async function perToken(
  model: Model,
  prompts: Prompts,
  context: number,
  tokens: number,
  signal?: AbortSignal,
): Promise<PerToken> {
  const ids = prompts.next(context);
  const count = async (length: number) => {
    const before = model.counters;
    await run(model, ids, length, signal);
    const after = model.counters;
    return {
      dispatches: after.dispatches - before.dispatches,
      submits: after.submits - before.submits,
      bindGroups: after.bindingsCreated - before.bindingsCreated,
      buffers: after.buffersCreated - before.buffersCreated,
      writes: after.writes - before.writes,
      bytesRead: after.bytesRead - before.bytesRead,
    };
  };
  await model.truncate(0);
  await run(model, ids, base(tokens) + tokens, signal);
  const short = await count(base(tokens));
  const long = await count(base(tokens) + tokens);
  const each = (key: keyof PerToken) => (long[key] - short[key]) / tokens;
  return {
    dispatches: each('dispatches'),
    submits: each('submits'),
    bindGroups: each('bindGroups'),
    buffers: each('buffers'),
    writes: each('writes'),
    bytesRead: each('bytesRead'),
  };
}

/** The most tokens that {@link perToken} writes. */
export const perTokenRoom = (tokens: number) => base(tokens) + tokens;

/** GPU time by kernel: of `tokens` tokens after `context` ones, and of a prompt of `length` tokens. */
export async function profile(
  model: Model,
  prompts: Prompts,
  { context, tokens, length }: { context: number; tokens: number; length: number },
  signal?: AbortSignal,
): Promise<Profile> {
  const ids = prompts.next(context);
  await model.truncate(0);
  await run(model, ids, tokens, signal);
  // The prompt is in the cache but for its last token, which is decoded like those after it.
  const decode = await model.profile(() => run(model, ids, tokens, signal));
  await model.truncate(0);
  const prompt = prompts.next(length);
  const prefill = await model.profile(() => run(model, prompt, 1, signal));
  return { context, promptTokens: length, tokens, decode, prefill };
}
