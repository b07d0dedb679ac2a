// Fine-tuning in a worker of a page in Chromium: trained, stopped, used at once, kept, and gone on with after a reload.

import type { Page } from 'playwright-core';
import type { AdapterInfo, FinetuneReady, FinetuneReport } from 'lapidary';
import { expect, test } from 'vitest';
import { siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();
const STEPS = 20;

/** What finetune-worker.js answers. */
interface Outcome {
  ready: FinetuneReady;
  losses: number[];
  reason: FinetuneReport['reason'];
  step: number;
  info: AdapterInfo;
  /** Logits. */
  base: number[];
  trained: number[];
  without: number[];
}

/** Does the work in a new worker of the page. */
async function inWorker(page: Page, request: { resume: boolean; stopAfter: number }) {
  const answer = await page.evaluate(
    (work) =>
      new Promise<{ result?: Outcome; error?: string }>((resolve) => {
        const worker = new Worker('/tests/finetune-worker.js', { type: 'module' });
        worker.onmessage = ({ data }) => {
          worker.terminate();
          resolve(data as { result?: Outcome; error?: string });
        };
        worker.onerror = ({ message }) => resolve({ error: message || 'the worker did not start' });
        worker.postMessage(work);
      }),
    request,
  );
  if (!answer.result) throw new Error(answer.error);
  return answer.result;
}

/** What was trained is in use at once; without it the model, never loaded again, is the base bit for bit. */
function expectUse({ base, trained, without, info }: Outcome): void {
  expect(trained).toHaveLength(base.length);
  expect(trained.every(Number.isFinite)).toBe(true);
  const change = Math.max(...trained.map((logit, i) => Math.abs(logit - base[i]!)));
  expect(change).toBeGreaterThan(0.1);
  expect(without).toEqual(base);
  expect(info).toMatchObject({ scale: 1, rank: 4 });
}

test('trains in a worker, stops when told, and goes on after a reload', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);

  const first = await inWorker(page, { resume: false, stopAfter: 10 });
  expect(first.ready).toMatchObject({ examples: 2, step: 0, steps: STEPS });
  expect(first.reason).toBe('cancelled');
  // The next step may have begun when the worker says so; its micro-batch is let finish.
  expect(first.step).toBeGreaterThanOrEqual(10);
  expect(first.step).toBeLessThan(STEPS);
  expect(first.losses).toHaveLength(first.step);
  expectUse(first);

  await page.reload();
  const second = await inWorker(page, { resume: true, stopAfter: NaN });
  expect(second.ready).toMatchObject({ examples: 2, step: first.step, steps: STEPS });
  expect(second.reason).toBe('done');
  expect(second.step).toBe(STEPS);
  expectUse(second);

  // One row holds both examples: every loss is of the same tokens.
  const losses = [...first.losses, ...second.losses];
  expect(losses).toHaveLength(STEPS);
  expect(losses).toEqual([...losses].sort((a, b) => b - a));
  expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.9);
  await page.close();
});
