// A loaded model as an embedding model of the AI SDK's.

import type { EmbeddingModelV4, EmbeddingModelV4CallOptions } from '@ai-sdk/provider';
import { LapidaryError } from '../errors.js';
import type { OpenAIModel } from '../openai/model.js';

/** What of a model embedding stands on. */
export type EmbedModel = Pick<OpenAIModel, 'embed'>;

export class LapidaryEmbeddingModel implements EmbeddingModelV4 {
  readonly specificationVersion = 'v4';
  readonly provider = 'lapidary';
  /** Texts of one call; the model runs them in batches of its own. */
  readonly maxEmbeddingsPerCall = 2048;
  /** One call at a time has the GPU. */
  readonly supportsParallelCalls = false;

  constructor(
    readonly modelId: string,
    private readonly model: () => Promise<EmbedModel>,
  ) {}

  async doEmbed({ values, dimensions, abortSignal }: EmbeddingModelV4CallOptions) {
    abortSignal?.throwIfAborted();
    const model = await this.model();
    if (!model.embed) throw new LapidaryError('unsupported', 'this model gives no embeddings');
    const { embeddings, promptTokens } = await model.embed(values, {
      ...(dimensions !== undefined && { dimensions }),
      ...(abortSignal && { signal: abortSignal }),
    });
    return {
      embeddings: embeddings.map((vector) => Array.from(vector)),
      usage: { tokens: promptTokens.reduce((sum, tokens) => sum + tokens, 0) },
      warnings: [],
    };
  }
}
