// Decodes pictures as the library does it in a page.
/* global Blob, createImageBitmap, window */

import { decodeInPage, pixelsOfBitmap } from '/lapidary/media/page.js';

const bytesOf = async (pixels) => {
  const { width, height, channels, size } = pixels;
  // In two pieces, of which the second begins within a row.
  const cut = 4 * Math.floor(size / 11);
  const [head, tail] = [await pixels.read(0, cut), await pixels.read(cut, size - cut)];
  await pixels.close?.();
  return { width, height, channels, bytes: [...head, ...tail] };
};

/** A file's pixels. */
window.decode = async (file) => bytesOf(await decodeInPage(Uint8Array.from(file), 'it'));

/** Those of a bitmap that is made of it. */
window.bitmap = async (file) =>
  bytesOf(pixelsOfBitmap('it', await createImageBitmap(new Blob([Uint8Array.from(file)]))));

/** The code of the error that a file ends in. */
window.refusal = async (file) => {
  try {
    await decodeInPage(Uint8Array.from(file), 'it');
    return 'none';
  } catch (error) {
    return error.code;
  }
};
