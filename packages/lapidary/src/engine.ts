// One wasm instance of the engine with its host imports: memory, calls, byte sources.

import { LapidaryError, messageOf } from './errors.js';
import type { OpenedDevice } from './gpu/device.js';
import { GpuHost } from './gpu/host.js';
import type { ByteSource } from './source/source.js';

/** The exports of engine/exports.cpp that the host itself needs; the rest are called by name. */
interface EngineExports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  lap_alloc(size: number): number;
  lap_free(pointer: number): void;
  lap_resume(ticket: number, code: number, message: number, length: number): void;
  lap_result_data(): number;
  lap_result_size(): number;
}

/** How grave a line of the log is. */
export type LogLevel = 'debug' | 'info' | 'warning' | 'error';
const LEVELS: LogLevel[] = ['debug', 'info', 'warning', 'error'];

interface PendingCall {
  resolve: (result: Uint8Array) => void;
  reject: (error: LapidaryError) => void;
  onEvent: ((event: unknown) => void) | undefined;
}

interface OpenSource {
  source: ByteSource;
  signal: AbortSignal | undefined;
}

export interface CallOptions {
  onEvent?: ((event: unknown) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/** The engine's module, one instance: calls of its exports (docs/wasm-boundary.md), as bytes, text and JSON. */
export class Engine {
  readonly gpu: GpuHost | undefined;
  private exports!: EngineExports & Record<string, (...args: number[]) => number>;
  private readonly sources: (OpenSource | undefined)[] = [undefined];
  private readonly calls = new Map<number, PendingCall>();
  private nextCall = 1;
  private broken: LapidaryError | undefined;

  private constructor(
    opened: OpenedDevice | undefined,
    private readonly onLog: (level: LogLevel, text: string) => void,
  ) {
    if (opened) {
      this.gpu = new GpuHost(opened, {
        memory: () => this.exports.memory.buffer,
        resume: (ticket, error) => this.resume(ticket, error),
      });
    }
  }

  /** Instantiates `wasm`. Without a device, only calls that need no GPU work. */
  static async create(
    wasm: WebAssembly.Module,
    opened: OpenedDevice | undefined,
    onLog: (level: LogLevel, text: string) => void = () => {},
  ): Promise<Engine> {
    const engine = new Engine(opened, onLog);
    const instance = await WebAssembly.instantiate(wasm, engine.imports(wasm));
    engine.exports = instance.exports as unknown as Engine['exports'];
    engine.exports._initialize();
    return engine;
  }

  /** Bytes of wasm memory; it never shrinks, so this is its peak. */
  get heapBytes(): number {
    return this.exports.memory.buffer.byteLength;
  }

  /** A handle to `source`; aborting `signal` ends its reads. */
  addSource(source: ByteSource, signal?: AbortSignal): number {
    return this.sources.push({ source, signal }) - 1;
  }

  /** From now on aborting `signal` ends a source's reads, and no other signal does. */
  readUntil(handle: number, signal: AbortSignal): void {
    this.source(handle).signal = signal;
  }

  /** Forgets a source; it is not closed. */
  removeSource(handle: number): void {
    this.sources[handle] = undefined;
  }

  /** Calls an export that answers at once: 0 and a result, or an error code with its message as the result. */
  callSync(name: string, ...args: (number | string | Uint8Array)[]): Uint8Array {
    const code = this.invoke(name, args);
    const { memory } = this.exports;
    const result = new Uint8Array(
      memory.buffer,
      this.exports.lap_result_data(),
      this.exports.lap_result_size(),
    ).slice();
    if (code !== 0) throw LapidaryError.fromNumber(code, new TextDecoder().decode(result));
    return result;
  }

  /** Calls an export that has no result and cannot fail. */
  callVoid(name: string, ...args: number[]): void {
    this.invoke(name, args);
  }

  /** The answer of a function that answers at once, as text. */
  callSyncText(name: string, ...args: (number | string | Uint8Array)[]): string {
    // A leading U+FEFF is part of the text (a detokenized one, say), not a mark to be dropped.
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.callSync(name, ...args));
  }

  /** The answer of a function that answers at once, parsed. */
  callSyncJson<T>(name: string, ...args: (number | string | Uint8Array)[]): T {
    return JSON.parse(this.callSyncText(name, ...args)) as T;
  }

  /**
   * Calls an export that finishes later; its first argument is the call's number. Events come as they are emitted.
   * Aborting `signal` asks the engine to stop; how the call then ends is the export's own affair.
   */
  call(
    name: string,
    args: (number | string | Uint8Array)[],
    options: CallOptions = {},
  ): { id: number; done: Promise<Uint8Array> } {
    const id = this.nextCall++;
    const { signal } = options;
    const onAbort = () => this.cancel(id);
    const done = new Promise<Uint8Array>((resolve, reject) => {
      this.calls.set(id, { resolve, reject, onEvent: options.onEvent });
    }).finally(() => signal?.removeEventListener('abort', onAbort));
    // Before it begins: what checks only between pieces of its work would miss a stop that came with it.
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort);
    try {
      this.invoke(name, [id, ...args]);
    } catch (error) {
      this.failAll(error);
    }
    return { id, done };
  }

  /** The result of a function that answers later, parsed. */
  async callJson<T>(
    name: string,
    args: (number | string | Uint8Array)[],
    options?: CallOptions,
  ): Promise<T> {
    return JSON.parse(new TextDecoder().decode(await this.call(name, args, options).done)) as T;
  }

  /** Asks a running call to stop; nothing happens when it has ended. */
  cancel(id: number): void {
    if (this.calls.has(id)) this.callVoid('lap_cancel', id);
  }

  /** Frees the GPU device and everything on it; calls that still run fail with `reason`. */
  destroy(reason = new LapidaryError('cancelled', 'the engine was closed')): void {
    this.failAll(reason);
    this.gpu?.destroy();
  }

  // After a trap, or an exception that unwound through wasm frames, nothing in there can be trusted to go on.
  private failAll(error: unknown): void {
    this.broken ??=
      error instanceof LapidaryError
        ? error
        : new LapidaryError('internal_error', `the engine stopped: ${messageOf(error)}`, {
            cause: error,
          });
    for (const pending of this.calls.values()) pending.reject(this.broken);
    this.calls.clear();
  }

  private invoke(name: string, args: (number | string | Uint8Array)[]): number {
    if (this.broken) throw this.broken;
    const target = this.exports[name];
    if (!target) throw new LapidaryError('internal_error', `the engine exports no '${name}'`);
    const owned: number[] = [];
    const flat: number[] = [];
    for (const arg of args) {
      if (typeof arg === 'number') {
        flat.push(arg);
        continue;
      }
      const bytes = typeof arg === 'string' ? new TextEncoder().encode(arg) : arg;
      const pointer = this.exports.lap_alloc(bytes.length);
      if (pointer === 0)
        throw new LapidaryError(
          'out_of_memory',
          `no room for ${bytes.length} bytes in the wasm heap`,
        );
      new Uint8Array(this.exports.memory.buffer, pointer, bytes.length).set(bytes);
      owned.push(pointer);
      flat.push(pointer, bytes.length);
    }
    try {
      return target(...flat);
    } finally {
      for (const pointer of owned) this.exports.lap_free(pointer);
    }
  }

  private resume(ticket: number, error?: unknown): void {
    if (this.broken) return;
    try {
      this.wake(ticket, error);
    } catch (trap) {
      this.failAll(trap);
    }
  }

  private wake(ticket: number, error?: unknown): void {
    if (error === undefined) {
      this.exports.lap_resume(ticket, 0, 0, 0);
      return;
    }
    const bytes = new TextEncoder().encode(messageOf(error));
    const pointer = this.exports.lap_alloc(bytes.length);
    if (pointer !== 0) new Uint8Array(this.exports.memory.buffer, pointer, bytes.length).set(bytes);
    this.exports.lap_resume(
      ticket,
      LapidaryError.numberOf(error, 'io_error'),
      pointer,
      pointer ? bytes.length : 0,
    );
    if (pointer !== 0) this.exports.lap_free(pointer);
  }

  private text(pointer: number, length: number): string {
    return new TextDecoder().decode(new Uint8Array(this.exports.memory.buffer, pointer, length));
  }

  private source(handle: number): OpenSource {
    const source = this.sources[handle];
    if (!source) throw new LapidaryError('internal_error', `byte source ${handle} is not open`);
    return source;
  }

  private async readSource(
    handle: number,
    offset: number,
    address: number,
    size: number,
  ): Promise<void> {
    const { source, signal } = this.source(handle);
    const bytes = await source.read(offset, size, signal);
    new Uint8Array(this.exports.memory.buffer, address, size).set(bytes);
  }

  private async uploadSource(
    handle: number,
    offset: number,
    size: number,
    buffer: number,
    bufferOffset: number,
  ): Promise<void> {
    const { source, signal } = this.source(handle);
    if (!this.gpu) throw new LapidaryError('no_adapter', 'this engine was made without a GPU');
    const { gpu } = this;
    const target = gpu.buffer(buffer);
    try {
      await gpu.uploader.upload(source, offset, size, target, bufferOffset, signal);
    } catch (error) {
      throw error instanceof LapidaryError ? error : await gpu.reasonOf(error);
    }
  }

  private finish(ticket: number, work: Promise<void>): void {
    void work.then(
      () => this.resume(ticket),
      (error: unknown) => this.resume(ticket, error),
    );
  }

  private imports(wasm: WebAssembly.Module): WebAssembly.Imports {
    const host: Record<string, unknown> = {
      log: (level: number, pointer: number, length: number) =>
        this.onLog(LEVELS[level] ?? 'error', this.text(pointer, length)),
      now: () => performance.now(),
      // 53 bits: a double holds them exactly.
      random: () => {
        const [high = 0, low = 0] = crypto.getRandomValues(new Uint32Array(2));
        return (high >>> 11) * 2 ** 32 + low;
      },
      emit: (call: number, pointer: number, length: number) =>
        this.calls.get(call)?.onEvent?.(JSON.parse(this.text(pointer, length))),
      complete: (call: number, code: number, pointer: number, length: number) => {
        const pending = this.calls.get(call);
        this.calls.delete(call);
        const result = new Uint8Array(this.exports.memory.buffer, pointer, length).slice();
        if (code === 0) pending?.resolve(result);
        else pending?.reject(LapidaryError.fromNumber(code, new TextDecoder().decode(result)));
      },
      source_size: (handle: number) => this.source(handle).source.size,
      source_read: (
        handle: number,
        offset: number,
        address: number,
        size: number,
        ticket: number,
      ) => this.finish(ticket, this.readSource(handle, offset, address, size)),
      source_upload: (
        handle: number,
        offset: number,
        size: number,
        buffer: number,
        at: number,
        ticket: number,
      ) => this.finish(ticket, this.uploadSource(handle, offset, size, buffer, at)),
      ...this.gpu?.imports(),
    };
    const wasi: Record<string, unknown> = {
      proc_exit: (status: number) => {
        throw new LapidaryError('internal_error', `the engine stopped with status ${status}`);
      },
      fd_write: (_fd: number, vectors: number, count: number, written: number) => {
        const view = new DataView(this.exports.memory.buffer);
        let total = 0;
        for (let i = 0; i < count; i++) {
          const length = view.getUint32(vectors + 8 * i + 4, true);
          this.onLog('error', this.text(view.getUint32(vectors + 8 * i, true), length));
          total += length;
        }
        view.setUint32(written, total, true);
        return 0;
      },
    };
    // What libc names but the engine never calls in earnest answers ENOSYS; what a GPU-less engine lacks throws.
    const modules: Record<string, Record<string, unknown>> = { host, wasi_snapshot_preview1: wasi };
    for (const { module, name } of WebAssembly.Module.imports(wasm)) {
      const table = (modules[module] ??= {});
      table[name] ??=
        module === 'host'
          ? () => {
              throw new LapidaryError('no_adapter', `'${name}' needs a GPU`);
            }
          : () => 52;
    }
    return modules as WebAssembly.Imports;
  }
}
