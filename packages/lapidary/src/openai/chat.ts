// chat.completions.create: a reply in OpenAI's chunks, and those put together.

import type { ChatOptions, ReplyEvent } from '../types.js';
import {
  TokenTrail,
  headOf,
  lengthOrStop,
  newId,
  stopped,
  usageOf,
  type OpenAIModel,
  type ReplyLike,
} from './model.js';
import { readChat, type AskedChat } from './request.js';
import { stoppable, streamedOrWhole, type ChunkStream } from './stream.js';
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatDelta,
  ChatLogprobs,
  ChatParams,
  ChatToolCall,
  RequestOptions,
} from './types.js';

type Choice = ChatCompletionChunk['choices'][number];

function deltaOf(event: ReplyEvent, calls: number): ChatDelta | undefined {
  if (event.type === 'text') return { content: event.text };
  if (event.type === 'thinking') return { reasoning: event.text };
  if (event.type !== 'tool_call') return undefined;
  const call = { name: event.name, arguments: JSON.stringify(event.arguments) };
  return { tool_calls: [{ index: calls, id: newId('call_'), type: 'function', function: call }] };
}

async function* chunksOf(
  model: OpenAIModel,
  reply: ReplyLike,
  asked: AskedChat,
): AsyncGenerator<ChatCompletionChunk, void, void> {
  const head = headOf(model, 'chatcmpl-', 'chat.completion.chunk', asked.includeUsage);
  const chunk = (
    delta: ChatDelta,
    finish: Choice['finish_reason'] = null,
    logprobs: ChatLogprobs | null = null,
  ): ChatCompletionChunk => ({
    ...head,
    choices: [{ index: 0, delta, logprobs, finish_reason: finish }],
  });
  const trail = TokenTrail.of(model, asked.topLogprobs);

  let begun = false;
  let calls = 0;
  for await (const event of reply) {
    if (event.type === 'done') break;
    // Only now: until the prompt has run, the request may still turn out to be wrong.
    if (!begun) yield chunk({ role: 'assistant', content: '' });
    begun = true;
    await trail?.see(event);
    const delta = deltaOf(event, calls);
    if (!delta) continue;
    if (event.type === 'text') {
      yield chunk(delta, null, trail?.takeForChat());
      continue;
    }
    yield chunk(delta);
    if (event.type === 'tool_call') calls++;
    if (asked.oneCall && calls > 0) break;
  }
  const report = await reply.report();
  const cut = asked.oneCall && calls > 0;
  if (report.reason === 'cancelled' && !cut) throw stopped();
  yield chunk({}, calls > 0 ? 'tool_calls' : lengthOrStop(report));
  if (asked.includeUsage) yield { ...head, choices: [], usage: usageOf(report) };
}

async function together(
  chunks: AsyncIterable<ChatCompletionChunk>,
  logprobs: boolean,
): Promise<ChatCompletion> {
  let content = '';
  let reasoning = '';
  const calls: ChatToolCall[] = [];
  const shown: NonNullable<ChatLogprobs['content']> = [];
  let last: ChatCompletionChunk | undefined;
  let finish: ChatCompletion['choices'][number]['finish_reason'] = 'stop';
  for await (const chunk of chunks) {
    last = chunk;
    const [choice] = chunk.choices;
    if (!choice) continue;
    content += choice.delta.content ?? '';
    reasoning += choice.delta.reasoning ?? '';
    for (const { id, type, function: called } of choice.delta.tool_calls ?? []) {
      calls.push({ id, type, function: called });
    }
    shown.push(...(choice.logprobs?.content ?? []));
    finish = choice.finish_reason ?? finish;
  }
  if (!last?.usage) throw stopped();
  const message = {
    role: 'assistant' as const,
    content: content === '' && calls.length > 0 ? null : content,
    refusal: null,
    ...(reasoning !== '' && { reasoning }),
    ...(calls.length > 0 && { tool_calls: calls }),
  };
  return {
    id: last.id,
    object: 'chat.completion',
    created: last.created,
    model: last.model,
    choices: [
      {
        index: 0,
        message,
        logprobs: logprobs ? { content: shown, refusal: null } : null,
        finish_reason: finish,
      },
    ],
    usage: last.usage,
  };
}

/** The options with the token that begins calls forbidden: a model may call even what it was not told of. */
export async function withoutCalls(
  model: Pick<OpenAIModel, 'tokenize'>,
  options: ChatOptions,
): Promise<ChatOptions> {
  const [id] = await model.tokenize('<|tool_call>', { addBos: false, special: 'parse' });
  return id === undefined
    ? options
    : { ...options, logitBias: { ...options.logitBias, [id]: -100 } };
}

/** Checks the request, starts the reply, and gives its chunks or its whole. */
export async function createChat(
  model: OpenAIModel,
  params: ChatParams,
  options: RequestOptions,
): Promise<ChatCompletion | ChunkStream<ChatCompletionChunk>> {
  const asked = readChat(params);
  const { controller, signal } = stoppable(options.signal);
  const chosen = asked.noCalls ? await withoutCalls(model, asked.options) : asked.options;
  const reply = model.chat(asked.messages, { ...chosen, signal });
  return streamedOrWhole(
    asked,
    controller,
    (wanted) => chunksOf(model, reply, wanted),
    (chunks) => together(chunks, asked.topLogprobs !== undefined),
  );
}
