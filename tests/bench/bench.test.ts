// The benchmark in Node: its report is whole, and a wrong answer keeps every number back. Nothing here asserts a time.

import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  DEFAULTS,
  NANO,
  SYNTHETIC,
  bench,
  measured,
  table,
  type BenchOptions,
  type BenchReport,
} from '@lapidary/bench';
import { synthesize } from '@lapidary/bench/synthesize';
import { FileSource, OllamaStore } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { models, root } from '../support/fixtures.ts';

let folder: string;
let nano: { name: string; open: () => Promise<FileSource> };
let tiny: typeof nano;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapidary-bench-'));
  const path = join(folder, 'tiny.gguf');
  await synthesize('tiny', path);
  tiny = { name: path, open: () => FileSource.open(path) };
  const store = await OllamaStore.open({ stores: [models], env: { HOME: '/nonexistent' } });
  const weights = (await store.resolve('nano')).layers.find(({ kind }) => kind === 'model');
  nano = { name: 'nano', open: () => FileSource.open(weights?.path ?? '') };
});
afterAll(() => rm(folder, { recursive: true }));

const SMALL: BenchOptions = {
  ...DEFAULTS,
  contexts: [8, 5000],
  prefills: [8, 5000],
  repeats: 1,
  decodeTokens: 4,
  firstTokenPrompt: 8,
};

/** Runs the command line to its end. */
function lapidary(
  args: string[],
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const env = {
    ...process.env,
    HOME: folder,
    OLLAMA_MODELS: '',
    XDG_CACHE_HOME: process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'),
  };
  const child = spawn(process.execPath, [join(root, 'apps/cli/dist/main.js'), ...args], { env });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })));
}

test('medians', () => {
  expect(measured([3, 1, 2])).toMatchObject({ median: 2, min: 1, max: 3, values: [3, 1, 2] });
  expect(measured([4, 1])).toMatchObject({ median: 2.5 });
});

test('nano: every number, with what did not fit named', async () => {
  const out = join(folder, 'nano.json');
  const flags =
    '--contexts 8,5000 --prefills 8,5000 --repeats 1 --decode-tokens 4 --first-token 8 --concurrency 1,2';
  const args = ['bench', '--profile', '--json', '--out', out, ...flags.split(' ')];
  const { code, stdout, stderr } = await lapidary(args);
  expect(code, stderr).toBe(0);
  const report = JSON.parse(stdout) as BenchReport;
  expect(JSON.parse(await readFile(out, 'utf8'))).toEqual(report);
  expect(stderr).toMatch(/gate: nano/);
  const any = expect.any(Number) as number;
  const number = { median: any, min: any, max: any };
  expect(report).toMatchObject({
    schema: 1,
    host: expect.stringContaining('Node.js') as string,
    device: { software: true },
    model: { name: 'nano', fileBytes: 6120320, info: { layers: 6, vocab: 2048 } },
    gate: {
      checked: 'nano only',
      nano: { prompts: NANO.greedy.length },
      together: { replies: 2, difference: any },
    },
    bandwidth: { bytesPerSecond: number },
    load: {
      milliseconds: number,
      bytesPerSecond: number,
      uploadBytesPerSecond: number,
      phases: { header: number, selftest: number, upload: number, compile: number },
    },
    firstToken: { promptTokens: 8, cold: number, warm: number },
    prefill: [
      { promptTokens: 8, tokensPerSecond: number },
      { promptTokens: 5000, skipped: expect.stringContaining('2048') as string },
    ],
    together: { prompts: 2, promptTokens: 64, tokensPerSecond: number, oneByOne: number },
    concurrent: [
      { replies: 1, context: 8, tokens: 4, tokensPerSecond: number },
      { replies: 2, context: 8, tokens: 4, tokensPerSecond: number },
    ],
    decode: [
      { context: 8, tokens: 4, tokensPerSecond: number, repeatable: true },
      { context: 5000, skipped: expect.stringContaining('2048') as string },
    ],
    // What the engine promises of a greedy token.
    perToken: { submits: 1, bindGroups: 0, buffers: 0, bytesRead: 4 },
    memory: { gpu: { weights: any } },
  });
  expect(report.model.weightBytesPerToken).toBeGreaterThan(3e6);
  expect(report.model.weightBytesPerToken).toBeLessThan(6e6);
  expect(report.memory.bufferBytes).toBeGreaterThan(6e6);
  expect(report.memory.wasmHeap).toBeGreaterThan(1e6);
  if ('skipped' in report.perToken) throw new Error(report.perToken.skipped);
  expect(report.perToken.dispatches).toBeGreaterThan(6 * 7);
  expect(report.perToken.writes).toBeLessThanOrEqual(1);
  const { profile } = report;
  if (!profile || 'skipped' in profile) throw new Error(profile?.skipped);
  for (const times of [profile.decode, profile.prefill]) {
    expect(times.map(({ kernel }) => kernel)).toContainEqual(expect.stringContaining('attention'));
  }
  const text = table(report);
  expect(text).toMatch(/decode at 8, tok\/s +[\d.]+, [\d.]+ % of peak bandwidth/);
  expect(text).toMatch(/2 prompts of 64 together, tok\/s +[\d.]+/);
  expect(text).toMatch(/2 replies at once, tok\/s of all +[\d.]+/);
  expect(text).toMatch(/prefill of 5000, tok\/s +not measured/);
});

test('a model with known answers is checked by them', async () => {
  const report = await bench(tiny, nano, { ...SMALL, contexts: [8], prefills: [8], loraRank: 4 });
  expect(report.adapter).toMatchObject({ name: 'synthetic, rank 4', rank: 4, scale: 1 });
  expect(table(report)).toMatch(/LoRA adapter +synthetic, rank 4: \d+ matrices/);
  expect(report.gate.checked).toBe('nano and logits');
  const { logits } = report.gate;
  expect(logits?.compared).toBe(4 * 64);
  expect(logits?.error).toBeGreaterThan(0);
  expect(logits?.error).toBeLessThan(0.02);
});

test('a wrong text of nano keeps the speed back', async () => {
  const [first, ...rest] = NANO.greedy;
  if (!first) throw new Error('there are no known answers');
  const wrong = { ...first, tokens: [...first.tokens.slice(0, -1), 5] };
  const nanoAnswers = { ...NANO, greedy: [wrong, ...rest] };
  await expect(bench(tiny, nano, { ...SMALL, nanoAnswers })).rejects.toMatchObject({
    code: 'self_test_failed',
    message: expect.stringContaining('no speed is shown') as string,
  });
});

test('a wrong logit of the model keeps the speed back, and the exit code says so', async () => {
  const answers = structuredClone(SYNTHETIC.tiny);
  for (const { logits } of answers.samples) logits[7] = (logits[7] ?? 0) + 4;
  const path = join(folder, 'wrong.json');
  await writeFile(path, JSON.stringify(answers));
  const flags = '--contexts 8 --prefills 8 --repeats 1 --decode-tokens 4 --first-token 8';
  const args = ['bench', tiny.name, '--known-answers', path, ...flags.split(' ')];
  const { code, stdout, stderr } = await lapidary(args);
  expect(stderr).toMatch(/the coherence gate failed.*\(self_test_failed\)/);
  expect(code).toBe(1);
  expect(stdout).toBe('');
});

test('stops when told', async () => {
  const stop = new AbortController();
  const onProgress = (text: string) => {
    if (text.startsWith('loading')) stop.abort();
  };
  const stopped = bench(nano, nano, { ...SMALL, signal: stop.signal, onProgress });
  await expect(stopped).rejects.toMatchObject({ code: 'cancelled' });
});
