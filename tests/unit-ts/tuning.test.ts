// What is remembered of the cuts of kernels, and what a damaged memory does: nothing.

import { expect, test } from 'vitest';
import { keepCuts, knownCuts, type TextCache } from '../../packages/lapidary/src/tuning.ts';
import type { Cuts } from '../../packages/lapidary/src/types.ts';

function memory(kept = new Map<string, string>()): TextCache & { kept: Map<string, string> } {
  return {
    kept,
    read: (name) => Promise.resolve(kept.get(name)),
    write: (name, text) => {
      kept.set(name, text);
      return Promise.resolve();
    },
  };
}
const never = () => {
  throw new Error('nothing was to be said');
};

test('cuts come back for the adapter they were found on, with those found later', async () => {
  const cache = memory();
  const first: Cuts = { 'matvec q4_k 1536 x 256': [64, 8, 1] };
  await keepCuts(cache, 'NVIDIA H100: driver 1/2', {}, first, never);
  expect(await knownCuts(cache, 'NVIDIA H100: driver 1/2', never)).toEqual(first);
  expect(await knownCuts(cache, 'Apple M3', never)).toEqual({});
  const both: Cuts = { ...first, 'matmul f16 8 x 8': [256, 8, 0] };
  await keepCuts(cache, 'NVIDIA H100: driver 1/2', first, both, never);
  expect(await knownCuts(cache, 'NVIDIA H100: driver 1/2', never)).toEqual(both);
  // The adapter's own words name the entry, but not more than a file's name may hold.
  for (const name of cache.kept.keys()) expect(name).toMatch(/^[A-Za-z0-9.-]{1,130}$/);
});

test('nothing new is not written', async () => {
  const known: Cuts = { a: [1, 2, 3] };
  const cache: TextCache = { read: () => Promise.resolve(undefined), write: never };
  await keepCuts(cache, 'x', known, known, never);
  await keepCuts(cache, 'x', known, {}, never);
});

test.each(['', '{', '[]', 'null', '7', `{"a":"${'x'.repeat(1 << 20)}"}`])(
  'a damaged memory is as none, and said: %#',
  async (text) => {
    const said: string[] = [];
    const cache = memory(new Map());
    await keepCuts(cache, 'x', {}, { a: [1, 2, 3] }, never);
    for (const name of cache.kept.keys()) cache.kept.set(name, text);
    expect(await knownCuts(cache, 'x', (level, line) => said.push(`${level}: ${line}`))).toEqual(
      {},
    );
    expect(said.join()).toMatch(/^debug: cuts of kernels for x cannot be read/);
  },
);

test('a cache that fails costs the cuts, not the load', async () => {
  const said: string[] = [];
  const fails = () => Promise.reject(new Error('disk full'));
  const cache: TextCache = { read: fails, write: fails };
  const log = (_: string, line: string) => said.push(line);
  expect(await knownCuts(cache, 'x', log)).toEqual({});
  await keepCuts(cache, 'x', {}, { a: [1, 2, 3] }, log);
  expect(said).toHaveLength(2);
  for (const line of said) expect(line).toContain('disk full');
});
