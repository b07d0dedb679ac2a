// Random weights of a sane scale, block by block: a matrix's values have the variance 1 / row length, so that what it
// makes of a row of unit size is of unit size again.

import { BLOCK, elements, type BlockType, type PlacedTensor } from './gguf.js';

/** Blocks of a pool: a prime above the vocabulary, so that no two rows of a table are equal. */
const LARGE_POOL = 262_147;
const SMALL_POOL = 4099;
const CHUNK = 1 << 22;

/** sfc32: a small generator with a state of 128 bits. */
class Random {
  private a = 0;
  private b: number;
  private c: number;
  private counter = 1;

  constructor(seed: number, stream: number) {
    this.b = seed >>> 0;
    this.c = stream >>> 0;
    for (let i = 0; i < 12; i++) this.next();
  }
  /** 32 random bits. */
  next(): number {
    const sum = (this.a + this.b + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = ((this.c << 21) | (this.c >>> 11)) + sum;
    this.c |= 0;
    return sum >>> 0;
  }
  below(limit: number): number {
    return this.next() % limit;
  }
  /** From -1 to 1, near the normal distribution: the mean of 4. */
  centred(): number {
    let sum = 0;
    for (let i = 0; i < 4; i++) sum += this.next() / 2 ** 31 - 1;
    return sum / 4;
  }
}

const scratch = new DataView(new ArrayBuffer(4));
const bitsOf = (value: number): number => {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
};
/** Bits of the nearest half; for values from 0 to 1. */
function half(value: number): number {
  const bits = bitsOf(value);
  const exponent = (bits >>> 23) - 112;
  if (exponent <= 0) return Math.round(value * 2 ** 24);
  return (exponent << 10) + (((bits & 0x7fffff) + 0x1000) >>> 13);
}

/** Blocks of one type, and the standard deviation of their weights at a block scale of one. */
interface Pool {
  bytes: Uint8Array;
  deviation: number;
}

/** Types whose blocks are drawn from a pool. */
type PoolType = 'Q4_K' | 'Q5_0' | 'Q6_K' | 'Q8_0';

function makePool(type: PoolType, blocks: number, random: Random): Pool {
  const size = BLOCK[type].bytes;
  const words = new Uint32Array(Math.ceil((blocks * size) / 4));
  for (let i = 0; i < words.length; i++) words[i] = random.next();
  const bytes = new Uint8Array(words.buffer, 0, blocks * size);
  let squares = 0;
  let scales = 0;
  const scale = (low: number, high: number): number => {
    const value = low + random.below(high - low);
    squares += value * value;
    scales++;
    return value;
  };
  for (let at = 0; at < bytes.length; at += size) {
    if (type === 'Q4_K') {
      // d, dmin, then 8 scales and 8 minima of 6 bits in 12 bytes: here each minimum is its scale, and dmin 7.5 d.
      const s = Array.from({ length: 8 }, () => scale(24, 64));
      for (let i = 0; i < 4; i++) {
        const low = s[i] ?? 0;
        const high = s[i + 4] ?? 0;
        const packed = low | ((high >> 4) << 6);
        bytes[at + 4 + i] = packed;
        bytes[at + 8 + i] = packed;
        bytes[at + 12 + i] = (high & 15) | ((high & 15) << 4);
      }
    } else if (type === 'Q6_K') {
      // 16 signed scales before d.
      for (let i = 0; i < 16; i++) bytes[at + 192 + i] = scale(32, 127);
    }
  }
  // Of 0 to 15 less 7.5, and of -32 to 31; of -16 to 15 and of -128 to 127, which have the block's scale alone.
  const quants = {
    Q4_K: Math.sqrt((16 ** 2 - 1) / 12),
    Q6_K: Math.sqrt((64 ** 2 + 2) / 12),
    Q5_0: Math.sqrt((32 ** 2 + 2) / 12),
    Q8_0: Math.sqrt((256 ** 2 + 2) / 12),
  }[type];
  return { bytes, deviation: scales > 0 ? quants * Math.sqrt(squares / scales) : quants };
}

export class BlockPools {
  private readonly pools = new Map<BlockType, Pool>();
  private readonly random: Random;

  constructor(
    private readonly seed: number,
    vocab: number,
  ) {
    this.random = new Random(seed, 0);
    this.blocks = vocab >= SMALL_POOL ? LARGE_POOL : SMALL_POOL;
  }
  private readonly blocks: number;

  /** The bytes of a tensor, in pieces; each is valid until the next is asked for. */
  *tensor(tensor: PlacedTensor): Generator<Uint8Array> {
    if (tensor.type === 'F32') yield this.vector(tensor);
    else if (tensor.type === 'BF16') yield* this.bf16(tensor);
    else yield* this.quantised(tensor, tensor.type);
  }

  private vector(tensor: PlacedTensor): Uint8Array {
    const count = elements(tensor);
    const values = new Float32Array(count);
    const { kind } = tensor;
    const factor = Math.sqrt(12 / (tensor.shape[0] ?? 1));
    for (let i = 0; i < count; i++) {
      if (kind === 'norm') values[i] = 1 + 0.1 * this.random.centred();
      else if (kind === 'matrix') values[i] = factor * this.random.centred();
      // Full attention turns the first quarter of the pairs; the others stand still.
      else if (kind === 'rope') values[i] = i < count / 4 ? 1 : 1e30;
      else values[i] = 1;
    }
    return new Uint8Array(values.buffer);
  }

  private *bf16(tensor: PlacedTensor): Generator<Uint8Array> {
    // The mean of 4 uniform numbers has the variance 1 / 12.
    const factor = Math.sqrt(12 / (tensor.shape[0] ?? 1));
    const chunk = new Uint16Array(CHUNK / 2);
    for (let left = elements(tensor); left > 0;) {
      const count = Math.min(left, chunk.length);
      for (let i = 0; i < count; i++) chunk[i] = bitsOf(factor * this.random.centred()) >>> 16;
      yield new Uint8Array(chunk.buffer, 0, 2 * count);
      left -= count;
    }
  }

  /** Walks the pool from a random block, with the scale of this tensor in its blocks. */
  private *quantised(tensor: PlacedTensor, type: PoolType): Generator<Uint8Array> {
    let pool = this.pools.get(type);
    if (!pool) {
      const stream = BLOCK[type].id;
      pool = makePool(type, this.blocks, new Random(this.seed, stream));
      this.pools.set(type, pool);
    }
    const { bytes, deviation } = pool;
    const size = BLOCK[type].bytes;
    const d = 1 / Math.sqrt(tensor.shape[0] ?? 1) / deviation;
    const scaleAt = type === 'Q6_K' ? 208 : 0;
    const view = new DataView(bytes.buffer);
    const stamp = (block: number) => {
      view.setUint16(block * size + scaleAt, half(d), true);
      if (type === 'Q4_K') view.setUint16(block * size + 2, half(7.5 * d), true);
    };
    let left = tensor.bytes / size;
    let block = this.random.below(this.blocks);
    for (let stamped = 0; left > 0;) {
      const count = Math.min(left, this.blocks - block, Math.floor(CHUNK / size));
      for (let i = 0; i < count && stamped < this.blocks; i++, stamped++) stamp(block + i);
      yield bytes.subarray(block * size, (block + count) * size);
      left -= count;
      block = (block + count) % this.blocks;
    }
  }
}
