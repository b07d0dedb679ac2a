// One device for several models, which compiles each kernel once: software GPUs take half a minute for those of a model,
// and half of them do not depend on its variant.

import { findGpu } from 'lapidary/node';

/** Models loaded with this `gpu` one after another share its device; `close` gives it back when all are closed. */
export async function sharedGpu(): Promise<{ gpu: GPU; close: () => void }> {
  const gpu = await findGpu();
  const adapter = await gpu?.requestAdapter();
  if (!gpu || !adapter) throw new Error('no GPU');
  let opened: Promise<GPUDevice> | undefined;
  let destroy = () => {};
  const open = async (descriptor: GPUDeviceDescriptor) => {
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
    gpu: {
      wgslLanguageFeatures: gpu.wgslLanguageFeatures,
      requestAdapter: () =>
        Promise.resolve({
          info: adapter.info,
          limits: adapter.limits,
          features: adapter.features,
          requestDevice: (descriptor: GPUDeviceDescriptor) => (opened ??= open(descriptor)),
        }),
    } as unknown as GPU,
    close: () => destroy(),
  };
}
