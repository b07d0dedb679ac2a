// The generator of models: what it writes loads, is the same each time, and is what the known answers are of.

import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { SYNTHETIC, digest, weightBytesPerToken, type LogitAnswers } from '@lapidary/bench';
import { plan, SHAPES, synthesize, tensorsOf } from '@lapidary/bench/synthesize';
import { FileSource, inspect, type ByteSource } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { root } from '../support/fixtures.ts';

let folder: string;
let tiny: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapidary-bench-'));
  tiny = join(folder, 'tiny.gguf');
  await synthesize('tiny', tiny);
});
afterAll(() => rm(folder, { recursive: true }));

test('the small model has the header of a whole one, and known answers', async () => {
  const source = await FileSource.open(tiny);
  const header = await inspect(source);
  expect(source.size).toBe(plan('tiny').size);
  expect(header.metadata['general.architecture']).toBe('gemma4');
  expect(header.tensors).toHaveLength(6 + 17 * 10);
  expect(await digest(source, header)).toBe(SYNTHETIC.tiny.digest);
  // Layers 5 to 9 share keys and values: what the file holds of theirs is not read.
  const all = header.tensors.filter(({ name, shape }) => name.startsWith('blk.') && shape[1]);
  const bytes = all.reduce((sum, tensor) => sum + tensor.bytes, 0);
  expect(weightBytesPerToken(header)).toBeLessThan(bytes + (2 << 20));
  await source.close();
});

test('a seed makes the same file each time, another seed another', async () => {
  const [again, other] = [join(folder, 'again.gguf'), join(folder, 'other.gguf')];
  await synthesize('tiny', again, { seed: 1 });
  await synthesize('tiny', other, { seed: 2 });
  const bytes = await readFile(tiny);
  expect(bytes.equals(await readFile(again))).toBe(true);
  expect(bytes.subarray(-1000).equals((await readFile(other)).subarray(-1000))).toBe(false);
});

test('an unfinished file does not stay', async () => {
  const path = join(folder, 'stopped.gguf');
  const stopped = synthesize('tiny', path, { signal: AbortSignal.abort() });
  await expect(stopped).rejects.toMatchObject({ code: 'cancelled' });
  await expect(FileSource.open(path)).rejects.toMatchObject({ code: 'not_found' });
});

test('the full-size model is E2B’s shape, and its known answers are of this file', async () => {
  const { header: bytes, size } = plan('e2b');
  // Its 3.2 GiB of weights are not written here: no test reads them.
  const source: ByteSource = {
    name: 'e2b',
    size,
    read: (offset, length) => {
      const part = new Uint8Array(length);
      part.set(bytes.subarray(offset, offset + length));
      return Promise.resolve(part);
    },
  };
  const header = await inspect(source);
  expect(header.tensors).toHaveLength(601);
  expect(size / 2 ** 30).toBeCloseTo(3.19, 2);
  expect(weightBytesPerToken(header) / 2 ** 20).toBeCloseTo(1404.1, 1);
  expect(await digest(source, header)).toBe(SYNTHETIC.e2b.digest);
});

// Tensors as real files of these models have them.
test.each([
  ['e4b', 720],
  ['12b', 667],
  ['26b-a4b', 658],
  ['31b', 833],
])('%s has the tensors of its family', (name, count) => {
  const tensors = tensorsOf(SHAPES[name]!);
  expect(tensors).toHaveLength(count);
  // Rows are whole blocks.
  for (const { name: tensor, shape, type } of tensors) {
    const row = { F32: 1, BF16: 1, Q5_0: 32, Q8_0: 32, Q4_K: 256, Q6_K: 256 }[type];
    expect(shape[0]! % row, tensor).toBe(0);
  }
});

test('the tool that writes known answers writes those that are kept', async () => {
  const out = join(folder, 'answers.json');
  await promisify(execFile)(process.execPath, [`${root}bench/known-answers.mjs`, tiny, out]);
  expect(JSON.parse(await readFile(out, 'utf8')) as LogitAnswers).toEqual(SYNTHETIC.tiny);
});
