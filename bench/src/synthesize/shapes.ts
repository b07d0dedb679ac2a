// The shapes of the models that can be made, their tensors with the types that llama-quantize picks for Q4_K_M, and
// their metadata.

import { BLOCK, type BlockType, type Tensor, type Value } from './gguf.js';
import { vocabulary } from './vocabulary.js';

export interface Shape {
  name: string;
  hidden: number;
  layers: number;
  ffn: number;
  /** Whether layers that share keys and values have twice that. */
  wideShared?: boolean;
  heads: number;
  kvHeads: number;
  /** Of layers that attend to all positions, where they differ: these have no values of their own, but take the keys. */
  globalKvHeads?: number;
  /** Layers at the end that use the keys and values of others. */
  shared: number;
  /** Every so many layers one attends to all positions. */
  period: number;
  window: number;
  /** Width of the per-layer embedding; 0: there is none. */
  perLayer: number;
  experts?: { count: number; used: number; ffn: number };
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
  wideShared: true,
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
const E4B: Shape = {
  ...E2B,
  name: 'E4B',
  hidden: 2560,
  layers: 42,
  ffn: 10_240,
  wideShared: false,
  kvHeads: 2,
  shared: 18,
  period: 6,
};
const DENSE_12B: Shape = {
  ...E2B,
  name: '12B',
  hidden: 3840,
  layers: 48,
  ffn: 15_360,
  heads: 16,
  kvHeads: 8,
  globalKvHeads: 1,
  shared: 0,
  period: 6,
  window: 1024,
  perLayer: 0,
  context: 262_144,
};
const DENSE_31B: Shape = {
  ...DENSE_12B,
  name: '31B',
  hidden: 5376,
  layers: 60,
  ffn: 21_504,
  heads: 32,
  kvHeads: 16,
  globalKvHeads: 4,
};
const EXPERTS_26B: Shape = {
  ...DENSE_12B,
  name: '26B-A4B',
  hidden: 2816,
  layers: 30,
  ffn: 2112,
  globalKvHeads: 2,
  experts: { count: 128, used: 8, ffn: 704 },
};
export const SHAPES: Partial<Record<string, Shape>> = {
  e2b: E2B,
  e4b: E4B,
  '12b': DENSE_12B,
  '26b-a4b': EXPERTS_26B,
  '31b': DENSE_31B,
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
  const matrix = (
    name: string,
    inputs: number,
    outputs: number,
    type: BlockType = 'Q4_K',
    ...more: number[]
  ) =>
    tensors.push({
      name: `${name}.weight`,
      shape: [inputs, outputs, ...more],
      type: fitting(type, inputs),
      kind: 'matrix',
    });
  const vector = (name: string, size: number, kind: Tensor['kind'] = 'norm') =>
    tensors.push({ name: `${name}.weight`, shape: [size], type: 'F32', kind });

  matrix('token_embd', hidden, vocab, 'Q6_K');
  if (perLayer > 0) {
    matrix('per_layer_token_embd', perLayer * layers, vocab, 'Q6_K');
    matrix('per_layer_model_proj', hidden, perLayer * layers, 'BF16');
    vector('per_layer_proj_norm', perLayer);
  }
  vector('output_norm', hidden);
  vector('rope_freqs', shape.headDim / 2, 'rope');
  const withValues = Array.from({ length: layers }, (_, i) => i).filter((i) => hasValues(shape, i));
  for (let i = 0; i < layers; i++) {
    const block = `blk.${i}.`;
    const headDim = sliding(shape, i) ? shape.slidingHeadDim : shape.headDim;
    const ffn = ffnOf(shape, i);
    const mixed = better(i, layers) ? 'Q6_K' : 'Q4_K';
    vector(`${block}attn_norm`, hidden);
    matrix(`${block}attn_q`, hidden, shape.heads * headDim);
    matrix(`${block}attn_k`, hidden, kvHeadsOf(shape, i) * headDim);
    if (hasValues(shape, i)) {
      const type = better(withValues.indexOf(i), withValues.length) ? 'Q6_K' : 'Q4_K';
      matrix(`${block}attn_v`, hidden, kvHeadsOf(shape, i) * headDim, type);
    }
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
    if (shape.experts) {
      const { count, ffn: expertFfn } = shape.experts;
      matrix(`${block}ffn_gate_inp`, hidden, count, 'F32');
      tensors.push({
        name: `${block}ffn_gate_inp.scale`,
        shape: [hidden],
        type: 'F32',
        kind: 'norm',
      });
      for (const norm of ['pre_ffw_norm_2', 'post_ffw_norm_1', 'post_ffw_norm_2']) {
        vector(`${block}${norm}`, hidden);
      }
      matrix(`${block}ffn_gate_up_exps`, hidden, 2 * expertFfn, 'Q4_K', count);
      matrix(`${block}ffn_down_exps`, expertFfn, hidden, mixed, count);
      tensors.push({
        name: `${block}ffn_down_exps.scale`,
        shape: [count],
        type: 'F32',
        kind: 'one',
      });
    }
    if (perLayer > 0) {
      matrix(`${block}inp_gate`, hidden, perLayer);
      matrix(`${block}proj`, perLayer, hidden);
      vector(`${block}post_norm`, hidden);
    }
  }
  return tensors;
}

/** What llama-quantize takes instead where rows are not whole blocks of 256. */
const fitting = (type: BlockType, row: number): BlockType =>
  row % BLOCK[type].elements === 0 ? type : type === 'Q6_K' ? 'Q8_0' : 'Q5_0';

const ffnOf = ({ ffn, wideShared, layers, shared }: Shape, layer: number): number =>
  wideShared && layer >= layers - shared ? 2 * ffn : ffn;

const kvHeadsOf = (shape: Shape, layer: number): number =>
  sliding(shape, layer) ? shape.kvHeads : (shape.globalKvHeads ?? shape.kvHeads);

const hasValues = (shape: Shape, layer: number): boolean =>
  shape.globalKvHeads === undefined || sliding(shape, layer);

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
    'attention.head_count_kv':
      shape.globalKvHeads === undefined
        ? u32(shape.kvHeads)
        : { type: 'i32s', value: perLayer.map((i) => kvHeadsOf(shape, i)) },
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
    ...(shape.experts && {
      expert_count: u32(shape.experts.count),
      expert_used_count: u32(shape.experts.used),
      expert_feed_forward_length: u32(shape.experts.ffn),
    }),
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
