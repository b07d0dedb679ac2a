// Whose turn it is on a model: replies side by side, everything else by itself, in the order of coming.

import { expect, test } from 'vitest';
import { Turns } from '../../packages/lapidary/src/turns.ts';

/** Work that ends when it is told to. */
function works(turns: Turns) {
  const log: string[] = [];
  const ends = new Map<string, (error?: Error) => void>();
  const work = (name: string) => () =>
    new Promise<string>((resolve, reject) => {
      log.push(name);
      ends.set(name, (error) => (error ? reject(error) : resolve(name)));
    });
  const end = async (name: string, error?: Error) => {
    ends.get(name)!(error);
    await settled();
  };
  return {
    log,
    end,
    beside: (name: string) => turns.beside(work(name)),
    byItself: (name: string) => turns.byItself(work(name)),
  };
}
const settled = () => new Promise((resolve) => setTimeout(resolve, 0));

test('as many side by side as there are places, in the order of coming', async () => {
  const { log, end, beside } = works(new Turns(() => 2));
  const all = ['a', 'b', 'c', 'd'].map((name) => beside(name));
  await settled();
  expect(log).toEqual(['a', 'b']);
  await end('b');
  expect(log).toEqual(['a', 'b', 'c']);
  await end('a');
  await end('c');
  await end('d');
  expect(await Promise.all(all)).toEqual(['a', 'b', 'c', 'd']);
});

test('what runs by itself waits for all before it, and all after it wait', async () => {
  const { log, end, beside, byItself } = works(new Turns(() => 4));
  const all = [beside('a'), beside('b'), byItself('alone'), beside('c'), byItself('again')];
  await settled();
  expect(log).toEqual(['a', 'b']);
  await end('a');
  expect(log).toEqual(['a', 'b']);
  await end('b');
  expect(log).toEqual(['a', 'b', 'alone']);
  await end('alone');
  expect(log).toEqual(['a', 'b', 'alone', 'c']);
  await end('c');
  await end('again');
  expect(await Promise.all(all)).toEqual(['a', 'b', 'alone', 'c', 'again']);
});

test('what fails, even at once, makes room for the next', async () => {
  const turns = new Turns(() => 1);
  const { log, end, beside } = works(turns);
  const failed = expect(beside('a')).rejects.toThrow('no');
  const thrown = expect(
    turns.beside(() => {
      throw new Error('at once');
    }),
  ).rejects.toThrow('at once');
  const last = beside('b');
  await settled();
  await end('a', new Error('no'));
  await failed;
  await thrown;
  expect(log).toEqual(['a', 'b']);
  await end('b');
  expect(await last).toBe('b');
});
