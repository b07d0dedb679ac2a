// completions.create: a prompt written on, in OpenAI's chunks, and those put together.

import {
  TokenTrail,
  headOf,
  lengthOrStop,
  stopped,
  usageOf,
  type OpenAIModel,
  type ReplyLike,
} from './model.js';
import { readCompletion, type AskedCompletion } from './request.js';
import { stoppable, streamedOrWhole, type ChunkStream } from './stream.js';
import type {
  Completion,
  CompletionChunk,
  CompletionLogprobs,
  CompletionParams,
  RequestOptions,
} from './types.js';

async function* chunksOf(
  model: OpenAIModel,
  reply: ReplyLike,
  asked: AskedCompletion,
): AsyncGenerator<CompletionChunk, void, void> {
  const head = headOf(model, 'cmpl-', 'text_completion', asked.includeUsage);
  const trail = TokenTrail.of(model, asked.topLogprobs);
  let written = 0;
  for await (const event of reply) {
    await trail?.see(event);
    if (event.type !== 'text') continue;
    const { text } = event;
    const logprobs = trail?.takeForText(written) ?? null;
    written += text.length;
    yield { ...head, choices: [{ index: 0, text, logprobs, finish_reason: null }] };
  }
  const report = await reply.report();
  if (report.reason === 'cancelled') throw stopped();
  const finish = lengthOrStop(report);
  yield { ...head, choices: [{ index: 0, text: '', logprobs: null, finish_reason: finish }] };
  if (asked.includeUsage) yield { ...head, choices: [], usage: usageOf(report) };
}

async function together(
  chunks: AsyncIterable<CompletionChunk>,
  withLogprobs: boolean,
): Promise<Completion> {
  let text = '';
  let finish: 'stop' | 'length' = 'stop';
  let last: CompletionChunk | undefined;
  const logprobs: CompletionLogprobs = {
    tokens: [],
    token_logprobs: [],
    top_logprobs: [],
    text_offset: [],
  };
  for await (const chunk of chunks) {
    last = chunk;
    const [choice] = chunk.choices;
    if (!choice) continue;
    text += choice.text;
    finish = choice.finish_reason ?? finish;
    logprobs.tokens.push(...(choice.logprobs?.tokens ?? []));
    logprobs.token_logprobs.push(...(choice.logprobs?.token_logprobs ?? []));
    logprobs.top_logprobs.push(...(choice.logprobs?.top_logprobs ?? []));
    logprobs.text_offset.push(...(choice.logprobs?.text_offset ?? []));
  }
  if (!last?.usage) throw stopped();
  const choice = {
    index: 0,
    text,
    logprobs: withLogprobs ? logprobs : null,
    finish_reason: finish,
  };
  return { ...last, choices: [choice], usage: last.usage };
}

/** Checks the request, starts the reply, and gives its chunks or its whole. */
export async function createCompletion(
  model: OpenAIModel,
  params: CompletionParams,
  options: RequestOptions,
): Promise<Completion | ChunkStream<CompletionChunk>> {
  const asked = readCompletion(params);
  const { controller, signal } = stoppable(options.signal);
  const reply = model.generate(asked.prompt, { ...asked.options, signal });
  return streamedOrWhole(
    asked,
    controller,
    (wanted) => chunksOf(model, reply, wanted),
    (chunks) => together(chunks, asked.topLogprobs !== undefined),
  );
}
