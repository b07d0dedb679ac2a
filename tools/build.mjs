// Builds the parts named (all of the shipped ones when none is), each only as far as something changed:
//   wasm    engine/ -> packages/lapidary/dist/lapidary.wasm (CMake, then wasm-opt; its size is checked)
//   ts      packages/lapidary, bench and apps/cli (tsc)
//   web     apps/web (Vite)
//   bundle  the command line as one file beside the engine, bench/dist/node/: for machines with nothing but Node.js
//   native  unit tests and fuzzers under sanitizers
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { checkWasmSize } from './check-wasm-size.mjs';
import { bin, must, root, run, say, seconds } from './run.mjs';

const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);
// Linking and sanitized C++ take memory; more jobs than cores help nobody.
const jobs = String(Math.max(1, availableParallelism()));

async function cmake(preset) {
  if (!existsSync(`${root}/build/${preset}/build.ninja`)) {
    await must('cmake', ['--preset', preset]);
  }
  const ninja = await must('ninja', ['-C', `build/${preset}`, '-j', jobs]);
  return !ninja.includes('no work to do');
}

async function buildWasm() {
  const started = performance.now();
  const linked = `${root}/build/wasm/lapidary.wasm`;
  const shipped = `${root}/packages/lapidary/dist/lapidary.wasm`;
  if (!existsSync(linked)) say('building the engine (WebAssembly)');
  await cmake('wasm');
  if (!existsSync(linked)) {
    say('the engine has no exports yet (engine/exports.cpp): no lapidary.wasm is built');
    return;
  }
  if (modified(linked) <= modified(shipped)) return;
  mkdirSync(`${root}/packages/lapidary/dist`, { recursive: true });
  // Written beside and renamed: a failed step never leaves half a module where one is expected.
  const fresh = `${shipped}.new`;
  const strip = ['--strip-debug', '--strip-producers', '--strip-target-features'];
  await must(bin('wasm-opt'), ['-O3', ...strip, linked, '-o', fresh]);
  const { ok, text } = checkWasmSize(fresh);
  if (!ok) {
    say(text);
    process.exit(1);
  }
  renameSync(fresh, shipped);
  say(`built the engine in ${seconds(started)}: ${text}`);
}

async function buildTypeScript() {
  const started = performance.now();
  const targets = ['packages/lapidary', 'bench', 'apps/cli'].filter((path) =>
    existsSync(`${root}/${path}/src`),
  );
  if (targets.length === 0) return;
  const { code, output } = await run(bin('tsc'), ['-b', ...targets], { capture: true });
  if (code !== 0) {
    process.stderr.write(output);
    say('the TypeScript does not compile');
    process.exit(1);
  }
  await bundlePackage('cache/sha256.js', 'hash-wasm');
  await bundlePackage('media/image-size.js', 'image-size');
  say(`built the TypeScript in ${seconds(started)}`);
}

/** Puts a package into the one file that imports it: pages without a bundler find no packages. */
async function bundlePackage(built, name) {
  const file = `${root}/packages/lapidary/dist/${built}`;
  if (!existsSync(file) || !readFileSync(file, 'utf8').includes(`from '${name}'`)) return;
  const { build } = await import('vite');
  const [{ output }] = await build({
    configFile: false,
    logLevel: 'warn',
    build: { write: false, target: 'es2022', lib: { entry: file, formats: ['es'] } },
  });
  const license = readFileSync(`${root}/node_modules/${name}/LICENSE`, 'utf8').trim();
  // Written beside and renamed: a build that is stopped leaves no half of it.
  writeFileSync(`${file}.new`, `/*!\n${name}\n${license}\n*/\n${output[0].code}`);
  rmSync(`${file}.map`, { force: true });
  renameSync(`${file}.new`, file);
}

async function buildWeb() {
  if (!existsSync(`${root}/apps/web/index.html`)) return;
  const started = performance.now();
  await must(bin('vite'), ['build', '--logLevel', 'warn'], { cwd: `${root}/apps/web` });
  say(`built the page in ${seconds(started)}`);
}

async function buildBundle() {
  const started = performance.now();
  const { build } = await import('vite');
  const folder = `${root}/bench/dist/node`;
  await build({
    configFile: false,
    logLevel: 'warn',
    root: `${root}/apps/cli`,
    // WebGPU comes from the machine: the npm package, or the module that LAPIDARY_WEBGPU names.
    ssr: { noExternal: true, external: ['webgpu'] },
    build: {
      ssr: 'dist/main.js',
      target: 'node20',
      outDir: folder,
      emptyOutDir: true,
      rolldownOptions: { output: { entryFileNames: 'lapidary.mjs', codeSplitting: false } },
    },
  });
  copyFileSync(`${root}/packages/lapidary/dist/lapidary.wasm`, `${folder}/lapidary.wasm`);
  say(`bundled the command line in ${seconds(started)}`);
}

async function buildNative() {
  const started = performance.now();
  if (await cmake('native')) say(`built unit tests and fuzzers in ${seconds(started)}`);
}

const parts = {
  wasm: buildWasm,
  ts: buildTypeScript,
  web: buildWeb,
  bundle: buildBundle,
  native: buildNative,
};
const wanted = process.argv.length > 2 ? process.argv.slice(2) : ['wasm', 'ts', 'web'];
for (const name of wanted) {
  if (!(name in parts)) {
    say(`no part is called '${name}'; there are: ${Object.keys(parts).join(', ')}`);
    process.exit(2);
  }
}
for (const name of wanted) await parts[name]();
