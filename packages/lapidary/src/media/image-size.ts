// The size of a picture, from the beginning of its file. The library is bundled into the built file: pages without a
// bundler find no packages by their names (tools/build.mjs).

import { imageSize } from 'image-size';

/** Pixels; throws for what is no picture that it knows. */
export const sizeOfImage = (bytes: Uint8Array): { width: number; height: number } =>
  imageSize(bytes);
