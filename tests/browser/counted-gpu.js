// A GPU whose devices are one beneath, which compiles each kernel once (a software GPU takes a minute for those of a
// model), and whose buffers are counted. For pages and for Node.

/** `gpu` with one adapter, whose devices `open` makes from the descriptors that they are asked for with. */
export const gpuOf = (gpu, { info, limits, features }, open) => ({
  wgslLanguageFeatures: gpu.wgslLanguageFeatures,
  requestAdapter: () => Promise.resolve({ info, limits, features, requestDevice: open }),
});

/**
 * `buffers` counts those that are alive, and how many there have been. Destroying one of the devices destroys its
 * buffers, as ever.
 */
export async function countedGpu(gpu) {
  const buffers = { alive: 0, made: 0 };
  const adapter = await gpu.requestAdapter();
  let real;
  const modules = new Map();
  const pipelines = new Map();
  const open = async (descriptor) => {
    real ??= await adapter.requestDevice(descriptor);
    const alive = new Set();
    let lose;
    const own = {
      lost: new Promise((resolve) => (lose = resolve)),
      // The real device outlives every model, and must not keep what a model asked of it.
      addEventListener: () => {},
      createBuffer(wanted) {
        const buffer = real.createBuffer(wanted);
        const destroy = buffer.destroy.bind(buffer);
        buffer.destroy = () => {
          if (alive.delete(buffer)) buffers.alive--;
          destroy();
        };
        alive.add(buffer);
        buffers.alive++;
        buffers.made++;
        return buffer;
      },
      createShaderModule(wanted) {
        const module = modules.get(wanted.code) ?? real.createShaderModule(wanted);
        modules.set(wanted.code, module);
        return module;
      },
      createComputePipelineAsync(wanted) {
        const { module } = wanted.compute;
        const pipeline = pipelines.get(module) ?? real.createComputePipelineAsync(wanted);
        pipelines.set(module, pipeline);
        return pipeline;
      },
      destroy() {
        for (const buffer of [...alive]) buffer.destroy();
        lose({ reason: 'destroyed', message: '' });
      },
    };
    return new Proxy(real, {
      get(target, name) {
        if (name in own) return own[name];
        const value = target[name];
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  };
  return { gpu: gpuOf(gpu, adapter, open), buffers, close: () => real?.destroy() };
}
