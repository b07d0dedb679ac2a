// What the download cache takes and gives.

import type { Retry } from '../source/retry.js';
import type { ByteSource } from '../source/source.js';

/** How far a download has come. Bytes; `total` is 0 while the server has not said it. */
export interface DownloadProgress {
  phase: 'download';
  loaded: number;
  total: number;
  /** A request has failed and waits for its next try. */
  retry?: Retry;
}

/** What a file must be. */
export interface ExpectedFile {
  /** Its SHA-256: 64 hexadecimal digits, with or without "sha256:" before them. */
  digest?: string | undefined;
  /** Bytes. */
  size?: number | undefined;
}

export interface DownloadOptions extends ExpectedFile {
  /** Sent with every request: an access token, say. Not kept. */
  headers?: Record<string, string> | undefined;
  /** Aborting rejects with `cancelled`; what has come stays, and the next call goes on from there. */
  signal?: AbortSignal | undefined;
  /** Called at most ten times a second, whichever tab downloads. Not called for what is cached. */
  onProgress?: ((progress: DownloadProgress) => void) | undefined;
}

/** How a cache downloads. */
export interface CacheOptions {
  /** Requests that run at the same time, 1 to 16. Default 4. */
  connections?: number | undefined;
  /** Bytes of the files that a model is stored in, 64 KiB to 1 GiB. Default 32 MiB. */
  segmentBytes?: number | undefined;
  /** Tries of a request that brings nothing new before the download fails. Default 6. */
  tries?: number | undefined;
  /** Milliseconds before the second try; doubled for each further one, to a minute. Default 500. */
  backOff?: number | undefined;
  /** Milliseconds without a byte after which a request counts as failed. Default 30,000. */
  stallTimeout?: number | undefined;
}

/** A model in the cache, whole or in part. */
export interface CachedModel {
  url: string;
  /** The last part of the address. */
  name: string;
  /** Bytes of the whole file; undefined while no server has said it. */
  size: number | undefined;
  /** Bytes that are there. */
  downloaded: number;
  complete: boolean;
  /** "sha256:…" of the bytes, once they are complete. */
  digest: string | undefined;
  /** When it was last opened, or else when its download began. */
  lastUsed: Date;
}

/** A complete file in the cache. Cannot be deleted until it is closed, or its page gone. */
export interface CachedSource extends ByteSource {
  /** "sha256:…" of its bytes, as they were written. */
  readonly digest: string;
  /** Lets go of the file: until then it cannot be deleted. */
  close(): Promise<void>;
}
