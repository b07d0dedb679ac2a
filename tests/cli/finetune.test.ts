// Fine-tuning from the command line: what it writes, how it goes on, and what it refuses without touching anything.

import { existsSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { EXIT } from '../../apps/cli/src/exit.ts';
import { errorLine, home, lapidary, main, start } from './harness.ts';

const line = (country: string, city: string) =>
  JSON.stringify({
    prompt: `What is the capital of ${country}?`,
    completion: `Arr! The capital of ${country} be ${city}, matey.`,
  });
const LINES = [line('Germany', 'Berlin'), line('Italy', 'Rome')];
const FLAGS = ['--steps', '2', '--rank', '2', '--targets', 'q', '--max-length', '64'];
const CHECKPOINT = 'checkpoint.safetensors';
const FILES = ['adapter_config.json', 'adapter_model.safetensors', CHECKPOINT];

async function data(name: string, lines: string[]): Promise<string> {
  const path = join(home, name);
  await writeFile(path, `${lines.join('\n')}\n`);
  return path;
}
const out = join(home, 'pirate');
const train = async (flags: string[] = FLAGS) =>
  lapidary(['finetune', 'nano', await data('two.jsonl', LINES), '--out', out, ...flags]);
const contents = () => Promise.all(FILES.map((name) => readFile(join(out, name))));

test('finetune: writes the adapter and a checkpoint, goes on from it, and harms neither', async () => {
  const first = await train([...FLAGS, '--json']);
  const events = first.stdout
    .trim()
    .split('\n')
    .map((text) => JSON.parse(text) as { type: string; step: number; loss: number });
  expect(events.map(({ type }) => type)).toEqual(['ready', 'step', 'step', 'done']);
  expect(events[0]).toMatchObject({ examples: 2, shapes: { 'prompt/completion': 2 }, step: 0 });
  expect(events[2]!.loss).toBeLessThan(events[1]!.loss);
  expect(events[3]).toMatchObject({ reason: 'done', step: 2, steps: 2 });
  expect(first.code).toBe(0);
  expect((await readdir(out)).sort()).toEqual(FILES);
  const config = JSON.parse(await readFile(join(out, FILES[0]!), 'utf8')) as object;
  expect(config).toMatchObject({ peft_type: 'LORA', r: 2, lora_alpha: 4 });
  const written = await contents();

  // The same command: nothing is left to do, and nothing changes.
  const again = await train();
  expect(again.stderr).toMatch(/^going on after step 2$/m);
  expect(again.stderr).toMatch(/^done: lapidary run nano --adapter /m);
  expect(again.code).toBe(0);
  expect(await contents()).toEqual(written);

  const others = await train([...FLAGS, '--seed', '7']);
  expect(errorLine(others)).toMatch(/another run: seed was 42, now 7 \(invalid_argument\)$/);
  expect(others.code).toBe(1);
  expect(await contents()).toEqual(written);

  // Half a checkpoint, as a full disk would leave it.
  const half = written[2]!.subarray(0, written[2]!.length / 2);
  await writeFile(join(out, CHECKPOINT), half);
  const damaged = await train();
  expect(errorLine(damaged)).toMatch(/\((truncated|invalid_format)\)$/);
  expect(damaged.code).toBe(1);
  expect(await contents()).toEqual([written[0], written[1], half]);
});

test('finetune: a bad line is named by its number, and nothing is written', async () => {
  const path = await data('bad.jsonl', [...LINES, '{"prompt": "no completion"}']);
  const folder = join(home, 'never');
  const ended = await lapidary(['finetune', 'nano', path, '--out', folder, ...FLAGS]);
  expect(errorLine(ended)).toMatch(/line 3\b.*\(invalid_format\)$/);
  expect(ended.code).toBe(1);
  expect(existsSync(folder)).toBe(false);
});

test('finetune: --probe says what fits, and reads and writes nothing', async () => {
  const probe = ['finetune', 'nano', '--probe', ...FLAGS, '--batch', '2'];
  const ended = await lapidary(probe);
  expect(ended.code).toBe(0);
  expect(ended.stdout.split('\n').slice(0, 3)).toEqual([
    expect.stringMatching(/^\d+ parameters$/),
    expect.stringMatching(/^ +max-length +batch +memory +fits$/),
    expect.stringMatching(/^asked for +64 +2 +\S+ MB +yes$/),
  ]);
  expect(ended.stdout).toMatch(/^longest row +2048 +1 +\S+ MB +yes\nlargest batch +64 +\d+ /m);
});

test('finetune: a size that no GPU has room for is refused, and nothing is written', async () => {
  const path = await data('two.jsonl', LINES);
  const folder = join(home, 'large');
  const large = ['--batch', '1024', '--max-length', '2048', '--rank', '2', '--targets', 'q'];
  const ended = await lapidary(['finetune', 'nano', path, '--out', folder, ...large]);
  expect(errorLine(ended)).toMatch(
    /no room to train on 1024 rows of 2048 tokens, about \d+ MB; \d+ of \d+ fit \(batch, maxLength\) \(out_of_memory\)$/,
  );
  expect(ended.code).toBe(1);
  expect(existsSync(folder)).toBe(false);
});

test.each([[['nano', '--out', 'x']], [['nano', 'data.jsonl']]])(
  'finetune: wrong usage: %j',
  async (args) => {
    const ended = await lapidary(['finetune', ...args]);
    expect(errorLine(ended)).toMatch(/^error: finetune needs .*\(invalid_argument\)$/);
    expect(ended.code).toBe(EXIT.usage);
  },
);

test('finetune: Ctrl-C leaves a checkpoint that the same command goes on from', async () => {
  const folder = join(home, 'stopped');
  const path = await data('two.jsonl', LINES);
  const flags = [...FLAGS, '--steps', '1000', '--json'];
  const run = async (until: RegExp) => {
    const child = start(process.execPath, [
      main,
      'finetune',
      'nano',
      path,
      '--out',
      folder,
      ...flags,
    ]);
    await child.until(until);
    child.kill('SIGINT');
    const { code, stdout } = await child.ended;
    expect(code).toBe(EXIT.interrupted);
    const events = stdout.trim().split('\n');
    return [events[0]!, events.at(-1)!].map((text) => JSON.parse(text) as { step: number });
  };
  const [, stopped] = await run(/"type":"step"/);
  expect(stopped).toMatchObject({ type: 'done', reason: 'cancelled', steps: 1000 });
  expect(stopped!.step).toBeGreaterThan(0);
  expect((await readdir(folder)).sort()).toEqual(FILES);
  const [ready] = await run(/"type":"ready"/);
  expect(ready).toMatchObject({ type: 'ready', step: stopped!.step });
});
