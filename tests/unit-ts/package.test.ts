// What npm packs: the files that are needed and no others, the entries that are promised, and no more bytes than agreed.

import { build } from 'esbuild';
import { readFileSync, rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pack, root, temporaryFolder, type Packed } from '../package/harness.js';

/** Bytes; `page` and `worker`: what a program that loads a model takes to start, bundled and minified. The engine's are tools/check-wasm-size.mjs's. */
const LIMITS = { packed: 950_000, unpacked: 2_500_000, page: 95_000, worker: 16_000 };

const folder = temporaryFolder();
let packed: Packed;
beforeAll(async () => {
  packed = await pack(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Target = string | { [condition: string]: Target };
const manifest = JSON.parse(readFileSync(`${root}packages/lapidary/package.json`, 'utf8')) as {
  exports: Record<string, Target>;
  sideEffects: string[];
};

test('is small', () => {
  expect(packed.size).toBeLessThan(LIMITS.packed);
  expect(packed.unpackedSize).toBeLessThan(LIMITS.unpacked);
});

test('has the engine, modules with their types, and nothing else', () => {
  const paths = packed.files.map(({ path }) => path);
  const others = paths.filter((path) => !/^dist\/[\w/-]+(\.d\.ts|\.js)$/.test(path));
  expect(others.sort()).toEqual(['LICENSE', 'README.md', 'dist/lapidary.wasm', 'package.json']);
  expect(paths.filter((path) => path.includes('.test.'))).toEqual([]);
  for (const path of paths.filter((each) => each.endsWith('.js'))) {
    expect(paths).toContain(path.replace(/\.js$/, '.d.ts'));
    const text = readFileSync(`${root}packages/lapidary/${path}`, 'utf8');
    expect(text).not.toContain('sourceMappingURL');
  }
  const license = readFileSync(`${root}packages/lapidary/LICENSE`, 'utf8');
  expect(license).toBe(readFileSync(`${root}LICENSE`, 'utf8'));
});

test('every entry has types, before anything else that could be meant', () => {
  const paths = new Set(packed.files.map(({ path }) => `./${path}`));
  const check = (target: Target): void => {
    if (typeof target === 'string') {
      expect(paths).toContain(target);
      return;
    }
    const conditions = Object.keys(target);
    const code = conditions.filter((name) => typeof target[name] === 'string');
    expect(code[0]).toBe('types');
    expect(conditions.at(-1)).toBe('default');
    Object.values(target).forEach(check);
  };
  const { './package.json': own, './lapidary.wasm': wasm, ...entries } = manifest.exports;
  expect(own).toBe('./package.json');
  check(wasm!);
  for (const entry of Object.values(entries)) {
    expect(entry).toBeTypeOf('object');
    check(entry);
  }
  for (const path of manifest.sideEffects) expect(paths).toContain(path);
});

/** What a program takes to start: its bundle, without what it imports when it is needed. */
async function bundled(code: string): Promise<string> {
  const { outputFiles, metafile } = await build({
    stdin: { contents: code, resolveDir: `${root}tests` },
    bundle: true,
    minify: true,
    format: 'esm',
    splitting: true,
    outdir: 'bundle',
    metafile: true,
    write: false,
  });
  const wanted = new Set<string>();
  const want = (path: string) => {
    if (wanted.has(path)) return;
    wanted.add(path);
    for (const { path: next, kind } of metafile.outputs[path]!.imports) {
      if (kind === 'import-statement') want(next);
    }
  };
  Object.entries(metafile.outputs)
    .filter(([, { entryPoint }]) => entryPoint === '<stdin>')
    .forEach(([path]) => want(path));
  const files = outputFiles.filter(({ path }) =>
    [...wanted].some((each) => path.endsWith(`/${each}`)),
  );
  expect(files.length).toBe(wanted.size);
  return files.map(({ text }) => text).join('');
}

test('the page entry and the worker entry are small, and only what is used of them comes along', async () => {
  const page = await bundled("import { Model } from 'lapidary'; console.log(Model.load);");
  expect(page.length).toBeLessThan(LIMITS.page);
  const worker = await bundled("import { Model } from 'lapidary/worker'; console.log(Model.load);");
  expect(worker.length).toBeLessThan(LIMITS.worker);
  // The engine is in the worker's script, not in the page's.
  expect(worker).not.toContain('lap_model_load');
  expect(page).toContain('lap_model_load');
  const error = await bundled(
    "import { LapidaryError } from 'lapidary'; console.log(LapidaryError);",
  );
  expect(error.length).toBeLessThan(2000);
});
