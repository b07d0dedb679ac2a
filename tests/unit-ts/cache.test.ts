// The download cache on a file system, locks and a quota in memory, against a real web server: what is downloaded, what
// is gone on with, and who may do what at the same time.

import { Model, openCache } from 'lapidary/node';
import { describe, expect, test } from 'vitest';
import type { DownloadProgress } from '../../packages/lapidary/src/cache/types.ts';
import {
  DATA,
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

describe.each([
  ['in a worker', true],
  ['in a page', false],
])('%s', (_, sync) => {
  test('a file is downloaded once, and read without the network then', async () => {
    const { server, url } = await serve();
    const { cache, browser, tab } = profile({ sync });
    const events: DownloadProgress[] = [];
    const source = await cache.fetch(url, {
      digest: `sha256:${SUM}`,
      size: SIZE,
      onProgress: (event) => events.push(event),
    });
    expect(server.sent).toBe(SIZE);
    expect(server.requests.length).toBe(16);
    expect(events[0]).toMatchObject({ phase: 'download', total: SIZE });
    expect(events.at(-1)).toEqual({ phase: 'download', loaded: SIZE, total: SIZE });
    expect(source).toMatchObject({ name: url, size: SIZE, digest: `sha256:${SUM}` });
    await server.close();
    for (const [offset, length] of [
      [0, SIZE],
      [SEGMENT - 1, 2],
      [SEGMENT, 2 * SEGMENT + 1],
      [SIZE - 1, 1],
      [SIZE, 0],
    ] as const) {
      expect(sha256(await source.read(offset, length))).toBe(
        sha256(DATA.subarray(offset, offset + length)),
      );
    }
    for (const [offset, length] of [
      [SIZE, 1],
      [-1, 2],
      [0, NaN],
    ] as const) {
      await expect(source.read(offset, length)).rejects.toEqual(code('truncated'));
    }
    await source.close();
    browser.crash();
    expect(await contents(tab(), url)).toBe(SUM);
    expect(await contents(tab(), url, { digest: SUM.toUpperCase(), size: SIZE })).toBe(SUM);
  });

  test('an aborted download goes on from the byte it had come to', async () => {
    const { server, url } = await serve();
    const { cache } = profile({ sync });
    await aborted(cache, server, url);
    const [partial] = await cache.list();
    expect(partial).toMatchObject({ url, size: SIZE, complete: false, digest: undefined });
    expect(partial!.downloaded).toBeGreaterThan(0.2 * SIZE);
    expect(await contents(cache, url)).toBe(SUM);
    expect(server.asked).toBe(SIZE - partial!.downloaded);
  });

  test('after a crash what was safe is not asked for again', async () => {
    const { server, url } = await serve();
    const { cache, browser, tab } = profile({ sync });
    // The whole browser goes, with all that it has not written yet.
    server.pace = 200;
    const dead = cache.fetch(url);
    dead.catch(() => {});
    await new Promise<void>((then) => (server.reached = { bytes: 0.45 * SIZE, then }));
    server.pace = 0;
    browser.crash();
    await expect(dead).rejects.toEqual(code('io_error'));
    await settled(server);
    expect(await contents(tab(), url)).toBe(SUM);
    // Those of the first second at least: a segment of each connection.
    expect(server.asked).toBeLessThanOrEqual(SIZE - 4 * SEGMENT);
  });

  test('a disk that is full in the middle is told, and what has come stays', async () => {
    const { server, url } = await serve();
    const { cache, browser } = profile({ sync, quota: SIZE >> 1 });
    browser.promised = Infinity;
    await expect(cache.fetch(url)).rejects.toEqual(code('quota_exceeded'));
    const downloaded = (await cache.list())[0]!.downloaded;
    // All of it, though the disk is full to its last byte; in a page what a stream had not written yet is lost.
    if (sync) expect(downloaded).toBeGreaterThan((SIZE >> 1) - 1.5 * SEGMENT);
    browser.quota = Infinity;
    await settled(server);
    expect(await contents(cache, url)).toBe(SUM);
    expect(server.asked).toBe(SIZE - downloaded);
  });
});

test('too large a file is refused before a byte of it is stored', async () => {
  const { server, url } = await serve();
  const { cache, browser } = profile({ quota: SIZE - 1 });
  await expect(cache.fetch(url)).rejects.toEqual(code('quota_exceeded'));
  expect(browser.usage()).toBe(0);
  expect(server.requests.length).toBe(1);
});

test('connections that break are made anew, visibly', async () => {
  const { server, url } = await serve();
  server.breakAfter = 0.4 * SIZE;
  server.breaks = 2;
  const { cache } = profile();
  const retries: unknown[] = [];
  const onProgress = ({ retry }: DownloadProgress) => retry && retries.push(retry);
  expect(await contents(cache, url, { onProgress })).toBe(SUM);
  expect(retries[0]).toMatchObject({ attempt: 1, tries: 3 });
  // What had left the server but not arrived comes twice: a piece of each connection at most.
  expect(server.sent).toBeLessThan(SIZE + 8 * 2 * (16 << 10));
});

test('a server that stays away ends the download, which goes on when it is back', async () => {
  const { server, url } = await serve();
  server.breakAfter = 0.4 * SIZE;
  server.breaks = Infinity;
  const { cache } = profile();
  await expect(cache.fetch(url)).rejects.toEqual(code('io_error'));
  server.breakAfter = Infinity;
  await settled(server);
  expect(await contents(cache, url)).toBe(SUM);
  expect(server.asked).toBeLessThan(0.8 * SIZE);
});

test('a connection on which nothing comes any more is given up', async () => {
  const { server, url } = await serve();
  server.stallAfter = 0.4 * SIZE;
  const { tab } = profile();
  const reasons: string[] = [];
  const onProgress = ({ retry }: DownloadProgress) => retry && reasons.push(retry.reason);
  expect(await contents(tab({ stallTimeout: 200 }), url, { onProgress })).toBe(SUM);
  expect(reasons[0]).toMatch(/nothing came for 0\.2 s/);
});

test('two tabs share one download', async () => {
  const { server, url } = await serve();
  server.pace = 20;
  const { tab } = profile({ sync: true });
  const seen: number[][] = [[], []];
  const [first, second] = await Promise.all(
    seen.map((loaded) =>
      contents(tab(), url, { onProgress: (event: DownloadProgress) => loaded.push(event.loaded) }),
    ),
  );
  expect(first).toBe(SUM);
  expect(second).toBe(SUM);
  expect(server.sent).toBe(SIZE);
  for (const loaded of seen) expect(loaded.length).toBeGreaterThan(1);
});

test('a tab goes on with what another leaves unfinished', async () => {
  const { server, url } = await serve();
  const { tab } = profile({ sync: true });
  const stopped = aborted(tab(), server, url);
  const finished = contents(tab(), url);
  await stopped;
  expect(await finished).toBe(SUM);
  expect(server.asked).toBeLessThan(0.8 * SIZE);
});

test('a tab that waits for another can be told to stop', async () => {
  const { server, url } = await serve();
  server.pace = 2;
  const { tab } = profile();
  const first = contents(tab(), url);
  await expect(tab().fetch(url, { signal: AbortSignal.timeout(20) })).rejects.toEqual(
    code('cancelled'),
  );
  expect(await first).toBe(SUM);
  expect(server.asked).toBe(SIZE);
});

test('what is there is listed, and deleted unless it is read', async () => {
  const { url } = await serve();
  const { server, url: late } = await serve(noise(2));
  const { cache, tab, browser } = profile();
  const source = await cache.fetch(url);
  await aborted(cache, server, `${late}?token=x#part`);
  const models = await cache.list();
  expect(models).toMatchObject(
    [
      { url, name: 'file.gguf', size: SIZE, downloaded: SIZE, complete: true },
      { url: `${late}?token=x`, name: 'file.gguf', size: SIZE, complete: false },
    ].sort((a) => (a.url === models[0]!.url ? -1 : 1)),
  );
  expect(Math.abs(Date.now() - models[0]!.lastUsed.getTime())).toBeLessThan(60_000);
  expect(await cache.size()).toBe(browser.usage());
  await expect(tab().delete(url)).rejects.toEqual(code('busy'));
  await expect(tab().clear()).rejects.toEqual(code('busy'));
  expect(await cache.list()).toMatchObject([{ url }]);
  expect(sha256(await source.read(0, SIZE))).toBe(SUM);
  await source.close();
  expect(await tab().delete(`${url}#x`)).toBe(true);
  expect(await cache.delete(url)).toBe(false);
  expect(await cache.size()).toBe(0);
  expect(browser.files.size).toBe(0);
});

test('another digest at the same address is another file, and replaces the old one', async () => {
  const { server, url } = await serve();
  const { cache } = profile();
  await (await cache.fetch(url)).close();
  const other = noise(2);
  server.replace(other, '"2"');
  expect(await contents(cache, url)).toBe(SUM);
  // The old one is there as long as the new one is not.
  server.corrupt = 0;
  await expect(cache.fetch(url, { digest: sha256(other) })).rejects.toEqual(
    code('integrity_error'),
  );
  expect(await contents(cache, url)).toBe(SUM);
  expect(await contents(cache, url, { digest: sha256(other) })).toBe(sha256(other));
  expect(await cache.list()).toMatchObject([{ digest: `sha256:${sha256(other)}` }]);
});

test('a deletion that was cut off leaves nothing behind', async () => {
  const { url } = await serve();
  const { cache, browser } = profile();
  await (await cache.fetch(url)).close();
  for (const folder of browser.files.values())
    (folder as Map<string, unknown>).delete('entry.json');
  expect(await cache.list()).toEqual([]);
  expect(browser.usage()).toBe(0);
});

test('what is no address, digest, size or number of connections is refused', async () => {
  const { cache, tab } = profile();
  const wrong = (url: string, options = {}) =>
    expect(cache.fetch(url, options)).rejects.toEqual(code('invalid_argument'));
  await wrong('file:///etc/passwd');
  await wrong('nano');
  await wrong('http://x/y', { digest: 'abc' });
  await wrong('http://x/y', { size: -1 });
  expect(() => tab({ connections: 0 })).toThrow(code('invalid_argument'));
  expect(() => tab({ segmentBytes: 1.5e6 + 0.5 })).toThrow(code('invalid_argument'));
});

test('Node has no such cache, and says so', async () => {
  await expect(openCache()).rejects.toEqual(code('unsupported'));
  const url = 'http://localhost:1/x.gguf';
  await expect(Model.load(url, { cache: true })).rejects.toEqual(code('unsupported'));
  await expect(Model.load(url, { digest: SUM })).rejects.toEqual(code('invalid_argument'));
});
