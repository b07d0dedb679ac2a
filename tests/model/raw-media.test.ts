// Pictures and sound of models without towers, against an independent float64 reference whose rows llama.cpp's equal, through
// tests/kernels/vision_probe.cpp; and files that are damaged.

import { openDevice } from 'lapidary/node';
import { beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, readFloats } from '../support/fixtures.ts';
import { writeGguf, type GgufFile } from '../support/gguf.ts';
import { kernelTests } from '../support/kernel-tests.ts';
import { HIDDEN, noise, picture, rawMedia } from '../support/raw-media.ts';

const LIMIT = 1e-5; // relative to the largest value: all of it is f32
const SAMPLES = Float32Array.from(noise(2000, 12), (v) => v / 2);

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

let engine: Awaited<ReturnType<typeof kernelTests>>;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});

async function probe(name: string, file: GgufFile, args: (number | Uint8Array)[], hidden = HIDDEN) {
  const source = engine.addSource(memorySource('projector.gguf', writeGguf(file)));
  const bytes = await engine.call(name, [source, hidden, ...args]).done;
  return new Float32Array(bytes.buffer);
}
const see = (file = rawMedia(), again = 0, [width, height] = [144, 96], hidden = HIDDEN) =>
  probe('vision_probe', file, [picture(width, height), width, height, again], hidden);
const hear = (file = rawMedia(), again = 0, samples = SAMPLES) =>
  probe('raw_audio_probe', file, [new Uint8Array(samples.buffer), again]);

function expectRows(what: string, found: Float32Array, expected: Float32Array) {
  const difference = maxAbsDifference(found, expected) / maxAbs(expected);
  report(what, difference, LIMIT);
  expect(difference).toBeLessThan(LIMIT);
}

test.each([
  ['', 0],
  ['after a larger one', 1],
])('soft tokens of a picture %s', async (_, again) => {
  expectRows('picture', await see(rawMedia(), again), readFloats('raw-media/image_rows.f32'));
});

test.each([
  ['', 0],
  ['after a longer one', 1],
])('soft tokens of a sound that fills no whole frame %s', async (_, again) => {
  expectRows('sound', await hear(rawMedia(), again), readFloats('raw-media/audio_rows.f32'));
});

test('damaged and foreign files, and what is no sound, are refused', async () => {
  const change = (work: (file: GgufFile) => void) => {
    const file = rawMedia();
    work(file);
    return file;
  };
  const without = (name: string) =>
    change((file) => {
      file.tensors = file.tensors.filter((tensor) => tensor.name !== name);
    });
  const misshapen = (name: string) =>
    change((file) => {
      const tensor = file.tensors.find((each) => each.name === name)!;
      tensor.dims = [tensor.data.length / 4 / 2, 2];
    });
  const cases: [string, string, () => Promise<unknown>][] = [];
  for (const { name } of rawMedia().tensors) {
    const work = name.startsWith('mm.a.') ? hear : see;
    cases.push(['not_found', name, () => work(without(name))]);
    cases.push(['invalid_format', name, () => work(misshapen(name))]);
  }
  cases.push(
    ['invalid_format', 'mm.input_projection', () => see(rawMedia(), 0, [144, 96], 40)],
    ['unsupported', '17 by 1', () => see(rawMedia(), 0, [816, 48])],
    ['invalid_argument', 'no samples', () => hear(rawMedia(), 0, new Float32Array(0))],
    ['invalid_argument', 'no numbers', () => hear(rawMedia(), 0, Float32Array.of(0, NaN))],
    ['invalid_argument', 'no numbers', () => hear(rawMedia(), 0, Float32Array.of(Infinity))],
  );
  for (const [code, words, work] of cases) {
    const failure = await work().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failure, words).toMatchObject({ code });
    expect(String(failure)).toContain(words);
  }
});
