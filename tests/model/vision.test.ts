// The vision tower of a small random model against an independent float64 reference, through tests/kernels/vision_probe.cpp:
// HF's variant, its options, both producers' files, and files that are damaged.

import type { Value } from '@lapidary/bench/gguf';
import { openDevice } from 'lapidary/node';
import { beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, readFixture, readFloats } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf, type GgufFile, type Tensor } from '../support/gguf.ts';
import { kernelTests } from '../support/kernel-tests.ts';
import { picture } from '../support/raw-media.ts';

const HIDDEN = 32;
const LIMIT = 1e-3; // relative to the largest value
const WIDTH = 144;
const HEIGHT = 96;
const LINEARS = ['attn_q', 'attn_k', 'attn_v', 'attn_out', 'ffn_gate', 'ffn_up', 'ffn_down'];
const RANGE = ['input_min', 'input_max', 'output_min', 'output_max'];

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

const tower = () => parseGguf(readFixture('vision/tiny-vision.gguf.gz'));
const rows = readFloats('vision/rows.f32');
const variant = (index: number) => rows.subarray(index * 6 * HIDDEN, (index + 1) * 6 * HIDDEN);
const [HF, QUICK, STANDARDISED] = [variant(0), variant(1), variant(2)];

let engine: Awaited<ReturnType<typeof kernelTests>>;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});

async function encode(file: GgufFile, again = false): Promise<Float32Array> {
  const source = engine.addSource(memorySource('tower.gguf', writeGguf(file)));
  const args = [source, HIDDEN, picture(WIDTH, HEIGHT), WIDTH, HEIGHT, again ? 1 : 0];
  const bytes = await engine.call('vision_probe', args).done;
  return new Float32Array(bytes.buffer);
}

async function expectRows(what: string, file: GgufFile, expected: Float32Array, again = false) {
  const difference = maxAbsDifference(await encode(file, again), expected) / maxAbs(expected);
  report(what, difference, LIMIT);
  expect(difference).toBeLessThan(LIMIT);
}

function floats(name: string, values: ArrayLike<number>): Tensor {
  const data = new Uint8Array(Float32Array.from(values).buffer);
  return { name, dims: [values.length], type: GgmlType.F32, data };
}
const without = (tensors: Tensor[], ...ends: string[]) =>
  tensors.filter(({ name }) => !ends.some((end) => name.endsWith(end)));
const number = (tensors: Tensor[], name: string): number => {
  const found = tensors.find((tensor) => tensor.name === name);
  if (!found) throw new Error(`the fixture has no ${name}`);
  return new DataView(found.data.buffer, found.data.byteOffset).getFloat32(0, true);
};

/** As Ollama keeps it: in the model's own file, with the clip ranges in one tensor. */
function ollama({ version, tensors }: GgufFile): GgufFile {
  const clips = [0, 1].flatMap((layer) =>
    LINEARS.flatMap((linear) =>
      RANGE.map((end) => number(tensors, `v.blk.${layer}.${linear}.${end}`)),
    ),
  );
  const none = [-Infinity, Infinity, -Infinity, Infinity];
  const u32 = (value: number) => ({ type: 'u32', value }) as const;
  return {
    version,
    metadata: new Map<string, Value>([
      ['gemma4.vision.block_count', u32(2)],
      ['gemma4.vision.embedding_length', u32(32)],
      ['gemma4.vision.feed_forward_length', u32(48)],
      ['gemma4.vision.attention.head_count', u32(4)],
      ['gemma4.vision.attention.layer_norm_epsilon', { type: 'f32', value: 1e-6 }],
    ]),
    tensors: [
      ...without(tensors, ...RANGE),
      floats('v.clamp_data', [...clips, ...none]),
      floats('model.vision_tower.left.over', [1]),
    ],
  };
}

test('soft tokens are those of the reference', async () => {
  await expectRows('HF', tower(), HF);
});

test('a picture leaves nothing behind for the next', async () => {
  await expectRows('after another picture', tower(), HF, true);
});

test('clip.use_gelu chooses the activation', async () => {
  const file = tower();
  file.metadata.set('clip.use_gelu', { type: 'bool', value: false });
  await expectRows('quick GELU', file, QUICK);
  file.metadata.set('clip.use_gelu', { type: 'bool', value: true });
  await expectRows('GELU', file, HF);
});

test('a tower that standardises', async () => {
  const file = tower();
  const values = readFloats('vision/std.f32');
  file.tensors.push(
    floats('v.std_bias', values.subarray(0, HIDDEN)),
    floats('v.std_scale', values.subarray(HIDDEN)),
  );
  await expectRows('standardised', file, STANDARDISED);
});

test('a tower without clip ranges, and in Ollama’s form', async () => {
  const file = tower();
  await expectRows('Ollama', ollama(file), HF);
  const plain = { ...file, tensors: without(file.tensors, ...RANGE) };
  await expectRows('no clip ranges', plain, readFloats('vision/rows_unclipped.f32'));
});

test('damaged and foreign towers are refused', async () => {
  const cases: [string, string, (file: GgufFile) => GgufFile][] = [
    [
      'not_found',
      'v.blk.1.ln2.weight',
      (file) => ({ ...file, tensors: without(file.tensors, '1.ln2.weight') }),
    ],
    [
      'not_found',
      'v.position_embd.weight',
      (file) => ({ ...file, tensors: without(file.tensors, 'position_embd.weight') }),
    ],
    [
      'invalid_format',
      'mm.input_projection.weight',
      (file) => ({
        ...file,
        tensors: [
          ...without(file.tensors, 'projection.weight'),
          {
            name: 'mm.input_projection.weight',
            dims: [HIDDEN, 8],
            type: 0,
            data: new Uint8Array(HIDDEN * 32),
          },
        ],
      }),
    ],
    [
      'invalid_format',
      'clip range',
      (file) => ({
        ...file,
        tensors: [
          ...without(file.tensors, 'attn_q.input_min'),
          floats('v.blk.0.attn_q.input_min', [NaN]),
        ],
      }),
    ],
    [
      'invalid_format',
      'clamp_data',
      (file) => ({
        ...ollama(file),
        tensors: [...without(ollama(file).tensors, 'clamp_data'), floats('v.clamp_data', [1, 2])],
      }),
    ],
    [
      'unsupported',
      'pixtral',
      (file) => ({
        ...file,
        metadata: new Map(file.metadata).set('clip.vision.projector_type', {
          type: 'string',
          value: 'pixtral',
        }),
      }),
    ],
    [
      'invalid_format',
      'heads',
      (file) => ({
        ...file,
        metadata: new Map(file.metadata).set('clip.vision.attention.head_count', {
          type: 'u32',
          value: 3,
        }),
      }),
    ],
    [
      'invalid_format',
      'block_count',
      (file) => ({
        ...file,
        metadata: new Map(file.metadata).set('clip.vision.block_count', {
          type: 'u32',
          value: 100_000,
        }),
      }),
    ],
    ['not_found', 'no vision tower', (file) => ({ ...file, metadata: new Map() })],
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
