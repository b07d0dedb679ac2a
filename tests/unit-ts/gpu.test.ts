// What is asked of a GPU: which adapters have subgroup matrices that the engine can use, and what Dawn is started with.
import { describe, expect, test } from 'vitest';
import { dawnFlags } from '../../packages/lapidary/src/gpu/dawn.ts';
import { hasMatrices } from '../../packages/lapidary/src/gpu/device.ts';

const HALVES = { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 };
const FEATURES = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];

function adapter(features: string[], info: object): Parameters<typeof hasMatrices>[0] {
  return {
    features: new Set(features),
    info: { subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs: [HALVES], ...info },
  } as unknown as Parameters<typeof hasMatrices>[0];
}

describe('subgroup matrices', () => {
  test('are used where the adapter has the feature and the shape', () => {
    const other = { ...HALVES, componentType: 'i8', resultComponentType: 'i32', K: 32 };
    expect(hasMatrices(adapter(FEATURES, {}))).toBe(true);
    expect(hasMatrices(adapter(FEATURES, { subgroupMatrixConfigs: [other, HALVES] }))).toBe(true);
  });

  test.each(FEATURES)('are not used without %s', (missing) => {
    const features = FEATURES.filter((name) => name !== missing);
    expect(hasMatrices(adapter(features, {}))).toBe(false);
  });

  test.each([
    { subgroupMatrixConfigs: undefined },
    { subgroupMatrixConfigs: [] },
    { subgroupMatrixConfigs: [{ ...HALVES, resultComponentType: 'f16' }] },
    { subgroupMatrixConfigs: [{ ...HALVES, N: 8 }] },
    { subgroupMinSize: 8 },
    { subgroupMinSize: 64, subgroupMaxSize: 64 },
  ])('are not used with %o', (info) => {
    expect(hasMatrices(adapter(FEATURES, info))).toBe(false);
  });
});

test('experimental features are on only where the environment says so', () => {
  expect(dawnFlags({})).toEqual([]);
  expect(dawnFlags({ LAPIDARY_UNSAFE_WEBGPU: '0' }, 'a', 'b')).toEqual([
    'enable-dawn-features=a,b',
  ]);
  expect(dawnFlags({ LAPIDARY_UNSAFE_WEBGPU: '1' }, 'a')).toEqual([
    'enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia,a',
  ]);
});
