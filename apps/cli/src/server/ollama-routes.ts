// Ollama's interface: /api.

import type { Hono } from 'hono';
import { LapidaryError, type ReplyEvent, type ReplyReport } from 'lapidary/node';
import { TokenTrail, withoutBos } from 'lapidary/openai';
import { bodyOf, readJson, sendLines, type Ctx, type Env } from './answer.js';
import type { Services } from './app.js';
import { addOllamaEmbed } from './ollama-embed.js';
import { addOllamaModels } from './ollama-models.js';
import {
  nanoseconds,
  readChat,
  readGenerate,
  withImages,
  type AskedChat,
  type AskedGenerate,
} from './ollama-request.js';
import { ServedModel, findWanted, type ServedReply } from './served.js';

type Body = Record<string, unknown>;

/** What text, thinking and calls are called, in a chat and in a plain reply. */
interface Shape {
  piece(text: string, thinking?: string, calls?: unknown[]): Body;
}
const CHAT: Shape = {
  piece: (content, thinking, calls) => ({
    message: {
      role: 'assistant',
      content,
      ...(thinking && { thinking }),
      ...(calls?.length && { tool_calls: calls }),
    },
  }),
};
const GENERATE: Shape = {
  piece: (response, thinking) => ({ response, ...(thinking && { thinking }) }),
};

function ending(report: ReplyReport, reply: ServedReply, started: number): Body {
  const { usage, timings, reason } = report;
  return {
    done: true,
    done_reason: reason === 'length' || reason === 'context' ? 'length' : 'stop',
    total_duration: nanoseconds(performance.now() - started),
    load_duration: nanoseconds(reply.loadMs),
    prompt_eval_count: usage.promptTokens,
    prompt_eval_duration: nanoseconds(timings.prefillMs),
    eval_count: usage.completionTokens,
    eval_duration: nanoseconds(timings.decodeMs),
  };
}

const callOf = (event: ReplyEvent & { type: 'tool_call' }, index: number) => ({
  function: { index, name: event.name, arguments: event.arguments },
});

async function finished(reply: ServedReply): Promise<ReplyReport> {
  const report = await reply.report();
  if (report.reason === 'cancelled') throw new LapidaryError('cancelled', 'the reply was stopped');
  return report;
}

/** A reply that is being sent. */
interface Running {
  reply: ServedReply;
  shape: Shape;
  started: number;
  trail: TokenTrail | undefined;
}

/** What a reply says, piece by piece, in Ollama's terms. */
interface Said {
  text: string;
  thinking?: string;
  call?: unknown;
  logprobs?: unknown[] | undefined;
}

async function* said({ reply, trail }: Running): AsyncGenerator<Said, void, void> {
  let calls = 0;
  for await (const event of reply) {
    await trail?.see(event);
    if (event.type === 'text') {
      yield { text: event.text, logprobs: trail?.takeForChat().content ?? undefined };
    }
    if (event.type === 'thinking') yield { text: '', thinking: event.text };
    if (event.type === 'tool_call') yield { text: '', call: callOf(event, calls++) };
  }
}

/** One object for each piece, and one for the end. */
async function* pieces(running: Running): AsyncGenerator<Body, void, void> {
  const { reply, shape, started } = running;
  for await (const { text, thinking, call, logprobs } of said(running)) {
    const piece = shape.piece(text, thinking, call === undefined ? [] : [call]);
    yield { ...piece, done: false, ...(logprobs && { logprobs }) };
  }
  yield { ...shape.piece(''), ...ending(await finished(reply), reply, started) };
}

async function whole(running: Running): Promise<Body> {
  const { reply, shape, started, trail } = running;
  const all: Said[] = [];
  for await (const piece of said(running)) all.push(piece);
  const report = await finished(reply);
  const piece = shape.piece(
    all.map(({ text }) => text).join(''),
    all.map(({ thinking }) => thinking ?? '').join(''),
    all.flatMap(({ call }) => call ?? []),
  );
  const logprobs = all.flatMap((each) => each.logprobs ?? []);
  return { ...piece, ...ending(report, reply, started), ...(trail && { logprobs }) };
}

interface Work {
  asked: AskedChat | AskedGenerate;
  shape: Shape;
  /** Absent: the model is only to be loaded, or unloaded. */
  start: ((model: ServedModel, signal: AbortSignal) => ServedReply) | undefined;
}

async function answer(c: Ctx, services: Services, { asked, shape, start }: Work) {
  const { store, keeper, metrics, stopping } = services;
  const started = performance.now();
  const signal = AbortSignal.any([c.req.raw.signal, stopping]);
  const wanted = await findWanted(store, asked.name);
  const { contextLength, keepAliveMs } = asked;
  const model = new ServedModel(keeper, metrics, wanted, { contextLength, keepAliveMs, signal });
  const stamped = (body: Body): Body => ({
    model: asked.name,
    created_at: new Date().toISOString(),
    ...body,
  });
  if (!start) {
    const unload = keepAliveMs === 0;
    if (unload) keeper.keep(wanted.name, 0);
    else await model.use(() => {});
    const done_reason = unload ? 'unload' : 'load';
    return c.json(stamped({ ...shape.piece(''), done: true, done_reason }));
  }
  const trail = TokenTrail.of(model, asked.topLogprobs);
  const running: Running = { reply: start(model, signal), shape, started, trail };
  if (!asked.stream) return c.json(stamped(await whole(running)));
  const lines = async function* () {
    for await (const piece of pieces(running)) {
      yield `${JSON.stringify(stamped(piece))}\n`;
    }
  };
  return sendLines(
    c,
    'application/x-ndjson',
    lines(),
    (error) => `${bodyOf('/api/', error).body}\n`,
  );
}

export function addOllama(app: Hono<Env>, services: Services): void {
  addOllamaModels(app, services);
  addOllamaEmbed(app, services);
  app.post('/api/chat', async (c) => {
    const asked = readChat(await readJson(c));
    const { messages, tools, think, options } = asked;
    const start = (model: ServedModel, signal: AbortSignal) =>
      model.chat(messages, { ...options, think, signal, ...(tools && { tools }) });
    return answer(c, services, { asked, shape: CHAT, start: messages.length ? start : undefined });
  });
  app.post('/api/generate', async (c) => {
    const asked = readGenerate(await readJson(c));
    const { prompt, images, system, raw, think, options } = asked;
    const start = (model: ServedModel, signal: AbortSignal) => {
      if (raw) {
        return model.generate(withoutBos(prompt), { ...options, special: 'parse', signal });
      }
      const said = system ? [{ role: 'system' as const, content: system }] : [];
      const messages = [...said, { role: 'user' as const, content: withImages(images, prompt) }];
      return model.chat(messages, { ...options, think, signal });
    };
    return answer(c, services, { asked, shape: GENERATE, start: prompt ? start : undefined });
  });
}
