// Bytes of a file on a web server that answers range requests. Nothing is downloaded twice, or before it is needed.

import { LapidaryError } from '../errors.js';
import { contentRange, discard, eachChunk, refusal, request } from './response.js';
import { Transient, retrying } from './retry.js';
import { checkRange, readThrough, type ByteSource } from './source.js';
import { StallWatch } from './stall.js';

/** How a file is read over HTTP. */
export interface HttpSourceOptions {
  signal?: AbortSignal | undefined;
  /** Sent with every request: an access token, say. */
  headers?: Record<string, string> | undefined;
  /** Tries of one request before it fails, network errors and 408/429/5xx counted. Default 4. */
  tries?: number | undefined;
  /** Milliseconds before the second try; doubled for each further one. Default 300. */
  backOff?: number | undefined;
  /** Milliseconds without a byte after which a request counts as failed. Default 30,000. */
  stallTimeout?: number | undefined;
}

/** Bytes asked for to learn a file's size. Not one: there are servers that read `bytes=0-0` as the whole file. */
const PROBE = 16;

/** No browser keeps larger files in its cache: writing them there only costs time and throws others out. Bytes. */
const CACHEABLE = 256 << 20;

interface Answer {
  /** Bytes of the whole file. */
  total: number;
  tag: string | null;
  /** Bytes that the body has. */
  wanted: number;
}

export class HttpRangeSource implements ByteSource {
  readonly fresh = true;
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

  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readThrough(this, offset, length, signal);
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
    const { tries = 4, backOff = 300, stallTimeout = 30_000 } = this.options;
    const once = async () => {
      const watch = new StallWatch(stallTimeout, signal);
      try {
        return await this.once(offset, target, watch, expectedTotal);
      } finally {
        watch.stop();
      }
    };
    return retrying(this.name, once, { tries, backOff, signal });
  }

  private async once(
    offset: number,
    target: Uint8Array,
    watch: StallWatch,
    expectedTotal: number | undefined,
  ): Promise<Answer> {
    const headers = {
      ...this.options.headers,
      Range: `bytes=${offset}-${offset + target.length - 1}`,
    };
    const cache = this.size > CACHEABLE ? 'no-store' : 'default';
    const response = await request(this.name, { headers, cache }, watch);
    try {
      const answer = this.check(response, offset, target.length, expectedTotal);
      await receive(response.body, target.subarray(0, answer.wanted), watch);
      return answer;
    } catch (error) {
      if (!response.bodyUsed) await discard(response);
      throw error;
    }
  }

  /** Throws unless the answer is just what was asked for: those bytes, of the file that was opened. */
  private check(
    response: Response,
    offset: number,
    length: number,
    expectedTotal: number | undefined,
  ): Answer {
    if (response.status !== 206) throw refusal(this.name, response);
    const { first, last, total } = contentRange(this.name, response);
    const tag = response.headers.get('etag');
    if (
      (expectedTotal !== undefined && total !== expectedTotal) ||
      (this.tag !== null && tag !== null && tag !== this.tag)
    ) {
      throw new LapidaryError(
        'io_error',
        `${this.name} changed on the server while it was being read; load it again`,
      );
    }
    // Only the probe may ask for more than there is.
    const wanted = Math.min(length, total - offset);
    if (first !== offset || last - first + 1 !== wanted) {
      throw new LapidaryError(
        'unsupported',
        `${this.name}: the server answered bytes ${first} to ${last} where ${wanted} from ${offset} were asked for`,
      );
    }
    return { total, tag, wanted };
  }
}

/** Fills `target` with a body that has just as many bytes. */
async function receive(
  body: ReadableStream<Uint8Array> | null,
  target: Uint8Array,
  watch: StallWatch,
): Promise<void> {
  const { length } = target;
  let done = 0;
  await eachChunk(body, watch, (chunk) => {
    if (chunk.length > length - done) {
      throw new Transient(`more than the ${length} bytes came that were promised`);
    }
    target.set(chunk, done);
    done += chunk.length;
  });
  if (done < length) throw new Transient(`${done} bytes came where ${length} were promised`);
}
