// Drafters for tests: random ones, and one that knows which token follows which; and the drafter's arithmetic in plain
// loops of doubles (gemma4.md §4.9), which shares nothing with the engine.

import type { Value } from '@lapidary/bench/gguf';
import { noise } from './adapters.ts';
import { GgmlType, writeGguf, type GgufFile, type Tensor } from './gguf.ts';
import { halfValue } from './quantize.ts';

/** What a drafter must know of its target. */
export interface Target {
  width: number;
  /** Of sliding and of global layers. */
  kvHeads: [number, number];
  headDims: [number, number];
  window: number;
  eps: number;
}
/** `tests/fixtures/nano`. */
export const NANO: Target = {
  width: 256,
  kvHeads: [1, 1],
  headDims: [64, 128],
  window: 128,
  eps: 1e-6,
};

export interface DrafterShape {
  width: number;
  heads: number;
  ffn: number;
  /** Whether each layer slides. */
  pattern: boolean[];
}
export const SMALL: DrafterShape = {
  width: 64,
  heads: 4,
  ffn: 96,
  pattern: [true, true, true, false],
};

const ROOT = 'nextn';
const PREFIX = 'gemma4-assistant';

export const tensorOf = (file: GgufFile, name: string): Tensor => {
  const found = file.tensors.find((tensor) => tensor.name === name);
  if (!found) throw new Error(`no tensor ${name}`);
  return found;
};

/** The numbers of a tensor of floats or halves. */
export function valuesOf({ name, type, data }: Tensor): Float64Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (type === GgmlType.F32)
    return Float64Array.from({ length: data.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  if (type !== GgmlType.F16) throw new Error(`${name} is neither F32 nor F16`);
  return Float64Array.from({ length: data.length / 2 }, (_, i) =>
    halfValue(view.getUint16(2 * i, true)),
  );
}

function tensor(name: string, dims: number[], value: (i: number) => number): Tensor {
  const count = dims.reduce((product, size) => product * size, 1);
  const values = Float32Array.from({ length: count }, (_, i) => value(i));
  return { name, dims, type: GgmlType.F32, data: new Uint8Array(values.buffer) };
}

/** A drafter of `target` whose weights are random. */
export function randomDrafter(
  target: GgufFile,
  of: Target = NANO,
  shape: DrafterShape = SMALL,
  seed = 1,
): GgufFile {
  const { width, heads, ffn, pattern } = shape;
  const next = noise(seed);
  const matrix = (name: string, inputs: number, outputs: number) =>
    tensor(name, [inputs, outputs], () => next() * Math.sqrt(3 / inputs));
  const norm = (name: string, size: number) => tensor(name, [size], () => 1 + 0.3 * next());
  const [, vocab = 0] = tensorOf(target, 'token_embd.weight').dims;
  const tensors = [
    matrix('token_embd.weight', width, vocab),
    norm('output_norm.weight', width),
    tensorOf(target, 'rope_freqs.weight'),
    matrix(`${ROOT}.pre_projection.weight`, 2 * of.width, width),
    matrix(`${ROOT}.post_projection.weight`, width, of.width),
  ];
  pattern.forEach((sliding, l) => {
    const dim = of.headDims[sliding ? 0 : 1];
    const name = (role: string) => `blk.${l}.${role}.weight`;
    tensors.push(
      norm(name('attn_norm'), width),
      matrix(name('attn_q'), width, heads * dim),
      norm(name('attn_q_norm'), dim),
      matrix(name('attn_output'), heads * dim, width),
      norm(name('post_attention_norm'), width),
      norm(name('ffn_norm'), width),
      matrix(name('ffn_gate'), width, ffn),
      matrix(name('ffn_up'), width, ffn),
      matrix(name('ffn_down'), ffn, width),
      norm(name('post_ffw_norm'), width),
      tensor(name('layer_output_scale'), [1], () => 0.8),
    );
  });
  const u32 = (value: number): Value => ({ type: 'u32', value });
  const f32 = (value: number): Value => ({ type: 'f32', value });
  const own: Record<string, Value> = {
    block_count: u32(pattern.length),
    context_length: u32(2048),
    embedding_length: u32(width),
    embedding_length_out: u32(of.width),
    nextn_predict_layers: u32(pattern.length),
    feed_forward_length: u32(ffn),
    'attention.head_count': u32(heads),
    'attention.head_count_kv': {
      type: 'i32s',
      value: pattern.map((sliding) => of.kvHeads[sliding ? 0 : 1]),
    },
    'attention.key_length': u32(of.headDims[1]),
    'attention.key_length_swa': u32(of.headDims[0]),
    'attention.layer_norm_rms_epsilon': f32(of.eps),
    'attention.sliding_window': u32(of.window),
    'attention.sliding_window_pattern': { type: 'bools', value: pattern },
    'rope.freq_base': f32(1e6),
    'rope.freq_base_swa': f32(1e4),
  };
  const metadata = new Map<string, Value>([
    ['general.architecture', { type: 'string', value: PREFIX }],
    ...Object.entries(own).map(([key, value]): [string, Value] => [`${PREFIX}.${key}`, value]),
  ]);
  return { version: 3, metadata, tensors };
}

/** The file of a drafter, with some metadata and tensors in place of its own; null: without. */
export function drafterFile(
  file: GgufFile,
  metadata: Record<string, Value | null> = {},
  tensors: Record<string, Partial<Tensor> | null> = {},
): Uint8Array {
  const changed = new Map(file.metadata);
  for (const [key, value] of Object.entries(metadata)) {
    const whole = /^(general|tokenizer)\./.test(key) ? key : `${PREFIX}.${key}`;
    if (value === null) changed.delete(whole);
    else changed.set(whole, value);
  }
  return writeGguf({
    ...file,
    metadata: changed,
    tensors: file.tensors.flatMap((each) => {
      const change = tensors[each.name];
      return change === null ? [] : [{ ...each, ...change }];
    }),
  });
}

/**
 * A drafter that guesses `follows[token]` after a token, from the target's embedding of it alone: its layers add nothing.
 */
export function bigramDrafter(
  target: GgufFile,
  follows: Map<number, number>,
  of: Target = NANO,
): Uint8Array {
  const { width } = of;
  const shape = { width, heads: 2, ffn: 32, pattern: [true, false] };
  const drafter = randomDrafter(target, of, shape);
  const embedding = valuesOf(tensorOf(target, 'token_embd.weight'));
  const table = new Float32Array(embedding.length);
  for (const [token, next] of follows) {
    const row = embedding.subarray(token * width, (token + 1) * width);
    const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
    row.forEach((x, i) => (table[next * width + i] = (table[next * width + i] ?? 0) + x / length));
  }
  const zero = ({ name, dims }: Tensor) => tensor(name, dims, () => 0);
  return writeGguf({
    ...drafter,
    tensors: drafter.tensors.map((each) => {
      const { name, dims } = each;
      if (/attn_output|ffn_down/.test(name)) return zero(each);
      if (name === 'token_embd.weight') return tensor(name, dims, (i) => table[i] ?? 0);
      if (name === 'output_norm.weight') return tensor(name, dims, () => 1);
      if (name === `${ROOT}.pre_projection.weight`)
        return tensor(name, dims, (i) => (i % (2 * width) === Math.floor(i / (2 * width)) ? 1 : 0));
      return each;
    }),
  });
}

/** K and V of a layer of the target, by position from `first` on: [rows][head size], of its only KV head. */
export interface Cache {
  first: number;
  k: Float64Array;
  v: Float64Array;
}
export interface TargetState {
  /** The residual stream that gave the last token, after all layers, before the last norm. */
  stream: Float64Array;
  sliding: Cache;
  global: Cache;
  /** Of the token that has not run. */
  position: number;
}

const gelu = (z: number) =>
  0.5 * z * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z * z * z)));

function rms(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const mean = x.reduce((sum, v) => sum + v * v, 0) / x.length;
  return x.map((v, i) => (v / Math.sqrt(mean + eps)) * (weight[i] ?? NaN));
}

function times(matrix: Float64Array, x: Float64Array): Float64Array {
  const out = new Float64Array(matrix.length / x.length);
  for (let row = 0; row < out.length; row++) {
    let sum = 0;
    for (let c = 0; c < x.length; c++) sum += (matrix[row * x.length + c] ?? NaN) * (x[c] ?? NaN);
    out[row] = sum;
  }
  return out;
}

/** The logits of guesses, `count` of them, after `token`, each from the one before it: [count][vocab]. */
export function referenceGuesses(
  targetFile: GgufFile,
  drafter: GgufFile,
  state: TargetState,
  token: number,
  count: number,
  of: Target = NANO,
  shape: DrafterShape = SMALL,
): { logits: Float64Array[]; guesses: number[] } {
  const known = new Map<string, Float64Array>();
  const weight = (name: string) => {
    const values = known.get(name) ?? valuesOf(tensorOf(drafter, name));
    known.set(name, values);
    return values;
  };
  const embedding = valuesOf(tensorOf(targetFile, 'token_embd.weight'));
  const factors = weight('rope_freqs.weight');
  const add = (a: Float64Array, b: Float64Array) => a.map((v, i) => v + (b[i] ?? NaN));
  const layers = shape.pattern.map((_, l) => (role: string) => weight(`blk.${l}.${role}.weight`));
  const head = weight('token_embd.weight');
  const logits: Float64Array[] = [];
  const guesses: number[] = [];
  let h = rms(state.stream, valuesOf(tensorOf(targetFile, 'output_norm.weight')), of.eps);
  let last = token;
  for (let n = 0; n < count; n++) {
    const row = embedding.subarray(last * of.width, (last + 1) * of.width);
    const input = Float64Array.from([...row.map((v) => v * Math.sqrt(of.width)), ...h]);
    let x = times(weight(`${ROOT}.pre_projection.weight`), input);
    layers.forEach((own, l) => {
      const sliding = shape.pattern[l] ?? false;
      const dim = of.headDims[sliding ? 0 : 1];
      const cache = sliding ? state.sliding : state.global;
      const rows = cache.k.length / dim;
      const q = times(own('attn_q'), rms(x, own('attn_norm'), of.eps));
      const attended = new Float64Array(shape.heads * dim);
      for (let a = 0; a < shape.heads; a++) {
        const normed = rms(q.slice(a * dim, (a + 1) * dim), own('attn_q_norm'), of.eps);
        const turned = normed.slice();
        for (let i = 0; i < dim / 2; i++) {
          const angle =
            (state.position * (sliding ? 1e4 : 1e6) ** ((-2 * i) / dim)) /
            (sliding ? 1 : (factors[i] ?? NaN));
          const [re = NaN, im = NaN] = [normed[i], normed[i + dim / 2]];
          turned[i] = re * Math.cos(angle) - im * Math.sin(angle);
          turned[i + dim / 2] = im * Math.cos(angle) + re * Math.sin(angle);
        }
        const scores: number[] = [];
        for (let r = 0; r < rows; r++) {
          const away = state.position - (cache.first + r);
          let score = 0;
          for (let i = 0; i < dim; i++) score += (turned[i] ?? NaN) * (cache.k[r * dim + i] ?? NaN);
          scores.push(sliding && away >= of.window ? -Infinity : score);
        }
        const top = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - top));
        const sum = weights.reduce((total, w) => total + w, 0);
        weights.forEach((w, r) => {
          for (let i = 0; i < dim; i++)
            attended[a * dim + i] =
              (attended[a * dim + i] ?? NaN) + (w / sum) * (cache.v[r * dim + i] ?? NaN);
        });
      }
      x = add(x, rms(times(own('attn_output'), attended), own('post_attention_norm'), of.eps));
      const normed = rms(x, own('ffn_norm'), of.eps);
      const up = times(own('ffn_up'), normed);
      const gated = times(own('ffn_gate'), normed).map((v, i) => gelu(v) * (up[i] ?? NaN));
      x = add(x, rms(times(own('ffn_down'), gated), own('post_ffw_norm'), of.eps));
      const [scale = NaN] = own('layer_output_scale');
      x = x.map((v) => v * scale);
    });
    const out = rms(x, weight('output_norm.weight'), of.eps);
    const own = times(head, out);
    last = own.reduce((best, v, i) => (v > (own[best] ?? NaN) ? i : best), 0);
    logits.push(own);
    guesses.push(last);
    h = times(weight(`${ROOT}.post_projection.weight`), out);
  }
  return { logits, guesses };
}
