// The body of an HTTP answer, chunk by chunk.

/** Bytes of a body that are read at a time. */
const CHUNK = 256 << 10;

export interface BodyChunks {
  /** The next chunk, nothing at the end. Rejects when the connection breaks, and at once when the signal is aborted. */
  next(): Promise<Uint8Array | undefined>;
  /** The rest is not wanted. */
  cancel(): void;
}

/** `work`, unless the signal is aborted first: in Node 20 a read is left hanging when its body ends just as it is aborted. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const fail = () => reject(signal.reason as Error);
    if (signal.aborted) fail();
    signal.addEventListener('abort', fail);
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', fail));
  });
}

/** A body's chunks one after another. Each is overwritten by the next. */
export function chunksOf(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal | undefined,
): BodyChunks {
  try {
    // Into memory that is used again and again: half the work of a new array for every chunk.
    const reader = body.getReader({ mode: 'byob' });
    let memory = new Uint8Array(CHUNK);
    return {
      async next() {
        const { done, value } = await unlessAborted(reader.read(memory), signal);
        if (done) return undefined;
        memory = new Uint8Array(value.buffer);
        return value;
      },
      cancel: () => void reader.cancel().catch(() => {}),
    };
  } catch {
    // A browser whose bodies are no byte streams.
    const reader = body.getReader();
    return {
      next: async () => (await unlessAborted(reader.read(), signal)).value,
      cancel: () => void reader.cancel().catch(() => {}),
    };
  }
}
