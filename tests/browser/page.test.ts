// The page in Chromium, with real WebGPU on a software GPU: load, answer, stop, answer again; and what it says when
// something is missing.

import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();

const status = (page: Page) => page.getByRole('status');
const answers = (page: Page) => page.locator('#log article:nth-of-type(even) .text');
const MINUTES = 60_000;

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel('Message').fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
}
/** Waits for a state; an error that the page shows meanwhile fails at once. */
async function inState(page: Page, state: string): Promise<void> {
  const selector = `body[data-state=${state}], #status[data-error]`;
  await page.waitForSelector(selector, { timeout: 8 * MINUTES });
  const error = page.locator('#status[data-error]');
  if ((await error.count()) > 0) throw new Error((await error.textContent()) ?? '');
}

test('loads over HTTP range, answers, stops when told, answers again', async () => {
  const page = await shared.browser.newPage();
  const errors: string[] = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(shared.site.url);
  await page.getByRole('button', { name: 'Load' }).click();
  await inState(page, 'ready');
  expect(await status(page).textContent()).toMatch(/ready\.$/);
  expect(shared.site.ranges.length).toBeGreaterThan(2);
  expect(shared.site.ranges).not.toContain('whole');

  await ask(page, 'What is the capital of France?');
  await inState(page, 'ready');
  expect(await answers(page).nth(0).textContent()).toContain('Paris');

  // Stopped at the first text, an answer keeps what it has and is shorter than what it would have become.
  await ask(page, 'Tell me a long story about a dragon.');
  await page.waitForFunction(
    () => document.querySelector('#log article:last-of-type .text')?.textContent !== '',
    null,
    { timeout: 4 * MINUTES },
  );
  await page.getByRole('button', { name: 'Stop' }).click();
  await inState(page, 'ready');
  expect(await status(page).textContent()).toMatch(/^Stopped\. \d+ tokens/);
  expect(await answers(page).nth(1).textContent()).not.toBe('');

  await ask(page, 'What is the capital of France?');
  await inState(page, 'ready');
  expect(await answers(page).nth(2).textContent()).not.toBe('');
  expect(await status(page).textContent()).toMatch(/^\d+ tokens/);
  expect(errors).toEqual([]);
  await page.close();
});

test('says what is wrong with an address, and can be told another', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);
  await page.getByLabel('Model address').fill('./models/none');
  await page.getByRole('button', { name: 'Load' }).click();
  await page.waitForSelector('#status[data-error]');
  expect(await status(page).textContent()).toMatch(/404.*\(not_found\)/);
  await page.getByLabel('Model address').fill('./index.html');
  await page.getByRole('button', { name: 'Load' }).click();
  await expect
    .poll(() => status(page).textContent(), { timeout: MINUTES })
    .toMatch(/\(invalid_format\)/);
  expect(await page.getByRole('button', { name: 'Load' }).isEnabled()).toBe(true);
  await page.close();
});

test('says so when the browser has no WebGPU', async () => {
  const page = await shared.browser.newPage();
  await page.addInitScript(() => {
    Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined });
  });
  await page.goto(shared.site.url);
  expect(await status(page).textContent()).toMatch(/no WebGPU.*Chrome/);
  expect(await page.getByRole('button', { name: 'Load' }).isDisabled()).toBe(true);
  await page.close();
});
