// The audio tower of a small random model against an independent float64 reference, through tests/kernels/audio_probe.cpp:
// whole recordings and pieces, both producers' files, and files that are damaged.

import type { Value } from '@lapidary/bench/gguf';
import { openDevice } from 'lapidary/node';
import { beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, readFixture, readFloats } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf, type GgufFile, type Tensor } from '../support/gguf.ts';
import { kernelTests } from '../support/kernel-tests.ts';

const HIDDEN = 32;
const BINS = 128;
const FRAMES = 68;
const LIMIT = 1e-3; // relative to the largest value
const WHOLE = 1000; // frames at once
const RANGE = /\.(input|output)_(min|max)$/;

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

const tower = () => parseGguf(readFixture('audio/tiny-audio.gguf.gz'));
const mel = readFloats('audio/mel.f32.gz');
const frames = mel.map((value) => Math.log(value + 1e-3));
const rows = readFloats('audio/rows.f32');
const HF = rows.subarray(0, rows.length / 2);
const LLAMA = rows.subarray(rows.length / 2);

let engine: Awaited<ReturnType<typeof kernelTests>>;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});

async function encode(file: GgufFile, input = frames, piece = WHOLE, again = false) {
  const source = engine.addSource(memorySource('tower.gguf', writeGguf(file)));
  const args = [source, HIDDEN, new Uint8Array(input.slice().buffer), piece, again ? 1 : 0];
  const bytes = await engine.call('audio_probe', args).done;
  return new Float32Array(bytes.buffer);
}

function expectRows(what: string, found: Float32Array, expected: Float32Array, limit = LIMIT) {
  expect(found).toHaveLength(expected.length);
  const difference = maxAbsDifference(found, expected) / maxAbs(expected);
  report(what, difference, limit);
  expect(difference).toBeLessThan(limit);
}

function floats(name: string, values: number[]): Tensor {
  const data = new Uint8Array(Float32Array.from(values).buffer);
  return { name, dims: [values.length], type: GgmlType.F32, data };
}
const without = (tensors: Tensor[], ...ends: string[]) =>
  tensors.filter(({ name }) => !ends.some((end) => name.endsWith(end)));

/** As Ollama keeps it: in the model's own file, under names of which two mean something else in llama.cpp's. */
function ollama({ version, tensors }: GgufFile): GgufFile {
  const renamed: [RegExp, string][] = [
    [/^a\.pre_encode\.out\./, 'mm.a.fc.'],
    [/^a\.input_projection\./, 'a.pre_encode.out.'],
    [/\.ln2\./, '.layer_pre_norm.'],
    [/\.attn_pre_norm\./, '.ln1.'],
    [/\.attn_post_norm\./, '.ln2.'],
    [/\.attn_k_rel\./, '.linear_pos.'],
  ];
  const u32 = (value: number) => ({ type: 'u32', value }) as const;
  return {
    version,
    metadata: new Map<string, Value>([
      ['gemma4.audio.block_count', u32(2)],
      ['gemma4.audio.embedding_length', u32(32)],
      ['gemma4.audio.feed_forward_length', u32(128)],
      ['gemma4.audio.attention.head_count', u32(4)],
      ['gemma4.audio.conv_kernel_size', u32(5)],
      ['gemma4.audio.attention.layer_norm_epsilon', { type: 'f32', value: 1e-6 }],
    ]),
    tensors: tensors.map((tensor) => {
      const [from, to] = renamed.find(([pattern]) => pattern.test(tensor.name)) ?? [/$/, ''];
      return { ...tensor, name: tensor.name.replace(from, to) };
    }),
  };
}

test('soft tokens are those of the reference', async () => {
  expect(frames).toHaveLength(FRAMES * BINS);
  expectRows('HF', await encode(tower()), HF);
  const floored = mel.map((value) => Math.log(Math.max(value, 1e-3)));
  expectRows('mel as in llama.cpp', await encode(tower(), floored), LLAMA);
});

test('a recording leaves nothing behind for the next', async () => {
  expectRows('after another recording', await encode(tower(), frames, WHOLE, true), HF);
});

test.each([
  [FRAMES, 1],
  [FRAMES, 29],
  [6, 4],
])('%i frames, encoded %i at a time as they are recorded', async (count, piece) => {
  const part = frames.subarray(0, count * BINS);
  const whole = await encode(tower(), part);
  expect(whole).toHaveLength(Math.ceil(count / 4) * HIDDEN);
  expectRows('in pieces', await encode(tower(), part, piece), whole, 1e-5);
});

test('a tower in Ollama’s form, and one without clip ranges', async () => {
  expectRows('Ollama', await encode(ollama(tower())), HF);
  const file = tower();
  const plain = file.tensors.filter(({ name }) => !RANGE.test(name));
  const wide = file.tensors.map((tensor) => {
    if (!RANGE.test(tensor.name)) return tensor;
    return floats(tensor.name, [tensor.name.endsWith('min') ? -1e30 : 1e30]);
  });
  const expected = await encode({ ...file, tensors: wide });
  expectRows('no clip ranges', await encode({ ...file, tensors: plain }), expected, 1e-6);
  expect(maxAbsDifference(expected, HF) / maxAbs(HF)).toBeGreaterThan(LIMIT);
});

test('damaged and foreign towers are refused', async () => {
  const setting = (key: string, value: Value) => (file: GgufFile) => ({
    ...file,
    metadata: new Map(file.metadata).set(key, value),
  });
  const lacking = (end: string) => (file: GgufFile) => ({
    ...file,
    tensors: without(file.tensors, end),
  });
  const replacing = (tensor: Tensor) => (file: GgufFile) => ({
    ...file,
    tensors: [...without(file.tensors, tensor.name), tensor],
  });
  const u32 = (value: number): Value => ({ type: 'u32', value });
  const cases: [string, string, (file: GgufFile) => GgufFile][] = [
    ['not_found', 'a.blk.1.ln2.weight', lacking('blk.1.ln2.weight')],
    ['not_found', 'a.conv1d.1.weight', lacking('a.conv1d.1.weight')],
    ['not_found', 'a.pre_encode.out.bias', lacking('out.bias')],
    ['not_found', 'no audio tower', (file) => ({ ...file, metadata: new Map() })],
    ['invalid_format', 'norm_conv', replacing(floats('a.blk.1.norm_conv.weight', [1, 2]))],
    ['invalid_format', 'clip range', replacing(floats('a.blk.0.attn_q.input_min', [NaN]))],
    ['invalid_format', 'single', replacing(floats('a.blk.0.attn_q.input_min', [1, 2]))],
    [
      'invalid_format',
      'a.blk.0.conv_dw.weight',
      replacing({
        name: 'a.blk.0.conv_dw.weight',
        dims: [17, HIDDEN],
        type: GgmlType.F32,
        data: new Uint8Array(17 * HIDDEN * 4),
      }),
    ],
    ['invalid_format', 'heads', setting('clip.audio.attention.head_count', u32(3))],
    ['invalid_format', 'block_count', setting('clip.audio.block_count', u32(100_000))],
    ['unsupported', 'num_mel_bins', setting('clip.audio.num_mel_bins', u32(640))],
    [
      'unsupported',
      'gemma4ua',
      setting('clip.audio.projector_type', { type: 'string', value: 'gemma4ua' }),
    ],
  ];
  for (const [code, words, damage] of cases) {
    const failure = await encode(damage(tower())).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failure, words).toMatchObject({ code });
    expect(String(failure)).toContain(words);
  }
});

test('frames of more than a window, and parts of frames, are refused', async () => {
  for (const input of [new Float32Array(3000 * BINS), frames.subarray(0, 200)]) {
    const failure = await encode(tower(), input, 5000).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'invalid_argument' });
  }
});
