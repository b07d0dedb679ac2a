// A browser profile with a download cache, and a web server of one file, for the tests of the cache.

import { createHash } from 'node:crypto';
import { afterEach, expect } from 'vitest';
import { ModelCache } from '../../packages/lapidary/src/cache/cache.ts';
import type { CacheOptions } from '../../packages/lapidary/src/cache/types.ts';
import { FileServer } from '../support/file-server.ts';
import { FakeBrowser, type FakeBrowserOptions } from './fake-browser.ts';

export const SEGMENT = 64 << 10;
export const SIZE = 15 * SEGMENT + 12_345;
export const noise = (seed: number, size = SIZE) => {
  let state = seed;
  return Uint8Array.from(
    { length: size },
    () => (state = (state * 1103515245 + 12345) >>> 0) >>> 24,
  );
};
export const DATA = noise(1);
export const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');
export const SUM = sha256(DATA);
export const code = (name: string) => expect.objectContaining({ code: name }) as Error;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

export async function serve(data = DATA) {
  const server = new FileServer(data);
  const url = await server.listen();
  cleanups.push(() => server.close());
  return { server, url };
}

const FAST: CacheOptions = { segmentBytes: SEGMENT, backOff: 1, tries: 3 };
export function profile(options: FakeBrowserOptions = {}) {
  const browser = new FakeBrowser(options);
  const tab = (more: CacheOptions = {}, base?: string) =>
    new ModelCache(browser.tab(base), { ...FAST, ...more });
  return { browser, cache: tab(), tab };
}

/** Reads all of a file from the cache and closes it; the SHA-256 of what was read. */
export async function contents(cache: ModelCache, url: string, options = {}): Promise<string> {
  const source = await cache.fetch(url, options);
  const bytes = await source.read(0, source.size);
  await source.close();
  return sha256(bytes);
}

/** Aborts a download once the server has sent so much of it. */
export async function aborted(
  cache: ModelCache,
  server: FileServer,
  url: string,
  part = 0.4,
  options = {},
) {
  const controller = new AbortController();
  server.pace = 2;
  server.reached = { bytes: part * SIZE, then: () => controller.abort() };
  const { signal } = controller;
  await expect(cache.fetch(url, { ...options, signal })).rejects.toEqual(code('cancelled'));
  server.pace = 0;
  await settled(server);
}

/** Lets the server see what was asked of it and is not wanted any more, and counts anew. */
export async function settled(server: FileServer): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 50));
  server.reset();
}
