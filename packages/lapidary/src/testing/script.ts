// What a fake model is told to answer, and how an answer becomes events.

import { LapidaryError, type ErrorCode } from '../errors.js';
import type {
  ChatOptions,
  FinishReason,
  Message,
  RawOptions,
  ReplyEvent,
  ReplyReport,
  ToolCall,
} from '../types.js';
import { piecesOf, type Vocabulary } from './vocabulary.js';

/** What was asked of a fake model. */
export type FakeRequest =
  | { type: 'chat'; messages: Message[]; options: ChatOptions }
  | { type: 'generate'; prompt: string | number[]; options: RawOptions };

/**
 * One answer: a text, its parts, or a function of the request. Texts come word by word; what `thinking` says comes only
 * where the request asks to think.
 */
export type FakeReply =
  | string
  | {
      thinking?: string;
      text?: string;
      toolCalls?: ToolCall[];
      /** Fails with this code, after all of the above. */
      error?: ErrorCode | LapidaryError;
      /** Milliseconds before each word; default: the model's. */
      delay?: number;
      /** Default: `tool_calls` where there are any, else `stop`. */
      reason?: FinishReason;
    }
  | ((request: FakeRequest) => FakeReply | Promise<FakeReply>);

/** Waits, but not for what was stopped. */
export function pause(milliseconds: number, stop: AbortSignal): Promise<void> {
  if (milliseconds === 0) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      stop.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    if (stop.aborted) done();
    else stop.addEventListener('abort', done);
  });
}

export interface Playing {
  request: FakeRequest;
  promptTokens: number;
  vocabulary: Vocabulary;
  /** Milliseconds. */
  delay: number;
  /** Tokens that prompt and reply may have together. */
  contextLength: number;
}

/** Where the first of the stop texts begins in `text`. */
function stopIn(
  text: string,
  stops: string[] | undefined,
): { at: number; stop: string } | undefined {
  return (stops ?? [])
    .map((stop) => ({ stop, at: stop === '' ? -1 : text.indexOf(stop) }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at)[0];
}

/** Plays one answer; options that end or shorten a reply do so here as well. */
export async function play(
  reply: FakeReply,
  playing: Playing,
  emit: (event: ReplyEvent) => void,
  stop: AbortSignal,
): Promise<ReplyReport> {
  const { request, promptTokens, vocabulary, contextLength } = playing;
  const { options } = request;
  let script = reply;
  while (typeof script === 'function') script = await script(request);
  if (typeof script === 'string') script = { text: script };
  const { thinking = '', text = '', toolCalls = [], error, delay = playing.delay } = script;
  const tokens: number[] = [];
  const report = (reason: FinishReason, more: Partial<ReplyReport> = {}): ReplyReport => ({
    reason,
    usage: { promptTokens, cachedTokens: 0, completionTokens: tokens.length },
    timings: { prefillMs: 0, decodeMs: delay * tokens.length, firstTokenMs: delay },
    seed: options.seed ?? 0,
    tokens,
    ...more,
  });
  const most = Math.min(options.maxTokens ?? Infinity, contextLength - promptTokens);
  const full = () => report(tokens.length === options.maxTokens ? 'length' : 'context');

  /** Says words one by one; why it stopped, if it did. */
  async function say(type: 'text' | 'thinking', words: string): Promise<ReplyReport | undefined> {
    for (const piece of piecesOf(words)) {
      if (tokens.length >= most) return full();
      await pause(delay, stop);
      if (stop.aborted) return report('cancelled');
      const id = vocabulary.idOf(piece);
      tokens.push(id);
      if (options.logprobs) {
        const token = { id, text: piece, logprob: 0 };
        emit({ type: 'token', ...token, top: [token] });
      }
      emit({ type, text: piece });
    }
    return undefined;
  }

  await pause(delay, stop);
  if (stop.aborted) return report('cancelled');
  emit({ type: 'prefill', processed: promptTokens, total: promptTokens, cached: 0 });
  const thinks = request.type === 'chat' && request.options.think === true;
  const ended = thinks ? await say('thinking', thinking) : undefined;
  if (ended) return ended;
  const stopped = stopIn(text, options.stop);
  const said = await say('text', text.slice(0, stopped?.at));
  if (said) return said;
  if (stopped) return report('stop', { stop: stopped.stop });
  for (const call of toolCalls) {
    await pause(delay, stop);
    if (stop.aborted) return report('cancelled');
    emit({ type: 'tool_call', ...call });
  }
  if (error instanceof LapidaryError) throw error;
  if (error !== undefined) throw new LapidaryError(error, `the script says: ${error}`);
  return report(script.reason ?? (toolCalls.length > 0 ? 'tool_calls' : 'stop'));
}
