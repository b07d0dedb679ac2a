// A reply's chunks as they come.

/** Iterate it once. Leaving the loop early, or aborting `controller`, stops the reply. */
export class ChunkStream<Chunk> implements AsyncIterable<Chunk> {
  constructor(
    private readonly chunks: AsyncGenerator<Chunk, void, void>,
    readonly controller: AbortController,
  ) {}

  /** The chunks as they come; once. Leaving the loop stops the reply. */
  [Symbol.asyncIterator](): AsyncGenerator<Chunk, void, void> {
    return this.chunks;
  }
}

/** The chunks, or what they make together: that has its usage whatever was asked for. */
export async function streamedOrWhole<
  Asked extends { stream: boolean; includeUsage: boolean },
  Chunk,
  Whole,
>(
  asked: Asked,
  controller: AbortController,
  chunksOf: (asked: Asked) => AsyncGenerator<Chunk, void, void>,
  together: (chunks: AsyncIterable<Chunk>) => Promise<Whole>,
): Promise<Whole | ChunkStream<Chunk>> {
  if (asked.stream) return new ChunkStream(chunksOf(asked), controller);
  return together(chunksOf({ ...asked, includeUsage: true }));
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
