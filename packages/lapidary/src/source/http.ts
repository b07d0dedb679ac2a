// Bytes of a file on a web server that answers range requests. Nothing is downloaded twice, or before it is needed.

import { LapidaryError, messageOf } from '../errors.js';
import { chunksOf } from './body.js';
import { isTransientStatus, retrying, Transient } from './retry.js';
import { checkRange, type ByteSource } from './source.js';

export interface HttpSourceOptions {
  signal?: AbortSignal | undefined;
  /** Sent with every request: an access token, say. */
  headers?: Record<string, string> | undefined;
  /** Tries of one request before it fails, network errors and 408/429/5xx counted. Default 4. */
  tries?: number | undefined;
  /** Milliseconds before the second try; doubled for each further one. Default 300. */
  backOff?: number | undefined;
}

/** Bytes asked for to learn a file's size. Not one: there are servers that read `bytes=0-0` as the whole file. */
const PROBE = 16;

/** No browser keeps larger files in its cache: writing them there only costs time and throws others out. Bytes. */
const CACHEABLE = 256 << 20;

interface Answer {
  /** Bytes of the whole file. */
  total: number;
  tag: string | null;
}

export class HttpRangeSource implements ByteSource {
  private tag: string | null = null;

  private constructor(
    readonly name: string,
    readonly size: number,
    private readonly options: HttpSourceOptions,
  ) {}

  /**
   * Asks the server for a few bytes to learn the file's size. `not_found` for 404 and 410; `unsupported` when the server
   * ignores ranges or hides the size; `io_error` for everything else.
   */
  static async open(url: string | URL, options: HttpSourceOptions = {}): Promise<HttpRangeSource> {
    const probe = new HttpRangeSource(String(url), 0, { ...options });
    const { total, tag } = await probe.request(0, new Uint8Array(PROBE), options.signal, undefined);
    // The signal was for opening; every read has its own.
    const source = new HttpRangeSource(String(url), total, { ...options, signal: undefined });
    source.tag = tag;
    return source;
  }

  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    checkRange(this, offset, length);
    const bytes = new Uint8Array(length);
    await this.readInto(offset, bytes, signal);
    return bytes;
  }

  async readInto(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    checkRange(this, offset, target.length);
    if (target.length > 0) await this.request(offset, target, signal, this.size);
  }

  private request(
    offset: number,
    target: Uint8Array,
    signal: AbortSignal | undefined,
    expectedTotal: number | undefined,
  ): Promise<Answer> {
    const { tries = 4, backOff = 300 } = this.options;
    const work = () => this.once(offset, target, signal, expectedTotal);
    return retrying(this.name, work, { tries, backOff, signal });
  }

  private async once(
    offset: number,
    target: Uint8Array,
    signal: AbortSignal | undefined,
    expectedTotal: number | undefined,
  ): Promise<Answer> {
    let response: Response;
    try {
      response = await fetch(this.name, {
        headers: {
          ...this.options.headers,
          Range: `bytes=${offset}-${offset + target.length - 1}`,
        },
        cache: this.size > CACHEABLE ? 'no-store' : 'default',
        signal: signal ?? null,
      });
    } catch (error) {
      throw new Transient(`the request failed: ${messageOf(error)}`);
    }
    if (response.status !== 206) {
      await response.body?.cancel().catch(() => {});
      throw this.refusal(response);
    }
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
    const [first, last, total] = (range ?? []).slice(1).map(Number);
    if (first === undefined || last === undefined || total === undefined) {
      await response.body?.cancel().catch(() => {});
      throw new LapidaryError(
        'unsupported',
        `${this.name}: the server does not say how large the file is (Content-Range); ` +
          'if it lies on another origin, it must send Access-Control-Expose-Headers: Content-Range',
      );
    }
    const tag = response.headers.get('etag');
    if (
      (expectedTotal !== undefined && total !== expectedTotal) ||
      (this.tag !== null && tag !== null && tag !== this.tag)
    ) {
      await response.body?.cancel().catch(() => {});
      throw new LapidaryError(
        'io_error',
        `${this.name} changed on the server while it was being read; load it again`,
      );
    }
    // Only the probe may ask for more than there is.
    const wanted = Math.min(target.length, total - offset);
    if (first !== offset || last - first + 1 !== wanted) {
      await response.body?.cancel().catch(() => {});
      throw new LapidaryError(
        'unsupported',
        `${this.name}: the server answered bytes ${first} to ${last} where ${wanted} from ${offset} were asked for`,
      );
    }
    await receive(response.body, target.subarray(0, wanted), signal);
    return { total, tag };
  }

  private refusal(response: Response): Error {
    const { status } = response;
    const answered = `${this.name}: the server answered ${status}${response.statusText ? ` ${response.statusText}` : ''}`;
    if (isTransientStatus(status)) return new Transient(answered);
    if (status === 200) {
      return new LapidaryError(
        'unsupported',
        `${this.name}: the server sends only whole files (200 to a range request). Use one that answers ` +
          'range requests, or download the file and open it from disk.',
      );
    }
    if (status === 404 || status === 410) return new LapidaryError('not_found', answered);
    if (status === 416)
      return new LapidaryError(
        'truncated',
        `${this.name}: the file is empty or shorter than it was`,
      );
    if (status === 401 || status === 403) {
      return new LapidaryError(
        'io_error',
        `${answered}; it needs permission (an access token, or the right link)`,
      );
    }
    return new LapidaryError('io_error', answered);
  }
}

/** Fills `target` with a body that has just as many bytes. */
async function receive(
  body: ReadableStream<Uint8Array> | null,
  target: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { length } = target;
  const chunks = body && chunksOf(body, signal);
  const next = async () => {
    try {
      return await chunks?.next();
    } catch (error) {
      throw new Transient(`the connection broke: ${messageOf(error)}`);
    }
  };
  let done = 0;
  try {
    for (let chunk = await next(); chunk; chunk = await next()) {
      if (chunk.length > length - done) {
        throw new Transient(`more than the ${length} bytes came that were promised`);
      }
      target.set(chunk, done);
      done += chunk.length;
    }
  } catch (error) {
    // The rest is not wanted; a connection that broke needs no ending.
    chunks?.cancel();
    throw error;
  }
  if (done < length) throw new Transient(`${done} bytes came where ${length} were promised`);
}
