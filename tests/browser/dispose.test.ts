// The engine on a page's own thread, unbundled, from a Blob; and models loaded, asked and disposed of again and again in that
// page: nothing of them stays, on the GPU or in the heap. Of the 50 times, these are a few (LAPIDARY_DISPOSALS says how
// many): a software GPU takes a second or more for each. All 50 are in tests/model/dispose.test.ts, in Node.

import { expect, test } from 'vitest';
import { siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();
const ROUNDS = Number(process.env.LAPIDARY_DISPOSALS ?? 6);
const WARM = 3;

interface Seen {
  /** Bytes of buffers of the loaded model, the least of all rounds. */
  used: number;
  /** Bytes of buffers that its engine did not give back, all rounds together. */
  left: number;
  tokens: number;
  /** GPU buffers. */
  alive: number;
  made: number;
}
interface PageUnderTest {
  first(): Promise<{ texts: string[]; phases: string[]; heapBytes: number; refused: string }>;
  rounds(count: number): Promise<Seen>;
}

test('loads on the main thread, chats, and leaves nothing behind', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);
  await page.addScriptTag({ type: 'module', url: './tests/dispose-page.js' });
  await page.waitForFunction(() => 'rounds' in window);
  const session = await page.context().newCDPSession(page);
  const rounds = (count: number) =>
    page.evaluate((n) => (window as unknown as PageUnderTest).rounds(n), count);
  /** Bytes that are alive in the page's heap, and in the memories that it holds. */
  const heap = async () => {
    for (let i = 0; i < 3; i++) await session.send('HeapProfiler.collectGarbage');
    const { usedSize, backingStorageSize } = await session.send('Runtime.getHeapUsage');
    return usedSize + backingStorageSize;
  };

  const result = await page.evaluate(() => (window as unknown as PageUnderTest).first());
  // Asked at once, answered one after another.
  expect(result.texts[0]).toContain('Paris');
  expect(result.texts[1]).toBe(result.texts[0]);
  expect(result.phases).toEqual(
    expect.arrayContaining(['header', 'selftest', 'upload', 'compile']),
  );
  expect(result.heapBytes).toBeLessThan(64 << 20);
  expect(result.refused).toBe('invalid_argument');

  // The first rounds fill caches.
  expect(await rounds(WARM - 1)).toMatchObject({ left: 0, alive: 0 });
  const before = await heap();
  const { used, left, tokens, alive, made } = await rounds(ROUNDS - WARM);
  expect([left, alive]).toEqual([0, 0]);
  expect(used).toBeGreaterThan(5_000_000);
  expect(made).toBeGreaterThan(50 * ROUNDS);
  expect(tokens).toBe(3 * (ROUNDS - WARM));
  expect((await heap()) / before - 1).toBeLessThan(0.05);
  await page.close();
});
