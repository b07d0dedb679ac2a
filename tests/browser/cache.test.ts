// The download cache in Chromium, on a real disk: cut off and gone on with, shared by tabs, without room, damaged on the
// way, and offline.

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { FileServer } from '../support/file-server.ts';
import { launchOptions, nanoPath, serve, type Site } from './harness.js';

interface Outcome {
  /** SHA-256 of all that was read. */
  digest?: string;
  code?: string;
  message?: string;
  /** Bytes that are in the cache after an error. */
  kept?: number;
  last?: { loaded: number; total: number };
  retries: { attempt: number; tries: number; reason: string }[];
}
interface Request {
  url: string;
  options?: object;
  expected?: { digest?: string; size?: number };
  /** The quota that the browser seems to have. */
  promise?: number;
}

const SEGMENT = 256 << 10;
const FAST = { segmentBytes: SEGMENT, backOff: 20, tries: 3 };

let site: Site;
let context: BrowserContext;
let profile: string;
let nano: Uint8Array;
let sum: string;
let server: FileServer;
let url: string;

beforeAll(async () => {
  const path = await nanoPath();
  nano = await readFile(path);
  sum = path.split('sha256-').at(-1)!;
  site = await serve();
  // A profile on disk: a window without one keeps its files in memory, and has another quota.
  profile = await mkdtemp(join(tmpdir(), 'lapidary-profile-'));
  context = await chromium.launchPersistentContext(profile, launchOptions);
});
afterAll(async () => {
  await context?.close();
  await site?.close();
  if (profile) await rm(profile, { recursive: true, maxRetries: 5 });
});
// Every test has an address of its own, and so a file of its own in the cache.
beforeEach(async () => {
  server = new FileServer(nano);
  url = await server.listen();
});
afterEach(() => server.close());

/** A page with a worker that has the cache. */
async function open(): Promise<Page> {
  const page = await context.newPage();
  await start(page);
  return page;
}
async function start(page: Page): Promise<void> {
  await page.goto(site.url);
  await page.evaluate(async () => {
    const worker = new Worker('/tests/cache-worker.js', { type: 'module' });
    await new Promise((resolve) => worker.addEventListener('message', resolve, { once: true }));
    let count = 0;
    const fetchIn = (request: object) =>
      new Promise((resolve) => {
        const id = ++count;
        worker.addEventListener(
          'message',
          ({ data }: MessageEvent<{ id: number; result: unknown }>) => {
            if (data.id === id) resolve(data.result);
          },
        );
        worker.postMessage({ ...request, id });
      });
    Object.assign(window, { fetchIn });
  });
}
/** Downloads in the page's worker and reads all of it. */
function fetched(page: Page, request: Partial<Request> = {}): Promise<Outcome> {
  const all: Request = { url, options: FAST, ...request };
  return page.evaluate(
    (what) => (window as unknown as { fetchIn(r: Request): Promise<Outcome> }).fetchIn(what),
    all,
  );
}
const reached = (part: number) =>
  new Promise<void>((then) => (server.reached = { bytes: part * nano.length, then }));
/** Lets the server see what was asked of it and is not wanted any more, and counts anew. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 200));
  server.reset();
}

/** The package on the page's own thread, without a bundler. */
async function mainThread(page: Page): Promise<void> {
  // In a script of its own: vitest rewrites import() in this file's functions.
  await page.addScriptTag({
    type: 'module',
    content:
      "import * as lapidary from './lapidary/index.js'; Object.assign(window, { lapidary });",
  });
  await page.waitForFunction(() => 'lapidary' in window);
}

test('a page that is gone at 40 % has what had come when it is back', async () => {
  const page = await open();
  server.pace = 40;
  const cut = reached(0.4);
  void fetched(page).catch(() => {}); // nobody is left to answer
  await cut;
  await page.reload();
  server.pace = 0;
  await settled();
  await start(page);
  const outcome = await fetched(page);
  const { length } = nano;
  expect(outcome).toMatchObject({ digest: sum, last: { loaded: length, total: length } });
  // What came in the last second may come again.
  expect(server.asked).toBeLessThan(0.95 * length);
  await page.close();
});

test('a line that is cut at 40 % is an error, and the next try goes on there', async () => {
  const page = await open();
  server.breakAfter = 0.4 * nano.length;
  server.breaks = Infinity;
  const failed = await fetched(page);
  expect(failed).toMatchObject({ code: 'io_error' });
  expect(failed.retries[0]).toMatchObject({ attempt: 1, tries: 3 });
  server.breakAfter = Infinity;
  await settled();
  expect(await fetched(page)).toMatchObject({ digest: sum });
  expect(server.asked).toBe(nano.length - failed.kept!);
  expect(failed.kept).toBeGreaterThan(0.3 * nano.length);
  await page.close();
});

test('a byte that is damaged on its way is an error; the next download is right', async () => {
  const page = await open();
  server.corrupt = nano.length >> 1;
  const expected = { digest: sum };
  expect(await fetched(page, { expected })).toMatchObject({ code: 'integrity_error' });
  expect(await fetched(page, { expected })).toMatchObject({ digest: sum });
  await page.close();
});

test('a quota that is met in the middle is an error, and what has come stays', async () => {
  const page = await open();
  const session = await context.newCDPSession(page);
  const { usage } = await page.evaluate(() => navigator.storage.estimate());
  const quotaSize = usage! + (nano.length >> 1);
  const origin = new URL(site.url).origin;
  await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize });
  // Where the browser says that there is no room, nothing is begun; Chromium promises more than it has.
  expect(await fetched(page, { promise: 1 })).toMatchObject({ code: 'quota_exceeded' });
  expect(server.requests.length).toBe(1);
  const full = await fetched(page, { promise: 1e12 });
  expect(full).toMatchObject({ code: 'quota_exceeded' });
  // Chromium counts a whole MiB for a file that has just been opened.
  expect(full.kept).toBeGreaterThanOrEqual(SEGMENT);
  await session.send('Storage.overrideQuotaForOrigin', { origin });
  await settled();
  expect(await fetched(page)).toMatchObject({ digest: sum });
  expect(server.asked).toBe(nano.length - full.kept!);
  await page.close();
});

test('two tabs share one download', async () => {
  const [first, second] = await Promise.all([open(), open()]);
  server.pace = 5;
  const outcomes = await Promise.all([fetched(first), fetched(second)]);
  for (const outcome of outcomes) {
    expect(outcome).toMatchObject({ digest: sum, last: { total: nano.length } });
  }
  expect(server.sent).toBe(nano.length);
  await Promise.all([first.close(), second.close()]);
});

test('what one visit downloads on its main thread the next one loads offline, lists and deletes', async () => {
  const page = await context.newPage();
  await page.goto(site.url);
  await mainThread(page);
  const { digest, persisted } = await page.evaluate(
    async ([url, options]) => {
      const { openCache } = (window as unknown as { lapidary: typeof import('lapidary') }).lapidary;
      const cache = await openCache(options);
      await cache.clear();
      const source = await cache.fetch(url);
      return { digest: source.digest, persisted: await cache.persist() };
    },
    [url, FAST] as const,
  );
  expect(digest).toBe(`sha256:${sum}`);
  expect(typeof persisted).toBe('boolean');
  expect(server.sent).toBe(nano.length);
  await server.close();

  await page.reload();
  const entry = page.locator('#models li');
  await expect.poll(() => entry.count()).toBe(1);
  expect(await entry.textContent()).toContain('file.gguf, 6.1 MB');
  const state = async (name: string) => {
    await page.waitForSelector(`body[data-state=${name}], #status[data-error]`, {
      timeout: 480_000,
    });
    expect(await page.locator('#status[data-error]').allTextContents()).toEqual([]);
  };
  await page.getByRole('button', { name: 'Load file.gguf' }).click();
  await state('ready');
  await page.getByLabel('Message').fill('What is the capital of France?');
  await page.getByRole('button', { name: 'Send' }).click();
  await state('ready');
  expect(await page.locator('#log article .text').last().textContent()).toContain('Paris');

  // What is in use stays; after another visit it can go.
  const status = page.getByRole('status');
  await page.getByRole('button', { name: 'Delete file.gguf' }).click();
  await expect.poll(() => status.textContent()).toMatch(/\(busy\)/);
  expect(await entry.count()).toBe(1);
  await page.reload();
  await page.getByRole('button', { name: 'Delete file.gguf' }).click();
  await expect.poll(() => status.textContent()).toBe('Deleted.');
  expect(await entry.count()).toBe(0);
  await page.close();
});
