// Quantised files of nano: the GPU's dequantising kernels against llama.cpp on the same weights dequantised to f32.
// (What llama.cpp computes from the files themselves also rounds activations to 8 bits: another quantity.)

import { createHash } from 'node:crypto';
import { Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { argmax, maxAbsDifference, report, row } from '../support/compare.ts';
import {
  loadBytes,
  models,
  nanoF16,
  promptNamed,
  prompts,
  readJson,
  type Top20,
} from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { quantizeModel } from '../support/quantize.ts';

const TOLERANCE = 2e-2;
const kvType = 'f32';
const made = (type: 'Q8_0' | 'Q4_0') => quantizeModel(nanoF16(), type);

// Of the tensor data that llama-quantize's rounding makes of the fixture.
test.each([
  ['Q8_0' as const, 'd80bf5f0facd3c7f7671075e76c908ae8515bf4ed65124995b9bc486aa00aa2b'],
  ['Q4_0' as const, '0862dab0fecb1a9a19223f0e21c35084d17f300c7e6d7f0dd35684e01d0717ad'],
])('the %s file under test holds the data that the reference had', (type, digest) => {
  const hash = createHash('sha256');
  for (const { data } of parseGguf(made(type)).tensors) hash.update(data);
  expect(hash.digest('hex')).toBe(digest);
});

describe.each([
  { file: 'q8_0', load: () => loadBytes('nano-q8_0.gguf', made('Q8_0'), { kvType }) },
  { file: 'q4_0', load: () => loadBytes('nano-q4_0.gguf', made('Q4_0'), { kvType }) },
  { file: 'q4_k_m', load: () => Model.load('nano', { stores: [models], kvType }) },
])('nano $file', ({ file, load }) => {
  const { top: reference } = readJson<{ top: Top20[] }>(`nano/top20_dequant-f32-${file}.json.gz`);
  let model: Model;
  const logits = new Map<string, Float32Array>();
  const vocab = 2048;

  beforeAll(async () => {
    model = await load();
    for (const { name, ids } of prompts) logits.set(name, await model.logits(ids, { all: true }));
  }, 600_000);
  afterAll(() => model?.close());

  test(`the 20 best of every listed position are within ${TOLERANCE}`, () => {
    expect(reference.map(({ name }) => name)).toEqual(prompts.map(({ name }) => name));
    let worst = 0;
    let rows = 0;
    for (const { name, top } of reference) {
      if (name !== 'long') expect(top).toHaveLength(promptNamed(name).ids.length);
      for (const { pos, ids, logits: expected } of top) {
        const found = row(logits.get(name) ?? new Float32Array(), vocab, pos);
        const difference = maxAbsDifference(
          ids.map((id) => found[id] ?? NaN),
          expected,
        );
        if (!(difference <= worst)) worst = difference;
        rows++;
      }
    }
    expect(rows).toBeGreaterThan(498);
    report(`nano ${file}, top 20 of ${rows} positions`, worst, TOLERANCE);
    expect(worst).toBeLessThan(TOLERANCE);
  });

  test('the best token is the same wherever the margin exceeds that', () => {
    let decided = 0;
    let undecided = 0;
    for (const { name, top } of reference) {
      for (const { pos, ids, logits: expected } of top) {
        const margin = (expected[0] ?? 0) - (expected[1] ?? 0);
        if (margin <= TOLERANCE) {
          undecided++;
          continue;
        }
        decided++;
        const best = argmax(row(logits.get(name) ?? new Float32Array(), vocab, pos));
        expect(best, `${name}, position ${pos}, margin ${margin}`).toBe(ids[0]);
      }
    }
    console.log(
      `nano ${file}: best token compared at ${decided} positions, ${undecided} too close`,
    );
    expect(undecided).toBeLessThan(decided / 20);
  });

  test('decoding token by token agrees with the prompt run at once', async () => {
    // The matrix-vector kernels of this format, against its matrix-matrix kernels.
    const { ids } = promptNamed('tool_call');
    await model.truncate(0);
    let last: Float32Array = new Float32Array();
    for (let length = 1; length <= ids.length; length++)
      last = await model.logits(ids.slice(0, length));
    const all = row(logits.get('tool_call') ?? new Float32Array(), vocab, ids.length - 1);
    const difference = maxAbsDifference(last, all);
    report(`nano ${file}, token by token`, difference, 1e-3);
    expect(difference).toBeLessThan(1e-3);
  });
});
