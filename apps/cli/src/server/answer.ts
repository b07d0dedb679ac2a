// What all routes share: reading a body of JSON, refusing, sending a stream of lines.

import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { LapidaryError } from 'lapidary/node';
import { errorAnswer, errorBody } from 'lapidary/openai';
import { excessOf } from './json.js';

export interface Env {
  Bindings: HttpBindings;
}
export type Ctx = Context<Env>;

/** A refusal that is HTTP's own affair. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
  }
}

const isOllama = (path: string) => path === '/api' || path.startsWith('/api/');
const isOpenAI = (path: string) => path === '/v1' || path.startsWith('/v1/');

/** Status and body of anything thrown, in the shape of the interface that was called; plain text elsewhere. */
export function bodyOf(path: string, error: unknown): { status: number; body: string } {
  const { status, body } =
    error instanceof HttpError
      ? { status: error.status, body: errorBody(error.status, error.message, error.code) }
      : errorAnswer(error);
  if (isOpenAI(path)) return { status, body: JSON.stringify(body) };
  if (isOllama(path)) return { status, body: JSON.stringify({ error: body.error.message }) };
  return { status, body: `${body.error.message}\n` };
}

export function refusal(c: Ctx, error: unknown): Response {
  const { path } = c.req;
  const { status, body } = bodyOf(path, error);
  const type = isOpenAI(path) || isOllama(path) ? 'application/json' : 'text/plain; charset=utf-8';
  const headers = error instanceof HttpError ? error.headers : {};
  return c.body(body, status as ContentfulStatusCode, { 'content-type': type, ...headers });
}

/** Bytes of a body that are read, and of one that is only listened to, so that its sender hears the refusal. */
const MAX_BODY = 20 << 20;
const MAX_UNREAD = 64 << 20;

async function readBody(c: Ctx): Promise<Buffer> {
  const tooLarge = (headers = {}) =>
    new HttpError(413, `a body has at most ${MAX_BODY} bytes`, 'too_large', headers);
  if (Number(c.req.header('content-length') ?? 0) > MAX_UNREAD) {
    throw tooLarge({ connection: 'close' });
  }
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of c.env.incoming as AsyncIterable<Buffer>) {
    size += piece.length;
    if (size <= MAX_BODY) pieces.push(piece);
    else pieces.length = 0;
    // Leaving the loop closes the connection.
    if (size > MAX_UNREAD) break;
  }
  if (size > MAX_BODY) throw tooLarge();
  return Buffer.concat(pieces);
}

/** The body as JSON; 413 where it is too large, 415 where it is not said to be JSON, 400 where it is none. */
export async function readJson(c: Ctx): Promise<unknown> {
  const type = c.req.header('content-type') ?? '';
  const encoding = c.req.header('content-encoding') ?? 'identity';
  if (!/^application\/json\s*(;|$)/i.test(type) || encoding !== 'identity') {
    const how = "send the body as plain JSON, with 'Content-Type: application/json'";
    throw new HttpError(415, how, 'unsupported_media_type');
  }
  const bytes = await readBody(c);
  const excess = excessOf(bytes);
  if (excess) throw new HttpError(400, `the body cannot be read: ${excess}`, 'bad_json');
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown;
  } catch (error) {
    throw new HttpError(400, `the body is not JSON: ${String(error).slice(0, 200)}`, 'bad_json');
  }
}

/**
 * Sends lines as they come. What fails before the first line is thrown, and becomes a refusal; after it, `last` makes
 * the line that says so. A reader that goes away stops the lines.
 */
export async function sendLines(
  c: Ctx,
  type: string,
  lines: AsyncGenerator<string, void, void>,
  last: (error: unknown) => string,
): Promise<Response> {
  const encoder = new TextEncoder();
  let next: Promise<IteratorResult<string, void>> | undefined = lines.next();
  await next;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { value, done } = await (next ?? lines.next());
        next = undefined;
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      } catch (error) {
        controller.enqueue(encoder.encode(last(error)));
        controller.close();
      }
    },
    // The request's signal has stopped the reply by now: this ends what may wait for it.
    cancel: () => void lines.return().catch(() => {}),
  });
  return c.body(body, 200, { 'content-type': type, 'cache-control': 'no-cache' });
}

/** The member of a request that names the model. */
export function requireName(name: string | undefined, param: string): string {
  if (name) return name;
  throw new LapidaryError('invalid_argument', `'${param}' must be a model's name`);
}
