// A reply's chunks as they come.

/** Iterate it once. Leaving the loop early, or aborting `controller`, stops the reply. */
export class ChunkStream<Chunk> implements AsyncIterable<Chunk> {
  constructor(
    private readonly chunks: AsyncGenerator<Chunk, void, void>,
    readonly controller: AbortController,
  ) {}

  [Symbol.asyncIterator](): AsyncGenerator<Chunk, void, void> {
    return this.chunks;
  }
}

/** A controller, and the signal of it and of what the caller gave. */
export function stoppable(signal: AbortSignal | undefined): {
  controller: AbortController;
  signal: AbortSignal;
} {
  const controller = new AbortController();
  return {
    controller,
    signal: signal ? AbortSignal.any([signal, controller.signal]) : controller.signal,
  };
}
