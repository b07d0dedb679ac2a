// The download cache when something is not as it was: files that change on the server, answers that are wrong, bytes and
// entries that are damaged on disk.

import { expect, test } from 'vitest';
import {
  SEGMENT,
  SIZE,
  SUM,
  aborted,
  code,
  contents,
  noise,
  profile,
  serve,
  settled,
  sha256,
} from './cache-profile.ts';

test.each([
  ['by its tag', true, '"2"', null],
  ['by its tag, on another origin', false, '"2"', null],
  ['by a weak tag', true, 'W/"2"', null],
  ['by its date', true, null, 'Sat, 01 Jan 2028 00:00:00 GMT'],
])(
  'a file that has changed is known %s, and not mixed with the old one',
  async (_, same, etag, date) => {
    const { server, url } = await serve();
    if (etag === null) [server.etag, server.modified] = [null, 'Sat, 01 Jan 2000 00:00:00 GMT'];
    else if (etag.startsWith('W/')) server.etag = 'W/"1"';
    const { tab } = profile();
    const cache = tab({}, same ? url : 'https://example.org/page');
    await aborted(cache, server, url);
    const other = noise(2);
    server.replace(other, etag as string);
    server.modified = date;
    expect(await contents(cache, url)).toBe(sha256(other));
    const conditional = server.requests.some(({ ifRange }) => ifRange !== undefined);
    expect(conditional).toBe(same && !etag?.startsWith('W/'));
  },
);

test('without tag, date or digest an earlier download is not gone on with', async () => {
  const { server, url } = await serve();
  server.etag = null;
  const { cache } = profile();
  await aborted(cache, server, url);
  server.data = noise(2);
  expect(await contents(cache, url)).toBe(sha256(server.data));
});

test('a file that changes all the time is given up', async () => {
  const { server, url } = await serve();
  const { cache } = profile();
  let tag = 0;
  Object.defineProperty(server, 'etag', { get: () => `"${tag++}"` });
  await expect(cache.fetch(url)).rejects.toEqual(code('io_error'));
  expect(await cache.list()).toMatchObject([{ complete: false }]);
});

test.each(['whole', 'chunked'] as const)('a server that knows no ranges: %s', async (kind) => {
  const { server, url } = await serve();
  server.kind = kind;
  server.breakAfter = 0.4 * SIZE;
  const { cache } = profile();
  expect(await contents(cache, url, { digest: SUM })).toBe(SUM);
  // Broken off once, all of it comes again.
  expect(server.sent).toBeGreaterThan(1.4 * SIZE);
  expect(await cache.list()).toMatchObject([{ size: SIZE, downloaded: SIZE, complete: true }]);
});

test('an answer that is too long or too short is no file', async () => {
  const { server, url } = await serve();
  server.kind = 'chunked';
  const { cache, browser } = profile();
  await expect(cache.fetch(url, { size: SIZE + 1 })).rejects.toEqual(code('integrity_error'));
  expect(browser.usage()).toBe(0);
  server.kind = 'ranges';
  await expect(cache.fetch(url, { size: SIZE - 1 })).rejects.toEqual(code('integrity_error'));
  server.data = new Uint8Array(0);
  for (const kind of ['whole', 'chunked'] as const) {
    server.kind = kind;
    await expect(cache.fetch(url)).rejects.toEqual(code('truncated'));
  }
  await expect(cache.fetch(url.replace('localhost', 'localhost.invalid'))).rejects.toEqual(
    code('io_error'),
  );
});

test('a byte that is wrong is an error, of which nothing stays; the next download is right', async () => {
  const { server, url } = await serve();
  const { cache, browser } = profile();
  const other = await serve(noise(3));
  await (await cache.fetch(other.url)).close();
  const before = browser.usage();
  server.corrupt = SIZE >> 1;
  await expect(cache.fetch(url, { digest: SUM })).rejects.toEqual(code('integrity_error'));
  expect(browser.usage()).toBe(before);
  expect(await cache.list()).toMatchObject([{ url: other.url, complete: true }]);
  expect(await contents(cache, url, { digest: SUM })).toBe(SUM);
});

test('a read that fails is an error, after which all is there still', async () => {
  const { server, url } = await serve();
  const { cache, browser } = profile();
  await (await cache.fetch(url)).close();
  await server.close();
  browser.unreadable = true;
  const source = await cache.fetch(url);
  await expect(source.read(0, 1)).rejects.toEqual(code('io_error'));
  await source.close();
  browser.unreadable = false;
  expect(await contents(cache, url)).toBe(SUM);
});

test('a segment that became shorter is fetched again, and nothing else', async () => {
  const { server, url } = await serve();
  const { cache, browser } = profile();
  await (await cache.fetch(url)).close();
  const segment = [...browser.all()].find(([path]) => path.endsWith('/3.bin'))![1];
  segment.bytes = segment.bytes.slice(0, 100);
  await server.close();
  await expect(cache.fetch(url)).rejects.toEqual(code('io_error'));
  expect((await cache.list())[0]).toMatchObject({ complete: false });
  await server.listen();
  await settled(server);
  expect(await contents(cache, url)).toBe(SUM);
  expect(server.asked).toBe(SEGMENT - 100);
});

test.each([
  ['no JSON', '{"version":1'],
  ['not an object', '[]'],
  ['another version', { version: 2 }],
  ['more segments than bytes', { have: Array(17).fill(0) }],
  ['a segment beyond its length', { have: [SEGMENT + 1] }],
  ['negative bytes', { have: [-1] }],
  ['segments of no length', { segmentBytes: 0 }],
  ['an absurd size', { size: 2 ** 60 }],
  ['complete without its bytes', { digest: SUM, have: [] }],
  ['a digest that is a path', { digest: '../x' }],
  ['too long', ' '.repeat(2 << 20)],
])('an entry that nobody wrote: %s', async (_, damage) => {
  const { server, url } = await serve();
  const { cache, browser } = profile();
  await aborted(cache, server, url);
  const entry = [...browser.all()].find(([path]) => path.endsWith('/entry.json'))![1];
  const written = JSON.parse(new TextDecoder().decode(entry.bytes)) as object;
  const text = typeof damage === 'string' ? damage : JSON.stringify({ ...written, ...damage });
  entry.bytes = new TextEncoder().encode(text);
  expect(await cache.list()).toEqual([]);
  expect(browser.usage()).toBeGreaterThan(0);
  expect(await contents(cache, url)).toBe(SUM);
});

test('a damaged state of the hash costs time, not bytes', async () => {
  const { server, url } = await serve();
  const { cache, browser } = profile();
  await aborted(cache, server, url, 0.6, { digest: SUM });
  const entry = [...browser.all()].find(([path]) => path.endsWith('/entry.json'))![1];
  const written = JSON.parse(new TextDecoder().decode(entry.bytes)) as {
    hashed: { bytes: number; state: string };
  };
  expect(written.hashed.bytes).toBeGreaterThan(0);
  const state = Buffer.from(written.hashed.state, 'base64');
  state[state.length - 1]! ^= 1;
  state[20]! ^= 1;
  written.hashed.state = state.toString('base64');
  entry.bytes = new TextEncoder().encode(JSON.stringify(written));
  expect(await contents(cache, url, { digest: SUM })).toBe(SUM);
  expect(server.asked).toBeLessThan(0.8 * SIZE);
});

test('what is read is not replaced', async () => {
  const { server, url } = await serve();
  const { cache, tab } = profile();
  const source = await cache.fetch(url);
  const shorter = noise(2, SIZE - 1);
  server.replace(shorter, '"2"');
  await expect(tab().fetch(url, { size: SIZE - 1 })).rejects.toEqual(code('busy'));
  expect(sha256(await source.read(0, SIZE))).toBe(SUM);
  await source.close();
  expect(await contents(cache, url, { size: SIZE - 1 })).toBe(sha256(shorter));
});

test('a tag longer than any server sends in earnest is none', async () => {
  const { server, url } = await serve();
  server.etag = `"${'x'.repeat(5000)}"`;
  const { cache } = profile();
  expect(await contents(cache, url)).toBe(SUM);
});
