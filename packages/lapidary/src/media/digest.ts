// Digests, by which the engine knows media again.

import type { Pixels } from './pixels.js';

/** Bytes of pixels that are hashed at once. */
const PIECE = 16 << 20;

/** The library is loaded when it is needed: most conversations have no media. */
export const newHasher = async () => (await import('../cache/sha256.js')).sha256();

/** SHA-256 in hexadecimal. */
export async function digestOfBytes(bytes: Uint8Array): Promise<string> {
  const hasher = await newHasher();
  hasher.update(bytes);
  return hasher.digest();
}

/** The same of pixels and their shape. */
export async function digestOfPixels(pixels: Pixels, signal: AbortSignal): Promise<string> {
  const { width, height, channels, size } = pixels;
  const hasher = await newHasher();
  hasher.update(new TextEncoder().encode(`${width} ${height} ${channels} `));
  for (let at = 0; at < size; at += PIECE) {
    hasher.update(await pixels.read(at, Math.min(PIECE, size - at), signal));
  }
  return hasher.digest();
}
