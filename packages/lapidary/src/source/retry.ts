// Trying again: what is worth it, how long to wait, and how to notice that nothing comes any more.

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from './source.js';

/** Worth another try: the connection broke, or the server said "later". */
export class Transient extends Error {
  constructor(
    message: string,
    /** Milliseconds that the server asks to be left alone. */
    readonly after?: number,
  ) {
    super(message);
  }
}

/** A request has failed and is made again. */
export interface RetryState {
  /** The try that comes next: 2 after the first failure. */
  attempt: number;
  /** Tries that are made before the request is given up. */
  tries: number;
  /** Milliseconds until then. */
  wait: number;
  /** What went wrong. */
  reason: string;
}

export interface RetryOptions {
  /** Tries before it fails. */
  tries: number;
  /** Milliseconds before the second try; doubled for each further one. */
  backOff: number;
  /** Most milliseconds between two tries. Default a minute. */
  longest?: number | undefined;
  signal?: AbortSignal | undefined;
  onRetry?: ((state: RetryState) => void) | undefined;
}

const MINUTE = 60_000;

/**
 * Does `work` again after each {@link Transient} failure, later every time. Once work calls `advanced`, for it has got
 * further than before, tries and waits count from the start. Rejects with `io_error` after the last try, with
 * `cancelled` once the signal is aborted, and with whatever else work throws at once.
 */
export async function retrying<T>(
  name: string,
  work: (advanced: () => void) => Promise<T>,
  { tries, backOff, longest = MINUTE, signal, onRetry }: RetryOptions,
): Promise<T> {
  let failed = 0;
  for (;;) {
    throwIfAborted(signal);
    try {
      return await work(() => {
        failed = 0;
      });
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof Transient)) throw error;
      failed++;
      if (failed >= tries) {
        const text = `${name}: ${error.message} (tried ${tries} times)`;
        throw new LapidaryError('io_error', text, { cause: error });
      }
      // Spread, lest all who were cut off at once come back at once.
      const spread = backOff * 2 ** (failed - 1) * (0.75 + Math.random() / 2);
      const wait = Math.min(longest, Math.max(spread, error.after ?? 0));
      onRetry?.({ attempt: failed + 1, tries, wait, reason: error.message });
      await pause(wait, signal);
    }
  }
}

/** Waits, no longer than until the signal is aborted. */
export function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, milliseconds);
    signal?.addEventListener('abort', finish);
    if (signal?.aborted) finish();
  });
}

/** Aborts a request of which nothing has come for so many milliseconds: a connection can die without a word. */
export class StallWatch {
  /** For the request: aborted by the caller's signal, too. */
  readonly signal: AbortSignal;
  private readonly stall = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly milliseconds: number,
    signal: AbortSignal | undefined,
  ) {
    this.signal = signal ? AbortSignal.any([signal, this.stall.signal]) : this.stall.signal;
    this.alive();
  }

  /** Something came. */
  alive(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.stall.abort(), this.milliseconds);
  }

  stop(): void {
    clearTimeout(this.timer);
  }

  /** Why what was watched has failed: `message`, or that nothing came. */
  failure(message: string): Transient {
    return new Transient(
      this.stall.signal.aborted
        ? `nothing came for ${Math.round(this.milliseconds / 100) / 10} s`
        : message,
    );
  }
}
