// A small GGUF reader and writer for tests: whole files in memory, metadata values kept as they are.

export const GgmlType = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 8, BF16: 30 } as const;

/** Metadata values of the types that tests write; a raw one is `type` and the value's bytes as in the file. */
export type MetadataValue =
  | { type: 'raw'; bytes: Uint8Array }
  | { type: 'u32' | 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'u32s' | 'i32s' | 'f32s'; value: ArrayLike<number> }
  | { type: 'bools'; value: boolean[] };

export interface Tensor {
  name: string;
  /** GGUF's order: the row length first. */
  dims: number[];
  type: number;
  data: Uint8Array;
}

export interface GgufFile {
  version: number;
  metadata: Map<string, MetadataValue>;
  tensors: Tensor[];
}

const ALIGNMENT = 32;
const STRING = 8;
const ARRAY = 9;
/** Bytes of a scalar value by its type number. */
const SCALAR_BYTES: Record<number, number> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};
/** Elements and bytes of a block by tensor type. */
const BLOCKS: Record<number, [number, number]> = {
  [GgmlType.F32]: [1, 4],
  [GgmlType.F16]: [1, 2],
  [GgmlType.Q4_0]: [32, 18],
  [GgmlType.Q8_0]: [32, 34],
  [GgmlType.BF16]: [1, 2],
};

const align = (size: number) => Math.ceil(size / ALIGNMENT) * ALIGNMENT;

export function parseGguf(bytes: Uint8Array): GgufFile {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 4;
  const u32 = () => view.getUint32((at += 4) - 4, true);
  const u64 = () => Number(view.getBigUint64((at += 8) - 8, true));
  const text = () => {
    const length = u64();
    at += length;
    return new TextDecoder().decode(bytes.subarray(at - length, at));
  };
  const skip = (type: number): void => {
    if (type === STRING) {
      // Not `at += u64()`: that reads `at` before u64 moves it.
      const length = u64();
      at += length;
    } else if (type === ARRAY) {
      const element = u32();
      const count = u64();
      const size = SCALAR_BYTES[element];
      if (size !== undefined) at += size * count;
      else for (let i = 0; i < count; i++) skip(element);
    } else {
      const size = SCALAR_BYTES[type];
      if (size === undefined) throw new Error(`metadata type ${type}`);
      at += size;
    }
  };
  const version = u32();
  const tensorCount = u64();
  const metadataCount = u64();
  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = text();
    const start = at;
    skip(u32());
    metadata.set(key, { type: 'raw', bytes: bytes.slice(start, at) });
  }
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const dims = Array.from({ length: u32() }, u64);
    const type = u32();
    return { name, dims, type, offset: u64() };
  });
  const base = align(at);
  const tensors = infos.map(({ offset, ...info }) => {
    const [elements, size] = BLOCKS[info.type] ?? [0, 0];
    if (size === 0) throw new Error(`${info.name}: tensor type ${info.type} is not known here`);
    const length = (info.dims.reduce((a, b) => a * b, 1) / elements) * size;
    return { ...info, data: bytes.subarray(base + offset, base + offset + length) };
  });
  return { version, metadata, tensors };
}

class Buffer {
  private bytes = new Uint8Array(1 << 20);
  private view = new DataView(this.bytes.buffer);
  length = 0;

  private room(size: number): number {
    if (this.length + size > this.bytes.length) {
      const larger = new Uint8Array(2 * (this.length + size));
      larger.set(this.bytes.subarray(0, this.length));
      this.bytes = larger;
      this.view = new DataView(larger.buffer);
    }
    this.length += size;
    return this.length - size;
  }
  raw(bytes: Uint8Array) {
    const at = this.room(bytes.length);
    this.bytes.set(bytes, at);
  }
  u8(value: number) {
    const at = this.room(1);
    this.view.setUint8(at, value);
  }
  u32(value: number) {
    const at = this.room(4);
    this.view.setUint32(at, value, true);
  }
  f32(value: number) {
    const at = this.room(4);
    this.view.setFloat32(at, value, true);
  }
  u64(value: number) {
    const at = this.room(8);
    this.view.setBigUint64(at, BigInt(value), true);
  }
  text(value: string) {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.raw(bytes);
  }
  pad() {
    this.room(align(this.length) - this.length);
  }
  done(): Uint8Array {
    return this.bytes.slice(0, this.length);
  }
}

const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7 } as const;

function writeValue(out: Buffer, value: MetadataValue): void {
  const array = (element: number, count: number) => {
    out.u32(ARRAY);
    out.u32(element);
    out.u64(count);
  };
  switch (value.type) {
    case 'raw':
      return out.raw(value.bytes);
    case 'u32':
      out.u32(VALUE_TYPES.u32);
      return out.u32(value.value);
    case 'f32':
      out.u32(VALUE_TYPES.f32);
      return out.f32(value.value);
    case 'bool':
      out.u32(VALUE_TYPES.bool);
      return out.u8(value.value ? 1 : 0);
    case 'string':
      out.u32(STRING);
      return out.text(value.value);
    case 'strings':
      array(STRING, value.value.length);
      return value.value.forEach((text) => out.text(text));
    case 'u32s':
    case 'i32s':
      array(value.type === 'u32s' ? VALUE_TYPES.u32 : VALUE_TYPES.i32, value.value.length);
      return Array.from(value.value).forEach((number) => out.u32(number));
    case 'f32s':
      array(VALUE_TYPES.f32, value.value.length);
      return Array.from(value.value).forEach((number) => out.f32(number));
    case 'bools':
      array(VALUE_TYPES.bool, value.value.length);
      return value.value.forEach((flag) => out.u8(flag ? 1 : 0));
  }
}

export function writeGguf({ version, metadata, tensors }: GgufFile): Uint8Array {
  const out = new Buffer();
  out.raw(new TextEncoder().encode('GGUF'));
  out.u32(version);
  out.u64(tensors.length);
  out.u64(metadata.size);
  for (const [key, value] of metadata) {
    out.text(key);
    writeValue(out, value);
  }
  let offset = 0;
  for (const { name, dims, type, data } of tensors) {
    out.text(name);
    out.u32(dims.length);
    for (const dim of dims) out.u64(dim);
    out.u32(type);
    out.u64(offset);
    offset += align(data.length);
  }
  for (const { data } of tensors) {
    out.pad();
    out.raw(data);
  }
  out.pad();
  return out.done();
}
