// The coherence gate: no speed is shown of an engine whose answers nobody checked. Nano's greedy texts must be the known
// ones, and where a model's logits are known, its own must be close to them.

import { LapidaryError, type Model } from 'lapidary';
import type { LogitAnswers } from './known.js';
import type { GateReport, NanoAnswers } from './types.js';

/**
 * What the relative error of logits may be. Keys and values are halves, and activations rounded to 16 bits: seen, below
 * 1e-2. Those of 8 bits cost more; a wrong kernel gives an error near 1.
 */
const TOLERANCE = 0.03;
const TOLERANCE_INT8 = 0.15;

const failed = (text: string) =>
  new LapidaryError('self_test_failed', `the coherence gate failed, so no speed is shown: ${text}`);

/** Nano's greedy continuations against the known ones. */
export async function checkNano(
  model: Model,
  { greedy }: NanoAnswers,
  signal?: AbortSignal,
): Promise<GateReport['nano']> {
  let tokens = 0;
  for (const { name, ids, tokens: known, text } of greedy) {
    const request = { temperature: 0, maxTokens: known.length, ...(signal && { signal }) };
    const report = await model.generate(ids, request).report();
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
  const { dot, prefill: form } = model.info.variant;
  const tolerance = dot === 'int8' || form === 'int8' ? TOLERANCE_INT8 : TOLERANCE;
  if (!(error <= tolerance)) {
    throw failed(
      `the logits of ${answers.model} are off by ${error.toPrecision(3)} of their size ` +
        `(prefill ${prefill.toPrecision(3)}, decode ${decode.toPrecision(3)}; at most ${tolerance})`,
    );
  }
  return { source, compared: known.length, error, tolerance, prefill, decode };
}
