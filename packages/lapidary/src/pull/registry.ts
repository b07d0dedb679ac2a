// The registry protocol, as Ollama's registry and others speak it (OCI distribution): manifests and blobs by HTTP, behind
// redirects and tokens. Whatever answers may be hostile: what is read is bounded, where it leads is checked.

import { createHash } from 'node:crypto';
import { LapidaryError, messageOf } from '../errors.js';
import { chunksOf, type BodyChunks } from '../source/body.js';
import { isTransientStatus, Transient } from '../source/retry.js';
import { throwIfAborted } from '../source/source.js';
import { StallWatch } from '../source/stall.js';
import { MAX_TEXT } from '../source/store-files.js';
import { checkTarget } from './address.js';

const MANIFEST_TYPE = 'application/vnd.docker.distribution.manifest.v2+json';
const MAX_REDIRECTS = 5;
/** Bytes of a token's answer, characters of a token, bytes of an error that are looked at. */
const MAX_TOKEN_ANSWER = 64 << 10;
const MAX_TOKEN = 16 << 10;
const MAX_ERROR = 8 << 10;

export interface RegistryModel {
  /** Origin, as {@link registryUrl} gives it. */
  url: URL;
  namespace: string;
  model: string;
  tag: string;
}

/** An answer's body, given up when nothing comes for a while. */
export interface Body {
  chunks: BodyChunks;
  /** 206 or 200. */
  status: number;
  headers: Headers;
}

/** A `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`. */
export function parseChallenge(header: string | null): Record<string, string> | undefined {
  const text = header?.slice(0, 4096).match(/^\s*bearer\s+(.*)$/i)?.[1];
  if (text === undefined) return undefined;
  const found = text.matchAll(/([a-z_]+)\s*=\s*(?:"([^"\\]*)"|([^\s",]+))/gi);
  return Object.fromEntries([...found].map(([, key, a, b]) => [key!.toLowerCase(), a ?? b ?? '']));
}

/** What the failure of a request means. */
function broken(error: unknown, url: URL, watch: StallWatch, signal: AbortSignal): Error {
  watch.stop();
  throwIfAborted(signal);
  const cause = (error as { cause?: unknown }).cause as NodeJS.ErrnoException | undefined;
  const reason = cause?.message || cause?.code || messageOf(error);
  if (/CERT|SIGNATURE|ERR_TLS/.test(cause?.code ?? '')) {
    const message = `${url.host} is not who it should be: ${reason}`;
    return new LapidaryError('io_error', message, { cause: error });
  }
  return watch.failure(`the connection to ${url.host} broke: ${reason}`);
}

/** Milliseconds that a server asks to be left alone: `Retry-After` in seconds. */
function retryAfter(headers: Headers): number {
  const text = headers.get('retry-after') ?? '';
  return /^\d{1,5}$/.test(text) ? Number(text) * 1000 : 0;
}

export class Registry {
  private token: string | undefined;
  /** Where a blob's bytes were found to be: asked again without a detour. */
  private readonly direct = new Map<string, URL>();

  constructor(
    readonly model: RegistryModel,
    /** Milliseconds without a byte after which a request is given up, with `Transient`. */
    private readonly stallMs: number,
  ) {}

  get host(): string {
    return this.model.url.host;
  }

  /**
   * The manifest as it is stored there. `not_found` where the registry has none, `integrity_error` for one that is not what
   * the registry calls it, `invalid_format` for more than {@link MAX_TEXT} bytes.
   */
  async manifest(signal: AbortSignal): Promise<Uint8Array> {
    const { tag } = this.model;
    const headers = { accept: MANIFEST_TYPE };
    const body = await this.get(this.address(`manifests/${tag}`), headers, signal);
    if (body.status !== 200) throw await this.refusal(body, 'the manifest');
    const bytes = await readAll(body, MAX_TEXT, `the manifest of ${this.host}`);
    const said = /^sha256:([0-9a-f]{64})$/.exec(body.headers.get('docker-content-digest') ?? '');
    if (said && createHash('sha256').update(bytes).digest('hex') !== said[1]) {
      const what = `the manifest from ${this.host} is not the one that it should be`;
      throw new LapidaryError('integrity_error', `${what}: its SHA-256 differs`);
    }
    return bytes;
  }

  /** Bytes of a blob, those from `first` to `last` if the server can (206), else all of them (200). */
  async blob(
    digest: string,
    { first, last }: { first: number; last: number },
    signal: AbortSignal,
  ): Promise<Body> {
    const known = this.direct.get(digest);
    const headers = { range: `bytes=${first}-${last}` };
    try {
      const start = known ?? this.address(`blobs/${digest}`);
      const body = await this.get(start, headers, signal, (url) => this.direct.set(digest, url));
      if (body.status === 206 || body.status === 200) return body;
      // An address with a signature has its day.
      if (known && body.status >= 400 && body.status < 500) {
        body.chunks.cancel();
        throw new Transient(`${known.host} answered ${body.status}`);
      }
      throw await this.refusal(body, digest);
    } catch (error) {
      this.direct.delete(digest);
      throw error;
    }
  }

  private address(rest: string): URL {
    const { url, namespace, model } = this.model;
    return new URL(`/v2/${namespace}/${model}/${rest}`, url);
  }

  /** Follows redirects and gets a token where one is wanted. Neither leads the token to another origin. */
  private async get(
    start: URL,
    headers: Record<string, string>,
    signal: AbortSignal,
    onArrival?: (url: URL) => void,
  ): Promise<Body> {
    const { url: registry } = this.model;
    let url = start;
    let asked = false;
    for (let redirects = 0; ;) {
      const own = url.origin === registry.origin;
      const authorization = own && this.token && { authorization: `Bearer ${this.token}` };
      const body = await this.send(url, { ...headers, ...authorization }, signal);
      const location = body.headers.get('location');
      if (body.status === 401 && own && !asked) {
        asked = true;
        body.chunks.cancel();
        this.token = await this.askToken(body.headers.get('www-authenticate'), signal);
      } else if ([301, 302, 303, 307, 308].includes(body.status) && location !== null) {
        body.chunks.cancel();
        if (++redirects > MAX_REDIRECTS) {
          throw new LapidaryError('integrity_error', `${this.host} sends from place to place`);
        }
        url = checkTarget(registry, location, url);
      } else {
        if (redirects > 0 && (body.status === 200 || body.status === 206)) onArrival?.(url);
        return body;
      }
    }
  }

  private async send(
    url: URL,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<Body> {
    throwIfAborted(signal);
    const watch = new StallWatch(this.stallMs, signal);
    let response: Response;
    try {
      response = await fetch(url, {
        headers: { 'user-agent': 'lapidary', 'accept-encoding': 'identity', ...headers },
        redirect: 'manual',
        signal: watch.signal,
      });
    } catch (error) {
      throw broken(error, url, watch, signal);
    }
    const { status } = response;
    const inner = response.body && chunksOf(response.body, watch.signal);
    const chunks: BodyChunks = {
      async next() {
        try {
          watch.alive();
          const chunk = await inner?.next();
          // Whoever reads may take its time with what came.
          watch.stop();
          return chunk;
        } catch (error) {
          throw broken(error, url, watch, signal);
        }
      },
      cancel() {
        watch.stop();
        inner?.cancel();
      },
    };
    watch.stop();
    return { chunks, status, headers: response.headers };
  }

  /** A token for reading this model, without any account. */
  private async askToken(header: string | null, signal: AbortSignal): Promise<string> {
    const { url, namespace, model } = this.model;
    const { realm, service, scope } = parseChallenge(header) ?? {};
    if (!realm) throw this.closed();
    const address = checkTarget(url, realm, url);
    if (service) address.searchParams.set('service', service);
    address.searchParams.set('scope', scope ?? `repository:${namespace}/${model}:pull`);
    const body = await this.send(address, {}, signal);
    if (body.status !== 200) {
      body.chunks.cancel();
      if (isTransientStatus(body.status)) {
        throw new Transient(`${address.host} answered ${body.status}`, retryAfter(body.headers));
      }
      throw this.closed();
    }
    const bytes = await readAll(body, MAX_TOKEN_ANSWER, `the token of ${address.host}`);
    const { token, access_token } = parseObject(bytes);
    const found = token ?? access_token;
    if (typeof found !== 'string' || found.length > MAX_TOKEN || !/^[\x21-\x7e]+$/.test(found)) {
      throw new LapidaryError('invalid_format', `what ${address.host} gives is no token`);
    }
    return found;
  }

  private closed(): LapidaryError {
    const { namespace, model } = this.model;
    return new LapidaryError(
      'io_error',
      `${this.host} shows ${namespace}/${model} only to who has an account there, or has no such model`,
    );
  }

  /** What an answer that is none means; reads what the registry says about it. */
  private async refusal(body: Body, what: string): Promise<Error> {
    const { status } = body;
    const { namespace, model, tag } = this.model;
    const bytes = await readAll(body, MAX_ERROR, what).catch(() => new Uint8Array());
    const said = saidBy(bytes);
    if (isTransientStatus(status)) {
      return new Transient(`${this.host} answered ${status}${said}`, retryAfter(body.headers));
    }
    if (status === 401 || status === 403) return this.closed();
    const answered = `${this.host} answered ${status} for ${what} of ${namespace}/${model}:${tag}${said}`;
    const missing = status === 404 || status === 410;
    return new LapidaryError(
      missing ? 'not_found' : status === 416 ? 'truncated' : 'io_error',
      answered,
    );
  }
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // Not JSON: as good as empty.
  }
  return {};
}

/** ": MESSAGE" of an error in JSON; nothing for other bodies, which may be pages. */
function saidBy(bytes: Uint8Array): string {
  const { errors, error } = parseObject(bytes);
  const [first] = Array.isArray(errors) ? (errors as unknown[]) : [];
  const text = (first as { message?: unknown } | undefined)?.message ?? error;
  // No control characters: it may be shown on a terminal.
  const plain = typeof text === 'string' ? text.replaceAll(/\p{Cc}+/gu, ' ') : '';
  return plain && `: ${plain.slice(0, 200)}`;
}

/** A whole body; `invalid_format` for more than `limit` bytes. */
async function readAll({ chunks }: Body, limit: number, what: string): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for (let chunk = await chunks.next(); chunk; chunk = await chunks.next()) {
    size += chunk.length;
    if (size > limit) {
      chunks.cancel();
      throw new LapidaryError('invalid_format', `${what} is more than ${limit} bytes long`);
    }
    pieces.push(chunk.slice());
  }
  return Buffer.concat(pieces);
}
