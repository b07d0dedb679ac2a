// Nano cut down to two of its layers, for drivers that take long to compile: a sliding layer and a global one. It says
// nothing that makes sense; what it must say, the reference model knows.

import { GgmlType, parseGguf, writeGguf, type Tensor } from './gguf.ts';

const KEPT = [1, 2];

/** Halves [from, from + count) of every row. */
function columns({ dims, data }: Tensor, from: number, count: number): Uint8Array {
  const [width = 0, rows = 0] = dims;
  const out = new Uint8Array(rows * count * 2);
  for (let row = 0; row < rows; row++) {
    const start = (row * width + from) * 2;
    out.set(data.subarray(start, start + count * 2), row * count * 2);
  }
  return out;
}

/** `file` is nano in F16, and so is what comes back. */
export function twoLayers(file: Uint8Array): Uint8Array {
  const { version, metadata, tensors } = parseGguf(file);
  const [first = 0] = KEPT;
  metadata.set('gemma4.block_count', { type: 'u32', value: KEPT.length });
  metadata.set('gemma4.feed_forward_length', { type: 'i32s', value: [256, 256] });
  metadata.set('gemma4.attention.shared_kv_layers', { type: 'u32', value: 0 });
  metadata.set('gemma4.attention.sliding_window_pattern', { type: 'bools', value: [true, false] });
  const cut = (tensor: Tensor): Tensor[] => {
    const { name, dims, data, type } = tensor;
    const [width = 0, rows = 0] = dims;
    const [, layer, rest] = /^blk\.(\d+)\.(.*)$/.exec(name) ?? [];
    if (layer !== undefined) {
      const place = KEPT.indexOf(Number(layer));
      return place < 0 ? [] : [{ ...tensor, name: `blk.${place}.${rest}` }];
    }
    if (!/^per_layer_(token_embd|model_proj)\./.test(name)) return [tensor];
    if (type !== GgmlType.F16) throw new Error(`${name} is not F16`);
    // 256 values a layer: columns of the table, rows of the projection.
    const kept = 256 * KEPT.length;
    const from = 256 * first;
    return name.startsWith('per_layer_token_embd')
      ? [{ ...tensor, dims: [kept, rows], data: columns(tensor, from, kept) }]
      : [
          {
            ...tensor,
            dims: [width, kept],
            data: data.subarray(from * width * 2, (from + kept) * width * 2),
          },
        ];
  };
  return writeGguf({ version, metadata, tensors: tensors.flatMap(cut) });
}
