// Runs the kernel tests from the shell: node tests/kernels/run.mjs [part of a name]. The Vulkan driver is chosen
// by VK_DRIVER_FILES; the tests run each form of a kernel, with subgroups and without. The vitest tier runs this file.
import { readFile, readdir } from 'node:fs/promises';
import { create, globals } from 'webgpu';
import { Engine } from '../../packages/lapidary/dist/engine.js';
import { dawnFlags } from '../../packages/lapidary/dist/gpu/dawn.js';
import { openDevice } from '../../packages/lapidary/dist/gpu/device.js';
import { waitPatiently } from '../../packages/lapidary/dist/gpu/patience.js';

Object.assign(globalThis, globals);
waitPatiently(globals);
const gpu = create(dawnFlags(process.env));
globalThis.lapidaryTestGpu = gpu; // Dawn must outlive every object made from it

const wasm =
  process.env.KERNEL_TESTS_WASM ?? new URL('../../build/wasm/kernel_tests.wasm', import.meta.url);
const module = await WebAssembly.compile(await readFile(wasm));
const opened = await openDevice(gpu);
const engine = await Engine.create(module, opened, (level, text) =>
  console.error(`${level}: ${text}`),
);
/** Every line of every kernel that was compiled. */
const compiled = new Set();
/** Kernels with subgroup matrices, by their text. */
const matrixKernels = new Set();
const { device } = opened;
const createShaderModule = device.createShaderModule.bind(device);
device.createShaderModule = (descriptor) => {
  for (const line of descriptor.code.split('\n')) compiled.add(line);
  if (descriptor.code.includes('enable chromium_experimental_subgroup_matrix;'))
    matrixKernels.add(descriptor.code);
  return createShaderModule(descriptor);
};

/** The WGSL modules none of whose own lines, which no other module has, was in a kernel. */
async function modulesNeverCompiled() {
  const folder = new URL('../../engine/kernels/wgsl/', import.meta.url);
  const names = (await readdir(folder)).filter((name) => name.endsWith('.wgsl'));
  // As they were embedded: without comments and indentation.
  const embedded = new URL('../../build/wasm/wgsl/', import.meta.url);
  const owners = new Map();
  for (const name of names) {
    for (const line of (await readFile(new URL(name, embedded), 'utf8')).split('\n')) {
      // Directives are none, and numbers are put in for ${…}.
      if (/^(\/\/|$)/.test(line) || line.includes('${')) continue;
      owners.set(line, [undefined, name].includes(owners.get(line)) ? name : 'several');
    }
  }
  const seen = new Set([...compiled].map((line) => owners.get(line)));
  return names.filter((name) => !seen.has(name));
}

/**
 * What is wrong with the kernels that need subgroup matrices: Dawn's null backend has every feature and checks WGSL as
 * any other does, so that this holds where no GPU has them.
 */
async function mistakesInMatrixKernels() {
  const nowhere = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
  globalThis.lapidaryNullGpu = nowhere;
  const adapter = await nowhere.requestAdapter();
  const checker = await adapter.requestDevice({
    requiredFeatures: ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'],
  });
  const mistakes = [];
  for (const code of matrixKernels) {
    checker.pushErrorScope('validation');
    const { messages } = await checker.createShaderModule({ code }).getCompilationInfo();
    const error = await checker.popErrorScope();
    const line = messages.find(({ type }) => type === 'error');
    if (line) mistakes.push(`${line.lineNum}: ${line.message}`);
    else if (error) mistakes.push(error.message);
  }
  return mistakes;
}

console.log(
  `on ${opened.info.description}, subgroups ${opened.features.subgroups} ${opened.subgroupSizes}`,
);

const filter = process.argv[2] ?? '';
const count = Number(engine.callSyncText('test_count'));
let failed = 0;
let passed = 0;
for (let i = 0; i < count; i++) {
  const name = engine.callSyncText('test_name', i);
  if (!name.includes(filter)) continue;
  const start = performance.now();
  try {
    await engine.call('test_run', [i]).done;
    passed++;
    console.log(`ok   ${name} (${Math.round(performance.now() - start)} ms)`);
  } catch (error) {
    failed++;
    console.log(`FAIL ${name}: ${error.message}`);
  }
}
const mistakes = await mistakesInMatrixKernels();
if (mistakes.length > 0 || (filter === '' && matrixKernels.size < 8)) {
  failed++;
  console.log(`FAIL ${matrixKernels.size} kernels with subgroup matrices: ${mistakes.join('; ')}`);
}
if (filter === '') {
  const missing = await modulesNeverCompiled();
  if (missing.length > 0) {
    failed++;
    console.log(`FAIL no test compiles ${missing.join(', ')}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
