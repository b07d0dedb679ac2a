// A reply in the making: an async iterable of events that can be stopped at any time.

import type { ReplyEvent, ReplyReport } from './types.js';

/**
 * What {@link Model.chat} and {@link Model.generate} give. It starts by itself; iterate it once for the events as they
 * come, or ask for `text()` or `report()`. Leaving the loop early stops the reply.
 */
export class Reply implements AsyncIterable<ReplyEvent> {
  private readonly events: ReplyEvent[] = [];
  private readonly controller = new AbortController();
  private readonly finished: Promise<ReplyReport>;
  private wake: (() => void) | undefined;
  private ended = false;
  private taken = false;

  /** @internal `start` runs the request: it emits events, resolves with the report, and stops when the signal says. */
  constructor(
    start: (emit: (event: ReplyEvent) => void, signal: AbortSignal) => Promise<ReplyReport>,
    signal: AbortSignal | undefined,
  ) {
    const stop = () => this.cancel();
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop);
    const emit = (event: ReplyEvent) => {
      this.events.push(event);
      this.wake?.();
    };
    this.finished = start(emit, this.controller.signal).finally(() => {
      signal?.removeEventListener('abort', stop);
    });
    // An error waits for whoever iterates or asks; a reply that nobody looks at must not end the process.
    this.finished
      .then(
        (report) => emit({ type: 'done', ...report }),
        () => {},
      )
      .finally(() => {
        this.ended = true;
        this.wake?.();
      });
  }

  /** Stops it: what was written stays, and the report's reason is `cancelled`. */
  cancel(): void {
    this.controller.abort();
  }

  /** How it ended, when it has. Rejects with a LapidaryError when it failed. */
  report(): Promise<ReplyReport> {
    return this.finished;
  }

  /** The whole answer, without thinking and tool calls, when it is complete. Takes the place of iterating. */
  async text(): Promise<string> {
    let text = '';
    for await (const event of this) if (event.type === 'text') text += event.text;
    return text;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReplyEvent, void, void> {
    if (this.taken) throw new TypeError('a reply can be iterated once');
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
