// How long a model takes to its first token after a picture and after 30 s of sound, with towers of E2B's size:
//   node bench/media.mjs MODEL.gguf PROJECTOR.gguf     (the projector is written where there is none: random, 1 GB)
// A model in E2B's shapes comes from `lapidary bench --synthesize e2b`. Nothing that it says is looked at: what the towers
// compute is checked by tests/model/vision.test.ts and audio.test.ts.
import { existsSync, openSync, writeSync, closeSync } from 'node:fs';
import { headerBytes, aligned } from '@lapidary/bench/gguf';
import { Model } from 'lapidary/node';

const F32 = 0;
const BF16 = 30;
const OUTPUT = 1536;
const REPEATS = 6;

/** Tensors of E2B's towers, [name, row length first], and the metadata. */
function projector() {
  const tensors = [];
  const norm = (name, size) => tensors.push({ name, shape: [size], type: F32, value: 1 });
  const matrix = (name, inputs, outputs) =>
    tensors.push({ name: `${name}.weight`, shape: [inputs, outputs], type: BF16 });
  const plain = (name, ...shape) => tensors.push({ name, shape, type: F32 });
  const linear = (name, inputs, outputs) => {
    matrix(name, inputs, outputs);
    for (const end of ['input', 'output']) {
      tensors.push({ name: `${name}.${end}_min`, shape: [1], type: F32, value: -40 });
      tensors.push({ name: `${name}.${end}_max`, shape: [1], type: F32, value: 40 });
    }
  };
  const [seen, heard] = [768, 1024];
  plain('v.patch_embd.weight', 16, 16, 3, seen);
  plain('v.position_embd.weight', seen, 10_240, 2);
  for (let i = 0; i < 16; i++) {
    const block = `v.blk.${i}.`;
    for (const each of ['ln1', 'ln2', 'attn_post_norm', 'ffn_post_norm']) {
      norm(`${block}${each}.weight`, seen);
    }
    for (const each of ['attn_q_norm', 'attn_k_norm']) norm(`${block}${each}.weight`, 64);
    for (const each of ['attn_q', 'attn_k', 'attn_v', 'attn_out']) linear(block + each, seen, seen);
    for (const each of ['ffn_gate', 'ffn_up']) linear(block + each, seen, 4 * seen);
    linear(`${block}ffn_down`, 4 * seen, seen);
  }
  matrix('mm.input_projection', seen, OUTPUT);
  plain('a.conv1d.0.weight', 3, 3, 1, 128);
  plain('a.conv1d.1.weight', 3, 3, 128, 32);
  norm('a.conv1d.0.norm.weight', 128);
  norm('a.conv1d.1.norm.weight', 32);
  matrix('a.input_projection', heard, heard);
  for (let i = 0; i < 12; i++) {
    const block = `a.blk.${i}.`;
    for (const each of ['ffn_norm', 'ffn_post_norm', 'ffn_norm_1', 'ffn_post_norm_1', 'ln2']) {
      norm(`${block}${each}.weight`, heard);
    }
    for (const each of ['attn_pre_norm', 'attn_post_norm', 'norm_conv', 'conv_norm']) {
      norm(`${block}${each}.weight`, heard);
    }
    for (const each of ['attn_q', 'attn_k', 'attn_v', 'attn_out', 'conv_pw2']) {
      linear(block + each, heard, heard);
    }
    for (const each of ['ffn_up', 'ffn_up_1']) linear(block + each, heard, 4 * heard);
    for (const each of ['ffn_down', 'ffn_down_1']) linear(block + each, 4 * heard, heard);
    linear(`${block}conv_pw1`, heard, 2 * heard);
    matrix(`${block}attn_k_rel`, heard, heard);
    norm(`${block}per_dim_scale.weight`, heard / 8);
    plain(`${block}conv_dw.weight`, 5, heard);
  }
  matrix('a.pre_encode.out', heard, OUTPUT);
  tensors.push({ name: 'a.pre_encode.out.bias', shape: [OUTPUT], type: F32, value: 0 });
  matrix('mm.a.input_projection', OUTPUT, OUTPUT);

  const string = (value) => ({ type: 'string', value });
  const numbers = (prefix, values) =>
    Object.entries(values).map(([key, value]) => [`clip.${prefix}.${key}`, { type: 'u32', value }]);
  const metadata = new Map([
    ['general.architecture', string('clip')],
    ['general.type', string('mmproj')],
    ['clip.has_vision_encoder', { type: 'bool', value: true }],
    ['clip.has_audio_encoder', { type: 'bool', value: true }],
    ['clip.use_gelu', { type: 'bool', value: true }],
    ['clip.vision.projector_type', string('gemma4v')],
    ['clip.audio.projector_type', string('gemma4a')],
    ...numbers('vision', { patch_size: 16, embedding_length: seen, feed_forward_length: 4 * seen }),
    ...numbers('vision', { block_count: 16, 'attention.head_count': 12, projection_dim: OUTPUT }),
    ...numbers('audio', { embedding_length: heard, feed_forward_length: 4 * heard }),
    ...numbers('audio', { block_count: 12, 'attention.head_count': 8, num_mel_bins: 128 }),
    ...numbers('audio', { projection_dim: OUTPUT }),
  ]);
  return { tensors, metadata };
}

function writeProjector(path) {
  const { tensors, metadata } = projector();
  let offset = 0;
  const placed = tensors.map((tensor) => {
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    const at = offset;
    offset += aligned(count * (tensor.type === F32 ? 4 : 2));
    return { ...tensor, count, offset: at };
  });
  const file = openSync(path, 'w');
  writeSync(file, headerBytes(metadata, placed));
  let state = 1;
  for (const { count, shape, type, value } of placed) {
    const spread = Math.sqrt(12 / shape.slice(0, -1).reduce((a, b) => a * b, 1));
    const values = Float32Array.from({ length: count }, () => {
      if (value !== undefined) return value;
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return (state / 2 ** 32 - 0.5) * spread;
    });
    const words = new Uint32Array(values.buffer);
    const data = type === F32 ? values : Uint16Array.from(words, (bits) => bits >>> 16);
    const bytes = new Uint8Array(aligned(data.byteLength));
    bytes.set(new Uint8Array(data.buffer));
    writeSync(file, bytes);
  }
  closeSync(file);
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

async function measure(model, name, part) {
  const all = [];
  const encode = [];
  let tokens = 0;
  for (let i = 0; i < REPEATS; i++) {
    const content = [part(i), { type: 'text', text: 'What is this?' }];
    const start = performance.now();
    const reply = model.chat([{ role: 'user', content }], { temperature: 0, maxTokens: 1 });
    for await (const event of reply) {
      if (event.type === 'media' && event.processed === event.total) {
        encode.push(performance.now() - start);
      }
    }
    all.push(performance.now() - start);
    tokens = (await reply.report()).usage.promptTokens;
  }
  // The first also loads the tower and compiles its kernels.
  const [cold] = all;
  const warm = (values) => median(values.slice(1)).toFixed(0);
  console.log(
    `${name}: first token after ${warm(all)} ms (encoded after ${warm(encode)}), cold ${cold.toFixed(0)}; ${tokens} tokens`,
  );
}

const [file, towers] = process.argv.slice(2);
if (!file || !towers) throw new Error('usage: node bench/media.mjs MODEL.gguf PROJECTOR.gguf');
if (!existsSync(towers)) writeProjector(towers);
const model = await Model.load(file, { projector: towers, contextLength: 4096 });
const { description, software } = model.device;
console.log(`${description}${software ? ' (software)' : ''}`);
const picture = (side, seed) => {
  const data = Uint8Array.from(
    { length: side * side * 3 },
    (_, i) => (i * 7 + seed * 13 + (i >> 9)) & 255,
  );
  return { width: side, height: side, data };
};
await measure(model, 'a picture, 280 tokens at most', (i) => ({
  type: 'image',
  image: picture(800, i),
}));
await measure(model, 'a picture, 1,120 tokens at most', (i) => ({
  type: 'image',
  image: picture(1600, i),
  maxTokens: 1120,
}));
await measure(model, '30 s of sound', (i) => ({
  type: 'audio',
  audio: Float32Array.from({ length: 480_000 }, (_, k) => 0.3 * Math.sin(k * (0.05 + i * 0.01))),
}));
await model.close();
