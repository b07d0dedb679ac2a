// A tiny random model that sees: the text model of one fixture, the tower of another.

import { readFixture, readJson } from './fixtures.ts';
import { parseGguf, writeGguf } from './gguf.ts';

export const IMAGE_OPEN = 7;
export const IMAGE_CLOSE = 8;
export const IMAGE = 9;
export const HIDDEN = 32;

/** tiny-e, whose vocabulary has the tokens around pictures in the place of those around thoughts. */
export function seeingText(name = 'tiny-e'): Uint8Array {
  const { tokens } = readJson<{ tokens: string[] }>('gemma4/tiny_vocabulary.json');
  const value = tokens.with(IMAGE_OPEN, '<|image>').with(IMAGE_CLOSE, '<image|>');
  const file = parseGguf(readFixture(`gemma4/${name}.gguf`));
  file.metadata.set('tokenizer.ggml.tokens', { type: 'strings', value });
  return writeGguf(file);
}

/** As llama.cpp keeps it, in a file of its own; it sees pictures of up to 1,024 pixels a side. */
export const tower = (): Uint8Array => readFixture('vision/tiny-vision.gguf.gz');

/** A picture of no meaning; `seed` tells one from another. */
export function picture(width: number, height: number, seed = 0) {
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) {
    const x = i % (3 * width);
    const y = Math.floor(i / (3 * width));
    data[i] = (x * 7 + y * 3 + ((x ^ y) >> 3) * 5 + seed * 31) % 256;
  }
  return { width, height, data };
}
