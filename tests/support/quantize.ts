// Q8_0 and Q4_0 forms of an F16 model file with llama-quantize's rounding (Q4_0: as with --pure), for comparing with
// numbers that were made from its files. All arithmetic in float32, in its order.

import { GgmlType, parseGguf, writeGguf } from './gguf.ts';

const f32 = Math.fround;
const BLOCK = 32;

/** IEEE half, to nearest, ties to even. */
export function halfBits(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: units of 2^-24; the sum rounds for us.
    const sum = Float32Array.of(f32(Math.abs(value) + 0.5));
    return sign | ((new Uint32Array(sum.buffer)[0] ?? 0) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent === 0
    ? sign * mantissa * 2 ** -24
    : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function halves(data: Uint8Array): Float32Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Float32Array.from({ length: data.length / 2 }, (_, i) =>
    halfValue(view.getUint16(2 * i, true)),
  );
}

function q8_0(x: Float32Array): Uint8Array {
  const out = new Uint8Array((x.length / BLOCK) * 34);
  const view = new DataView(out.buffer);
  for (let block = 0; block < x.length / BLOCK; block++) {
    const values = x.subarray(block * BLOCK, (block + 1) * BLOCK);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const scale = f32(largest / 127);
    const inverse = scale === 0 ? 0 : f32(1 / scale);
    view.setUint16(block * 34, halfBits(scale), true);
    values.forEach((value, i) => {
      // roundf: halves away from zero. |product| < 128, so adding a half is exact in double.
      const product = f32(value * inverse);
      const rounded = Math.sign(product) * Math.floor(Math.abs(product) + 0.5);
      view.setInt8(block * 34 + 2 + i, rounded);
    });
  }
  return out;
}

function q4_0(x: Float32Array): Uint8Array {
  const out = new Uint8Array((x.length / BLOCK) * 18);
  const view = new DataView(out.buffer);
  for (let block = 0; block < x.length / BLOCK; block++) {
    const values = x.subarray(block * BLOCK, (block + 1) * BLOCK);
    const largest = values.reduce(
      (most, value) => (Math.abs(value) > Math.abs(most) ? value : most),
      0,
    );
    const scale = f32(largest / -8);
    const inverse = scale === 0 ? 0 : f32(1 / scale);
    view.setUint16(block * 18, halfBits(scale), true);
    const quant = (i: number) =>
      Math.min(15, Math.trunc(f32(f32((values[i] ?? 0) * inverse) + 8.5)));
    for (let i = 0; i < 16; i++) out[block * 18 + 2 + i] = quant(i) | (quant(i + 16) << 4);
  }
  return out;
}

function bf16(x: Float32Array): Uint8Array {
  const bits = new Uint32Array(x.buffer, x.byteOffset, x.length);
  const out = new Uint16Array(x.length);
  bits.forEach((value, i) => (out[i] = (value + 0x7fff + ((value >>> 16) & 1)) >>> 16));
  return new Uint8Array(out.buffer);
}

/** Every F16 matrix becomes `target`, except per_layer_model_proj, which becomes BF16. */
export function quantizeModel(file: Uint8Array, target: 'Q8_0' | 'Q4_0'): Uint8Array {
  const { version, metadata, tensors } = parseGguf(file);
  metadata.set('general.file_type', { type: 'u32', value: target === 'Q8_0' ? 7 : 2 });
  return writeGguf({
    version,
    metadata,
    tensors: tensors.map((tensor) => {
      if (tensor.type !== GgmlType.F16) return tensor;
      const values = halves(tensor.data);
      if (tensor.name.startsWith('per_layer_model_proj')) {
        return { ...tensor, type: GgmlType.BF16, data: bf16(values) };
      }
      const data = target === 'Q8_0' ? q8_0(values) : q4_0(values);
      return { ...tensor, type: GgmlType[target], data };
    }),
  });
}
