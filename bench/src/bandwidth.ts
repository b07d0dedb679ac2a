// How fast this GPU reads memory: a kernel that reads a large buffer and does next to nothing with it, on a device of
// its own.

import { LapidaryError } from 'lapidary';
import { measured } from './stats.js';
import type { Bandwidth } from './types.js';

const GIB = 2 ** 30;
/** On a GPU that is a program, the size that keeps a measurement short. */
const SOFTWARE_BYTES = 2 ** 26;
/** Numbers of workgroups that are tried; the fastest counts. */
const GRIDS = [1024, 4096, 16384];
/** How long the passes of one measurement should take together, in milliseconds, and how many they are at most. */
const LONG_ENOUGH = 30;
const MOST_PASSES = 100;

const WGSL = `
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let step = groups.x * 256u;
  let count = arrayLength(&data);
  var a = vec4<u32>(0u);
  var b = vec4<u32>(0u);
  var c = vec4<u32>(0u);
  var d = vec4<u32>(0u);
  var i = id.x;
  for (; i + 3u * step < count; i += 4u * step) {
    a ^= data[i];
    b ^= data[i + step];
    c ^= data[i + 2u * step];
    d ^= data[i + 3u * step];
  }
  for (; i < count; i += step) {
    a ^= data[i];
  }
  let x = (a ^ b) ^ (c ^ d);
  // Never true, which the compiler cannot know.
  if ((x.x ^ x.y ^ x.z ^ x.w) == 0x9e3779b9u) {
    result[0] = 1u;
  }
}`;

/** Reads a buffer of 1 GiB (less on a GPU that has no such buffers, or is software) over and over. */
export async function readBandwidth(
  gpu: GPU | undefined,
  repeats: number,
  software: boolean,
): Promise<Bandwidth> {
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw new LapidaryError('no_adapter', 'WebGPU found no usable GPU');
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
    label: 'bandwidth',
  });
  try {
    const most = Math.min(maxBufferSize, maxStorageBufferBindingSize);
    const size = Math.min(software ? SOFTWARE_BYTES : GIB, 2 ** Math.floor(Math.log2(most)));
    const { STORAGE } = GPUBufferUsage;
    const data = device.createBuffer({ size, usage: STORAGE });
    const result = device.createBuffer({ size: 256, usage: STORAGE });
    const pipeline = await device.createComputePipelineAsync({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code: WGSL }), entryPoint: 'main' },
    });
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [data, result].map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
    const time = async (grid: number, passes: number): Promise<number> => {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      for (let i = 0; i < passes; i++) pass.dispatchWorkgroups(grid);
      pass.end();
      const commands = encoder.finish();
      const started = performance.now();
      device.queue.submit([commands]);
      await device.queue.onSubmittedWorkDone();
      return performance.now() - started;
    };
    let best: number[] = [];
    for (const grid of GRIDS) {
      await time(grid, 1);
      const first = await time(grid, 4);
      const passes = Math.min(MOST_PASSES, Math.max(4, Math.ceil((4 * LONG_ENOUGH) / first)));
      const speeds: number[] = [];
      for (let i = 0; i < Math.max(3, repeats); i++) {
        // What submitting and waiting cost falls out of the difference. Both are long: some browsers take
        // milliseconds more for the first work after a pause, which a short one would show.
        const few = await time(grid, passes);
        const many = await time(grid, 2 * passes);
        // Another program's turn on the GPU can make the shorter one the longer: that is no measurement.
        if (many > 1.5 * few) speeds.push((size * passes * 1000) / (many - few));
      }
      if (
        speeds.length > 0 &&
        measured(speeds).median > (best.length > 0 ? measured(best).median : 0)
      )
        best = speeds;
    }
    if (best.length === 0) {
      throw new LapidaryError('gpu_error', 'the memory bandwidth could not be measured: try again');
    }
    return { bufferBytes: size, bytesPerSecond: measured(best) };
  } finally {
    device.destroy();
  }
}
