// A tiny random model that sees, or hears: the text model of one fixture, the towers of others.

import { noise } from './adapters.ts';
import { readFixture, readJson } from './fixtures.ts';
import { parseGguf, writeGguf } from './gguf.ts';

export const OPEN = 7;
export const CLOSE = 8;
export const PLACE = 9;
export const HIDDEN = 32;

/** Of the tiny vocabulary, tokens that no text becomes. */
const UNUSED = [0, 3, 4] as const;

/**
 * tiny-e, whose vocabulary has the tokens of a medium in the place of those around thoughts; and those of another in the
 * place of what no text becomes.
 */
export function textWith(medium: 'image' | 'audio', other?: 'audio'): Uint8Array {
  const { tokens } = readJson<{ tokens: string[] }>('gemma4/tiny_vocabulary.json');
  const value = [...tokens];
  const put = (name: string, [open, close, place]: readonly [number, number, number]) => {
    value[open] = `<|${name}>`;
    value[close] = `<${name}|>`;
    value[place] = `<|${name}|>`;
  };
  put(medium, [OPEN, CLOSE, PLACE]);
  if (other) put(other, UNUSED);
  const file = parseGguf(readFixture('gemma4/tiny-e.gguf'));
  file.metadata.set('tokenizer.ggml.tokens', { type: 'strings', value });
  // Room for a minute of sound.
  file.metadata.set('gemma4.context_length', { type: 'u32', value: 4096 });
  return writeGguf(file);
}
export const seeingText = () => textWith('image');

/** Both towers in one file, as llama.cpp keeps them. */
export function bothTowers(): Uint8Array {
  const vision = parseGguf(tower());
  const audio = parseGguf(readFixture('audio/tiny-audio.gguf.gz'));
  const metadata = new Map([...vision.metadata, ...audio.metadata]);
  for (const key of ['vision', 'audio']) {
    metadata.set(`clip.has_${key}_encoder`, { type: 'bool', value: true });
  }
  return writeGguf({ ...vision, metadata, tensors: [...vision.tensors, ...audio.tensors] });
}

/**
 * Both towers for a model of another width: their last projections are random ones. Rows are of about the size of
 * embeddings that `scale` says. With all that llama.cpp, too, must be told.
 */
export function projectorFor(hidden: number, scale: number): Uint8Array {
  const file = parseGguf(bothTowers());
  const random = noise(7);
  for (const tensor of file.tensors) {
    if (!/^mm\.(a\.)?input_projection\.weight$/.test(tensor.name)) continue;
    const [width = 0] = tensor.dims;
    tensor.dims = [width, hidden];
    const size = scale * Math.sqrt(3 / width);
    const values = Float32Array.from({ length: width * hidden }, () => size * random());
    tensor.data = new Uint8Array(values.buffer);
  }
  for (const [key, value] of [
    ['clip.vision.projection_dim', { type: 'u32', value: hidden }],
    ['clip.audio.projection_dim', { type: 'u32', value: hidden }],
    ['clip.vision.projector.scale_factor', { type: 'u32', value: 3 }],
    ['clip.vision.image_mean', { type: 'f32s', value: [0, 0, 0] }],
    ['clip.vision.image_std', { type: 'f32s', value: [1, 1, 1] }],
    // Not the quick form of GELU, which it takes otherwise.
    ['clip.use_gelu', { type: 'bool', value: true }],
  ] as const)
    file.metadata.set(key, value);
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
