// Pictures as pixels, and how much of one may come.

import { LapidaryError } from '../errors.js';
import { memorySource } from '../source/memory.js';
import type { ByteSource } from '../source/source.js';

/** A decoded picture: rows from top to bottom, 3 bytes (RGB) or 4 (the last unused) a pixel. */
export interface Pixels extends ByteSource {
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
}

/** Bytes of a medium's file. */
export const MAX_FILE_BYTES = 512 << 20;
/** As the engine's vision::kMaxSide and kMaxPixels. */
const MAX_SIDE = 65_535;
export const MAX_PIXELS = 100_000_000;

/** Throws `invalid_argument` for a picture that is larger than one is decoded. */
export function checkSize(name: string, width: number, height: number): void {
  if (
    width > 0 &&
    height > 0 &&
    Math.max(width, height) <= MAX_SIDE &&
    width * height <= MAX_PIXELS
  )
    return;
  throw new LapidaryError(
    'invalid_argument',
    `${name} has ${width} × ${height} pixels; at most ${MAX_PIXELS / 1e6} million are read, and ${MAX_SIDE} a side`,
  );
}

/** Pixels that are in memory. */
export function pixelsOf(
  name: string,
  { width, height, data }: { width: number; height: number; data: Uint8Array | Uint8ClampedArray },
): Pixels {
  checkSize(name, width, height);
  const channels = data.byteLength / (width * height);
  if (channels !== 3 && channels !== 4) {
    throw new LapidaryError(
      'invalid_argument',
      `${name}: ${width} × ${height} pixels of 3 or 4 bytes are not ${data.byteLength} bytes`,
    );
  }
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { ...memorySource(name, bytes), width, height, channels };
}
