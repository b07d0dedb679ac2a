// The GPU half of the imports that engine/gpu/host.h declares: handles to buffers, kernels and bindings, and the
// walk over a submission's words.

import { LapidaryError, messageOf } from '../errors.js';
import type { OpenedDevice } from './device.js';
import { Profiler, type KernelTime } from './profiler.js';
import { Uploader } from './upload.js';

/** How the host reaches the wasm instance: its memory (which may grow) and the export that wakes a coroutine. */
export interface WasmDoor {
  memory(): ArrayBuffer;
  resume(ticket: number, error?: unknown): void;
}

/** Counts what a caller may want to assert about: how often the GPU was bothered. */
export interface GpuCounters {
  submits: number;
  dispatches: number;
  buffersCreated: number;
  bindingsCreated: number;
  writes: number;
  bytesRead: number;
  /** Bytes of GPU buffers alive now, and their peak. */
  bufferBytes: number;
  bufferBytesPeak: number;
}

const OP_WORDS = {
  passBegin: 1,
  passEnd: 1,
  dispatch: 6,
  copy: 6,
  clear: 4,
  read: 6,
} as const;

interface Kernel {
  label: string;
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
}

interface PendingRead {
  staging: GPUBuffer;
  bytes: number;
  address: number;
  ticket: number;
}

/** Lets events that are on their way arrive. */
const aTurn = () => new Promise((resolve) => setTimeout(resolve, 0));

const asGpuError = (error: unknown) =>
  error instanceof LapidaryError ? error : new LapidaryError('gpu_error', messageOf(error));

export class GpuHost {
  readonly counters: GpuCounters = {
    submits: 0,
    dispatches: 0,
    buffersCreated: 0,
    bindingsCreated: 0,
    writes: 0,
    bytesRead: 0,
    bufferBytes: 0,
    bufferBytesPeak: 0,
  };
  private readonly device: GPUDevice;
  // Index = handle; 0 stays empty.
  private readonly buffers: (GPUBuffer | undefined)[] = [undefined];
  private readonly kernels: (Kernel | undefined)[] = [undefined];
  private readonly bindings: (GPUBindGroup | undefined)[] = [undefined];
  private readonly layouts = new Map<
    string,
    { group: GPUBindGroupLayout; pipeline: GPUPipelineLayout }
  >();
  private readonly staging = new Map<number, GPUBuffer[]>();
  /** Carries a source's bytes to buffers. */
  readonly uploader: Uploader;
  private profiler: Profiler | undefined;
  private firstError: LapidaryError | undefined;
  private lost: LapidaryError | undefined;

  constructor(
    private readonly opened: OpenedDevice,
    private readonly door: WasmDoor,
  ) {
    this.device = opened.device;
    this.uploader = new Uploader(this.device);
    this.device.addEventListener('uncapturederror', (event) => {
      // The next sync throws it; where it is expected (memory that is tried) nobody wants to read of it.
      event.preventDefault();
      const { error } = event;
      const code = error.constructor.name === 'GPUOutOfMemoryError' ? 'out_of_memory' : 'gpu_error';
      this.firstError ??= new LapidaryError(code, error.message);
    });
    void this.device.lost.then((info) => {
      this.lost = new LapidaryError(
        'device_lost',
        `The GPU device was lost (${info.reason}): ${info.message}`,
      );
    });
  }

  /** Frees the device and every buffer. */
  destroy(): void {
    this.device.destroy();
  }

  buffer(handle: number): GPUBuffer {
    const buffer = this.buffers[handle];
    if (!buffer)
      throw new LapidaryError('internal_error', `GPU buffer handle ${handle} is not alive`);
    return buffer;
  }

  get queue(): GPUQueue {
    return this.device.queue;
  }

  imports(): Record<string, (...args: never[]) => unknown> {
    return {
      gpu_info: (pointer: number) => this.writeInfo(pointer),
      buffer_create: (size: number, usage: number, label: number, length: number) =>
        this.createBuffer(size, usage, this.text(label, length)),
      buffer_destroy: (handle: number) => this.destroyBuffer(handle),
      buffer_write: (handle: number, offset: number, data: number, size: number) => {
        this.counters.writes++;
        this.device.queue.writeBuffer(this.buffer(handle), offset, this.door.memory(), data, size);
      },
      buffer_read: (
        handle: number,
        offset: number,
        address: number,
        bytes: number,
        ticket: number,
      ) => {
        const encoder = this.device.createCommandEncoder();
        const read = this.encodeRead(encoder, handle, offset, bytes, address, ticket);
        this.device.queue.submit([encoder.finish()]);
        this.finishRead(read);
      },
      kernel_create: (
        wgsl: number,
        wgslLength: number,
        layout: number,
        layoutLength: number,
        label: number,
        labelLength: number,
        ticket: number,
      ) =>
        this.createKernel(
          this.text(wgsl, wgslLength),
          this.text(layout, layoutLength),
          this.text(label, labelLength),
          ticket,
        ),
      kernel_destroy: (handle: number) => {
        this.kernels[handle] = undefined;
      },
      bindings_create: (kernel: number, ranges: number, count: number) =>
        this.createBindings(kernel, ranges, count),
      bindings_destroy: (handle: number) => {
        this.bindings[handle] = undefined;
      },
      submit: (words: number, count: number) =>
        this.submit(new Uint32Array(this.door.memory(), words, count)),
      gpu_sync: (ticket: number) =>
        void this.sync().then(
          () => this.door.resume(ticket),
          (error: unknown) => this.door.resume(ticket, error),
        ),
    };
  }

  /**
   * From now on each dispatch is timed in a pass of its own (which costs speed: overlap is lost), until
   * {@link takeProfile}.
   */
  startProfile(): void {
    if (!this.opened.features.timestamps) {
      throw new LapidaryError('unsupported', 'this GPU offers no timestamps (timestamp-query)');
    }
    this.profiler ??= new Profiler(this.device);
  }

  /** GPU time by kernel since {@link startProfile}, the most expensive first. */
  async takeProfile(): Promise<KernelTime[]> {
    const { profiler } = this;
    this.profiler = undefined;
    return profiler ? profiler.finish() : [];
  }

  /** Waits for submitted work; rejects with the first GPU error since the last sync. */
  async sync(): Promise<void> {
    this.throwIfLost();
    let failure: unknown;
    await this.device.queue.onSubmittedWorkDone().catch((error: unknown) => (failure = error));
    // Uncaptured errors arrive as events of their own.
    await aTurn();
    this.throwIfLost();
    const error = this.firstError;
    this.firstError = undefined;
    if (error) throw error;
    if (failure !== undefined) throw new LapidaryError('gpu_error', messageOf(failure));
  }

  /** The reason of an error of the device: that it was lost, where it was. */
  async reasonOf(error: unknown): Promise<unknown> {
    // What waits for the device fails before the device says that it is lost.
    await aTurn();
    return this.lost ?? this.firstError ?? error;
  }

  private throwIfLost(): void {
    if (this.lost) throw this.lost;
  }

  private text(pointer: number, length: number): string {
    return new TextDecoder().decode(new Uint8Array(this.door.memory(), pointer, length));
  }

  private add<T>(table: (T | undefined)[], value: T): number {
    return table.push(value) - 1;
  }

  private writeInfo(pointer: number): void {
    const { limits } = this.device;
    const { features, info, subgroupSizes } = this.opened;
    const view = new DataView(this.door.memory(), pointer);
    view.setFloat64(0, limits.maxBufferSize, true);
    view.setFloat64(8, limits.maxStorageBufferBindingSize, true);
    const bits =
      (features.f16 ? 1 : 0) |
      (features.subgroups ? 2 : 0) |
      (features.timestamps ? 4 : 0) |
      (features.dot4i8 ? 8 : 0) |
      (features.matrix ? 16 : 0);
    [
      limits.maxStorageBuffersPerShaderStage,
      limits.maxComputeWorkgroupStorageSize,
      limits.maxComputeInvocationsPerWorkgroup,
      limits.maxComputeWorkgroupsPerDimension,
      limits.minStorageBufferOffsetAlignment,
      limits.minUniformBufferOffsetAlignment,
      ...subgroupSizes,
      bits,
      info.software ? 1 : 0,
    ].forEach((value, i) => view.setUint32(16 + 4 * i, value, true));
  }

  private createBuffer(size: number, usage: number, label: string): number {
    if (size > this.device.limits.maxBufferSize) return 0;
    this.counters.buffersCreated++;
    this.counters.bufferBytes += size;
    this.counters.bufferBytesPeak = Math.max(
      this.counters.bufferBytesPeak,
      this.counters.bufferBytes,
    );
    return this.add(this.buffers, this.device.createBuffer({ size, usage, label }));
  }

  private destroyBuffer(handle: number): void {
    const buffer = this.buffer(handle);
    this.counters.bufferBytes -= buffer.size;
    buffer.destroy();
    this.buffers[handle] = undefined;
  }

  private layoutFor(letters: string): { group: GPUBindGroupLayout; pipeline: GPUPipelineLayout } {
    let layout = this.layouts.get(letters);
    if (!layout) {
      const type = { r: 'read-only-storage', w: 'storage', u: 'uniform' } as const;
      const group = this.device.createBindGroupLayout({
        label: letters,
        entries: [...letters].map((letter, binding) => ({
          binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: type[letter as keyof typeof type] },
        })),
      });
      layout = { group, pipeline: this.device.createPipelineLayout({ bindGroupLayouts: [group] }) };
      this.layouts.set(letters, layout);
    }
    return layout;
  }

  private createKernel(wgsl: string, letters: string, label: string, ticket: number): number {
    const handle = this.add<Kernel>(this.kernels, undefined as never);
    void (async () => {
      const layout = this.layoutFor(letters);
      this.device.pushErrorScope('validation');
      const module = this.device.createShaderModule({ code: wgsl, label });
      const scope = this.device.popErrorScope();
      try {
        const pipeline = await this.device.createComputePipelineAsync({
          label,
          layout: layout.pipeline,
          compute: { module, entryPoint: 'main' },
        });
        await scope;
        this.kernels[handle] = { label, pipeline, layout: layout.group };
        this.door.resume(ticket);
      } catch (error) {
        await scope;
        const { messages } = await module.getCompilationInfo();
        // With the line itself: the text is composed, and in no file as it stands.
        const text = wgsl.split('\n');
        const lines = messages.map(
          (m) =>
            `${m.lineNum}:${m.linePos} ${m.type}: ${m.message} ('${text[m.lineNum - 1] ?? ''}')`,
        );
        const detail = lines.length > 0 ? lines.join('\n') : messageOf(error);
        await aTurn();
        this.door.resume(
          ticket,
          this.lost ?? new LapidaryError('gpu_error', `kernel '${label}': ${detail}`),
        );
      }
    })();
    return handle;
  }

  private createBindings(kernelHandle: number, ranges: number, count: number): number {
    const kernel = this.kernels[kernelHandle];
    if (!kernel) return 0;
    const words = new Uint32Array(this.door.memory(), ranges, count * 3);
    const entries: GPUBindGroupEntry[] = [];
    for (let i = 0; i < count; i++) {
      const [handle = 0, offset = 0, size = 0] = words.subarray(3 * i, 3 * i + 3);
      const buffer = this.buffers[handle];
      if (!buffer) return 0;
      entries.push({
        binding: i,
        resource: size === 0 ? { buffer, offset } : { buffer, offset, size },
      });
    }
    this.counters.bindingsCreated++;
    return this.add(this.bindings, this.device.createBindGroup({ layout: kernel.layout, entries }));
  }

  private submit(words: Uint32Array): void {
    const encoder = this.device.createCommandEncoder();
    const reads: PendingRead[] = [];
    let pass: GPUComputePassEncoder | undefined;
    let lastKernel = 0;
    for (let i = 0; i < words.length;) {
      const at = (k: number) => words[i + k] as number;
      switch (words[i]) {
        case 1:
          pass = encoder.beginComputePass();
          lastKernel = 0;
          i += OP_WORDS.passBegin;
          break;
        case 2:
          pass?.end();
          pass = undefined;
          i += OP_WORDS.passEnd;
          break;
        case 3: {
          const kernel = this.kernels[at(1)];
          const bindings = this.bindings[at(2)];
          if (!pass || !kernel || !bindings) {
            throw new LapidaryError(
              'internal_error',
              `a dispatch names dead handles (${at(1)}, ${at(2)})`,
            );
          }
          if (this.profiler) {
            pass.end();
            pass = this.profiler.beginPass(encoder, kernel.label);
            lastKernel = 0;
          }
          if (at(1) !== lastKernel) pass.setPipeline(kernel.pipeline);
          lastKernel = at(1);
          pass.setBindGroup(0, bindings);
          pass.dispatchWorkgroups(at(3), at(4), at(5));
          this.counters.dispatches++;
          i += OP_WORDS.dispatch;
          break;
        }
        case 4:
          encoder.copyBufferToBuffer(this.buffer(at(1)), at(2), this.buffer(at(3)), at(4), at(5));
          i += OP_WORDS.copy;
          break;
        case 5:
          encoder.clearBuffer(this.buffer(at(1)), at(2), at(3));
          i += OP_WORDS.clear;
          break;
        case 6:
          reads.push(this.encodeRead(encoder, at(1), at(2), at(3), at(4), at(5)));
          i += OP_WORDS.read;
          break;
        default:
          throw new LapidaryError(
            'internal_error',
            `unknown operation ${words[i]} in a submission`,
          );
      }
    }
    this.counters.submits++;
    this.profiler?.endSubmission(encoder);
    this.device.queue.submit([encoder.finish()]);
    for (const read of reads) this.finishRead(read);
  }

  private encodeRead(
    encoder: GPUCommandEncoder,
    handle: number,
    offset: number,
    bytes: number,
    address: number,
    ticket: number,
  ): PendingRead {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 256)));
    let staging = this.staging.get(size)?.pop();
    if (!staging) {
      this.counters.buffersCreated++;
      staging = this.device.createBuffer({
        size,
        usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
        label: 'read-back',
      });
    }
    encoder.copyBufferToBuffer(this.buffer(handle), offset, staging, 0, bytes);
    return { staging, bytes, address, ticket };
  }

  private finishRead({ staging, bytes, address, ticket }: PendingRead): void {
    this.counters.bytesRead += bytes;
    staging.mapAsync(GPUMapMode.READ, 0, bytes).then(
      () => {
        new Uint8Array(this.door.memory(), address, bytes).set(
          new Uint8Array(staging.getMappedRange(0, bytes)),
        );
        staging.unmap();
        const pool = this.staging.get(staging.size);
        if (pool) pool.push(staging);
        else this.staging.set(staging.size, [staging]);
        this.door.resume(ticket, this.lost);
      },
      (error: unknown) => {
        staging.destroy();
        void this.reasonOf(asGpuError(error)).then((reason) => this.door.resume(ticket, reason));
      },
    );
  }
}
