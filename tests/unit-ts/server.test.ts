// Parts of the server that need neither a network nor a GPU: whose turn it is, how long a model stays, who may ask.

import { LapidaryError, isLoopback, type Model } from 'lapidary/node';
import { expect, test, vi } from 'vitest';
import { allowedHosts } from '../../apps/cli/src/server/guard.ts';
import { ModelKeeper, type Wanted } from '../../apps/cli/src/server/keeper.ts';
import { makeLog } from '../../apps/cli/src/server/log.ts';
import {
  parseKeepAlive,
  readChat,
  readGenerate,
  withImages,
} from '../../apps/cli/src/server/ollama-request.ts';

const wanted = (name: string): Wanted => ({ name, digest: `sha256:${name}`, size: 1 });

/** A keeper of models that only pretend, and what happened to them. */
function keeper(keepAliveMs = 60_000) {
  const events: string[] = [];
  const load = (name: string, contextLength = 1000): Promise<Model> => {
    events.push(`load ${name}`);
    if (name === 'bad') return Promise.reject(new LapidaryError('invalid_format', 'bad'));
    const info = { contextLength, modelContextLength: 4000, sessions: 2 };
    const close = () => Promise.resolve(void events.push(`close ${name}`));
    return Promise.resolve({ info, close } as Model);
  };
  const kept = new ModelKeeper(load, keepAliveMs, () => {});
  const signal = new AbortController().signal;
  const acquire = (name: string, needs = {}) => kept.acquire(wanted(name), { signal, ...needs });
  return { kept, events, acquire };
}
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

test('a model is loaded once for all who ask, and another one only when they are done', async () => {
  const { acquire, events, kept } = keeper();
  const [first, second] = await Promise.all([acquire('a'), acquire('a')]);
  expect([first.model === second.model, events]).toEqual([true, ['load a']]);
  const order: string[] = [];
  const other = acquire('b').then((lease) => (order.push('b'), lease));
  // It came after one for another model, and does not go before it.
  const third = acquire('a').then((lease) => (order.push('a'), lease));
  // It works for two at once.
  expect([kept.waiting, kept.running]).toEqual([2, 2]);
  first.release();
  await turn();
  expect(order).toEqual([]);
  second.release();
  (await other).release();
  (await third).release();
  expect(order).toEqual(['b', 'a']);
  expect(events).toEqual(['load a', 'close a', 'load b', 'close b', 'load a']);
});

test('what fails to load, or is given up, does not hold up the others', async () => {
  const { acquire, kept } = keeper();
  const first = await acquire('a');
  const bad = acquire('bad');
  const controller = new AbortController();
  const gone = acquire('b', { signal: controller.signal });
  const last = acquire('a');
  controller.abort();
  await expect(gone).rejects.toMatchObject({ code: 'cancelled' });
  first.release();
  await expect(bad).rejects.toMatchObject({ code: 'invalid_format' });
  (await last).release();
  await kept.close();
  await expect(acquire('a')).rejects.toMatchObject({ code: 'cancelled' });
});

test('a larger context loads anew, a smaller one and what the model cannot have does not', async () => {
  const { acquire, events } = keeper();
  for (const contextLength of [undefined, 500, 2000, 1000, 4000, 9000]) {
    (await acquire('a', { contextLength })).release();
  }
  expect(events.filter((event) => event.startsWith('load'))).toHaveLength(3);
});

test('a model that only lies in memory is unloaded when it is asked for; one in use is not', async () => {
  const { acquire, events, kept } = keeper();
  const lease = await acquire('a');
  expect(await kept.evict('A')).toBe(false);
  expect(await kept.evict('b')).toBe(true);
  const waiting = acquire('b');
  expect(await kept.evict('b')).toBe(false);
  lease.release();
  (await waiting).release();
  expect(await kept.evict('b')).toBe(true);
  expect(events).toEqual(['load a', 'close a', 'load b', 'close b']);
  expect(kept.loaded).toBeUndefined();
});

test('a model whose device failed goes', async () => {
  const { acquire, events } = keeper();
  (await acquire('a')).release(new LapidaryError('device_lost', 'gone'));
  (await acquire('a')).release(new LapidaryError('context_overflow', 'long'));
  (await acquire('a')).release();
  expect(events).toEqual(['load a', 'close a', 'load a']);
});

test('it stays as long as the last request said', async () => {
  vi.useFakeTimers();
  try {
    const { acquire, kept, events } = keeper(1000);
    (await acquire('a')).release();
    await vi.advanceTimersByTimeAsync(900);
    const lease = await acquire('a', { keepAliveMs: 5000 });
    await vi.advanceTimersByTimeAsync(9000);
    expect(kept.loaded?.expires).toBeUndefined();
    lease.release();
    await vi.advanceTimersByTimeAsync(4900);
    expect(events).toEqual(['load a']);
    await vi.advanceTimersByTimeAsync(200);
    expect([events, kept.loaded]).toEqual([['load a', 'close a'], undefined]);
    (await acquire('a', { keepAliveMs: Infinity })).release();
    await vi.advanceTimersByTimeAsync(1e9);
    expect(kept.loaded?.expires?.getFullYear()).toBeGreaterThan(2200);
    kept.keep('a', 0);
    await vi.advanceTimersByTimeAsync(0);
    expect(kept.loaded).toBeUndefined();
  } finally {
    vi.useRealTimers();
  }
});

test('more than 512 requests are too many', async () => {
  const { acquire, kept } = keeper();
  const all = Array.from({ length: 512 }, () => acquire('a'));
  await expect(acquire('a')).rejects.toMatchObject({ code: 'busy' });
  for (const lease of await Promise.all(all)) lease.release();
  expect([kept.waiting, kept.running]).toEqual([0, 0]);
});

test.each<[unknown, number | undefined]>([
  [undefined, undefined],
  [null, undefined],
  [0, 0],
  ['0', 0],
  [1.5, 1500],
  ['90', 90_000],
  ['5m', 300_000],
  ['1h30m', 5_400_000],
  ['250ms', 250],
  [-1, Infinity],
  ['-1', Infinity],
  ['-1m', Infinity],
])('keep_alive %j is %j ms', (text, ms) => expect(parseKeepAlive(text)).toBe(ms));
test.each(['', 'soon', '5 m', '5d', '1e3', true, {}, [5], 'h', '1'.repeat(99)])(
  'keep_alive %j is none',
  (value) => expect(() => parseKeepAlive(value)).toThrow(/keep_alive/),
);

test.each<[string, object]>([
  ['images', { prompt: 'a', images: ['aGk='], raw: true }],
  ['images', { prompt: 'a', images: ['no base64'] }],
  ['images', { prompt: 'a', images: [7] }],
  ['format', { prompt: 'a', format: 'xml' }],
  ['format', { prompt: 'a', format: ['json'] }],
  ['context', { prompt: 'a', context: [1, 2] }],
  ['suffix', { prompt: 'a', suffix: 'b' }],
  ['template', { prompt: 'a', template: '{{ .Prompt }}' }],
  ['options.mirostat', { prompt: 'a', options: { mirostat: 1 } }],
  ['options.typical_p', { prompt: 'a', options: { typical_p: 0.5 } }],
  ['options.num_ctx', { prompt: 'a', options: { num_ctx: -1 } }],
  ['options.stop', { prompt: 'a', options: { stop: [1] } }],
  ['think', { prompt: 'a', think: 'a lot' }],
  ['stream', { prompt: 'a', stream: 1 }],
])('Ollama: %s is refused by name: %j', (name, more) => {
  expect(() => readGenerate({ model: 'nano', ...more })).toThrow(`'${name}'`);
});

test('Ollama: pictures come before the text', () => {
  const messages = [{ role: 'user', content: 'What?', images: ['aGk=', 'AA=='] }];
  expect(readChat({ model: 'nano', messages }).messages[0]!.content).toEqual([
    { type: 'image', image: Uint8Array.of(104, 105) },
    { type: 'image', image: Uint8Array.of(0) },
    { type: 'text', text: 'What?' },
  ]);
  const { prompt, images } = readGenerate({ model: 'nano', prompt: 'a', images: ['AA=='] });
  expect(withImages(images, prompt)).toHaveLength(2);
});

test('Ollama: what it ignores is ignored, what it has is read', () => {
  const asked = readChat({
    ...{ model: 'nano', unknown: 1, format: '', keep_alive: '1m', think: 'high' },
    options: { num_gpu: 1, mirostat: 0, num_predict: -1, top_k: 5, num_ctx: 100, stop: ['x'] },
    messages: [{ role: 'assistant', content: null, tool_calls: [{ function: { name: 'f' } }] }],
  });
  expect(asked).toMatchObject({
    ...{ name: 'nano', stream: true, think: true, keepAliveMs: 60_000, contextLength: 100 },
    options: { maxTokens: -1, topK: 5, stop: ['x'] },
  });
});

test.each(['json', { type: 'object' }])('Ollama: the format %j is read', (format) => {
  expect(readGenerate({ model: 'nano', format }).options.format).toEqual(format);
});

test('hosts: exact names, with and without the port', () => {
  const local = allowedHosts('127.0.0.1', 99, ['Proxy.example']);
  for (const host of ['localhost', 'localhost:99', '127.0.0.1:99', '[::1]:99', 'proxy.example']) {
    expect(local.has(host), host).toBe(true);
  }
  for (const host of ['', 'localhost:98', 'x.localhost', 'localhost.evil.example', '0.0.0.0:99']) {
    expect(local.has(host), host).toBe(false);
  }
  expect(allowedHosts('192.0.2.7', 99, []).has('192.0.2.7:99')).toBe(true);
  const everywhere = allowedHosts('0.0.0.0', 99, []);
  expect(everywhere.has('localhost:99')).toBe(true);
  expect(everywhere.has('evil.example:99')).toBe(false);
});

test.each([
  ['127.0.0.1', true],
  ['127.9.9.9', true],
  ['::1', true],
  ['localhost', true],
  ['0.0.0.0', false],
  ['::', false],
  ['127.0.0.1.evil.example', false],
  ['192.168.1.2', false],
])('loopback: %s: %j', (host, loopback) => expect(isLoopback(host)).toBe(loopback));

test('a line of the log stays one line', () => {
  const lines: string[] = [];
  makeLog('text', (line) => lines.push(line))('request', {
    path: '/a\nb\u001b[2J',
    note: undefined,
  });
  expect(lines[0]).toMatch(/^\S+Z request path=\/a\?b\?\[2J\n$/);
  makeLog('json', (line) => lines.push(line))('request', { path: '/a\nb' });
  expect(JSON.parse(lines[1]!)).toMatchObject({ event: 'request', path: '/a\nb' });
});
