// Pictures by the browser's own decoders, in pages and workers.

import { LapidaryError, messageOf } from '../errors.js';
import { checkSize, type Pixels } from './pixels.js';

/** A bitmap's pixels, of which only those that are read are drawn. What is transparent becomes white. */
export function pixelsOfBitmap(name: string, bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  checkSize(name, width, height);
  const size = width * height * 4;
  return {
    name,
    width,
    height,
    channels: 4,
    size,
    fresh: true,
    read(offset, length) {
      const top = Math.floor(offset / 4 / width);
      const rows = Math.ceil((offset + length) / 4 / width) - top;
      const context = new OffscreenCanvas(width, rows).getContext('2d', {
        willReadFrequently: true,
      });
      if (!context)
        throw new LapidaryError('out_of_memory', `${name}: no canvas of ${width} × ${rows}`);
      context.fillStyle = '#fff';
      context.fillRect(0, 0, width, rows);
      context.drawImage(bitmap, 0, -top);
      const { data } = context.getImageData(0, 0, width, rows);
      const at = offset - top * width * 4;
      return Promise.resolve(new Uint8Array(data.buffer, at, length));
    },
  };
}

/** Decodes a picture's file. Its size is read from its header first: decoding takes that much memory. */
export async function decodeInPage(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Pixels> {
  // Loaded when they are needed: most conversations have no pictures.
  const { sizeOfImage } = await import('./image-size.js');
  let size: { width: number; height: number };
  try {
    size = sizeOfImage(bytes);
  } catch (cause) {
    throw new LapidaryError(
      'invalid_format',
      `${name} is no picture that is known: ${messageOf(cause)}`,
      {
        cause,
      },
    );
  }
  checkSize(name, size.width, size.height);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), { imageOrientation: 'from-image' });
  } catch (cause) {
    throw new LapidaryError('invalid_format', `${name} cannot be decoded: ${messageOf(cause)}`, {
      cause,
    });
  }
  return {
    ...pixelsOfBitmap(name, bitmap),
    close: () => {
      bitmap.close();
      return Promise.resolve();
    },
  };
}
