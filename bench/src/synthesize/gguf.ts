// The header of a GGUF file, and where its tensors lie.

export const BLOCK = {
  F32: { id: 0, elements: 1, bytes: 4 },
  BF16: { id: 30, elements: 1, bytes: 2 },
  Q5_0: { id: 6, elements: 32, bytes: 22 },
  Q8_0: { id: 8, elements: 32, bytes: 34 },
  Q4_K: { id: 12, elements: 256, bytes: 144 },
  Q6_K: { id: 14, elements: 256, bytes: 210 },
} as const;
export type BlockType = keyof typeof BLOCK;

export interface Tensor {
  name: string;
  /** The row's length first. */
  shape: number[];
  type: BlockType;
  /** What its values are: matrices have rows of a length near one. */
  kind: 'matrix' | 'norm' | 'one' | 'rope';
}
export interface PlacedTensor extends Tensor {
  /** From the start of the data. */
  offset: number;
  bytes: number;
}

/** A metadata value; a raw one is its type's number and its bytes as they stand in a file. */
export type Value =
  | { type: 'raw'; value: Uint8Array }
  | { type: 'u32' | 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'u32s' | 'i32s' | 'f32s'; value: ArrayLike<number> }
  | { type: 'bools'; value: boolean[] };

const ALIGNMENT = 32;
const TYPE_ID = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

/** `size`, rounded up to the alignment of tensors. */
export const aligned = (size: number): number => Math.ceil(size / ALIGNMENT) * ALIGNMENT;

export const elements = ({ shape }: Tensor): number => shape.reduce((a, b) => a * b, 1);

/** Tensors one after another, each at a multiple of the alignment. */
export function layout(tensors: Tensor[]): PlacedTensor[] {
  let offset = 0;
  return tensors.map((tensor) => {
    const block = BLOCK[tensor.type];
    const bytes = (elements(tensor) / block.elements) * block.bytes;
    const placed = { ...tensor, offset, bytes };
    offset += aligned(bytes);
    return placed;
  });
}

class Out {
  private bytes = new Uint8Array(1 << 20);
  private view = new DataView(this.bytes.buffer);
  private length = 0;
  private readonly encoder = new TextEncoder();

  private room(size: number): number {
    const at = this.length;
    this.length += size;
    if (this.length > this.bytes.length) {
      const larger = new Uint8Array(2 * this.length);
      larger.set(this.bytes);
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }
  u8(value: number): void {
    const at = this.room(1);
    this.view.setUint8(at, value);
  }
  u32(value: number): void {
    const at = this.room(4);
    this.view.setUint32(at, value, true);
  }
  i32(value: number): void {
    const at = this.room(4);
    this.view.setInt32(at, value, true);
  }
  f32(value: number): void {
    const at = this.room(4);
    this.view.setFloat32(at, value, true);
  }
  u64(value: number): void {
    const at = this.room(8);
    this.view.setBigUint64(at, BigInt(value), true);
  }
  raw(bytes: Uint8Array): void {
    const at = this.room(bytes.length);
    this.bytes.set(bytes, at);
  }
  string(text: string): void {
    const bytes = this.encoder.encode(text);
    this.u64(bytes.length);
    this.raw(bytes);
  }
  /** What was written, with zeros up to the alignment. */
  finish(): Uint8Array {
    this.room(aligned(this.length) - this.length);
    return this.bytes.subarray(0, this.length);
  }
}

function writeValue(out: Out, { type, value }: Value): void {
  const array = (element: number, count: number) => {
    out.u32(TYPE_ID.array);
    out.u32(element);
    out.u64(count);
  };
  switch (type) {
    case 'raw':
      out.raw(value);
      break;
    case 'u32':
    case 'f32':
      out.u32(TYPE_ID[type]);
      out[type](value);
      break;
    case 'bool':
      out.u32(TYPE_ID.bool);
      out.u8(value ? 1 : 0);
      break;
    case 'string':
      out.u32(TYPE_ID.string);
      out.string(value);
      break;
    case 'strings':
      array(TYPE_ID.string, value.length);
      for (const text of value) out.string(text);
      break;
    case 'u32s':
      array(TYPE_ID.u32, value.length);
      for (const number of Array.from(value)) out.u32(number);
      break;
    case 'i32s':
      array(TYPE_ID.i32, value.length);
      for (const number of Array.from(value)) out.i32(number);
      break;
    case 'f32s':
      array(TYPE_ID.f32, value.length);
      for (const number of Array.from(value)) out.f32(number);
      break;
    case 'bools':
      array(TYPE_ID.bool, value.length);
      for (const flag of value) out.u8(flag ? 1 : 0);
      break;
  }
}

/** What the header says of a tensor; a type that is not in BLOCK goes by its number. */
export interface TensorInfo {
  name: string;
  /** The row's length first. */
  shape: number[];
  type: BlockType | number;
  /** From the start of the data. */
  offset: number;
}

/** All of the file before its tensors' data. */
export function headerBytes(
  metadata: Map<string, Value>,
  tensors: TensorInfo[],
  version = 3,
): Uint8Array {
  const out = new Out();
  for (const letter of 'GGUF') out.u8(letter.charCodeAt(0));
  out.u32(version);
  out.u64(tensors.length);
  out.u64(metadata.size);
  for (const [key, value] of metadata) {
    out.string(key);
    writeValue(out, value);
  }
  for (const { name, shape, type, offset } of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const size of shape) out.u64(size);
    out.u32(typeof type === 'number' ? type : BLOCK[type].id);
    out.u64(offset);
  }
  return out.finish();
}
