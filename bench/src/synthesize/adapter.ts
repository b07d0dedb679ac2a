// A LoRA adapter of random values, to measure what adapters cost: on the seven projections of every layer, as a GGUF
// file in memory. The same model and rank give the same bytes.

import type { ByteSource, FileHeader } from 'lapidary';
import { aligned, headerBytes, type TensorInfo, type Value } from './gguf.js';

const PROJECTION = /^blk\.(\d+)\.(attn_[qkv]|attn_output|ffn_gate|ffn_up|ffn_down)\.weight$/;

/** Numbers from -1 to 1 (xorshift). */
function noise(): () => number {
  let state = 0x9e3779b9;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state / 2 ** 31;
  };
}

/** What it changes of `header`'s model is small: the answers are still those of a model. */
export function syntheticAdapter(header: FileHeader, rank: number): ByteSource {
  const entry = (key: string) => header.metadata[`gemma4.${key}`];
  const owners = Number(entry('block_count')) - Number(entry('attention.shared_kv_layers') ?? 0);
  const tensors: (TensorInfo & { most: number })[] = [];
  let size = 0;
  const place = (name: string, shape: number[], most: number) => {
    tensors.push({ name, shape, type: 'F32', offset: size, most });
    size += aligned(4 * shape.reduce((a, b) => a * b, 1));
  };
  for (const { name, shape } of header.tensors) {
    const [, layer, role = ''] = PROJECTION.exec(name) ?? [];
    const [inputs = 0, outputs = 0] = shape;
    // Keys' and values' matrices of layers that use those of others.
    if (layer === undefined || (/^attn_[kv]$/.test(role) && Number(layer) >= owners)) continue;
    place(`${name}.lora_a`, [inputs, rank], Math.sqrt(3 / inputs));
    place(`${name}.lora_b`, [rank, outputs], 0.01);
  }
  const text = (value: string): Value => ({ type: 'string', value });
  const start = headerBytes(
    new Map<string, Value>([
      ['general.architecture', text('gemma4')],
      ['general.type', text('adapter')],
      ['general.name', text(`synthetic, rank ${rank}`)],
      ['adapter.type', text('lora')],
      ['adapter.lora.alpha', { type: 'f32', value: rank }],
    ]),
    tensors,
  );
  const file = new Uint8Array(start.length + size);
  file.set(start);
  const random = noise();
  for (const { shape, offset, most } of tensors) {
    const values = new Float32Array(
      file.buffer,
      start.length + offset,
      shape.reduce((a, b) => a * b, 1),
    );
    for (let i = 0; i < values.length; i++) values[i] = random() * most;
  }
  return {
    name: 'synthetic adapter',
    size: file.length,
    read: (offset, length) => Promise.resolve(file.subarray(offset, offset + length)),
  };
}
