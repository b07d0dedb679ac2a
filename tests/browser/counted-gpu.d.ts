export function gpuOf(
  gpu: GPU,
  adapter: GPUAdapter,
  open: (descriptor: GPUDeviceDescriptor) => Promise<GPUDevice>,
): GPU;
export function countedGpu(gpu: GPU): Promise<{
  gpu: GPU;
  /** GPU buffers that are alive, and how many there have been. */
  buffers: { alive: number; made: number };
  close: () => void;
}>;
