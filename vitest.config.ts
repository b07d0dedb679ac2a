// The tests in TypeScript, one vitest project a tier (and the kernel tier once for each software Vulkan; its
// tests run every form of a kernel, with subgroups and without; of the model tier those of forms run on both):
//   npx vitest run --project model
// tests/unit-ts, tests/kernels, tests/model, tests/oracle, tests/bench, tests/cli, tests/browser and tests/package hold
// them.
import { existsSync, readdirSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

const icdFolder = '/usr/share/vulkan/icd.d';
const lavapipe = existsSync(icdFolder)
  ? readdirSync(icdFolder).find((name) => /^lvp_icd.*\.json$/.test(name))
  : undefined;
const drivers = {
  // Mesa's llvmpipe: shader-f16, subgroups of 8. SwiftShader: no f16, subgroups of 4.
  llvmpipe: `${icdFolder}/${lavapipe ?? 'lvp_icd.json'}`,
  swiftshader: '/usr/lib/chromium/vk_swiftshader_icd.json',
};

function tier(
  name: string,
  folders: string[],
  driver: keyof typeof drivers,
  timeoutSeconds = 120,
  env: Record<string, string> = {},
) {
  return {
    test: {
      name,
      include: folders,
      // A process of its own for each file, one after another: the Vulkan loader reads the real environment,
      // and two software GPUs at once only make each other slow.
      pool: 'forks' as const,
      fileParallelism: false,
      env: {
        VK_DRIVER_FILES: drivers[driver],
        VK_LOADER_LAYERS_DISABLE: '~implicit~',
        LAPIDARY_TEST_DRIVER: driver,
        ...env,
      },
      setupFiles: name.startsWith('model') ? ['tests/support/least-limits.ts'] : [],
      testTimeout: timeoutSeconds * 1000,
      hookTimeout: timeoutSeconds * 1000,
    },
  };
}

export default defineConfig({
  test: {
    projects: [
      tier(
        'unit',
        ['tests/unit-ts/**/*.test.ts', '{packages,apps}/*/src/**/*.test.ts'],
        'llvmpipe',
      ),
      // Kernels run for moments and take long to compile: without LLVM's optimiser some 30 % less. Whole models run
      // longer than that saves, and have what it makes of their kernels.
      tier('kernel-llvmpipe', ['tests/kernels/**/*.test.ts'], 'llvmpipe', 1200, {
        GALLIVM_PERF: 'nopt',
      }),
      tier('kernel-swiftshader', ['tests/kernels/**/*.test.ts'], 'swiftshader', 1200),
      tier('model', ['tests/model/**/*.test.ts'], 'llvmpipe', 900),
      // What the driver decides: SwiftShader's subgroups, and its own compiler.
      tier('model-swiftshader', ['tests/model/variants.test.ts'], 'swiftshader', 900),
      tier('oracle', ['tests/oracle/**/*.test.ts'], 'llvmpipe', 900),
      tier('bench', ['tests/bench/**/*.test.ts'], 'llvmpipe', 600),
      tier('cli', ['tests/cli/**/*.test.ts'], 'llvmpipe', 600),
      tier('browser', ['tests/browser/**/*.test.ts'], 'swiftshader', 900),
      tier('package', ['tests/package/**/*.test.ts'], 'llvmpipe', 400),
    ],
  },
});
