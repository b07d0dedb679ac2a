// The server that a file comes from: asks it for bytes, and sees whether the file is still the same.

import { LapidaryError } from '../errors.js';
import { contentRange, discard, refusal, request } from '../source/response.js';
import { StallWatch } from '../source/stall.js';
import { MAX_DATE, MAX_ETAG, type Entry } from './entry.js';

/** The file on the server is not the one that the download began with. */
export class Changed extends Error {}

/** A response whose body is still to come. */
export interface Answer {
  response: Response;
  watch: StallWatch;
}

/** What tells one state of a file on a server from another. */
export type FileState = Pick<Entry, 'size' | 'etag' | 'modified'>;

export class Remote {
  constructor(
    private readonly url: string,
    private readonly options: {
      headers: Record<string, string> | undefined;
      /** Whether the address is the page's own origin's, where a request may have any header. */
      sameOrigin: boolean;
      stallTimeout: number;
      signal: AbortSignal;
    },
  ) {}

  /**
   * Asks for bytes `first` to `last`; a server that knows no ranges answers with the whole file (200), and so does one
   * whose file is not `known` any more.
   */
  ask(first: number, last: number, known?: FileState): Promise<Answer> {
    const headers = { Range: `bytes=${first}-${last}`, ...this.ifRange(known) };
    return this.send(headers, [200, 206], known !== undefined);
  }

  /** Asks for the whole file. */
  askWhole(): Promise<Answer> {
    return this.send({}, [200], false);
  }

  private async send(
    headers: Record<string, string>,
    statuses: number[],
    isKnown: boolean,
  ): Promise<Answer> {
    const { stallTimeout, signal } = this.options;
    const watch = new StallWatch(stallTimeout, signal);
    try {
      const init = { headers: { ...this.options.headers, ...headers }, cache: 'no-store' } as const;
      const response = await request(this.url, init, watch);
      if (statuses.includes(response.status)) return { response, watch };
      await discard(response);
      // Only what the file had when the download began is asked for.
      if (response.status === 416 && isKnown) throw new Changed('it has become shorter');
      throw refusal(this.url, response);
    } catch (error) {
      watch.stop();
      throw error;
    }
  }

  /** To other origins this header would cost a request for permission, which many servers refuse; there check() does. */
  private ifRange(known: FileState | undefined): Record<string, string> {
    if (!known || !this.options.sameOrigin) return {};
    const strong = known.etag?.startsWith('"') ? known.etag : undefined;
    const mark = strong ?? known.modified;
    return mark ? { 'If-Range': mark } : {};
  }

  /** What the answer to the first request, for bytes from 0 to before `end`, says of the file. */
  describe(response: Response, end: number): FileState {
    const state = {
      etag: short(response.headers.get('etag'), MAX_ETAG),
      modified: short(response.headers.get('last-modified'), MAX_DATE),
    };
    if (response.status === 206) {
      const { first, last, total } = contentRange(this.url, response);
      if (first !== 0 || last !== Math.min(total, end) - 1) throw this.otherRange(response);
      return { ...state, size: total };
    }
    // The length of a compressed body is not the file's.
    const { headers } = response;
    const length = headers.get('content-encoding') ? null : headers.get('content-length');
    return { ...state, size: /^\d+$/.test(length ?? '') ? Number(length) : null };
  }

  /** Throws unless the response brings `length` bytes from `offset` of the very file that is known. */
  check(response: Response, offset: number, length: number, known: FileState): void {
    if (response.status === 200) {
      throw new Changed('the server answered a range with the whole file');
    }
    const { first, last, total } = contentRange(this.url, response);
    const etag = response.headers.get('etag');
    const modified = response.headers.get('last-modified');
    const differ = (a: string | null, b: string | null) => a !== null && b !== null && a !== b;
    // Servers of one address may have other dates for the same tag.
    const hasTags = etag !== null && known.etag !== null;
    const isOther = hasTags ? etag !== known.etag : differ(modified, known.modified);
    if (total !== known.size || isOther) throw new Changed('its size, tag or date is another');
    if (first !== offset || last - first + 1 !== length) throw this.otherRange(response);
  }

  private otherRange(response: Response): LapidaryError {
    const range = response.headers.get('content-range') ?? '';
    const text = `${this.url}: the server answered other bytes (${range}) than were asked for`;
    return new LapidaryError('unsupported', text);
  }
}

/** What is no text that a server would send in earnest is none. */
const short = (text: string | null, most: number) => (text && text.length <= most ? text : null);

/** Ends what is left of an answer. */
export async function dismiss({ response, watch }: Answer): Promise<void> {
  watch.stop();
  if (!response.bodyUsed) await discard(response);
}
