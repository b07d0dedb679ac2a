// A reply in the making.

import { EventStream } from './event-stream.js';
import type { ReplyEvent, ReplyReport } from './types.js';

/**
 * What {@link Model.chat} and {@link Model.generate} give. It starts by itself; iterate it once for the events as they
 * come, or ask for `text()` or `report()`. Leaving the loop early stops the reply: what was written stays, and the
 * report's reason is `cancelled`.
 */
export class Reply extends EventStream<ReplyEvent, ReplyReport> {
  /** @internal */
  constructor(
    start: (emit: (event: ReplyEvent) => void, signal: AbortSignal) => Promise<ReplyReport>,
    signal: AbortSignal | undefined,
  ) {
    super(start, signal, (report) => ({ type: 'done', ...report }));
  }

  /** The whole answer, without thinking and tool calls, when it is complete. Takes the place of iterating. */
  async text(): Promise<string> {
    let text = '';
    for await (const event of this) if (event.type === 'text') text += event.text;
    return text;
  }
}
