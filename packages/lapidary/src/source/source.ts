// Where a model's bytes come from.

import { LapidaryError } from '../errors.js';

/** Random access to the bytes of one file. Reads may run at the same time. */
export interface ByteSource {
  /** For messages: a path, a URL, a file name. */
  readonly name: string;
  /** Total size in bytes. */
  readonly size: number;
  /** Whether what `read` gives is nobody else's memory: it may then go to another thread without a copy. */
  readonly fresh?: boolean;
  /** Exactly `length` bytes from `offset`; rejects with `truncated` or `io_error` when they cannot be had. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** The same into the caller's memory, where a source can do that without a copy. */
  readInto?(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Called once, when nothing is read any more. */
  close?(): Promise<void>;
}

/** Throws `truncated` unless `length` bytes from `offset` lie inside the source. */
export function checkRange(source: ByteSource, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= source.size)) {
    throw new LapidaryError(
      'truncated',
      `${source.name}: bytes ${offset} to ${offset + length} were asked for, but it has only ${source.size}`,
    );
  }
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new LapidaryError('cancelled', 'cancelled by the caller', { cause: signal.reason });
  }
}

/** `read` of a source that reads into its caller's memory. */
export async function readThrough(
  source: ByteSource & Required<Pick<ByteSource, 'readInto'>>,
  offset: number,
  length: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  checkRange(source, offset, length);
  const bytes = new Uint8Array(length);
  await source.readInto(offset, bytes, signal);
  return bytes;
}
