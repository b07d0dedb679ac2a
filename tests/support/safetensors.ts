// Safetensors files for tests: F32 tensors read, any bytes written.

export interface FloatTensor {
  shape: number[];
  values: Float32Array;
}

/** All tensors of a file, which must be F32, by name. */
export function readSafetensors(file: Uint8Array): Map<string, FloatTensor> {
  const size = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + size))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, FloatTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    if (dtype !== 'F32') throw new Error(`${name} is ${dtype}`);
    const [begin, end] = data_offsets.map((offset) => 8 + size + offset);
    // A copy: the file may be a Buffer, whose slice() is none.
    const { buffer } = new Uint8Array(file.subarray(begin, end));
    tensors.set(name, { shape, values: new Float32Array(buffer) });
  }
  return tensors;
}

export interface RawTensor {
  name: string;
  shape: number[];
  data: Uint8Array;
}

export function writeSafetensors(dtype: 'F32' | 'F16' | 'BF16', tensors: RawTensor[]): Uint8Array {
  const header: Record<string, unknown> = {};
  let size = 0;
  for (const { name, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [size, size + data.length] };
    size += data.length;
  }
  let json = JSON.stringify(header);
  json += ' '.repeat((8 - (json.length % 8)) % 8);
  const file = new Uint8Array(8 + json.length + size);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(new TextEncoder().encode(json), 8);
  let at = 8 + json.length;
  for (const { data } of tensors) {
    file.set(data, at);
    at += data.length;
  }
  return file;
}
