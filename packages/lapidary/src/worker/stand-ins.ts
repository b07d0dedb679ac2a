// What stands in for objects that stayed on the other side of the line.

import { LapidaryError } from '../errors.js';
import type { ByteSource } from '../source/source.js';

/** Calls a method of the other side's object. */
export type Far = (ref: number, member: string, ...args: unknown[]) => Promise<unknown>;

export function remoteSource(far: Far, ref: number, name: string, size: number): ByteSource {
  return {
    name,
    size,
    async read(offset, length, signal) {
      const bytes = await far(ref, 'read', offset, length, signal);
      if (bytes instanceof Uint8Array && bytes.length === length) return bytes;
      throw new LapidaryError('truncated', `${name} did not give ${length} bytes from ${offset}`);
    },
    async close() {
      await far(ref, 'close').catch((error: unknown) => {
        // Sources need not have one.
        if (!(error instanceof LapidaryError && error.code === 'unsupported')) throw error;
      });
    },
  };
}

/** The pieces of a stream as they are asked for: nothing is read ahead. */
export function remoteStream(far: Far, ref: number, ended: () => void): ReadableStream {
  return new ReadableStream<unknown>(
    {
      async pull(controller) {
        const { done, value } = (await far(ref, 'read')) as ReadableStreamReadResult<unknown>;
        if (!done) controller.enqueue(value);
        else {
          controller.close();
          ended();
        }
      },
      async cancel() {
        await far(ref, 'cancel');
        ended();
      },
    },
    { highWaterMark: 0 },
  );
}

/** The other end of {@link remoteStream}. */
export const pieces =
  (stream: ReadableStream, readers: WeakMap<ReadableStream, ReadableStreamDefaultReader>) =>
  async (member: string): Promise<unknown> => {
    let reader = readers.get(stream);
    if (!reader) readers.set(stream, (reader = stream.getReader()));
    return member === 'cancel' ? reader.cancel() : reader.read();
  };
