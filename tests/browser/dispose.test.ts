// Models loaded, asked and disposed of again and again in one page: nothing of them stays, on the GPU or in the heap. Of
// the 50 times, these are a few (LAPIDARY_DISPOSALS says how many): a software GPU takes a second for each. All 50 are
// in tests/model/dispose.test.ts, in Node.

import { expect, test } from 'vitest';
import { root, siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();
const ROUNDS = Number(process.env.LAPIDARY_DISPOSALS ?? 8);
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

test('load, chat, dispose', async () => {
  const page = await shared.browser.newPage();
  await page.route('**/models/tiny', (route) =>
    route.fulfill({ path: `${root}tests/fixtures/gemma4/tiny-dense.gguf` }),
  );
  await page.goto(shared.site.url);
  await page.addScriptTag({ type: 'module', url: './tests/dispose-page.js' });
  await page.waitForFunction(() => 'rounds' in window);
  const session = await page.context().newCDPSession(page);
  const rounds = (count: number) =>
    page.evaluate(
      (n) => (window as unknown as { rounds(n: number): Promise<Seen> }).rounds(n),
      count,
    );
  /** Bytes that are alive in the page's heap, and in the memories that it holds. */
  const heap = async () => {
    for (let i = 0; i < 3; i++) await session.send('HeapProfiler.collectGarbage');
    const { usedSize, backingStorageSize } = await session.send('Runtime.getHeapUsage');
    return usedSize + backingStorageSize;
  };

  // The first rounds compile kernels and fill caches.
  expect(await rounds(WARM)).toMatchObject({ left: 0, alive: 0 });
  const before = await heap();
  const { used, left, tokens, alive, made } = await rounds(ROUNDS - WARM);
  expect([left, alive]).toEqual([0, 0]);
  expect(used).toBeGreaterThan(500_000);
  expect(made).toBeGreaterThan(50 * ROUNDS);
  expect(tokens).toBe(8 * (ROUNDS - WARM));
  const growth = (await heap()) / before - 1;
  expect(growth).toBeLessThan(0.05);
  await page.close();
});
