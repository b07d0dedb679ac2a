// Known answers: what an independent implementation computes from a file, kept in bench/known-answers.

import e2bSynthetic from '../known-answers/e2b-synthetic.json' with { type: 'json' };
import nano from '../known-answers/nano.json' with { type: 'json' };
import tinySynthetic from '../known-answers/tiny-synthetic.json' with { type: 'json' };
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
/** Of models that `lapidary bench --synthesize` writes, with the seed 1. */
export const SYNTHETIC: Record<'e2b' | 'tiny', LogitAnswers> = {
  e2b: e2bSynthetic,
  tiny: tinySynthetic,
};

/** The known answers of the file with this digest: among `more` first. */
export const knownAnswers = (digest: string, more: LogitAnswers[] = []): LogitAnswers | undefined =>
  [...more, ...Object.values(SYNTHETIC)].find((answers) => answers.digest === digest);
