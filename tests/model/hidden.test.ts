// The 87 intermediate tensors of HF for the prompt `capital`, nano F16 with f32 keys and values, from the very programs
// that a model runs: tests/kernels/decoder_probe.cpp stops them between dispatches. What fused kernels never write is
// recovered from what they do: rope is undone, norms before a residual are differences of the stream. The decode
// program goes through the same for the last token, and its dispatches are counted layer by layer.

import { openDevice } from 'lapidary/node';
import { beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, nanoF16, promptNamed, readFloats, readJson } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { idBytes, kernelTests } from '../support/kernel-tests.ts';

const LIMIT = 1e-4;
const LAYERS = 6;
const OWN_KV = 3;
const PLE = 256;
const HEADS = 4;
const { ids } = promptNamed('capital');
const last = ids.length - 1;

// What HF has of it.
const index = readJson<Record<string, { shape: number[]; offset: number }>>(
  'nano/hidden_capital.json',
);
const stored = readFloats('nano/hidden_capital.bin.gz');
function reference(name: string): Float32Array {
  const entry = index[name];
  if (!entry) throw new Error(`the reference has no ${name}`);
  const count = entry.shape.reduce((a, b) => a * b, 1);
  return stored.subarray(entry.offset / 4, entry.offset / 4 + count);
}

// nano's layers are S S F S S F: the full ones have larger heads, of which a quarter of the pairs turn.
const isFull = (layer: number) => layer % 3 === 2;
const headDim = (layer: number) => (isFull(layer) ? 128 : 64);
const turns = (layer: number) =>
  isFull(layer) ? { pairs: 16, theta: 1e6 } : { pairs: 32, theta: 1e4 };

const { tensors } = parseGguf(nanoF16());
function layerScale(layer: number): number {
  const tensor = tensors.find(({ name }) => name === `blk.${layer}.layer_output_scale.weight`);
  if (!tensor) throw new Error(`layer ${layer} has no scale`);
  return new DataView(tensor.data.buffer, tensor.data.byteOffset).getFloat32(0, true);
}

/** Columns [begin, begin + width) of rows of `stride`. */
function columns(values: Float32Array, stride: number, begin: number, width: number): Float32Array {
  const rows = values.length / stride;
  const out = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++) {
    out.set(values.subarray(r * stride + begin, r * stride + begin + width), r * width);
  }
  return out;
}
const minus = (a: Float32Array, b: Float32Array) => a.map((value, i) => value - (b[i] ?? NaN));

/** Undoes rope on [tokens, heads, dim], the tokens at positions 0, 1, ... */
function unturned(values: Float32Array, layer: number): Float32Array {
  const dim = headDim(layer);
  const { pairs, theta } = turns(layer);
  const perToken = values.length / ids.length;
  const out = values.slice();
  for (let base = 0; base < values.length; base += dim) {
    const position = Math.floor(base / perToken);
    for (let i = 0; i < pairs; i++) {
      const angle = position * theta ** ((-2 * i) / dim);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      const [a = NaN, b = NaN] = [values[base + i], values[base + i + dim / 2]];
      out[base + i] = a * cos + b * sin;
      out[base + i + dim / 2] = b * cos - a * sin;
    }
  }
  return out;
}

const gelu = (z: number) =>
  0.5 * z * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3)));
/** HF's gate as the kernel leaves it: gelu(gate) times the layer's input. */
function gated(layer: number): Float32Array {
  const inputs = columns(reference('per_layer_inputs'), LAYERS * PLE, layer * PLE, PLE);
  return reference(`${layer}.per_layer_input_gate`).map((z, i) => gelu(z) * (inputs[i] ?? NaN));
}

interface Counted {
  layers: number[];
  inputs: number;
  head: number;
  dispatches: number;
}
type ProbeEvent =
  | { name: string; at: number; count: number }
  | { step: 'before' }
  | ({ step: 'after' } & Omit<Counted, 'dispatches'>);

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

async function probe() {
  const engine = await kernelTests(await openDevice(gpu));
  const places = new Map<string, { at: number; count: number }>();
  const counted: Counted[] = [];
  let before = NaN;
  const dispatches = () => engine.gpu?.counters.dispatches ?? NaN;
  const bytes = await engine.call(
    'decoder_probe',
    [engine.addSource(memorySource('nano-f16.gguf', nanoF16())), idBytes(ids)],
    {
      onEvent(message) {
        const event = message as ProbeEvent;
        if ('name' in event) places.set(event.name, event);
        else if (event.step === 'before') before = dispatches();
        else counted.push({ ...event, dispatches: dispatches() - before });
      },
    },
  ).done;
  engine.destroy();
  const values = new Float32Array(bytes.buffer);
  const at = (name: string) => {
    const place = places.get(name);
    if (!place) throw new Error(`the probe took no ${name}`);
    return values.subarray(place.at, place.at + place.count);
  };
  return { at, counted };
}

class Comparison {
  readonly names: string[] = [];
  private worst = 0;
  private worstName = '';
  add(name: string, found: Float32Array, expected = reference(name)): void {
    const relative = maxAbsDifference(found, expected) / maxAbs(expected);
    expect(relative, name).toBeLessThan(LIMIT);
    this.names.push(name);
    if (relative > this.worst) [this.worst, this.worstName] = [relative, name];
  }
  report(what: string): void {
    report(`${what}: worst of ${this.names.length}, ${this.worstName}`, this.worst, LIMIT);
  }
}

let at: Awaited<ReturnType<typeof probe>>['at'];
let counted: Counted[];
beforeAll(async () => {
  ({ at, counted } = await probe());
}, 600_000);

test('every intermediate tensor of the batch program', () => {
  const batch = new Comparison();
  batch.add('embed', at('0.x'));
  batch.add('per_layer_inputs', at('ple'));
  for (let l = 0; l < LAYERS; l++) {
    const dim = headDim(l);
    const q = HEADS * dim;
    const stride = l < OWN_KV ? q + 2 * dim : q;
    const qkv = at(`${l}.qkv`);
    batch.add(`${l}.input_layernorm`, at(`${l}.attention_input`));
    batch.add(`${l}.self_attn.q_proj`, columns(qkv, stride, 0, q));
    batch.add(`${l}.self_attn.q_norm`, unturned(columns(at(`${l}.qkv_turned`), stride, 0, q), l));
    if (l < OWN_KV) {
      batch.add(`${l}.self_attn.k_proj`, columns(qkv, stride, q, dim));
      batch.add(`${l}.self_attn.v_proj`, columns(qkv, stride, q + dim, dim));
      batch.add(`${l}.self_attn.k_norm`, unturned(at(`${l}.k_cache`), l));
      batch.add(`${l}.self_attn.v_norm`, at(`${l}.v_cache`));
    }
    batch.add(`${l}.self_attn.o_proj`, at(`${l}.attention_output`));
    const [x, xAttention, xFfn] = [at(`${l}.x`), at(`${l}.x_attention`), at(`${l}.x_ffn`)];
    const out = at(`${l + 1}.x`);
    const unscaled = out.map((value) => value / layerScale(l));
    batch.add(`${l}.post_attention_layernorm`, minus(xAttention, x));
    batch.add(`${l}.pre_feedforward_layernorm`, at(`${l}.ffn_input`));
    batch.add(`${l}.mlp`, at(`${l}.ffn_output`));
    batch.add(`${l}.post_feedforward_layernorm`, minus(xFfn, xAttention));
    batch.add(`${l}.per_layer_input_gate`, at(`${l}.ple_gated`), gated(l));
    batch.add(`${l}.per_layer_projection`, at(`${l}.ple_output`));
    batch.add(`${l}.post_per_layer_input_norm`, minus(unscaled, xFfn));
    batch.add(`${l}.out`, out);
  }
  batch.add('final_norm', at('head_input'));
  batch.report('batch program');
  expect(batch.names).toHaveLength(87);
  expect(batch.names.sort()).toEqual(Object.keys(index).sort());
});

// The last token: the last row of everything.
test('every intermediate tensor that the decode program writes', () => {
  const decode = new Comparison();
  const lastRow = (values: Float32Array) => values.subarray((values.length / ids.length) * last);
  const addLast = (name: string, found: Float32Array, expected = reference(name)) =>
    decode.add(name, found, lastRow(expected));
  addLast('embed', at('decode.0.x'));
  addLast('per_layer_inputs', at('decode.ple'));
  for (let l = 0; l < LAYERS; l++) {
    const dim = headDim(l);
    const q = HEADS * dim;
    const qkv = at(`decode.${l}.qkv`);
    addLast(`${l}.self_attn.q_proj`, qkv.subarray(0, q));
    if (l < OWN_KV) {
      addLast(`${l}.self_attn.k_proj`, qkv.subarray(q, q + dim));
      addLast(`${l}.self_attn.v_proj`, qkv.subarray(q + dim));
    }
    addLast(`${l}.self_attn.o_proj`, at(`decode.${l}.attention_output`));
    const [x, xAttention, xFfn] = ['x', 'x_attention', 'x_ffn'].map((name) =>
      at(`decode.${l}.${name}`),
    ) as [Float32Array, Float32Array, Float32Array];
    const out = at(`decode.${l + 1}.x`);
    const unscaled = out.map((value) => value / layerScale(l));
    addLast(`${l}.post_attention_layernorm`, minus(xAttention, x));
    addLast(`${l}.mlp`, at(`decode.${l}.ffn_output`));
    addLast(`${l}.post_feedforward_layernorm`, minus(xFfn, xAttention));
    addLast(`${l}.per_layer_input_gate`, at(`decode.${l}.ple_gated`), gated(l));
    addLast(`${l}.per_layer_projection`, at(`decode.${l}.ple_output`));
    addLast(`${l}.post_per_layer_input_norm`, minus(unscaled, xFfn));
    addLast(`${l}.out`, out);
  }
  decode.report('decode program');
  expect(decode.names).toHaveLength(62);
});

test('a decode step is at most seven dispatches a layer, as the host counts them', () => {
  expect(counted).toHaveLength(1);
  for (const { layers, inputs, head, dispatches } of counted) {
    console.log(`dispatches of a step: ${inputs} + ${layers.join(' + ')} + ${head}`);
    expect(layers).toHaveLength(LAYERS);
    expect(Math.max(...layers)).toBeLessThanOrEqual(7);
    expect(dispatches).toBe(inputs + layers.reduce((a, b) => a + b) + head);
    expect(dispatches - inputs - head).toBeLessThanOrEqual(7 * LAYERS);
  }
});
