// A GPU whose bindings are said to be small.

import { gpuOf } from '../browser/counted-gpu.js';

/** `gpu`, whose devices say that a binding has `most` bytes at most; and the buffers that they make. */
export async function smallBindings(gpu: GPU, most: number) {
  const made: { label: string; size: number }[] = [];
  const adapter = (await gpu.requestAdapter())!;
  const open = async (descriptor: GPUDeviceDescriptor) => {
    const device = await adapter.requestDevice(descriptor);
    const limits = new Proxy(device.limits, {
      get: (target, name): unknown =>
        name === 'maxStorageBufferBindingSize' ? most : Reflect.get(target, name, target),
    });
    return new Proxy(device, {
      get(target, name) {
        if (name === 'limits') return limits;
        if (name === 'createBuffer')
          return (wanted: GPUBufferDescriptor) => {
            made.push({ label: wanted.label ?? '', size: wanted.size });
            return target.createBuffer(wanted);
          };
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  };
  return { gpu: gpuOf(gpu, adapter, open), made };
}
