// What a web server answers to a request for a file or a part of it.

import { LapidaryError, messageOf } from '../errors.js';
import { chunksOf } from './body.js';
import { Transient, isTransientStatus } from './retry.js';
import type { StallWatch } from './stall.js';

/** Which bytes a 206 brings, both ends counted, of how many. */
export interface ContentRange {
  first: number;
  last: number;
  total: number;
}

/** A 206's Content-Range; `unsupported` where there is none that says all. */
export function contentRange(name: string, response: Response): ContentRange {
  const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
  const [first, last, total] = (range ?? []).slice(1).map(Number);
  if (first === undefined || last === undefined || !Number.isSafeInteger(total)) {
    throw new LapidaryError(
      'unsupported',
      `${name}: the server does not say how large the file is (Content-Range); ` +
        'if it lies on another origin, it must send Access-Control-Expose-Headers: Content-Range',
    );
  }
  return { first, last, total: total as number };
}

/** The milliseconds of a Retry-After header. */
function retryAfter(response: Response): number | undefined {
  const text = response.headers.get('retry-after');
  if (text === null) return undefined;
  const milliseconds = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return milliseconds > 0 ? milliseconds : undefined;
}

/** Why a response that is not what was asked for is none. */
export function refusal(name: string, response: Response): Error {
  const { status } = response;
  const answered = `the server answered ${status}${response.statusText ? ` ${response.statusText}` : ''}`;
  if (isTransientStatus(status)) {
    return new Transient(answered, retryAfter(response));
  }
  if (status === 200) {
    return new LapidaryError(
      'unsupported',
      `${name}: the server sends only whole files (200 to a range request). Use one that answers ` +
        'range requests, let the cache download it (the option `cache`), or open the file from disk.',
    );
  }
  if (status === 404 || status === 410) {
    return new LapidaryError('not_found', `${name}: ${answered}`);
  }
  if (status === 416) {
    return new LapidaryError('truncated', `${name}: the file is empty or shorter than it was`);
  }
  if (status === 401 || status === 403) {
    return new LapidaryError(
      'io_error',
      `${name}: ${answered}; it needs permission (an access token, or the right link)`,
    );
  }
  return new LapidaryError('io_error', `${name}: ${answered}`);
}

/** Ends a response whose body is not wanted. */
export async function discard(response: Response): Promise<void> {
  // A connection that is broken already needs no ending.
  await response.body?.cancel().catch(() => {});
}

/** Asks for `url`; {@link Transient} where no answer comes. */
export async function request(
  url: string,
  init: Omit<RequestInit, 'signal'>,
  watch: StallWatch,
): Promise<Response> {
  try {
    const response = await fetch(url, { ...init, signal: watch.signal });
    watch.alive();
    return response;
  } catch (error) {
    throw watch.failure(`the request failed: ${messageOf(error)}`);
  }
}

/**
 * Hands a body's chunks to `take`, one after another; each is overwritten by the next. {@link Transient} where the
 * connection breaks. The rest is cancelled when `take` throws.
 */
export async function eachChunk(
  body: ReadableStream<Uint8Array> | null,
  watch: StallWatch,
  take: (chunk: Uint8Array) => void | Promise<void>,
): Promise<void> {
  if (!body) return;
  const chunks = chunksOf(body, watch.signal);
  const next = async () => {
    try {
      const chunk = await chunks.next();
      watch.alive();
      return chunk;
    } catch (error) {
      throw watch.failure(`the connection broke: ${messageOf(error)}`);
    }
  };
  try {
    for (let chunk = await next(); chunk; chunk = await next()) {
      const taken = take(chunk);
      if (taken) await taken;
    }
  } catch (error) {
    // The rest is not wanted; a connection that broke needs no ending.
    chunks.cancel();
    throw error;
  }
}
