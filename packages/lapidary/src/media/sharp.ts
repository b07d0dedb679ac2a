// Pictures in Node, by the npm package `sharp`.

import { LapidaryError, messageOf } from '../errors.js';
import { checkSize, MAX_PIXELS, pixelsOf, type Pixels } from './pixels.js';

/** What a browser decodes, too. Others that sharp knows are drawings and documents, with programs of their own. */
const FORMATS = new Set(['jpeg', 'png', 'webp', 'gif', 'heif', 'tiff']);
const MAX_SECONDS = 60;

async function load(): Promise<(typeof import('sharp'))['default']> {
  try {
    return (await import('sharp')).default;
  } catch (cause) {
    throw new LapidaryError(
      'unsupported',
      "pictures need the npm package 'sharp' in Node; or give pixels: { width, height, data }",
      { cause },
    );
  }
}

/** Decodes a picture's file; it stands as its EXIF data says, and what is transparent becomes white. */
export async function decodeWithSharp(bytes: Uint8Array, name: string): Promise<Pixels> {
  const sharp = await load();
  try {
    // Only the header is read for it.
    const { format, width, height } = await sharp(bytes, { limitInputPixels: false }).metadata();
    if (!FORMATS.has(format)) throw new Error(`it is '${format}'`);
    checkSize(name, width, height);
    const { data, info } = await sharp(bytes, { limitInputPixels: MAX_PIXELS, failOn: 'error' })
      .timeout({ seconds: MAX_SECONDS })
      .autoOrient()
      .flatten({ background: '#fff' })
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    return pixelsOf(name, { width: info.width, height: info.height, data });
  } catch (cause) {
    if (cause instanceof LapidaryError) throw cause;
    throw new LapidaryError('invalid_format', `${name} cannot be decoded: ${messageOf(cause)}`, {
      cause,
    });
  }
}
