// Pictures and sound in Chromium: the page's files, camera and microphone, its tray and what it says, with a tiny model that
// sees and hears; and the browser's decoders,
// against the pixels that a file was made of.

import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { beforeAll, expect, test } from 'vitest';
import { picture, textWith } from '../support/seeing.js';
import { writeGguf } from '../support/gguf.js';
import { rawMedia } from '../support/raw-media.js';
import { siteAndBrowser } from './harness.js';

// Devices that are none: a picture that moves, and beeps.
const shared = siteAndBrowser([
  '--use-fake-device-for-media-stream=device-count=2',
  '--use-fake-ui-for-media-stream',
]);
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

const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "connect-src 'self'",
  "worker-src 'self'",
  "style-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

/** Keeps the streams of devices that the page opens, and how many of their tracks go on. */
const watchDevices = () => {
  const streams: MediaStream[] = [];
  const { mediaDevices } = navigator;
  const open = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = async (wanted) => {
    const stream = await open(wanted);
    streams.push(stream);
    return stream;
  };
  Object.assign(window, {
    opened: () => streams.length,
    live: () =>
      streams.flatMap((stream) => stream.getTracks()).filter((track) => track.readyState === 'live')
        .length,
  });
};

test('the page takes a projector beside a model, and pictures and sound beside words', async () => {
  const page = await shared.browser.newPage();
  await page.addInitScript(watchDevices);
  // Under a strict policy nothing but the page's own files runs.
  await page.route(shared.site.url, async (route) => {
    const response = await route.fetch();
    const headers = { ...response.headers(), 'content-security-policy': POLICY };
    await route.fulfill({ response, headers });
  });
  const refused: string[] = [];
  page.on('console', (message) => {
    if (/Content.Security.Policy/i.test(message.text())) refused.push(message.text());
  });
  const devices = () =>
    page.evaluate(() => {
      const { opened, live } = window as unknown as Record<'opened' | 'live', () => number>;
      return { opened: opened(), live: live() };
    });
  const status = page.getByRole('status');
  await page.goto(shared.site.url);
  // Without towers, of which a software GPU would compile kernels for minutes.
  const projector = writeGguf(rawMedia(32));
  const chosen = [
    file('tiny-e.gguf', textWith('image', 'audio')),
    file('mmproj-tiny.gguf', projector),
  ];
  await page.getByLabel('or a file on this machine').setInputFiles(chosen);
  await settled(page);
  expect(await status.textContent()).toMatch(/ready\.$/);

  const tray = page.getByRole('list', { name: 'To send' });
  const input = page.getByLabel('Pictures and sound: choose them');
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

  // The microphone: given up by Escape, then kept.
  const recorder = page.getByRole('group', { name: 'Recording' });
  await page.getByRole('button', { name: 'Record sound' }).click();
  await recorder.getByRole('button', { name: 'Stop recording' }).waitFor();
  expect(await devices()).toEqual({ opened: 1, live: 1 });
  await page.keyboard.press('Escape');
  await expect.poll(() => status.textContent()).toBe('Discarded.');
  expect(await devices()).toEqual({ opened: 1, live: 0 });
  await page.getByRole('button', { name: 'Record sound' }).click();
  const timer = recorder.getByRole('timer');
  await expect.poll(() => timer.textContent(), { timeout: MINUTES }).toMatch(/^0:01 of 2:43$/);
  await expect
    .poll(() => recorder.getByRole('meter').evaluate((meter: HTMLMeterElement) => meter.value))
    .toBeGreaterThan(0);
  await page.keyboard.press('Enter');
  await expect.poll(() => status.textContent(), { timeout: 8 * MINUTES }).toBe('Recorded.');
  expect(await tray.textContent()).toMatch(/recording, 0:0[12]/);
  expect(await devices()).toEqual({ opened: 2, live: 0 });

  // The camera: closed by Escape, then used.
  const camera = page.getByRole('dialog', { name: 'Camera' });
  await page.getByRole('button', { name: 'Use the camera' }).click();
  await camera.waitFor();
  await page.keyboard.press('Escape');
  await expect.poll(async () => (await devices()).live).toBe(0);
  await page.getByRole('button', { name: 'Use the camera' }).click();
  const choice = camera.getByRole('combobox', { name: 'Which camera' });
  await choice.waitFor();
  const first = await choice.inputValue();
  await choice.selectOption({ index: 1 });
  await expect.poll(devices).toEqual({ opened: 5, live: 1 });
  expect(await choice.inputValue()).not.toBe(first);
  await camera.getByRole('button', { name: 'Take the picture' }).click();
  await expect.poll(() => tray.getByRole('img').count()).toBe(3);
  await expect.poll(devices).toEqual({ opened: 5, live: 0 });
  expect(await camera.count()).toBe(0);

  await page.getByRole('textbox', { name: 'Message' }).fill('hello');
  await page.getByRole('button', { name: 'Send' }).click();
  // It replies, to all of it.
  await page.waitForFunction(
    () => document.querySelector('#log article:last-of-type .text')?.textContent !== '',
    null,
    { timeout: 8 * MINUTES },
  );
  await page.getByRole('button', { name: 'Stop' }).click();
  await settled(page);
  expect(await status.textContent()).toMatch(/^Stopped\. \d+ tokens/);
  expect(await page.locator('#log article:first-of-type canvas').count()).toBe(3);
  expect(await page.locator('#log article:first-of-type .sound').count()).toBe(1);
  expect(await tray.getByRole('img').count()).toBe(0);
  expect(refused).toEqual([]);
  await page.close();
});

test('a page decodes files of sound, and refuses what is none', async () => {
  const page = await shared.browser.newPage();
  await page.goto(shared.site.url);
  await page.addScriptTag({ type: 'module', url: './tests/pictures-page.js' });
  await page.waitForFunction(() => 'sounds' in window);
  const found = await page.evaluate(() =>
    (window as unknown as { sounds(): Promise<Record<string, number | string>> }).sounds(),
  );
  expect(found).toMatchObject({
    rate: 16_000,
    short: 32_000,
    long: 'invalid_argument',
    text: 'invalid_format',
    empty: 'invalid_format',
    aborted: 'cancelled',
  });
  expect(found.seconds).toBeGreaterThan(0.7);
  expect(found.hertz).toBeGreaterThan(436);
  expect(found.hertz).toBeLessThan(444);
  // The tone's is 0.5 / √2.
  expect(found.loudness).toBeGreaterThan(0.3);
  expect(found.loudness).toBeLessThan(0.4);
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
