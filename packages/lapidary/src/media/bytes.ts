// Bytes of a picture's file, wherever they are.

import { LapidaryError, messageOf } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { throwIfAborted } from '../source/source.js';
import { fetchBytes, tooLarge } from './fetch.js';
import { MAX_IMAGE_BYTES } from './pixels.js';

/** All bytes of a file, with the name that messages call it by. */
export async function bytesOfFile(
  where: Blob | Uint8Array | ArrayBuffer | URL | string,
  signal: AbortSignal,
): Promise<{ bytes: Uint8Array<ArrayBuffer>; name: string }> {
  throwIfAborted(signal);
  if (typeof where === 'string' || where instanceof URL) {
    const text = String(where);
    if (/^(data|https?|blob):/i.test(text)) {
      return { bytes: await fetchBytes(text, MAX_IMAGE_BYTES, signal), name: 'the picture' };
    }
    return { bytes: await currentPlatform().readFile(where, MAX_IMAGE_BYTES, signal), name: text };
  }
  if (where instanceof Blob) {
    const name = 'name' in where && typeof where.name === 'string' ? where.name : 'the picture';
    if (where.size > MAX_IMAGE_BYTES) throw tooLarge(name, MAX_IMAGE_BYTES);
    try {
      return { bytes: new Uint8Array(await where.arrayBuffer()), name };
    } catch (cause) {
      throw new LapidaryError('io_error', `${name}: ${messageOf(cause)}; choose the file again`, {
        cause,
      });
    }
  }
  const name = 'the picture';
  if (where.byteLength > MAX_IMAGE_BYTES) throw tooLarge(name, MAX_IMAGE_BYTES);
  // Copied: what a caller still writes to, or shares with a thread, would not be what its digest says.
  return { bytes: new Uint8Array(where instanceof ArrayBuffer ? where.slice(0) : where), name };
}
