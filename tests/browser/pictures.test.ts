// Pictures in Chromium: the page's files, its tray and what it says, with a tiny model that sees; and the browser's decoders,
// against the pixels that a file was made of.

import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { beforeAll, expect, test } from 'vitest';
import { picture, seeingText, tower } from '../support/seeing.js';
import { siteAndBrowser } from './harness.js';

const shared = siteAndBrowser();
const MINUTES = 60_000;
const SIDE = 64;

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

interface Decoded {
  width: number;
  height: number;
  channels: number;
  bytes: number[];
}
test('a page decodes what Node does, and refuses what is no picture', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);
  await page.addScriptTag({ type: 'module', url: './tests/pictures-page.js' });
  await page.waitForFunction(() => 'refusal' in window);
  const ask = (what: 'decode' | 'bitmap' | 'refusal', file: Uint8Array) =>
    page.evaluate(
      ([name, bytes]) =>
        (window as unknown as Record<string, (file: number[]) => Promise<unknown>>)[name]!(bytes),
      [what, [...file]] as [string, number[]],
    );

  const shown = picture(40, 30, 3);
  const raw = sharp(shown.data, { raw: { width: 40, height: 30, channels: 3 } });
  const file = new Uint8Array(await raw.clone().png().toBuffer());
  const rgbx = Array.from({ length: 40 * 30 }, (_, i) => [
    ...shown.data.subarray(3 * i, 3 * i + 3),
    255,
  ]).flat();
  const expected = { width: 40, height: 30, channels: 4, bytes: rgbx };
  expect(await ask('decode', file)).toEqual(expected);
  expect(await ask('bitmap', file)).toEqual(expected);

  // What EXIF says is done, and what is transparent is white.
  const turned = await raw.clone().png().withMetadata({ orientation: 6 }).toBuffer();
  expect(await ask('decode', turned)).toMatchObject({ width: 30, height: 40 });
  const clear = sharp(new Uint8Array(16), { raw: { width: 2, height: 2, channels: 4 } });
  const white = (await ask('decode', await clear.png().toBuffer())) as Decoded;
  expect(white.bytes).toEqual(Array.from({ length: 16 }, () => 255));

  const huge = Uint8Array.from(file);
  // Its header says 20,000 by 20,000.
  new DataView(huge.buffer).setUint32(16, 20_000);
  new DataView(huge.buffer).setUint32(20, 20_000);
  const text = new TextEncoder().encode('no picture at all');
  expect(await ask('refusal', huge)).toBe('invalid_argument');
  expect(await ask('refusal', text)).toBe('invalid_format');
  expect(await ask('refusal', file.subarray(0, 40))).toBe('invalid_format');
  await page.close();
});
