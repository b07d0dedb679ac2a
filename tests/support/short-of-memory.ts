// A GPU that refuses buffers, as WebGPU reports it: by an event, after the buffer was made.

import { wrappedGpu } from './wrapped-gpu.ts';

class GPUOutOfMemoryError extends Error {}

/** `refuses` is asked about every buffer: its label, its bytes, and the bytes of all that are alive. */
export function shortOfMemory(
  refuses: (label: string, bytes: number, alive: number) => boolean,
): Promise<GPU> {
  return wrappedGpu(async (adapter, descriptor) => {
    const device = await adapter.requestDevice(descriptor);
    const listeners: ((event: unknown) => void)[] = [];
    const listen = device.addEventListener.bind(device);
    device.addEventListener = (...args: Parameters<typeof listen>) => {
      listeners.push(args[1] as (event: unknown) => void);
      listen(...args);
    };
    const create = device.createBuffer.bind(device);
    let alive = 0;
    device.createBuffer = (wanted) => {
      const label = wanted.label ?? '';
      if (refuses(label, wanted.size, alive)) {
        const error = new GPUOutOfMemoryError(`no room for ${label}`);
        const event = Object.assign(new Event('uncapturederror', { cancelable: true }), { error });
        for (const listener of listeners) queueMicrotask(() => listener(event));
      }
      const buffer = create(wanted);
      alive += wanted.size;
      const destroy = buffer.destroy.bind(buffer);
      buffer.destroy = () => {
        alive -= wanted.size;
        return destroy();
      };
      return buffer;
    };
    return device;
  });
}
