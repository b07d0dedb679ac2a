// Bytes that are in memory already.

import type { ByteSource } from './source.js';

/** What `read` gives are views of `bytes`. */
export const memorySource = (name: string, bytes: Uint8Array): ByteSource => ({
  name,
  size: bytes.length,
  read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
});
