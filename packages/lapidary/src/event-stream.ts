// Work in the making: an async iterable of events that can be stopped at any time, and a report at its end.

/**
 * It starts by itself; iterate it once for the events as they come, or ask for `report()`. Leaving the loop early stops
 * the work.
 */
export class EventStream<Event, Report> implements AsyncIterable<Event> {
  private readonly events: Event[] = [];
  private readonly controller = new AbortController();
  private readonly finished: Promise<Report>;
  private wake: (() => void) | undefined;
  private ended = false;
  private taken = false;

  /**
   * @internal `start` does the work: it emits events, resolves with the report, and stops when the signal says. `last`
   * makes the event that ends the loop.
   */
  constructor(
    start: (emit: (event: Event) => void, signal: AbortSignal) => Promise<Report>,
    signal: AbortSignal | undefined,
    last: (report: Report) => Event,
  ) {
    const stop = () => this.cancel();
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop);
    const emit = (event: Event) => {
      this.events.push(event);
      this.wake?.();
    };
    this.finished = start(emit, this.controller.signal).finally(() => {
      signal?.removeEventListener('abort', stop);
    });
    // An error waits for whoever iterates or asks; work that nobody looks at must not end the process.
    this.finished
      .then(
        (report) => emit(last(report)),
        () => {},
      )
      .finally(() => {
        this.ended = true;
        this.wake?.();
      });
  }

  /** Stops it: what was done stays, and the report says so. */
  cancel(): void {
    this.controller.abort();
  }

  /** How it ended, when it has. Rejects with a LapidaryError when it failed. */
  report(): Promise<Report> {
    return this.finished;
  }

  /** The events as they come; once. Leaving the loop stops the work. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    if (this.taken) throw new TypeError('events can be iterated once');
    this.taken = true;
    try {
      for (;;) {
        const event = this.events.shift();
        if (event) yield event;
        else if (this.ended) break;
        else await new Promise<void>((resolve) => (this.wake = resolve));
      }
      await this.finished;
    } finally {
      if (!this.ended) {
        this.cancel();
        // The next request may start once this one has let go of the GPU; its error, if any, is not this loop's.
        await this.finished.catch(() => {});
      }
    }
  }
}
