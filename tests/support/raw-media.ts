// The projector file of a model that takes pictures and sound without towers, of numbers that a few integers make.

import type { Value } from '@lapidary/bench/gguf';
import { GgmlType, type GgufFile, type Tensor } from './gguf.ts';

export const HIDDEN = 32;
const PATCH = 3 * 48 * 48;
const FRAME = 640;
const POSITIONS = 16;

/** Multiples of 1/128 from -1 to 127/128. */
export function noise(count: number, seed: number): Float64Array {
  const start = Math.imul(seed, 40_503 * 65_537);
  return Float64Array.from({ length: count }, (_, i) => {
    let x = Math.imul(i + 1, 2_654_435_761) + start;
    x ^= x >>> 15;
    x = Math.imul(x, 2_246_822_519);
    x ^= x >>> 13;
    return ((x >>> 8) & 255) / 128 - 1;
  });
}

/** positions: 48 pixels each, that a picture may have a side. */
export function rawMedia(positions = POSITIONS): GgufFile {
  const tensor = (name: string, dims: number[], seed: number, scale: number, about = 0): Tensor => {
    const values = noise(
      dims.reduce((a, b) => a * b, 1),
      seed,
    );
    const data = new Uint8Array(Float32Array.from(values, (v) => about + scale * v).buffer);
    return { name, dims, type: GgmlType.F32, data };
  };
  const text = (value: string): Value => ({ type: 'string', value });
  const yes: Value = { type: 'bool', value: true };
  return {
    version: 3,
    metadata: new Map<string, Value>([
      ['clip.has_vision_encoder', yes],
      ['clip.has_audio_encoder', yes],
      ['clip.vision.projector_type', text('gemma4uv')],
      ['clip.audio.projector_type', text('gemma4ua')],
      ['clip.vision.patch_size', { type: 'u32', value: 16 }],
      ['clip.vision.embedding_length', { type: 'u32', value: HIDDEN }],
      ['clip.vision.block_count', { type: 'u32', value: 0 }],
      ['clip.vision.attention.head_count', { type: 'u32', value: 0 }],
    ]),
    tensors: [
      tensor('v.patch_norm.1.weight', [PATCH], 1, 1 / 4, 1),
      tensor('v.patch_norm.1.bias', [PATCH], 2, 1 / 2),
      tensor('v.patch_embd.weight', [PATCH, HIDDEN], 3, 1 / 32),
      tensor('v.patch_embd.bias', [HIDDEN], 4, 1),
      tensor('v.patch_norm.2.weight', [HIDDEN], 5, 1 / 4, 1),
      tensor('v.patch_norm.2.bias', [HIDDEN], 6, 1 / 2),
      tensor('v.position_embd.weight', [HIDDEN, positions, 2], 7, 1),
      tensor('v.patch_norm.3.weight', [HIDDEN], 8, 1 / 4, 1),
      tensor('v.patch_norm.3.bias', [HIDDEN], 9, 1 / 2),
      tensor('mm.input_projection.weight', [HIDDEN, HIDDEN], 10, 1 / 4),
      tensor('mm.a.input_projection.weight', [FRAME, HIDDEN], 11, 1 / 16),
    ],
  };
}

/** RGB bytes. */
export function picture(width: number, height: number): Uint8Array {
  const rgb: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      rgb.push(
        (x * 7 + y * 3) % 256,
        (Math.floor((x * x) / 5) + y * 11) % 256,
        ((x ^ y) * 5) % 256,
      );
    }
  }
  return Uint8Array.from(rgb);
}
