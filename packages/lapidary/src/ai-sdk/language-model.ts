// A loaded model as a language model of the AI SDK's.

import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart,
  LanguageModelV4Usage,
  SharedV4Warning,
} from '@ai-sdk/provider';
import { withoutCalls } from '../openai/chat.js';
import { stoppable } from '../openai/stream.js';
import { newId, stopped, type OpenAIModel, type ReplyLike } from '../openai/model.js';
import type { FinishReason, ReplyReport } from '../types.js';
import { readOptions, type LapidaryOptions } from './options.js';
import { conversationOf } from './prompt.js';

/** What of a model the SDK stands on: a page's, a worker's, a fake one. */
export type ChatModel = Pick<OpenAIModel, 'info' | 'chat' | 'tokenize'>;

const REASONS: Record<FinishReason, LanguageModelV4FinishReason['unified']> = {
  stop: 'stop',
  length: 'length',
  context: 'length',
  tool_calls: 'tool-calls',
  cancelled: 'other',
};

function usageOf({ usage }: ReplyReport): LanguageModelV4Usage {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  return {
    inputTokens: {
      total: promptTokens,
      noCache: promptTokens - cachedTokens,
      cacheRead: cachedTokens,
      cacheWrite: undefined,
    },
    outputTokens: { total: completionTokens, text: undefined, reasoning: undefined },
    raw: { promptTokens, cachedTokens, completionTokens },
  };
}

/** A reply's events as parts; text and reasoning are blocks with a beginning and an end. */
async function* partsOf(
  reply: ReplyLike,
  signal: AbortSignal | undefined,
  raw: boolean,
): AsyncGenerator<LanguageModelV4StreamPart, void, void> {
  let open: { type: 'text' | 'reasoning'; id: string } | undefined;
  function* close(): Generator<LanguageModelV4StreamPart> {
    if (open) yield { type: `${open.type}-end`, id: open.id };
    open = undefined;
  }
  for await (const event of reply) {
    if (raw) yield { type: 'raw', rawValue: event };
    if (event.type === 'text' || event.type === 'thinking') {
      const type = event.type === 'text' ? 'text' : 'reasoning';
      if (open?.type !== type) {
        yield* close();
        open = { type, id: newId(`${type}_`) };
        yield { type: `${type}-start`, id: open.id };
      }
      yield { type: `${type}-delta`, id: open.id, delta: event.text };
    } else if (event.type === 'tool_call') {
      yield* close();
      const id = newId('call_');
      const input = JSON.stringify(event.arguments);
      yield { type: 'tool-input-start', id, toolName: event.name };
      yield { type: 'tool-input-delta', id, delta: input };
      yield { type: 'tool-input-end', id };
      yield { type: 'tool-call', toolCallId: id, toolName: event.name, input };
    }
  }
  const report = await reply.report();
  // As fetch would: with what the signal was aborted with.
  if (report.reason === 'cancelled') {
    signal?.throwIfAborted();
    throw stopped();
  }
  yield* close();
  const finishReason = { unified: REASONS[report.reason], raw: report.reason };
  yield { type: 'finish', usage: usageOf(report), finishReason };
}

export class LapidaryLanguageModel implements LanguageModelV4 {
  readonly specificationVersion = 'v4';
  readonly provider = 'lapidary';
  /** Nothing is fetched by the model. */
  readonly supportedUrls = {};

  constructor(
    readonly modelId: string,
    private readonly model: () => Promise<ChatModel>,
    private readonly usual: LapidaryOptions,
  ) {}

  async doGenerate(asked: LanguageModelV4CallOptions) {
    const { parts, warnings, metadata } = await this.start(asked);
    const content: LanguageModelV4Content[] = [];
    const texts = new Map<string, { type: 'text' | 'reasoning'; text: string }>();
    let finish: (LanguageModelV4StreamPart & { type: 'finish' }) | undefined;
    for await (const part of parts) {
      if (part.type === 'text-start' || part.type === 'reasoning-start') {
        const block = {
          type: part.type === 'text-start' ? 'text' : 'reasoning',
          text: '',
        } as const;
        texts.set(part.id, block);
        content.push(block);
      } else if (part.type === 'text-delta' || part.type === 'reasoning-delta') {
        texts.get(part.id)!.text += part.delta;
      } else if (part.type === 'tool-call') content.push(part);
      else if (part.type === 'finish') finish = part;
    }
    const { usage, finishReason } = finish!;
    return { content, usage, finishReason, warnings, response: metadata };
  }

  async doStream(asked: LanguageModelV4CallOptions) {
    const { parts, warnings, metadata, controller } = await this.start(asked);
    const stream = new ReadableStream<LanguageModelV4StreamPart>({
      start(queue) {
        queue.enqueue({ type: 'stream-start', warnings });
        queue.enqueue({ type: 'response-metadata', ...metadata });
      },
      async pull(queue) {
        try {
          const { done, value } = await parts.next();
          if (done) queue.close();
          else queue.enqueue(value);
        } catch (error) {
          if (asked.abortSignal?.aborted) queue.error(error);
          else {
            queue.enqueue({ type: 'error', error });
            queue.close();
          }
        }
      },
      cancel: () => controller.abort(),
    });
    return { stream };
  }

  private async start(asked: LanguageModelV4CallOptions): Promise<{
    parts: AsyncGenerator<LanguageModelV4StreamPart, void, void>;
    warnings: SharedV4Warning[];
    metadata: { id: string; timestamp: Date; modelId: string };
    controller: AbortController;
  }> {
    const { abortSignal, includeRawChunks = false } = asked;
    abortSignal?.throwIfAborted();
    const messages = conversationOf(asked.prompt);
    const { options, noCalls, warnings } = readOptions(asked, this.usual);
    const model = await this.model();
    const chosen = noCalls ? await withoutCalls(model, options) : options;
    const { controller, signal } = stoppable(abortSignal);
    const reply = model.chat(messages, { ...chosen, signal });
    return {
      parts: partsOf(reply, abortSignal, includeRawChunks),
      warnings,
      controller,
      metadata: { id: newId('lap_'), timestamp: new Date(), modelId: model.info.name },
    };
  }
}
