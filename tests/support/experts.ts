// Other forms of a mixture of experts: as files of other producers have it, and with wider experts in other formats.

import { noise } from './adapters.ts';
import { BLOCK_FORMATS, randomBlocks } from './blocks.ts';
import { GgmlType, parseGguf, writeGguf, type Tensor } from './gguf.ts';

type Format = keyof typeof BLOCK_FORMATS | 'F32';

const rewritten = (file: Uint8Array, change: (tensor: Tensor) => Tensor[]): Uint8Array => {
  const parsed = parseGguf(file);
  return writeGguf({ ...parsed, tensors: parsed.tensors.flatMap(change) });
};

/** Gate and up of `tensor` apart, and the experts' scales under their older name. */
export function olderNames(file: Uint8Array): Uint8Array {
  return rewritten(file, (tensor) => {
    const { name, dims, type, data } = tensor;
    if (name.endsWith('.ffn_down_exps.scale'))
      return [
        { ...tensor, name: name.replace('ffn_down_exps.scale', 'ffn_gate_inp.per_expert_scale') },
      ];
    if (!name.endsWith('.ffn_gate_up_exps.weight')) return [tensor];
    const [width = 0, rows = 0, experts = 0] = dims;
    const half = data.length / experts / 2;
    return ['gate', 'up'].map((part, i): Tensor => {
      const own = new Uint8Array(half * experts);
      for (let e = 0; e < experts; e++)
        own.set(data.subarray((2 * e + i) * half, (2 * e + i + 1) * half), e * half);
      return {
        name: name.replace('gate_up', part),
        dims: [width, rows / 2, experts],
        type,
        data: own,
      };
    });
  });
}

/**
 * The same with random experts `ffn` wide. Two formats of gate and up are of the split form; one is of the fused.
 */
export function widerExperts(
  file: Uint8Array,
  ffn: number,
  input: Format[],
  output: Format,
): Uint8Array {
  let seed = 0;
  const random = (name: string, dims: number[], format: Format): Tensor => {
    const count = dims.reduce((product, size) => product * size, 1);
    const spread = 1 / Math.sqrt(dims[0] ?? 1);
    seed++;
    if (format !== 'F32')
      return {
        ...{ name, dims, type: BLOCK_FORMATS[format].type },
        data: randomBlocks(format, count, spread, seed),
      };
    const next = noise(seed);
    const values = Float32Array.from({ length: count }, () => next() * spread * Math.sqrt(3));
    return { name, dims, type: GgmlType.F32, data: new Uint8Array(values.buffer) };
  };
  const parsed = parseGguf(file);
  parsed.metadata.set('gemma4.expert_feed_forward_length', { type: 'u32', value: ffn });
  const tensors = parsed.tensors.flatMap((tensor) => {
    const [, layer = '', matrix] =
      /^(blk\.\d+)\.ffn_(gate_up|down)_exps\.weight$/.exec(tensor.name) ?? [];
    const hidden = tensor.dims[0] ?? 0;
    const experts = tensor.dims[2] ?? 0;
    if (matrix === 'down')
      return [random(tensor.name, [ffn, tensor.dims[1] ?? 0, experts], output)];
    if (matrix === undefined) return [tensor];
    const [gate = 'F32', up] = input;
    if (up === undefined) return [random(tensor.name, [hidden, 2 * ffn, experts], gate)];
    return [
      random(`${layer}.ffn_gate_exps.weight`, [hidden, ffn, experts], gate),
      random(`${layer}.ffn_up_exps.weight`, [hidden, ffn, experts], up),
    ];
  });
  return writeGguf({ ...parsed, tensors });
}
