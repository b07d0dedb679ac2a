// LoRA adapters for tests: random ones, as a GGUF file, as PEFT's files, and merged into the model that they change.

import type { Value } from '@lapidary/bench/gguf';
import { GgmlType, parseGguf, writeGguf, type GgufFile, type Tensor } from './gguf.ts';
import { memorySource } from './fixtures.ts';
import { writeSafetensors, type RawTensor } from './safetensors.ts';

export interface Matrix {
  /** The base's tensor, without ".weight". */
  name: string;
  inputs: number;
  outputs: number;
  rank: number;
  /** [rank, inputs] and [outputs, rank], row-major. */
  a: Float32Array;
  b: Float32Array;
}
export interface TestAdapter {
  alpha: number;
  matrices: Matrix[];
}

/** The projections that adapters may change; those that the model has not, or does not use, are left out by `skip`. */
export const TARGETS = [
  'attn_q',
  'attn_k',
  'attn_v',
  'attn_output',
  'ffn_gate',
  'ffn_up',
  'ffn_down',
  'inp_gate',
  'proj',
];

/** Numbers from -1 to 1, the same for the same seed. */
export function noise(seed: number): () => number {
  let state = seed * 2654435761 + 1;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
}

/** A random adapter of every layer's `targets` that `file` holds, and of the head if `head`. */
export function randomAdapter(
  file: GgufFile,
  {
    seed,
    rank,
    targets = TARGETS,
    head = false,
    skip = () => false,
    most = 0.3,
  }: {
    seed: number;
    rank: number;
    targets?: string[];
    head?: boolean;
    skip?: (name: string) => boolean;
    most?: number;
  },
): TestAdapter {
  const random = noise(seed);
  const matrices: Matrix[] = [];
  for (const { name, dims } of file.tensors) {
    const [inputs = 0, outputs = 0] = dims;
    const [, target = ''] = /^blk\.\d+\.(.+)\.weight$/.exec(name) ?? [];
    const isHead = head && name === 'token_embd.weight';
    if (!(targets.includes(target) || isHead) || skip(name)) continue;
    const values = (count: number, scale: number) =>
      Float32Array.from({ length: count }, () => random() * scale);
    matrices.push({
      name: isHead ? 'output' : name.slice(0, -'.weight'.length),
      inputs,
      outputs,
      rank,
      a: values(rank * inputs, Math.sqrt(3 / inputs)),
      b: values(outputs * rank, most),
    });
  }
  return { alpha: rank, matrices };
}

const f32Bytes = (values: Float32Array) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

const text = (value: string) => ({ type: 'string' as const, value });

/** As llama.cpp keeps it; `name` is the adapter's own. */
export function adapterGguf({ alpha, matrices }: TestAdapter, name = 'test'): Uint8Array {
  const tensors = matrices.flatMap(({ name, inputs, outputs, rank, a, b }): Tensor[] => [
    { name: `${name}.weight.lora_a`, dims: [inputs, rank], type: GgmlType.F32, data: f32Bytes(a) },
    { name: `${name}.weight.lora_b`, dims: [rank, outputs], type: GgmlType.F32, data: f32Bytes(b) },
  ]);
  return writeGguf({
    version: 3,
    metadata: new Map<string, Value>([
      ['general.architecture', text('gemma4')],
      ['general.type', text('adapter')],
      ['general.name', text(name)],
      ['adapter.type', text('lora')],
      ['adapter.lora.alpha', { type: 'f32', value: alpha }],
    ]),
    tensors,
  });
}

export const adapterSource = (adapter: TestAdapter, name = 'test') =>
  memorySource(`${name}.gguf`, adapterGguf(adapter, name));

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return (
    sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
  );
}

function floats({ name, type, data }: Tensor): Float64Array {
  // A copy: data may be a part of a Buffer, whose slice() is none.
  const { buffer } = new Uint8Array(data);
  if (type === GgmlType.F32) return Float64Array.from(new Float32Array(buffer));
  if (type === GgmlType.F16) return Float64Array.from(new Uint16Array(buffer), halfToFloat);
  if (type === GgmlType.Q8_0) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const values = new Float64Array((data.length / 34) * 32);
    for (let i = 0; i < values.length; i++) {
      const block = 34 * Math.floor(i / 32);
      values[i] = halfToFloat(view.getUint16(block, true)) * view.getInt8(block + 2 + (i % 32));
    }
    return values;
  }
  throw new Error(`${name} is of type ${type}`);
}

/** W + scale alpha / rank B A in place of every W, summed in doubles and kept in F32; a tied head is parted first. */
export function merged(base: Uint8Array, ...adapters: [TestAdapter, scale: number][]): Uint8Array {
  const file = parseGguf(base);
  const sums = new Map<string, { tensor: Tensor; values: Float64Array }>();
  for (const [{ alpha, matrices }, scale] of adapters) {
    for (const { name, inputs, outputs, rank, a, b } of matrices) {
      const own = file.tensors.find((tensor) => tensor.name === `${name}.weight`);
      const tensor =
        own ?? file.tensors.find((each) => each.name === 'token_embd.weight' && name === 'output');
      if (!tensor) throw new Error(`the base has no ${name}`);
      const sum = sums.get(name) ?? { tensor, values: floats(tensor) };
      sums.set(name, sum);
      for (let o = 0; o < outputs; o++) {
        for (let r = 0; r < rank; r++) {
          const factor = ((scale * alpha) / rank) * (b[o * rank + r] ?? NaN);
          for (let i = 0; i < inputs; i++)
            sum.values[o * inputs + i] =
              (sum.values[o * inputs + i] ?? NaN) + factor * (a[r * inputs + i] ?? NaN);
        }
      }
    }
  }
  const changed = [...sums].map(([name, { tensor, values }]) => ({
    name: `${name}.weight`,
    dims: tensor.dims,
    type: GgmlType.F32,
    data: f32Bytes(Float32Array.from(values)),
  }));
  const kept = file.tensors.filter(({ name }) => !changed.some((each) => each.name === name));
  return writeGguf({ ...file, tensors: [...kept, ...changed] });
}

export interface PeftOptions {
  rsLora?: boolean;
  /** How a value is kept. */
  dtype?: 'F32' | 'F16' | 'BF16';
}

const PEFT_NAMES: Record<string, string> = {
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
  inp_gate: 'per_layer_input_gate',
  proj: 'per_layer_projection',
};

/** PEFT's two files. Values are cut to bfloat16 for BF16: give it an adapter whose values are such. */
export function peftFiles(
  { alpha, matrices }: TestAdapter,
  { rsLora = false, dtype = 'F32' }: PeftOptions = {},
): { model: Uint8Array; config: Uint8Array } {
  const tensors: RawTensor[] = [];
  const add = (name: string, shape: number[], values: Float32Array) => {
    let data = f32Bytes(values);
    if (dtype === 'BF16') {
      const words = new Uint32Array(values.slice().buffer);
      data = new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer);
    }
    tensors.push({ name, shape, data });
  };
  for (const { name, inputs, outputs, rank, a, b } of matrices) {
    const [, layer, target = ''] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
    const module =
      layer === undefined ? 'lm_head' : `model.layers.${layer}.${PEFT_NAMES[target] ?? target}`;
    add(`base_model.model.${module}.lora_A.weight`, [rank, inputs], a);
    add(`base_model.model.${module}.lora_B.weight`, [outputs, rank], b);
  }
  const model = writeSafetensors(dtype, tensors);
  const targets = [...new Set(matrices.map(({ name }) => name.split('.').at(-1) ?? ''))];
  const config = {
    peft_type: 'LORA',
    r: matrices[0]?.rank,
    lora_alpha: alpha,
    use_rslora: rsLora,
    target_modules: targets.map((name) => PEFT_NAMES[name]?.split('.').at(-1) ?? 'lm_head'),
  };
  return { model, config: new TextEncoder().encode(JSON.stringify(config)) };
}
