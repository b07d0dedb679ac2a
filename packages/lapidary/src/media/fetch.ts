// Small files at addresses.

import { LapidaryError, messageOf } from '../errors.js';
import { throwIfAborted } from '../source/source.js';

export const tooLarge = (name: string, most: number) =>
  new LapidaryError('invalid_argument', `${name} is larger than ${most >> 20} MiB`);

/** The bytes at an address that `fetch` knows, `data:` and `blob:` included; `invalid_argument` for more than `most`. */
export async function fetchBytes(
  url: string,
  most: number,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const name = url.startsWith('data:') ? 'the data: URL' : url;
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) {
      throw new LapidaryError('not_found', `${name}: the server answered ${response.status}`);
    }
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    let size = 0;
    const reader = response.body?.getReader();
    for (;;) {
      const next = await reader?.read();
      if (!next || next.done) break;
      size += next.value.length;
      if (size > most) {
        await reader?.cancel();
        throw tooLarge(name, most);
      }
      pieces.push(next.value);
    }
    return new Uint8Array(await new Blob(pieces).arrayBuffer());
  } catch (error) {
    throwIfAborted(signal);
    if (error instanceof LapidaryError) throw error;
    throw new LapidaryError('io_error', `${name} could not be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
