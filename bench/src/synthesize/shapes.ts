// The shapes of the models that can be made, their tensors with the types that llama-quantize picks for Q4_K_M, and
// their metadata.

import type { BlockType, Tensor, Value } from './gguf.js';
import { vocabulary } from './vocabulary.js';

export interface Shape {
  name: string;
  hidden: number;
  layers: number;
  /** Of the layers that own their keys and values; twice as wide in those that share. */
  ffn: number;
  heads: number;
  kvHeads: number;
  /** Layers at the end that use the keys and values of others. */
  shared: number;
  /** Every so many layers one attends to all positions. */
  period: number;
  window: number;
  perLayer: number;
  headDim: number;
  slidingHeadDim: number;
  vocab: number;
  context: number;
}

const E2B: Shape = {
  name: 'E2B',
  hidden: 1536,
  layers: 35,
  ffn: 6144,
  heads: 8,
  kvHeads: 1,
  shared: 20,
  period: 5,
  window: 512,
  perLayer: 256,
  headDim: 512,
  slidingHeadDim: 256,
  vocab: 262_144,
  context: 131_072,
};
export const SHAPES: Partial<Record<string, Shape>> = {
  e2b: E2B,
  tiny: {
    ...E2B,
    name: 'tiny',
    hidden: 256,
    layers: 10,
    ffn: 512,
    heads: 4,
    headDim: 128,
    slidingHeadDim: 64,
    shared: 5,
    window: 128,
    vocab: 2048,
    context: 4096,
  },
};

const sliding = ({ period, layers }: Shape, layer: number): boolean =>
  (layer + 1) % period !== 0 && layer !== layers - 1;

/** Whether llama-quantize gives layer `i` of `n` the better type in its _M mixes. */
const better = (i: number, n: number): boolean => {
  const eighth = Math.floor(n / 8);
  return i < eighth || i >= Math.floor((7 * n) / 8) || (i - eighth) % 3 === 2;
};

export function tensorsOf(shape: Shape): Tensor[] {
  const { hidden, layers, perLayer, vocab } = shape;
  const tensors: Tensor[] = [];
  const matrix = (name: string, inputs: number, outputs: number, type: BlockType = 'Q4_K') =>
    tensors.push({ name: `${name}.weight`, shape: [inputs, outputs], type, kind: 'matrix' });
  const vector = (name: string, size: number, kind: Tensor['kind'] = 'norm') =>
    tensors.push({ name: `${name}.weight`, shape: [size], type: 'F32', kind });

  matrix('token_embd', hidden, vocab, 'Q6_K');
  matrix('per_layer_token_embd', perLayer * layers, vocab, 'Q6_K');
  matrix('per_layer_model_proj', hidden, perLayer * layers, 'BF16');
  vector('per_layer_proj_norm', perLayer);
  vector('output_norm', hidden);
  vector('rope_freqs', shape.headDim / 2, 'rope');
  for (let i = 0; i < layers; i++) {
    const block = `blk.${i}.`;
    const headDim = sliding(shape, i) ? shape.slidingHeadDim : shape.headDim;
    const ffn = ffnOf(shape, i);
    const mixed = better(i, layers) ? 'Q6_K' : 'Q4_K';
    vector(`${block}attn_norm`, hidden);
    matrix(`${block}attn_q`, hidden, shape.heads * headDim);
    matrix(`${block}attn_k`, hidden, shape.kvHeads * headDim);
    matrix(`${block}attn_v`, hidden, shape.kvHeads * headDim, mixed);
    matrix(`${block}attn_output`, shape.heads * headDim, hidden);
    vector(`${block}attn_q_norm`, headDim);
    vector(`${block}attn_k_norm`, headDim);
    vector(`${block}post_attention_norm`, hidden);
    vector(`${block}layer_output_scale`, 1, 'one');
    vector(`${block}ffn_norm`, hidden);
    matrix(`${block}ffn_gate`, hidden, ffn);
    matrix(`${block}ffn_up`, hidden, ffn);
    matrix(`${block}ffn_down`, ffn, hidden, mixed);
    vector(`${block}post_ffw_norm`, hidden);
    matrix(`${block}inp_gate`, hidden, perLayer);
    matrix(`${block}proj`, perLayer, hidden);
    vector(`${block}post_norm`, hidden);
  }
  return tensors;
}

const ffnOf = ({ ffn, layers, shared }: Shape, layer: number): number =>
  layer < layers - shared ? ffn : 2 * ffn;

export function metadataOf(shape: Shape, seed: number): Map<string, Value> {
  const u32 = (value: number): Value => ({ type: 'u32', value });
  const f32 = (value: number): Value => ({ type: 'f32', value });
  const string = (value: string): Value => ({ type: 'string', value });
  const perLayer = Array.from({ length: shape.layers }, (_, i) => i);
  const { tokens, types, merges } = vocabulary(shape.vocab);
  const model: Record<string, Value> = {
    block_count: u32(shape.layers),
    context_length: u32(shape.context),
    embedding_length: u32(shape.hidden),
    feed_forward_length: { type: 'i32s', value: perLayer.map((i) => ffnOf(shape, i)) },
    'attention.head_count': u32(shape.heads),
    'attention.head_count_kv': u32(shape.kvHeads),
    'attention.key_length': u32(shape.headDim),
    'attention.value_length': u32(shape.headDim),
    'attention.key_length_swa': u32(shape.slidingHeadDim),
    'attention.value_length_swa': u32(shape.slidingHeadDim),
    'attention.layer_norm_rms_epsilon': f32(1e-6),
    'attention.sliding_window': u32(shape.window),
    'attention.sliding_window_pattern': {
      type: 'bools',
      value: perLayer.map((i) => sliding(shape, i)),
    },
    'attention.shared_kv_layers': u32(shape.shared),
    embedding_length_per_layer_input: u32(shape.perLayer),
    final_logit_softcapping: f32(30),
    'rope.freq_base': f32(1e6),
    'rope.freq_base_swa': f32(1e4),
    'rope.dimension_count': u32(shape.headDim),
    'rope.dimension_count_swa': u32(shape.slidingHeadDim),
  };
  return new Map<string, Value>([
    ['general.architecture', string('gemma4')],
    ['general.type', string('model')],
    ['general.name', string(`Gemma 4 ${shape.name}, synthetic, seed ${seed}`)],
    ['general.license', string('apache-2.0')],
    ['general.file_type', u32(15)],
    ['general.quantization_version', u32(2)],
    ...Object.entries(model).map(([key, value]): [string, Value] => [`gemma4.${key}`, value]),
    ['tokenizer.ggml.model', string('gemma4')],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.scores', { type: 'f32s', value: tokens.map((_, id) => -id) }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    ['tokenizer.ggml.merges', { type: 'strings', value: merges }],
    ['tokenizer.ggml.bos_token_id', u32(2)],
    ['tokenizer.ggml.eos_token_id', u32(106)],
    ['tokenizer.ggml.unknown_token_id', u32(3)],
    ['tokenizer.ggml.padding_token_id', u32(0)],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: true }],
    ['tokenizer.ggml.add_space_prefix', { type: 'bool', value: false }],
    ['tokenizer.chat_template', string(TEMPLATE)],
  ]);
}

const TEMPLATE =
  "{{ bos_token }}{% for m in messages %}{{ '<|turn>' + m['role'] + '\\n' + m['content'] + '<turn|>\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}";
