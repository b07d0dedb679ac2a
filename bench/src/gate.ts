// The coherence gate: no speed is shown of an engine whose answers nobody checked. Nano's greedy texts must be the known
// ones, and where a model's logits are known, its own must be close to them.

import { LapidaryError, type Model } from 'lapidary';
import type { LogitAnswers } from './known.js';
import type { Prompts } from './measure.js';
import type { GateReport, NanoAnswers } from './types.js';

/**
 * What the relative error of logits may be. Keys and values are halves, and activations rounded to 16 bits: seen, below
 * 1e-2. Those of 8 bits cost more; a wrong kernel gives an error near 1.
 */
const TOLERANCE = 0.03;
const TOLERANCE_INT8 = 0.15;

/** Of a model as it was loaded: whether something in it is rounded to 8 bits. */
function toleranceOf({ variant: { dot, prefill }, kvType }: Model['info']): number {
  return [dot, prefill].includes('int8') || kvType === 'q8_0' ? TOLERANCE_INT8 : TOLERANCE;
}

const failed = (text: string) =>
  new LapidaryError('self_test_failed', `the coherence gate failed, so no speed is shown: ${text}`);

/** Nano's greedy continuations against the known ones, one after another and, with several sessions, at once. */
export async function checkNano(
  model: Model,
  { greedy }: NanoAnswers,
  signal?: AbortSignal,
): Promise<GateReport['nano']> {
  const answers = ({ ids, tokens: known }: NanoAnswers['greedy'][number]) => {
    const request = { temperature: 0, maxTokens: known.length, ...(signal && { signal }) };
    return model.generate(ids, request).report();
  };
  const reports = [];
  for (const each of greedy) reports.push({ ...each, report: await answers(each) });
  if (model.info.sessions > 1) {
    await model.truncate(0);
    const together = await Promise.all(greedy.map(answers));
    for (const [i, report] of together.entries()) reports.push({ ...greedy[i]!, report });
  }
  let tokens = 0;
  for (const { name, tokens: known, text, report } of reports) {
    if (report.reason === 'cancelled') throw new LapidaryError('cancelled', 'cancelled');
    const answer = model.detokenize(report.tokens, { showControl: true });
    if (answer !== text || report.tokens.join() !== known.join()) {
      throw failed(
        `nano answers ${JSON.stringify(answer)} to the prompt '${name}' where ${JSON.stringify(text)} is right`,
      );
    }
    tokens += report.tokens.length;
  }
  return { prompts: greedy.length, tokens };
}

/** Tokens of the prompts of {@link checkTogether}. */
const TOGETHER_PROMPT = 24;

/**
 * The log probability of the first token of replies that are written at once against that of the same token alone:
 * those of products in other forms, as `checkLogits` has them.
 */
export async function checkTogether(
  model: Model,
  prompts: Prompts,
  replies: number,
  signal?: AbortSignal,
): Promise<NonNullable<GateReport['together']>> {
  const asked = Array.from({ length: replies }, () => prompts.next(TOGETHER_PROMPT));
  const first = async (ids: number[]) => {
    const request = { temperature: 0, maxTokens: 2, ignoreEos: true, logprobs: 20 };
    for await (const event of model.generate(ids, { ...request, ...(signal && { signal }) })) {
      if (event.type === 'token') return event;
    }
    throw failed('a reply has no token');
  };
  await model.truncate(0);
  const alone: Awaited<ReturnType<typeof first>>[] = [];
  for (const ids of asked) alone.push(await first(ids));
  await model.truncate(0);
  const together = await Promise.all(asked.map(first));
  let difference = 0;
  together.forEach(({ id, logprob }, i) => {
    // Two tokens that are nearly as likely may change places.
    const same = alone[i]!.top?.find((each) => each.id === id)?.logprob;
    difference = Math.max(difference, Math.abs((same ?? NaN) - (logprob ?? NaN)));
  });
  const tolerance = 5 * toleranceOf(model.info);
  if (!(difference <= tolerance)) {
    throw failed(
      `log probabilities of ${replies} replies at once are up to ${difference} from those alone (at most ${tolerance})`,
    );
  }
  return { replies, difference, tolerance };
}

/** Root mean square of `found - known` over that of `known`. */
function relativeError(found: number[], known: number[]): number {
  let difference = 0;
  let size = 0;
  known.forEach((value, i) => {
    difference += ((found[i] ?? NaN) - value) ** 2;
    size += value ** 2;
  });
  const error = Math.sqrt(difference / size);
  return Number.isNaN(error) ? Infinity : error;
}

/** A model's logits, of a prompt at once and of a token at a time, against known ones. */
export async function checkLogits(
  model: Model,
  answers: LogitAnswers,
): Promise<NonNullable<GateReport['logits']>> {
  const { ids, rows, samples, source } = answers;
  const known = samples.flatMap(({ logits }) => logits);
  if (known.length === 0 || samples.some(({ logits }) => logits.length !== rows.length)) {
    throw failed(`the known answers of ${answers.model} are damaged`);
  }
  await model.truncate(0);
  const all = await model.logits(ids, { all: true });
  const vocab = all.length / ids.length;
  const prefilled = samples.flatMap(({ position }) =>
    rows.map((row) => all[position * vocab + row] ?? NaN),
  );
  // The cache keeps all but the last token each time: that one is decoded.
  await model.truncate(0);
  const decoded: number[] = [];
  for (let length = 1; length <= ids.length; length++) {
    const logits = await model.logits(ids.slice(0, length));
    if (samples.some(({ position }) => position === length - 1)) {
      decoded.push(...rows.map((row) => logits[row] ?? NaN));
    }
  }
  const prefill = relativeError(prefilled, known);
  const decode = relativeError(decoded, known);
  const error = Math.max(prefill, decode);
  const tolerance = toleranceOf(model.info);
  if (!(error <= tolerance)) {
    throw failed(
      `the logits of ${answers.model} are off by ${error.toPrecision(3)} of their size ` +
        `(prefill ${prefill.toPrecision(3)}, decode ${decode.toPrecision(3)}; at most ${tolerance})`,
    );
  }
  return { source, compared: known.length, error, tolerance, prefill, decode };
}
