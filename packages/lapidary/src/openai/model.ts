// What of a model OpenAI's shape stands on, and what a reply's pieces are called there.

import { LapidaryError } from '../errors.js';
import type { EmbedInput, EmbedOptions, EmbedReport } from '../embed.js';
import type { TokenizeOptions } from '../model.js';
import type {
  ChatOptions,
  Message,
  RawOptions,
  ReplyEvent,
  ReplyReport,
  TokenLogprob,
} from '../types.js';
import type { ChatLogprob, ChatLogprobs, CompletionLogprobs, Usage } from './types.js';

/** A reply as the shape needs it; `Reply` is one. */
export interface ReplyLike extends AsyncIterable<ReplyEvent> {
  /** How it ended, when it has. */
  report(): Promise<ReplyReport>;
}

/** A model as the shape needs it; `Model` is one. */
export interface OpenAIModel {
  readonly info: { readonly name: string };
  /** A reply to messages. */
  chat(messages: Message[], options?: ChatOptions): ReplyLike;
  /** A prompt, written on. */
  generate(prompt: string | number[], options?: RawOptions): ReplyLike;
  /** The text of token ids. */
  detokenize(ids: ArrayLike<number>): string | Promise<string>;
  /** Absent: `embeddings.create` is refused with `unsupported`. */
  embed?(input: EmbedInput[], options?: EmbedOptions): Promise<EmbedReport>;
  /** The token ids of a text. */
  tokenize(text: string, options?: TokenizeOptions): number[] | Promise<number[]>;
}

/** "chatcmpl-4f1c…" */
export function newId(prefix: string): string {
  // Not randomUUID: pages that are not secure contexts have none.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export const nowSeconds = () => Math.floor(Date.now() / 1000);

/** What all chunks of a reply have in common. */
export function headOf<Kind extends string>(
  model: OpenAIModel,
  prefix: string,
  object: Kind,
  includeUsage: boolean,
) {
  return {
    id: newId(prefix),
    object,
    created: nowSeconds(),
    model: model.info.name,
    ...(includeUsage && { usage: null }),
  };
}

export function usageOf({ usage }: ReplyReport): Usage {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

/** A full context ends a text as `max_tokens` does. */
export function lengthOrStop({ reason }: ReplyReport): 'length' | 'stop' {
  return reason === 'length' || reason === 'context' ? 'length' : 'stop';
}

/** What whoever stopped a reply gets instead of its end. */
export const stopped = () => new LapidaryError('cancelled', 'the reply was stopped');

type TokenEvent = TokenLogprob & { top: TokenLogprob[] };

/**
 * Tokens whose text has not been shown yet. A reply's log probabilities are those of the text that is read: tokens of
 * thinking and calls, control tokens and what a stop text cut off are none of it.
 */
export class TokenTrail {
  private tokens: TokenEvent[] = [];

  private constructor(
    private readonly model: OpenAIModel,
    private readonly top: number,
  ) {}

  /** A trail that shows so many alternatives; none where no log probabilities are asked for. */
  static of(model: OpenAIModel, top: number | undefined): TokenTrail | undefined {
    return top === undefined ? undefined : new TokenTrail(model, top);
  }

  /** To be told of every event of the reply; a text's tokens are taken before the next one. */
  async see(event: ReplyEvent): Promise<void> {
    if (event.type === 'token') {
      const isControl = event.text !== '' && (await this.model.detokenize([event.id])) === '';
      if (!isControl) this.tokens.push(event);
    } else if (event.type === 'thinking' || event.type === 'tool_call') {
      this.tokens = [];
    }
  }

  private take(): TokenEvent[] {
    const { tokens } = this;
    this.tokens = [];
    return tokens.map((token) => ({ ...token, top: token.top.slice(0, this.top) }));
  }

  /** The tokens since the last call, for a chat. */
  takeForChat(): ChatLogprobs {
    const content = this.take().map(({ top, ...token }) => ({
      ...entryOf(token),
      top_logprobs: top.map(entryOf),
    }));
    return { content, refusal: null };
  }

  /** `offset`: where the first of the tokens begins. */
  takeForText(offset: number): CompletionLogprobs {
    const tokens = this.take();
    let at = offset;
    return {
      tokens: tokens.map(({ text }) => text),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      top_logprobs: tokens.map(({ top }) =>
        Object.fromEntries(top.map(({ text, logprob }) => [text, logprob])),
      ),
      text_offset: tokens.map(({ text }) => (at += text.length) - text.length),
    };
  }
}

function entryOf({ text, logprob }: TokenLogprob): ChatLogprob {
  const whole = !text.includes('\ufffd');
  return { token: text, logprob, bytes: whole ? Array.from(new TextEncoder().encode(text)) : null };
}
