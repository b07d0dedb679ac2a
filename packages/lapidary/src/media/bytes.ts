// Bytes of a medium's file, wherever they are.

import { LapidaryError, messageOf } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { throwIfAborted } from '../source/source.js';
import { fetchBytes, tooLarge } from './fetch.js';
import { MAX_FILE_BYTES } from './pixels.js';

/** All bytes of a file, with the name that messages call it by. */
export async function bytesOfFile(
  where: Blob | Uint8Array | ArrayBuffer | URL | string,
  signal: AbortSignal,
): Promise<{ bytes: Uint8Array<ArrayBuffer>; name: string }> {
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
