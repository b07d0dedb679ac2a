// A picture in whatever form it comes: its digest, and its pixels where they are needed.

import { LapidaryError } from '../errors.js';
import { currentPlatform } from '../platform.js';
import type { ImageInput, RawImage } from '../types.js';
import { digestOfPixels } from './digest.js';
import { isFile, openFile } from './file.js';
import { pixelsOfBitmap } from './page.js';
import { pixelsOf, type Pixels } from './pixels.js';

/** A picture that may have to be decoded. */
export interface Picture {
  digest: string;
  decode(): Promise<Pixels>;
}

const isBitmap = (image: unknown): image is ImageBitmap =>
  typeof ImageBitmap !== 'undefined' && image instanceof ImageBitmap;
const isRaw = (image: unknown): image is RawImage =>
  typeof image === 'object' &&
  image !== null &&
  'data' in image &&
  'width' in image &&
  'height' in image;

/** Digests of bitmaps, which do not change. */
const known = new WeakMap<ImageBitmap, string>();

/** The picture that a caller means; `invalid_argument` for what is none. */
export async function openImage(image: ImageInput, signal: AbortSignal): Promise<Picture> {
  if (isBitmap(image)) {
    const pixels = pixelsOfBitmap('the picture', image);
    const digest = known.get(image) ?? (await digestOfPixels(pixels, signal));
    known.set(image, digest);
    return { digest, decode: () => Promise.resolve(pixels) };
  }
  if (isFile(image)) {
    const file = await openFile(image, signal);
    return {
      digest: file.digest,
      async decode() {
        const { bytes, name } = await file.bytes();
        if (bytes.length === 0) throw new LapidaryError('truncated', `${name} is empty`);
        return currentPlatform().decodeImage(bytes, name);
      },
    };
  }
  if (isRaw(image)) {
    const pixels = pixelsOf('the picture', image);
    return { digest: await digestOfPixels(pixels, signal), decode: () => Promise.resolve(pixels) };
  }
  throw new LapidaryError(
    'invalid_argument',
    'a picture is a Blob, an ImageBitmap, a URL, the bytes of a file, or pixels: { width, height, data }',
  );
}
