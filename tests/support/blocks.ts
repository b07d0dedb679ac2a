// Random blocks of the quantised formats: any bytes are quants, so that only the scales have to be chosen.

import { halfBits } from './quantize.ts';

interface BlockFormat {
  /** Its number in GGUF files. */
  type: number;
  elements: number;
  bytes: number;
  /** Where halves lie, and what they are for values of about 1. */
  halves: [offset: number, value: number][];
}

export const BLOCK_FORMATS = {
  Q4_1: {
    type: 3,
    elements: 32,
    bytes: 20,
    halves: [
      [0, 1 / 8],
      [2, -1],
    ],
  },
  Q5_1: {
    type: 7,
    elements: 32,
    bytes: 24,
    halves: [
      [0, 1 / 16],
      [2, -1],
    ],
  },
  Q2_K: {
    type: 10,
    elements: 256,
    bytes: 84,
    halves: [
      [80, 1 / 12],
      [82, 1 / 8],
    ],
  },
  Q3_K: { type: 11, elements: 256, bytes: 110, halves: [[108, 1 / 64]] },
  IQ4_NL: { type: 20, elements: 32, bytes: 18, halves: [[0, 1 / 127]] },
  IQ4_XS: { type: 23, elements: 256, bytes: 136, halves: [[0, 1 / 2032]] },
  MXFP4: { type: 39, elements: 32, bytes: 17, halves: [] },
} as const satisfies Record<string, BlockFormat>;

/** `count` values of about `spread`, as a file has them. Equal seeds give equal blocks. */
export function randomBlocks(
  name: keyof typeof BLOCK_FORMATS,
  count: number,
  spread: number,
  seed: number,
): Uint8Array {
  const { elements, bytes, halves }: BlockFormat = BLOCK_FORMATS[name];
  const blocks = count / elements;
  if (!Number.isInteger(blocks)) throw new Error(`${count} values are no whole blocks of ${name}`);
  const out = new Uint8Array(blocks * bytes);
  let state = seed + 1;
  for (let i = 0; i < out.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state >>> 24;
  }
  const view = new DataView(out.buffer);
  for (let at = 0; at < out.length; at += bytes) {
    for (const [offset, value] of halves)
      view.setUint16(at + offset, halfBits(value * spread), true);
    // 2^(e - 128), times 12 at most.
    if (name === 'MXFP4') out[at] = 125 + Math.floor(Math.log2(spread));
  }
  return out;
}
