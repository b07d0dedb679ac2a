// A small GGUF reader and writer for tests: whole files in memory, metadata values kept as they are.

import { aligned, headerBytes, type Value } from '@lapidary/bench/gguf';

export const GgmlType = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, Q8_1: 9, BF16: 30 } as const;

export interface Tensor {
  name: string;
  /** GGUF's order: the row length first. */
  dims: number[];
  type: number;
  data: Uint8Array;
}

export interface GgufFile {
  version: number;
  metadata: Map<string, Value>;
  tensors: Tensor[];
}

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
  const metadata = new Map<string, Value>();
  for (let i = 0; i < metadataCount; i++) {
    const key = text();
    const start = at;
    skip(u32());
    metadata.set(key, { type: 'raw', value: bytes.slice(start, at) });
  }
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const dims = Array.from({ length: u32() }, u64);
    const type = u32();
    return { name, dims, type, offset: u64() };
  });
  const base = aligned(at);
  const tensors = infos.map(({ offset, ...info }) => {
    const [elements, size] = BLOCKS[info.type] ?? [0, 0];
    if (size === 0) throw new Error(`${info.name}: tensor type ${info.type} is not known here`);
    const length = (info.dims.reduce((a, b) => a * b, 1) / elements) * size;
    return { ...info, data: bytes.subarray(base + offset, base + offset + length) };
  });
  return { version, metadata, tensors };
}

export function writeGguf({ version, metadata, tensors }: GgufFile): Uint8Array {
  let size = 0;
  const placed = tensors.map(({ name, dims, type, data }) => {
    const offset = size;
    size += aligned(data.length);
    return { name, shape: dims, type, offset, data };
  });
  const header = headerBytes(metadata, placed, version);
  const file = new Uint8Array(header.length + size);
  file.set(header);
  for (const { offset, data } of placed) file.set(data, header.length + offset);
  return file;
}
