// One device for several models, which compiles each kernel once: software GPUs take half a minute for those of a model,
// and half of them do not depend on its variant.

import { wrappedGpu } from './wrapped-gpu.ts';

/**
 * Models loaded with this `gpu` one after another share its device; `close` gives it back when all are closed. `least`:
 * with WebGPU's least limits, not the adapter's.
 */
export async function sharedGpu(least = false): Promise<{ gpu: GPU; close: () => void }> {
  let opened: Promise<GPUDevice> | undefined;
  let destroy = () => {};
  const open = async (adapter: GPUAdapter, descriptor: GPUDeviceDescriptor) => {
    const wanted = { ...descriptor };
    if (least) delete wanted.requiredLimits;
    const device = await adapter.requestDevice(wanted);
    destroy = device.destroy.bind(device);
    device.destroy = () => undefined;
    const codes = new Map<GPUShaderModule, string>();
    const modules = new Map<string, GPUShaderModule>();
    const pipelines = new Map<string, Promise<GPUComputePipeline>>();
    const createModule = device.createShaderModule.bind(device);
    device.createShaderModule = (wanted) => {
      const module = modules.get(wanted.code) ?? createModule(wanted);
      modules.set(wanted.code, module);
      codes.set(module, wanted.code);
      return module;
    };
    const createPipeline = device.createComputePipelineAsync.bind(device);
    device.createComputePipelineAsync = (wanted) => {
      const code = codes.get(wanted.compute.module) ?? '';
      const pipeline = pipelines.get(code) ?? createPipeline(wanted);
      pipelines.set(code, pipeline);
      return pipeline;
    };
    return device;
  };
  return {
    gpu: await wrappedGpu((adapter, descriptor) => (opened ??= open(adapter, descriptor))),
    close: () => destroy(),
  };
}
