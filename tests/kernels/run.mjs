// Runs the kernel tests from the shell: node tests/kernels/run.mjs [part of a name]. The Vulkan driver is chosen
// by VK_DRIVER_FILES; the tests run each form of a kernel, with subgroups and without. The vitest tier runs this file.
import { readFile } from 'node:fs/promises';
import { create, globals } from 'webgpu';
import { Engine } from '../../packages/lapidary/dist/engine.js';
import { openDevice } from '../../packages/lapidary/dist/gpu/device.js';

Object.assign(globalThis, globals);
const gpu = create([]);
globalThis.lapidaryTestGpu = gpu; // Dawn must outlive every object made from it

const wasm =
  process.env.KERNEL_TESTS_WASM ?? new URL('../../build/wasm/kernel_tests.wasm', import.meta.url);
const module = await WebAssembly.compile(await readFile(wasm));
const opened = await openDevice(gpu);
const engine = await Engine.create(module, opened, (level, text) =>
  console.error(`${level}: ${text}`),
);
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
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
