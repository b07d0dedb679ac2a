// The kernel tier: every test registered in kernel_tests.wasm (tests/kernels/*.cpp), on the driver of this project.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('every kernel test passes on this driver', async () => {
  expect(existsSync('build/wasm/kernel_tests.wasm')).toBe(true);
  // A process of its own: Dawn must outlive everything that was made from it.
  const { stdout } = await promisify(execFile)(process.execPath, ['tests/kernels/run.mjs'], {
    maxBuffer: 1 << 24,
  });
  expect(stdout).toMatch(/[1-9][0-9]* passed, 0 failed/);
}, 1_200_000);
