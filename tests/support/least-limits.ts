// Every device of the model tiers has WebGPU's least limits, whatever the adapter offers: buffers of 256 MiB, bindings of
// 128 MiB, 8 storage buffers in a kernel, workgroups of 256 threads with 16 KiB.

import { globals } from 'webgpu';

const { GPUAdapter: adapter } = globals as unknown as { GPUAdapter: { prototype: GPUAdapter } };
// eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own adapter below
const { requestDevice } = adapter.prototype;
adapter.prototype.requestDevice = function (this: GPUAdapter, descriptor) {
  const wanted = { ...descriptor };
  delete wanted.requiredLimits;
  return requestDevice.call(this, wanted);
};
