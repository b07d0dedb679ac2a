// Embeddings: what goes into the engine's call and what comes out of it.

import type { Engine } from './engine.js';
import { LapidaryError } from './errors.js';

/** A text (`<bos>` is put before it), or token ids as they are. */
export type EmbedInput = string | number[];

/** How texts become vectors. */
export interface EmbedOptions {
  /**
   * How a text's hidden states become one vector. `mean` (default): their mean over all positions. `last`: that of the
   * last position, the only one that has seen the whole text.
   */
  pooling?: 'mean' | 'last';
  /** Whether vectors have length 1. Default true. */
  normalize?: boolean;
  /** Only so many of the first dimensions; length 1 is theirs then. Default all, `info.embedding` of them. */
  dimensions?: number;
  /** Whether a text that is longer than the context is cut there. Default false: it fails with `context_overflow`. */
  truncate?: boolean;
  /** Aborting rejects with `cancelled`. */
  signal?: AbortSignal;
}

/** The vectors, in the order of the inputs, and what they took. */
export interface EmbedReport {
  /** One for each input, in order: f32 [dimensions]. */
  embeddings: Float32Array[];
  /** Tokens of each input, those that were cut off not counted. */
  promptTokens: number[];
}

const isIds = (input: unknown): input is number[] =>
  Array.isArray(input) && input.length > 0 && input.every((id) => typeof id === 'number');

/** The inputs that are meant by one of them or a list. */
function inputsOf(input: EmbedInput | EmbedInput[]): EmbedInput[] {
  if (typeof input === 'string' || isIds(input)) return [input];
  return input;
}

/** @internal */
export async function embed(
  engine: Engine,
  handle: number,
  input: EmbedInput | EmbedInput[],
  options: EmbedOptions,
  signal: AbortSignal,
): Promise<EmbedReport> {
  const { pooling, normalize, dimensions, truncate } = options;
  const inputs = inputsOf(input).map((each) =>
    typeof each === 'string' ? { prompt: each } : { tokens: each },
  );
  let promptTokens: number[] = [];
  const request = JSON.stringify({ inputs, pooling, normalize, dimensions, truncate });
  const bytes = await engine.call('lap_embed', [handle, request], {
    signal,
    onEvent: (event) => ({ promptTokens } = event as Pick<EmbedReport, 'promptTokens'>),
  }).done;
  const floats = new Float32Array(bytes.buffer);
  if (promptTokens.length !== inputs.length) {
    throw new LapidaryError('internal_error', 'the engine embedded another number of texts');
  }
  const width = inputs.length > 0 ? floats.length / inputs.length : 0;
  return {
    embeddings: inputs.map((_, i) => floats.slice(i * width, (i + 1) * width)),
    promptTokens,
  };
}
