// Finds an adapter and opens a device with every limit and feature that the engine can use.

import { LapidaryError, messageOf } from '../errors.js';

/** What the engine runs on, for people and for the engine. */
export interface DeviceInfo {
  description: string;
  vendor: string;
  architecture: string;
  software: boolean;
}

/** A device and what it can do. */
export interface OpenedDevice {
  device: GPUDevice;
  info: DeviceInfo;
  features: {
    f16: boolean;
    subgroups: boolean;
    timestamps: boolean;
    dot4i8: boolean;
    matrix: boolean;
  };
  subgroupSizes: [number, number];
}

const WANTED_LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
] as const;

/** Experimental: Dawn offers it only where `allow_unsafe_apis` is on. */
const SUBGROUP_MATRIX = 'chromium-experimental-subgroup-matrix';

/** Whether an adapter multiplies 16 by 16 halves, summed in f32, in subgroups that always have 32 threads. */
export function hasMatrices(adapter: Pick<GPUAdapter, 'features' | 'info'>): boolean {
  const { features, info } = adapter;
  const configs =
    (info as { subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig> }).subgroupMatrixConfigs ??
    [];
  return (
    ['shader-f16', 'subgroups', SUBGROUP_MATRIX].every((name) => features.has(name)) &&
    info.subgroupMinSize === 32 &&
    info.subgroupMaxSize === 32 &&
    [...configs].some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === 'f16' &&
        resultComponentType === 'f32' &&
        [M, N, K].every((size) => size === 16),
    )
  );
}

interface SubgroupMatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

const SOFTWARE = /llvmpipe|swiftshader|lavapipe|basic render|software/i;

function describe(info: GPUAdapterInfo): string {
  return info.description || info.device || info.vendor || 'unknown GPU';
}

/** Whether an adapter computes on the CPU. */
export function isSoftware(info: GPUAdapterInfo): boolean {
  return SOFTWARE.test(`${describe(info)} ${info.architecture} ${info.vendor}`);
}

/** Opens the best adapter of `gpu`; `no_adapter` with advice when there is none. */
export async function openDevice(gpu: GPU | undefined): Promise<OpenedDevice> {
  if (!gpu) {
    throw new LapidaryError(
      'no_adapter',
      'This browser has no WebGPU. Use a current Chrome, Edge, Safari 26 or Firefox, over https or localhost.',
    );
  }
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    throw new LapidaryError(
      'no_adapter',
      'WebGPU found no usable GPU: update the graphics driver, or install a software Vulkan driver.',
    );
  }
  const requiredLimits: Record<string, number> = {};
  for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
  const has = (name: string) => adapter.features.has(name);
  const matrix = hasMatrices(adapter);
  const requiredFeatures = ['shader-f16', 'subgroups', 'timestamp-query'].filter(has);
  if (matrix) requiredFeatures.push(SUBGROUP_MATRIX);
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({
      requiredLimits,
      requiredFeatures: requiredFeatures as GPUFeatureName[],
      label: 'lapidary',
    });
  } catch (error) {
    throw new LapidaryError('no_adapter', `The GPU refused a device: ${messageOf(error)}`);
  }
  const info = adapter.info;
  return {
    device,
    info: {
      description: describe(info),
      vendor: info.vendor,
      architecture: info.architecture,
      software: isSoftware(info),
    },
    features: {
      f16: has('shader-f16'),
      subgroups: has('subgroups'),
      timestamps: has('timestamp-query'),
      dot4i8: gpu.wgslLanguageFeatures.has('packed_4x8_integer_dot_product'),
      matrix,
    },
    subgroupSizes: [info.subgroupMinSize ?? 0, info.subgroupMaxSize ?? 0],
  };
}
