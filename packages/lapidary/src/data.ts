// Fine-tuning data as a stream of plain bytes: wherever it comes from, gzip undone, and never more than agreed.

import { LapidaryError, messageOf } from './errors.js';
import { throwIfAborted, type ByteSource } from './source/source.js';

/** Where data may come from. In Node a path is opened with `FileSource.open`. */
export type DataInput = Blob | ByteSource | Uint8Array | ReadableStream<Uint8Array>;

/** How fine-tuning data is read. */
export interface DataOptions {
  /** Most plain bytes to deliver: gzip can make 1000 of one. Default 4 GiB. */
  maxBytes?: number | undefined;
  signal?: AbortSignal | undefined;
}

const MAX_BYTES = 4 * 2 ** 30;
/** Bytes of a source that are read at a time. */
const PIECE = 256 << 10;
/** Bytes that are inflated at a time. */
const GZIP_PIECE = 4 << 10;

async function* sourceBytes(
  source: ByteSource,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.size; at += PIECE) {
    yield await source.read(at, Math.min(PIECE, source.size - at), signal);
  }
}

async function* streamBytes(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      ended = done;
      if (done) return;
      yield value;
    }
  } catch (error) {
    ended = true;
    throw error;
  } finally {
    if (!ended) await reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}

function rawBytes(
  input: DataInput,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> | Uint8Array[] {
  if (input instanceof Uint8Array) return [input];
  if (input instanceof ReadableStream) return streamBytes(input);
  if (input instanceof Blob) return streamBytes(input.stream());
  return sourceBytes(input, signal);
}

/**
 * What `chunks` inflate to. Written by hand, little by little: one write may make a thousand times as much, and Node's
 * pipeThrough would read 16384 chunks ahead.
 */
async function* inflated(chunks: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { writable, readable } = new DecompressionStream('gzip');
  const writer = writable.getWriter();
  let failure: { error: unknown } | undefined;
  const write = async () => {
    for (;;) {
      const next = await chunks.next().catch((error: unknown) => {
        failure = { error };
      });
      if (!next) return writer.abort(failure?.error);
      if (next.done) return writer.close();
      for (let at = 0; at < next.value.length; at += GZIP_PIECE) {
        await writer.write(next.value.slice(at, at + GZIP_PIECE));
      }
    }
  };
  // An error of gzip's comes out on the other side, too. If it is the reader who left, nobody wants to know.
  write()
    .catch(() => chunks.return(undefined))
    .catch(() => {});
  try {
    yield* streamBytes(readable);
  } catch (error) {
    if (failure) throw failure.error;
    const text = `the gzip data is damaged or cut off: ${messageOf(error)}`;
    throw new LapidaryError('invalid_format', text, { cause: error });
  }
}

/** The chunks, of which the first has at least two bytes, if there are as many. */
async function* withStart(input: DataInput, signal: AbortSignal | undefined) {
  let start: Uint8Array | undefined;
  for await (const chunk of rawBytes(input, signal)) {
    throwIfAborted(signal);
    let next = chunk;
    if (start) {
      next = new Uint8Array(start.length + chunk.length);
      next.set(start);
      next.set(chunk, start.length);
    }
    start = next.length < 2 ? next : undefined;
    if (!start) yield next;
  }
  if (start && start.length > 0) yield start;
}

/**
 * The bytes of `input`, inflated if it begins as gzip does. Errors: the input's own; `invalid_format` for damaged gzip;
 * `unsupported` past `maxBytes`; `cancelled`.
 */
export async function* plainBytes(
  input: DataInput,
  { maxBytes = MAX_BYTES, signal }: DataOptions = {},
): AsyncGenerator<Uint8Array> {
  throwIfAborted(signal);
  const chunks = withStart(input, signal);
  const first = await chunks.next();
  if (first.done) return;
  async function* again(): AsyncGenerator<Uint8Array> {
    try {
      yield first.value as Uint8Array;
      yield* chunks;
    } finally {
      await chunks.return(undefined);
    }
  }
  const gzip = first.value[0] === 0x1f && first.value[1] === 0x8b;
  let total = 0;
  for await (const chunk of gzip ? inflated(again()) : again()) {
    throwIfAborted(signal);
    total += chunk.length;
    if (total > maxBytes) {
      const what = gzip ? 'the data inflates to' : 'the data has';
      throw new LapidaryError('unsupported', `${what} more than ${maxBytes} bytes`);
    }
    yield chunk;
  }
}
