// Loading with `tune`: cuts of kernels found by timing are kept, used the next time, and change no answer; nor does a
// cache in which somebody wrote nonsense.

import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { maxAbsDifference } from '../support/compare.ts';
import { models, promptNamed, root } from '../support/fixtures.ts';

const NAME = 'capital';
const { ids } = promptNamed(NAME);
const cacheBefore = process.env.LAPIDARY_CACHE;
/** Milliseconds that suffice for two kernels of a software GPU at least. */
const TUNING = 5000;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapidary-cuts-'));
  process.env.LAPIDARY_CACHE = folder;
});
afterAll(async () => {
  if (cacheBefore === undefined) delete process.env.LAPIDARY_CACHE;
  else process.env.LAPIDARY_CACHE = cacheBefore;
  await rm(folder, { recursive: true });
});

/** Replies at once: their products take the cuts of one. */
const AT_ONCE = 3;

async function load(tune: boolean | number, atOnce = 1) {
  const said: string[] = [];
  const onLog = (level: string, text: string) => said.push(`${level}: ${text}`);
  const options = { stores: [models], kvType: 'f32' as const, tune, onLog, sessions: atOnce };
  const model = await Model.load('nano', options);
  const reply = () => model.generate(ids, { temperature: 0, maxTokens: 24 }).report();
  try {
    const { tokens } = await reply();
    const replies = await Promise.all(Array.from({ length: atOnce }, reply));
    for (const each of replies) expect(each.tokens).toEqual(tokens);
    return { said, cuts: model.info.cuts, tokens, logits: await model.logits(ids) };
  } finally {
    await model.close();
  }
}

test('cuts are found, kept and used again; the answers stay', async () => {
  const plain = await load(false);
  expect(plain.cuts).toEqual({});
  expect(await readdir(folder)).toEqual([]);

  const first = await load(TUNING);
  const found = Object.keys(first.cuts);
  expect(found.length).toBeGreaterThan(0);
  expect(first.said).toEqual([]);
  expect(first.tokens).toEqual(plain.tokens);
  const [file = ''] = await readdir(folder);
  const path = join(folder, file);
  expect(JSON.parse(await readFile(path, 'utf8'))).toEqual(first.cuts);

  // A cut that is valid but another one, several that fit no kernel, and what is no cut at all.
  const known = 'matvec q4_k 512 q4_k 512 x 256 21 f32';
  const attention = 'attention decode 4/1x128 global0 f32 over 2048';
  expect(found).toContain(attention);
  await writeFile(
    path,
    JSON.stringify({
      [known]: [64, 4, 2],
      [attention]: [128, 64, 32],
      'attention decode 4/1x128 global0 f32 shared over 2048': [64, 128, 65],
      'matmul q4_k 256 x 256 0 f32': [1, 1, 1],
      'matvec q4_k 256 x 512 30 f32': [4096, 3, 0],
      'matvec q4_k 256 x 256 20 f32': [256, 1, 8],
      'no such kernel': [64, 8, 1],
      text: 'x',
      negative: [-1, 8, 1],
      huge: [1e300, 8, 1],
      long: [64, 8, 1, 1],
      longer: [64, 8, 1, 1, 0, 0],
      started: [64, 8, 1, 2, 900],
    }),
  );
  const second = await load(true, AT_ONCE);
  expect(second.cuts).toMatchObject({ [known]: [64, 4, 2], [attention]: [128, 64, 32] });
  expect(Object.keys(second.cuts).length).toBeGreaterThan(4);
  expect(second.cuts).toMatchObject({ started: [64, 8, 1, 2, 900] });
  for (const name of ['text', 'negative', 'huge', 'long', 'longer'])
    expect(second.cuts).not.toHaveProperty(name);
  expect(second.tokens).toEqual(plain.tokens);
  let worst = 0;
  for (const [i, logit] of second.logits.entries()) {
    worst = Math.max(worst, Math.abs(logit - (plain.logits[i] ?? NaN)));
  }
  expect(worst).toBeLessThan(1e-3);
}, 900_000);

test('the products that an adapter changes are tuned when it is set; the answers stay', async () => {
  const adapter = join(root, 'tests/fixtures/nano-lora/part-lora.gguf');
  async function logits(tune: boolean | number) {
    const model = await Model.load('nano', { stores: [models], kvType: 'f32', tune });
    try {
      await model.loadAdapter(adapter);
      // The last token's go through the products that decode.
      return await model.logits(ids);
    } finally {
      await model.close();
    }
  }
  const plain = await logits(false);
  const tuned = await logits(TUNING);
  expect(maxAbsDifference(tuned, plain)).toBeLessThan(1e-3);

  const [file = ''] = await readdir(folder);
  const kept = JSON.parse(await readFile(join(folder, file), 'utf8')) as Record<string, number[]>;
  const changed = Object.entries(kept).filter(([key]) => key.includes(' change '));
  // Some of them were decided or begun: three numbers, or four that say so.
  expect(changed.length).toBeGreaterThan(0);
}, 900_000);

test('tune is a switch or milliseconds', async () => {
  for (const tune of [-1, 1e9, 'long']) {
    await expect(load(tune as number)).rejects.toMatchObject({ code: 'invalid_argument' });
  }
});
