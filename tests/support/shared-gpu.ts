// One device for several models, which compiles each kernel once: software GPUs take half a minute for those of a model,
// and half of them do not depend on its variant.

import { wrappedGpu } from './wrapped-gpu.ts';

/** Models loaded with this `gpu` one after another share its device; `close` gives it back when all are closed. */
export async function sharedGpu(): Promise<{ gpu: GPU; close: () => void }> {
  let opened: Promise<GPUDevice> | undefined;
  let destroy = () => {};
  const open = async (adapter: GPUAdapter, descriptor: GPUDeviceDescriptor) => {
    const device = await adapter.requestDevice(descriptor);
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
