// The benchmark's page in Chromium, on nano, with counts as small as can be.

import type { BenchReport } from '@lapidary/bench';
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { nanoPath, siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();

type Result = { report: BenchReport } | { error: { code: string; message: string } };
async function result(page: Page): Promise<Result> {
  await page.waitForFunction(() => 'lapidaryBench' in window, null, { timeout: 480_000 });
  return page.evaluate(() => (window as unknown as { lapidaryBench: Result }).lapidaryBench);
}

test('measures a file that was chosen, behind the gate', async () => {
  const page = await shared.browser.newPage();
  const query = 'contexts=8&prefills=8&repeats=1&decodeTokens=2&firstToken=8';
  await page.goto(`${shared.site.url}bench.html?${query}`);
  await page.getByLabel('or a file on this machine').setInputFiles(await nanoPath());
  const done = await result(page);
  if ('error' in done) throw new Error(done.error.message);
  const { report } = done;
  expect(report.host).toContain('Chrome');
  expect(report.gate).toMatchObject({ checked: 'nano only', nano: { prompts: 7 } });
  expect(report.decode).toMatchObject([{ context: 8, tokens: 2, repeatable: true }]);
  expect(report.prefill).toMatchObject([{ promptTokens: 8 }]);
  expect(report.perToken).toMatchObject({ submits: 1, bindGroups: 0, buffers: 0 });
  expect(report.bandwidth.bytesPerSecond.median).toBeGreaterThan(0);
  expect(await page.getByLabel('Results').textContent()).toMatch(/decode at 8, tok\/s +[\d.]+/);
  expect(await page.getByRole('status').textContent()).toBe('Done.');
  await page.close();
});

test('says what is wrong with its address', async () => {
  const page = await shared.browser.newPage();
  await page.goto(`${shared.site.url}bench.html?model=./models/nano&contexts=none`);
  expect(await result(page)).toMatchObject({ error: { code: 'invalid_argument' } });
  expect(await page.locator('#status[data-error]').textContent()).toMatch(/'none'/);
  await page.close();
});
