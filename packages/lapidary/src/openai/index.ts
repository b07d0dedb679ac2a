// The entry point `lapidary/openai`: a model behind OpenAI's interface, so that code written for their client runs here.

import { createChat } from './chat.js';
import { createCompletion } from './completions.js';
import { createEmbeddings } from './embeddings.js';
import { nowSeconds, type OpenAIModel } from './model.js';
import type { ChunkStream } from './stream.js';
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatParams,
  Completion,
  CompletionChunk,
  CompletionParams,
  EmbeddingParams,
  EmbeddingResponse,
  ModelEntry,
  RequestOptions,
} from './types.js';

export { errorAnswer, errorBody, type ErrorBody } from './error-body.js';
export { Fields, RequestError, isShallow, type NumberLimits } from './fields.js';
export { LIMITS } from './limits.js';
export { TokenTrail, type OpenAIModel, type ReplyLike } from './model.js';
export {
  readSchema,
  readStops,
  readTools,
  readTopLogprobs,
  reportedLogprobs,
  withoutBos,
} from './request.js';
export { ChunkStream } from './stream.js';
export type * from './types.js';

/** Answers of one kind: whole, or in chunks where `stream` is true. */
interface Create<Params, Whole, Chunk> {
  (params: Params & { stream: true }, options?: RequestOptions): Promise<ChunkStream<Chunk>>;
  (params: Params & { stream?: false | null }, options?: RequestOptions): Promise<Whole>;
  (params: Params, options?: RequestOptions): Promise<Whole | ChunkStream<Chunk>>;
}

/** What {@link createOpenAI} gives: OpenAI's client as far as a loaded model can answer it. */
export interface OpenAIShape {
  chat: { completions: { create: Create<ChatParams, ChatCompletion, ChatCompletionChunk> } };
  completions: { create: Create<CompletionParams, Completion, CompletionChunk> };
  embeddings: {
    /** Embeds texts or token ids; `unsupported` where the model cannot. */
    create(params: EmbeddingParams, options?: RequestOptions): Promise<EmbeddingResponse>;
  };
  models: {
    /** The one model. */
    list(): Promise<{ object: 'list'; data: ModelEntry[] }>;
  };
}

/**
 * OpenAI's interface over a loaded model.
 *
 * ```ts
 * const openai = createOpenAI(await Model.load('gemma4:e2b'));
 * const messages = [{ role: 'user' as const, content: 'Why is the sky blue?' }];
 * for await (const chunk of await openai.chat.completions.create({ messages, stream: true })) {
 *   process.stdout.write(chunk.choices[0]?.delta.content ?? '');
 * }
 * ```
 *
 * A request that cannot be honoured is refused, never answered otherwise than asked: a {@link RequestError} with the code
 * `unsupported` or `invalid_argument` whose `param` names the member. Replies fail with `context_overflow`, `cancelled`
 * and what else a `Model`'s do.
 */
export function createOpenAI(model: OpenAIModel): OpenAIShape {
  const created = nowSeconds();
  return {
    chat: {
      completions: {
        create: ((params: ChatParams, options: RequestOptions = {}) =>
          createChat(model, params, options)) as OpenAIShape['chat']['completions']['create'],
      },
    },
    completions: {
      create: ((params: CompletionParams, options: RequestOptions = {}) =>
        createCompletion(model, params, options)) as OpenAIShape['completions']['create'],
    },
    embeddings: {
      create: (params, options = {}) => createEmbeddings(model, params, options),
    },
    models: {
      list: () => {
        const entry: ModelEntry = {
          id: model.info.name,
          object: 'model',
          created,
          owned_by: 'lapidary',
        };
        return Promise.resolve({ object: 'list', data: [entry] });
      },
    },
  };
}
