// The machine's GPU with a device that a test opens in its own way.

import { findGpu } from 'lapidary/node';
import { gpuOf } from '../browser/counted-gpu.js';

/** `open` makes the device from the real adapter; everything else is the adapter's. */
export async function wrappedGpu(
  open: (adapter: GPUAdapter, descriptor: GPUDeviceDescriptor) => Promise<GPUDevice>,
): Promise<GPU> {
  const gpu = await findGpu();
  const adapter = await gpu?.requestAdapter();
  if (!gpu || !adapter) throw new Error('no GPU');
  return gpuOf(gpu, adapter, (descriptor) => open(adapter, descriptor));
}
