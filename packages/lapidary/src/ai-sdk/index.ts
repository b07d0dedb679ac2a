// The entry point `lapidary/ai-sdk`: models as the AI SDK's (npm `ai`, version 7) language models.

import type { EmbeddingModelV4, LanguageModelV4 } from '@ai-sdk/provider';
import { LapidaryError } from '../errors.js';
import { LapidaryEmbeddingModel, type EmbedModel } from './embedding-model.js';
import { LapidaryLanguageModel, type ChatModel } from './language-model.js';
import type { LapidaryOptions } from './options.js';

export type { EmbedModel } from './embedding-model.js';
export type { ChatModel } from './language-model.js';
export type { LapidaryOptions } from './options.js';

/** A loaded model, or how to load it; that happens when it is first used, and once. */
export type ModelOrLoader = (ChatModel & EmbedModel) | (() => Promise<ChatModel & EmbedModel>);

/** A provider of the AI SDK; calling it with a model's id gives its language model. */
export interface LapidaryProvider {
  /** `options` hold where a call says nothing else. `not_found` for an id that is not among the models. */
  (modelId: string, options?: LapidaryOptions): LanguageModelV4;
  readonly specificationVersion: 'v4';
  /** The same as calling the provider. */
  languageModel(modelId: string, options?: LapidaryOptions): LanguageModelV4;
  /** Embeds with the model of this id. */
  embeddingModel(modelId: string): EmbeddingModelV4;
  /** Throws `not_found`: there are none. */
  imageModel(modelId: string): never;
}

/** Loads once; after a failure the next use tries again. */
function once<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | undefined;
  return () =>
    (loading ??= load().catch((error: unknown) => {
      loading = undefined;
      throw error;
    }));
}

/**
 * A provider of these models, by the ids that they are given.
 *
 * ```ts
 * const lapidary = createLapidary({ nano: () => Model.load('/models/nano.gguf') });
 * const { textStream } = streamText({ model: lapidary('nano'), prompt: 'Why is the sky blue?' });
 * ```
 *
 * Sampling, stop texts, tools, reasoning, JSON by schema and aborting are the model's own. What cannot be honoured is among the result's
 * `warnings`; parts of a prompt that are no text fail with `unsupported`.
 */
export function createLapidary(models: Record<string, ModelOrLoader>): LapidaryProvider {
  const loaders = new Map(
    Object.entries(models).map(([id, model]) => [
      id,
      typeof model === 'function' ? once(model) : () => Promise.resolve(model),
    ]),
  );
  const missing = (modelId: string, kind: string) =>
    new LapidaryError('not_found', `there is no ${kind} '${modelId}'`);
  const loaderOf = (modelId: string) => {
    const load = loaders.get(modelId);
    if (!load) throw missing(modelId, 'model');
    return load;
  };
  const languageModel = (modelId: string, options: LapidaryOptions = {}): LanguageModelV4 =>
    new LapidaryLanguageModel(modelId, loaderOf(modelId), options);
  return Object.assign(
    (modelId: string, options?: LapidaryOptions) => languageModel(modelId, options),
    {
      specificationVersion: 'v4' as const,
      languageModel,
      embeddingModel: (modelId: string): EmbeddingModelV4 =>
        new LapidaryEmbeddingModel(modelId, loaderOf(modelId)),
      imageModel: (modelId: string): never => {
        throw missing(modelId, 'image model');
      },
    },
  );
}
