// The benchmark in Chromium: serves the built page, opens it, hands it a model, and collects what it measured.
//   node bench/browser.mjs [MODEL.gguf] [--contexts 128,2048] [--prefills 128,512] [--repeats 5] [--loads 5]
//     [--decode-tokens 128] [--first-token 512] [--profile] [--dot f32|int16|int8]
//     [--prefill-dot f32|int16|int8|matrix] [--subgroups on|off] [--kv-type f16|f32] [--batch-size 512] [--sessions 1]
//     [--per-layer-embeddings gpu|source|auto] [--tune 0] [--known-answers FILE] [--http] [--peer]
//     [--peer-seconds 240] [--json] [--out FILE]
// The model is nano unless a file is named; it goes in as a File, or with --http over HTTP. --peer measures wllama
// (llama.cpp with WebGPU) in the same browser on the same file, too. From the environment:
//   CHROME        the browser's binary. Default: /usr/bin/chromium
//   CHROME_FLAGS  its flags, all of them. Default: those of the tests, with the GPU in software
//   CHROME_LIBS   a folder of libraries for it
//   PLAYWRIGHT    the folder of playwright-core, where it is not in node_modules
//   WLLAMA        the folder of wllama's index.js and wllama.wasm, likewise
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { measurePeer } from './peer.mjs';
import { serve } from './server.mjs';
import { openUnwatched } from './unwatched.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const SOFTWARE_FLAGS = [
  '--no-sandbox',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
];
/** What playwright says that would keep a real GPU away. */
const NOT_WITH_A_GPU = [
  '--disable-gpu',
  '--use-angle=swiftshader-webgl',
  '--enable-unsafe-swiftshader',
  '--use-gl=angle',
  '--use-angle=swiftshader',
];
/** Options that the page takes, under its own names. */
const PARAMETERS = {
  contexts: 'contexts',
  prefills: 'prefills',
  repeats: 'repeats',
  loads: 'loads',
  'decode-tokens': 'decodeTokens',
  'first-token': 'firstToken',
  dot: 'dot',
  'prefill-dot': 'prefillDot',
  subgroups: 'subgroups',
  'kv-type': 'kvType',
  'batch-size': 'batchSize',
  sessions: 'sessions',
  'per-layer-embeddings': 'perLayerEmbeddings',
  tune: 'tune',
};

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ...Object.fromEntries(Object.keys(PARAMETERS).map((name) => [name, { type: 'string' }])),
    profile: { type: 'boolean' },
    'known-answers': { type: 'string' },
    http: { type: 'boolean' },
    peer: { type: 'boolean' },
    'peer-seconds': { type: 'string' },
    json: { type: 'boolean' },
    out: { type: 'string' },
  },
});

/** The weights of the model that the project brings, as its store names them. */
function nanoPath() {
  const manifest = JSON.parse(
    readFileSync(`${root}models/manifests/registry.ollama.ai/library/nano/latest`, 'utf8'),
  );
  const { digest } = manifest.layers.find(({ mediaType }) => mediaType.endsWith('image.model'));
  return `${root}models/blobs/${digest.replace(':', '-')}`;
}

async function launch() {
  const { chromium } = createRequire(import.meta.url)(process.env.PLAYWRIGHT ?? 'playwright-core');
  const stock = process.env.CHROME_FLAGS?.split(' ').filter(Boolean);
  const libraries = process.env.CHROME_LIBS;
  return chromium.launch({
    executablePath: process.env.CHROME ?? '/usr/bin/chromium',
    headless: true,
    args: stock ?? SOFTWARE_FLAGS,
    ...(stock && { ignoreDefaultArgs: NOT_WITH_A_GPU }),
    env: { ...process.env, ...(libraries && { LD_LIBRARY_PATH: libraries }) },
  });
}

async function open(browser, address) {
  if (flags.http) return openUnwatched(browser, address);
  const page = await browser.newPage();
  page.on('pageerror', (error) => process.stderr.write(`${error.message}\n`));
  await page.goto(address);
  return page;
}

async function measure(browser, url, path) {
  const query = new URLSearchParams();
  for (const [flag, name] of Object.entries(PARAMETERS)) {
    if (flags[flag] !== undefined) query.set(name, flags[flag]);
  }
  if (flags.profile) query.set('profile', '1');
  if (flags['known-answers']) query.set('knownAnswers', './known-answers');
  if (flags.http) query.set('model', './model');
  const page = await open(browser, `${url}bench.html?${query}`);
  if (!flags.http) await page.setInputFiles('#file', path);
  let shown;
  for (;;) {
    const { status, result } = await page.evaluate(() => ({
      status: globalThis.document.getElementById('status')?.textContent,
      result: globalThis.lapidaryBench,
    }));
    if (status !== shown && !result) process.stderr.write(`${status}\n`);
    shown = status;
    if (result) {
      await page.close();
      return result;
    }
    await new Promise((done) => setTimeout(done, 500));
  }
}

const path = resolve(positionals[0] ?? nanoPath());
const files = { '/model': path, '/models/nano': nanoPath() };
if (flags['known-answers']) files['/known-answers'] = resolve(flags['known-answers']);
const wllama = process.env.WLLAMA ?? `${root}node_modules/@wllama/wllama/esm`;
files['/peer/wllama.js'] = `${wllama}/index.js`;
files['/peer/wllama.wasm'] = [`${wllama}/wllama.wasm`, `${wllama}/wasm/wllama.wasm`].find(
  existsSync,
);

const site = await serve({ folder: `${root}apps/web/dist`, files });
const browser = await launch();
try {
  const result = await measure(browser, site.url, path);
  if (result.error) {
    process.stderr.write(`error: ${result.error.message} (${result.error.code})\n`);
    process.exitCode = 1;
  } else {
    const { report } = result;
    report.browser = { version: browser.version(), flags: process.env.CHROME_FLAGS ?? 'software' };
    if (!positionals[0]) report.model.name = 'nano';
    else if (!flags.http) report.model.name = basename(path);
    // The prompts that both had room for.
    const done = (list, key) => list.filter((entry) => !entry.skipped).map((entry) => entry[key]);
    if (flags.peer) {
      report.peer = await measurePeer(browser, site.url, path, {
        contexts: done(report.decode, 'context'),
        prefills: done(report.prefill, 'promptTokens'),
        repeats: report.options.repeats,
        decodeTokens: report.options.decodeTokens,
        seconds: Number(flags['peer-seconds'] ?? 240),
      });
    }
    const json = `${JSON.stringify(report, null, 2)}\n`;
    if (flags.out) writeFileSync(flags.out, json);
    if (flags.json) process.stdout.write(json);
    else {
      const { peerTable, table } = await import('./dist/src/table.js');
      process.stdout.write(table(report));
      if (report.peer) process.stdout.write(peerTable(report.peer));
    }
  }
} finally {
  await browser.close();
  await site.close();
}
