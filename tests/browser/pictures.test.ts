// Pictures in Chromium, with a tiny model that sees: the page's files, its tray and what it says, and every form of a picture
// that a browser has, against what Node makes of the same file.

import type { ImageInput, Model, TokenLogprob } from 'lapidary/node';
import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { beforeAll, expect, test } from 'vitest';
import { maxAbsDifference } from '../support/compare.js';
import { loadBytes, memorySource } from '../support/fixtures.js';
import { picture, seeingText, tower } from '../support/seeing.js';
import { siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();
const MINUTES = 60_000;
// With a budget of 70 tokens it stays as it is.
const SIDE = 384;
const BUDGET = 70;

let png: Uint8Array<ArrayBuffer>;
beforeAll(async () => {
  const { width, height, data } = picture(SIDE, SIDE, 2);
  const raw = sharp(data, { raw: { width, height, channels: 3 } });
  png = new Uint8Array(await raw.png().toBuffer());
});

const file = (name: string, bytes: Uint8Array, mimeType = 'application/octet-stream') => ({
  name,
  mimeType,
  buffer: Buffer.from(bytes),
});
const settled = (page: Page) =>
  page.waitForSelector('body[data-state=ready], #status[data-error]', { timeout: 8 * MINUTES });

test('the page takes a projector beside a model, and pictures beside words', async () => {
  const page = await shared.browser.newPage();
  const status = page.getByRole('status');
  await page.goto(shared.site.url);
  const chosen = [file('tiny-e.gguf', seeingText()), file('mmproj-tiny.gguf', tower())];
  await page.getByLabel('or a file on this machine').setInputFiles(chosen);
  await settled(page);
  expect(await status.textContent()).toMatch(/ready\.$/);

  const tray = page.getByRole('list', { name: 'Pictures to send' });
  const input = page.getByLabel('Pictures: choose them');
  await input.setInputFiles([
    file('one.png', png, 'image/png'),
    file('two.png', png, 'image/png'),
    file('none.png', new Uint8Array(9), 'image/png'),
  ]);
  await expect.poll(() => tray.getByRole('img').count()).toBe(2);
  await expect.poll(() => status.textContent()).toMatch(/^none\.png is no picture/);
  await tray.getByRole('button', { name: 'Remove' }).first().click();
  // Pasted, as a clipboard brings it.
  await page.evaluate(
    (bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], 'pasted.png', { type: 'image/png' }));
      const event = new ClipboardEvent('paste', { clipboardData: data, bubbles: true });
      document.dispatchEvent(event);
    },
    [...png],
  );
  await expect.poll(() => tray.getByRole('img').count()).toBe(2);
  await page.getByRole('textbox', { name: 'Message' }).fill('hello');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.waitForSelector('body[data-state=answering]');
  await page.getByRole('button', { name: 'Stop' }).click();
  await settled(page);
  expect(await status.textContent()).toMatch(/^Stopped\. \d+ tokens/);
  expect(await page.locator('#log article:first-of-type canvas').count()).toBe(2);
  expect(await tray.getByRole('img').count()).toBe(0);
  await page.close();
});

interface Found {
  id: number;
  logprob: number;
}

/** The likeliest first tokens of an answer, most likely first. */
async function firstTokens(model: Model, image: ImageInput, maxTokens: 70): Promise<Found[]> {
  const content = [
    { type: 'image', image, maxTokens },
    { type: 'text', text: 'hello' },
  ] as const;
  const reply = model.chat([{ role: 'user', content: [...content] }], {
    temperature: 0,
    maxTokens: 1,
    logprobs: 20,
  });
  let top: TokenLogprob[] = [];
  for await (const event of reply) if (event.type === 'token') top = event.top;
  return top.map(({ id, logprob }) => ({ id, logprob }));
}

test('every form of a picture that a browser has is what Node sees', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);
  const found = await page.evaluate(
    async ({ url, text, vision, bytes, maxTokens, ask }) => {
      // Not the test runner's import.
      const load = new Function('url', 'return import(url)') as (
        url: string,
      ) => Promise<typeof import('lapidary')>;
      const { Model } = await load(url);
      const blob = (values: number[], type = '') => new Blob([Uint8Array.from(values)], { type });
      const model = await Model.load(blob(text), { projector: blob(vision), kvType: 'f32' });
      // Playwright carries a function as its text.
      const first = new Function(`return ${ask}`)() as typeof firstTokens;
      const shown = blob(bytes, 'image/png');
      const forms: Record<string, ImageInput> = {
        blob: shown,
        bitmap: await createImageBitmap(shown),
        bytes: Uint8Array.from(bytes),
        address: URL.createObjectURL(shown),
      };
      const answers: Record<string, Awaited<ReturnType<typeof firstTokens>>> = {};
      for (const [name, image] of Object.entries(forms)) {
        answers[name] = await first(model as Model, image, maxTokens);
      }
      const errors: Record<string, string> = {};
      const hostile = { text: 'no picture at all', cut: shown.slice(0, 40), empty: new Blob([]) };
      for (const [name, value] of Object.entries(hostile)) {
        const image = typeof value === 'string' ? new TextEncoder().encode(value) : value;
        errors[name] = await first(model as Model, image, maxTokens).then(
          () => 'nothing',
          (error: { code?: string }) => error.code ?? String(error),
        );
      }
      await model.close();
      return { answers, errors };
    },
    {
      url: `${shared.site.url}lapidary/index.js`,
      text: [...seeingText()],
      vision: [...tower()],
      bytes: [...png],
      maxTokens: BUDGET as 70,
      ask: firstTokens.toString(),
    },
  );
  await page.close();
  const model = await loadBytes('tiny-e.gguf', seeingText(), {
    projector: memorySource('tower.gguf', tower()),
    kvType: 'f32',
  });
  const expected = await firstTokens(model, png, BUDGET);
  await model.close();
  for (const [form, answer] of Object.entries(found.answers)) {
    expect(answer[0]!.id, form).toBe(expected[0]!.id);
    const values = (top: Found[]) => top.map(({ logprob }) => logprob);
    expect(maxAbsDifference(values(answer), values(expected)), form).toBeLessThan(1e-3);
  }
  expect(Object.keys(found.answers)).toHaveLength(4);
  expect(found.errors).toEqual({
    text: 'invalid_format',
    cut: 'invalid_format',
    empty: 'truncated',
  });
});
