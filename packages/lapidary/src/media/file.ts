// Files of pictures and sound, wherever they are.

import { LapidaryError, messageOf } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { throwIfAborted } from '../source/source.js';
import { digestOfBytes } from './digest.js';
import { fetchBytes, tooLarge } from './fetch.js';
import { MAX_FILE_BYTES } from './pixels.js';

/** A file, or its address. */
export type FileInput = string | URL | Blob | Uint8Array<ArrayBuffer> | ArrayBuffer;

interface FileBytes {
  bytes: Uint8Array<ArrayBuffer>;
  /** What messages call it by. */
  name: string;
}

export const isFile = (value: unknown): value is FileInput =>
  typeof value === 'string' ||
  value instanceof URL ||
  value instanceof Blob ||
  value instanceof Uint8Array ||
  value instanceof ArrayBuffer;

/** All bytes of a file, with the name that messages call it by. */
async function read(where: FileInput, signal: AbortSignal): Promise<FileBytes> {
  throwIfAborted(signal);
  if (typeof where === 'string' || where instanceof URL) {
    const text = String(where);
    if (/^(data|https?|blob):/i.test(text)) {
      return { bytes: await fetchBytes(text, MAX_FILE_BYTES, signal), name: 'the file' };
    }
    return { bytes: await currentPlatform().readFile(where, MAX_FILE_BYTES, signal), name: text };
  }
  if (where instanceof Blob) {
    const name = 'name' in where && typeof where.name === 'string' ? where.name : 'the file';
    if (where.size > MAX_FILE_BYTES) throw tooLarge(name, MAX_FILE_BYTES);
    try {
      return { bytes: new Uint8Array(await where.arrayBuffer()), name };
    } catch (cause) {
      throw new LapidaryError('io_error', `${name}: ${messageOf(cause)}; choose the file again`, {
        cause,
      });
    }
  }
  const name = 'the file';
  if (where.byteLength > MAX_FILE_BYTES) throw tooLarge(name, MAX_FILE_BYTES);
  // Copied: what a caller still writes to, or shares with a thread, would not be what its digest says.
  return { bytes: new Uint8Array(where instanceof ArrayBuffer ? where.slice(0) : where), name };
}

/** Digests of Blobs, which do not change. */
const known = new WeakMap<Blob, string>();

/** A file's digest, and its bytes, which are read once, or not at all where the digest is remembered. */
export async function openFile(
  where: FileInput,
  signal: AbortSignal,
): Promise<{ digest: string; bytes(): Promise<FileBytes> }> {
  const remembered = where instanceof Blob ? known.get(where) : undefined;
  if (remembered !== undefined) return { digest: remembered, bytes: () => read(where, signal) };
  const file = await read(where, signal);
  const digest = await digestOfBytes(file.bytes);
  if (where instanceof Blob) known.set(where, digest);
  return { digest, bytes: () => Promise.resolve(file) };
}
