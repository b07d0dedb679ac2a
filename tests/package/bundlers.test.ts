// The packed package in a fresh project, built by each bundler and by none, in Chromium under a strict policy.

import { build as esbuild } from 'esbuild';
import { copyFileSync, cpSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Browser, Page } from 'playwright-core';
import { build as vite } from 'vite';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, nanoPath } from '../browser/harness.js';
import { Project, programsOf, quickStarts, root, serveStrict } from './harness.js';

const webpack = createRequire(import.meta.url)('webpack') as typeof import('webpack');
const fixture = (name: string) => `${root}tests/fixtures/gemma4/${name}`;

const HTML = `<!doctype html><meta charset="utf-8"><title>t</title>
<body><output></output><script type="module" src="./main.js"></script></body>`;

/** What needs no GPU, and what comes back from a worker when something is wrong. */
const ENGINE = `
import { BlobSource, HttpRangeSource, inspect, LapidaryError, Model } from 'lapidary/worker';

const here = (path) => new URL(path, location.href);
const header = await inspect(await HttpRangeSource.open(here('/models/tiny')));
const blob = await (await fetch('/models/tiny')).blob();
const same = await inspect(new BlobSource(new File([blob], 'tiny.gguf')));
const unreachable = await Model.load('./none', { worker: here('/nowhere') }).catch(({ code }) => code);
const failed = await Model.load('./none').catch((error) => error);
const result = {
  architecture: header.metadata['general.architecture'],
  tensors: header.tensors.length,
  same: JSON.stringify(same) === JSON.stringify(header),
  typed: failed instanceof LapidaryError,
  code: failed.code,
  unreachable,
  message: failed.message,
};
document.querySelector('output').textContent = JSON.stringify(result);
`;

let project: Project;
let browser: Browser;
beforeAll(async () => {
  project = await Project.create();
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  project?.remove();
});

interface Opened {
  page: Page;
  /** What the page's console and its policy complained about. */
  complaints: string[];
  workers: string[];
  /** The server goes, the page stays. */
  closeSite(): Promise<void>;
  close(): Promise<void>;
}

async function open(folder: string): Promise<Opened> {
  const models = {
    '/models/tiny': fixture('tiny-e.gguf'),
    '/models/dense': fixture('tiny-dense.gguf'),
    '/models/lora': fixture('tiny-dense-lora.gguf'),
    '/models/nano.gguf': await nanoPath(),
  };
  const site = await serveStrict(folder, models);
  const page = await browser.newPage();
  const complaints: string[] = [];
  const workers: string[] = [];
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    // Files that are not there are asked for.
    const { url } = message.location();
    if (message.type() === 'error' && !/\/(none|nowhere|favicon\.ico)$/.test(url)) {
      complaints.push(`${message.text()} (${url})`);
    }
  });
  page.on('worker', (worker) => workers.push(worker.url()));
  await page.goto(site.url);
  const close = async () => {
    await page.close();
    await site.close();
  };
  return { page, complaints, workers, closeSite: () => site.close(), close };
}

async function shown(opened: Opened, pattern: RegExp, seconds: number): Promise<string> {
  const output = opened.page.locator('output');
  const text = async () => (await output.textContent()) ?? '';
  // A complaint ends the wait, and is what the test then shows.
  const either = async () => opened.complaints.join('\n') || (await text());
  await expect
    .poll(either, { timeout: seconds * 1000, interval: 100 })
    .toSatisfy((now: string) => pattern.test(now) || opened.complaints.length > 0);
  expect(opened.complaints).toEqual([]);
  return text();
}

/** The site in `folder` runs the engine in a worker whose script is the site's own. */
async function expectEngine(folder: string): Promise<void> {
  const opened = await open(folder);
  const result = JSON.parse(await shown(opened, /\}$/, 60)) as { message: string };
  expect(result).toMatchObject({
    architecture: 'gemma4',
    same: true,
    typed: true,
    code: 'not_found',
    unreachable: 'io_error',
  });
  // Meant from the page, not from where the worker's script lies.
  expect(result.message).toContain(new URL('/none', opened.page.url()).href);
  expect(opened.workers.length).toBeGreaterThanOrEqual(3);
  for (const url of opened.workers) expect(url.startsWith(opened.page.url())).toBe(true);
  expect(opened.complaints).toEqual([]);
  await opened.close();
}

test('no bundler', async () => {
  const folder = project.path('plain');
  cpSync(project.path('node_modules/lapidary'), project.path('plain/lapidary'), {
    recursive: true,
  });
  project.write(
    'plain/main.js',
    ENGINE.replace("'lapidary/worker'", "'./lapidary/dist/worker.js'"),
  );
  project.write('plain/index.html', HTML);
  await expectEngine(folder);
});

test('a worker of the page’s own serves several, and stays', async () => {
  const folder = project.path('own');
  const installed = project.path('node_modules/lapidary');
  cpSync(installed, project.path('own/lapidary'), { recursive: true });
  project.write(
    'own/my-worker.js',
    `import './lapidary/dist/worker-host.js';
addEventListener('message', ({ data }) => data.mine && postMessage({ echo: data.mine }));`,
  );
  project.write(
    'own/main.js',
    `import { HttpRangeSource, inspect, mergeAdapters } from './lapidary/dist/worker.js';
import { mergeAdapters as mergeHere } from './lapidary/dist/index.js';
const worker = new Worker(new URL('./my-worker.js', import.meta.url), { type: 'module' });
const source = await HttpRangeSource.open(new URL('/models/tiny', location.href));
const headers = await Promise.all([1, 2].map(() => inspect(source, { worker })));
const echo = await new Promise((resolve) => {
  worker.addEventListener('message', ({ data }) => data.echo && resolve(data.echo));
  worker.postMessage({ mine: 'still here' });
});
const { tensors } = await inspect(source, { worker });
const base = new URL('/models/dense', location.href);
const merge = async (mergeAdapters, options) => {
  const merged = await mergeAdapters(base, [new URL('/models/lora', location.href)], options);
  const pieces = [];
  for await (const piece of merged) pieces.push(piece);
  const all = await new Blob(pieces).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', all)).join();
  const { kept } = await merged.report();
  return JSON.stringify([all.byteLength === merged.bytes, digest, kept, merged.matrices]);
};
const progress = [];
const options = { worker, onProgress: ({ loaded }) => progress.push(loaded) };
const same = (await merge(mergeAdapters, options)) === (await merge(mergeHere, {}));
const left = await mergeAdapters(base, [new URL('/models/lora', location.href)], { worker });
for await (const _ of left) break;
const counts = [...headers.map((header) => header.tensors.length), tensors.length];
document.querySelector('output').textContent = JSON.stringify({ echo, counts, same, progress });`,
  );
  project.write('own/index.html', HTML);
  const opened = await open(folder);
  const { echo, counts, same, progress } = JSON.parse(await shown(opened, /\}$/, 60)) as {
    echo: string;
    counts: number[];
    same: boolean;
    progress: number[];
  };
  expect(echo).toBe('still here');
  expect(new Set(counts).size).toBe(1);
  // A merge there is the merge here, byte for byte.
  expect(same).toBe(true);
  expect(progress.length).toBeGreaterThan(0);
  expect(opened.workers.length).toBe(1);
  await opened.close();
});

test('esbuild', async () => {
  project.write('src/main.js', ENGINE);
  await esbuild({
    absWorkingDir: project.folder,
    entryPoints: { main: 'src/main.js', 'worker-host': 'lapidary/worker-host' },
    bundle: true,
    minify: true,
    format: 'esm',
    outdir: 'esbuild',
    logLevel: 'error',
  });
  const wasm = project.path('node_modules/lapidary/dist/lapidary.wasm');
  copyFileSync(wasm, project.path('esbuild/lapidary.wasm'));
  project.write('esbuild/index.html', HTML);
  await expectEngine(project.path('esbuild'));
});

test('webpack', async () => {
  project.write('src/main.js', ENGINE);
  const compiler = webpack({
    context: project.folder,
    mode: 'production',
    entry: './src/main.js',
    output: { path: project.path('webpack'), filename: 'main.js' },
    // The engine is larger than what webpack recommends for an asset.
    performance: { maxAssetSize: 2 ** 21 },
  });
  const stats = await new Promise<import('webpack').Stats>((resolve, reject) =>
    compiler.run((error, done) => (done ? resolve(done) : reject(error ?? new Error('nothing')))),
  );
  await new Promise((resolve) => compiler.close(resolve));
  expect(stats.toJson({ all: false, errors: true, warnings: true })).toMatchObject({
    errors: [],
    warnings: [],
  });
  project.write('webpack/index.html', HTML);
  await expectEngine(project.path('webpack'));
});

test('Vite, with the quick start of the documentation: it chats, and after a reload without a server', async () => {
  const plain = "Model.load('/models/nano.gguf')";
  const main = quickStarts().get('main.js') ?? '';
  expect(main).toContain(plain);
  project.write('vite/main.js', main.replace(plain, `${plain.slice(0, -1)}, { cache: true })`));
  for (const [name, code] of programsOf('caching.md')) project.write(`vite/${name}`, code);
  project.write('vite/index.html', HTML.replace('main.js', 'app.js'));
  await vite({ root: project.path('vite'), configFile: false, logLevel: 'warn' });
  const opened = await open(project.path('vite/dist'));
  expect(await shown(opened, /Paris/, 300)).not.toBe('');
  expect(opened.workers.length).toBe(1);

  await opened.closeSite();
  await opened.page.reload();
  expect(await shown(opened, /Paris/, 300)).not.toBe('');
  expect(opened.workers.length).toBe(2);
  expect(opened.complaints).toEqual([]);
  await opened.close();
});
