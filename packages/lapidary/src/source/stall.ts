// How to notice that nothing comes any more.

import { Transient } from './retry.js';

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
