// Known answers: what an independent implementation computes from a file, kept in bench/known-answers.

import nano from '../known-answers/nano.json' with { type: 'json' };
import type { NanoAnswers } from './types.js';

/** Logits that engine/reference computes from one file: written by bench/reference_logits.cpp. */
export interface LogitAnswers {
  model: string;
  /** Of the file: see {@link digest}. */
  digest: string;
  source: string;
  /** The prompt. */
  ids: number[];
  /** The tokens whose logits are known. */
  rows: number[];
  /** After which token of the prompt, and the logits of `rows` there. */
  samples: { position: number; logits: number[] }[];
}

export const NANO: NanoAnswers = nano;
const ALL: LogitAnswers[] = [];

/** The known answers of the file with this digest: among `more` first. */
export const knownAnswers = (
  digest: string,
  more: LogitAnswers[] = [],
): LogitAnswers | undefined => [...more, ...ALL].find((answers) => answers.digest === digest);
