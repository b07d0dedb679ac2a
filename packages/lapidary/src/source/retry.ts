// Trying again what may only have failed for the moment: a line that broke, a server that said "later".

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from './source.js';

/** Worth another try: the connection broke, or the server said "later". */
export class Transient extends Error {
  constructor(
    message: string,
    /** Milliseconds that the server asks to be left alone. */
    readonly afterMs = 0,
  ) {
    super(message);
  }
}

/** A try that failed and is followed by another. */
export interface Retry {
  /** The try that failed, from 1. */
  attempt: number;
  tries: number;
  /** Until the next one. */
  delayMs: number;
  /** Why it failed. */
  reason: string;
}

export interface RetryOptions {
  /** Tries that may fail one after another. */
  tries: number;
  /** Milliseconds before the second try; doubled for each further one. */
  backOff: number;
  /** Most milliseconds between two tries. Default: any. */
  longest?: number | undefined;
  signal?: AbortSignal | undefined;
  onRetry?: ((retry: Retry) => void) | undefined;
  /** Whether the try that just failed got further than those before it: then the count begins anew. */
  progressed?: (() => boolean) | undefined;
}

/** Most milliseconds that a server's own wish to wait is followed. */
const MAX_AFTER_MS = 60_000;

/** Statuses that mean "later". */
export const isTransientStatus = (status: number) =>
  status === 408 || status === 429 || status >= 500;

/** `work` until it does not fail with {@link Transient}; `io_error` after `tries` of them, named by `name`. */
export async function retrying<T>(
  name: string,
  work: () => Promise<T>,
  options: RetryOptions,
): Promise<T> {
  const { tries, backOff, longest = Infinity, signal } = options;
  for (let attempt = 1; ; attempt++) {
    throwIfAborted(signal);
    try {
      return await work();
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof Transient)) throw error;
      if (options.progressed?.()) attempt = 1;
      if (attempt >= tries) {
        const text = `${name}: ${error.message} (tried ${tries} times)`;
        throw new LapidaryError('io_error', text, { cause: error });
      }
      const spread = 0.75 + Math.random() / 2;
      const delay = Math.min(backOff * 2 ** (attempt - 1), longest) * spread;
      const delayMs = Math.max(delay, Math.min(error.afterMs, MAX_AFTER_MS));
      options.onRetry?.({ attempt, tries, delayMs, reason: error.message });
      await pause(delayMs, signal);
    }
  }
}

/** Resolves after so many milliseconds, or at once when `signal` is aborted. */
export function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, milliseconds);
    signal?.addEventListener('abort', finish);
  });
}
