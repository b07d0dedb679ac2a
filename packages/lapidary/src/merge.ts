// LoRA adapters out of the running model: merged into a model's file, and converted from one format to another. Neither
// needs a GPU.

import { findAdapter, readConfig, type AdapterLocation, type FoundAdapter } from './adapters.js';
import { streamOf } from './byte-stream.js';
import { Engine } from './engine.js';
import { LapidaryError } from './errors.js';
import { engineModule, findModel, type FindOptions, type ModelLocation } from './platform.js';
import { throwIfAborted, type ByteSource } from './source/source.js';

/** How the changed matrices are written; `keep`: each in the type that it has. */
export type MergeType =
  | 'keep'
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'q8_0'
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q4_k'
  | 'q5_k'
  | 'q6_k';

/** An adapter to merge; `scale` (default 1) multiplies its own. */
export type MergeAdapter = AdapterLocation | { adapter: AdapterLocation; scale?: number };

/** How adapters are merged into a model's weights. */
export interface MergeOptions extends FindOptions {
  /** Default `keep`. */
  type?: MergeType;
  /** Bytes that were given out, and bytes of the merged file. */
  onProgress?: (progress: { loaded: number; total: number }) => void;
  wasm?: URL | BufferSource | WebAssembly.Module;
}

/** A matrix that a merge changes, by the name of its tensor, with its type before and after ("Q4_K"). */
export interface MergedMatrix {
  name: string;
  from: string;
  to: string;
}

/** What became of the change that the adapters describe. */
export interface MergeReport {
  /** The part of it that the written weights have: 1 is all, 0 none. Coarse types round small changes away. */
  kept: number;
  /** What is wrong about the change that was made, relative to its size (root of the mean squares). */
  error: number;
}

/** How an adapter is found and read. */
export interface ConvertOptions extends FindOptions {
  wasm?: URL | BufferSource | WebAssembly.Module;
}

/** PEFT's two files. */
export interface PeftAdapter {
  /** adapter_model.safetensors */
  model: Uint8Array<ArrayBuffer>;
  /** adapter_config.json */
  config: string;
}

const closeAdapter = async ({ model, config }: FoundAdapter) => {
  await model.close?.();
  await config?.close?.();
};

/** A merged model's file in the making: iterate it once for its bytes, in order. Leaving the loop early closes it. */
export class MergedModel implements AsyncIterable<Uint8Array<ArrayBuffer>> {
  private taken = false;
  private closed = false;

  /** @internal */
  constructor(
    private readonly engine: Engine,
    private readonly handle: number,
    private readonly source: ByteSource,
    private readonly options: MergeOptions,
    /** The model's file, as its source calls it: a path, an address. */
    readonly base: string,
    /** Of the merged file. */
    readonly bytes: number,
    /** What is changed; everything else is copied. */
    readonly matrices: MergedMatrix[],
  ) {}

  /** The merged file, piece by piece; once. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    if (this.taken || this.closed) throw new TypeError('a merged file can be read once');
    this.taken = true;
    const { signal, onProgress } = this.options;
    try {
      for (let loaded = 0; loaded < this.bytes;) {
        throwIfAborted(signal);
        const piece = await this.engine.call('lap_merge_read', [this.handle], { signal }).done;
        if (piece.length === 0)
          throw new LapidaryError('internal_error', `the merged file ended after ${loaded} bytes`);
        loaded += piece.length;
        yield piece as Uint8Array<ArrayBuffer>;
        onProgress?.({ loaded, total: this.bytes });
      }
    } finally {
      await this.close();
    }
  }

  /** The same as a stream: for `new Response(merged.stream())`, or `pipeTo` a file of the origin's own. */
  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this[Symbol.asyncIterator](), () => this.close());
  }

  /** Of what was read so far. */
  report(): MergeReport {
    return this.engine.callSyncJson<MergeReport>('lap_merge_report', this.handle);
  }

  /** Closes the model's file; it happens by itself at the end of the bytes. The report stays. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.source.close?.();
  }
}

/**
 * Adds LoRA adapters to the weights of a GGUF model: W + scale B A for every matrix that they change, written in
 * `type`, and everything else as it is. The result is read as a stream; of the model no more than a few megabytes are in
 * memory, of the adapters all.
 *
 * Fails with `integrity_error` for an adapter of another base, `invalid_format` for one of other shapes, `unsupported`
 * for one that changes what the file has no matrix for, and for a type that cannot be decoded, `cancelled` after
 * `signal`. Reading fails with `unsupported` for values that the type has no room for.
 */
export async function mergeAdapters(
  model: ModelLocation,
  adapters: readonly MergeAdapter[],
  options: MergeOptions = {},
): Promise<MergedModel> {
  const { signal, type = 'keep' } = options;
  throwIfAborted(signal);
  const engine = await Engine.create(await engineModule(options.wasm), undefined);
  const found = await findModel(model, options);
  const opened: FoundAdapter[] = [];
  try {
    const list: object[] = [];
    for (const each of adapters) {
      const named = typeof each === 'object' && 'adapter' in each ? each : { adapter: each };
      const files = await findAdapter(named.adapter, options);
      opened.push(files);
      list.push({
        source: engine.addSource(files.model, signal),
        config: await readConfig(files, signal),
        scale: named.scale,
      });
    }
    const source = engine.addSource(found.source, signal);
    const request = JSON.stringify({ adapters: list, type, digest: found.digest });
    const plan = await engine.callJson<{
      merge: number;
      bytes: number;
      matrices: MergedMatrix[];
    }>('lap_merge_open', [source, request], { signal });
    const { merge, bytes, matrices } = plan;
    const { name } = found.source;
    return new MergedModel(engine, merge, found.source, options, name, bytes, matrices);
  } catch (error) {
    await found.source.close?.();
    throw error;
  } finally {
    for (const files of opened) await closeAdapter(files);
  }
}

/**
 * Writes an adapter of any format that `Model.loadAdapter` reads as a GGUF LoRA, or as PEFT's two files, in F32;
 * docs/adapters.md says what the formats cannot hold. Errors are those of reading it, and `cancelled`.
 */
export function convertAdapter(
  adapter: AdapterLocation,
  to: 'gguf',
  options?: ConvertOptions,
): Promise<Uint8Array<ArrayBuffer>>;
export function convertAdapter(
  adapter: AdapterLocation,
  to: 'peft',
  options?: ConvertOptions,
): Promise<PeftAdapter>;
export async function convertAdapter(
  adapter: AdapterLocation,
  to: 'gguf' | 'peft',
  options: ConvertOptions = {},
): Promise<Uint8Array<ArrayBuffer> | PeftAdapter> {
  const { signal } = options;
  throwIfAborted(signal);
  const engine = await Engine.create(await engineModule(options.wasm), undefined);
  const files = await findAdapter(adapter, options);
  try {
    const request = JSON.stringify({ to, config: await readConfig(files, signal) });
    let config = '';
    const model = (await engine.call(
      'lap_adapter_convert',
      [engine.addSource(files.model, signal), request],
      { signal, onEvent: (event) => ({ config } = event as { config: string }) },
    ).done) as Uint8Array<ArrayBuffer>;
    return to === 'peft' ? { model, config } : model;
  } finally {
    await closeAdapter(files);
  }
}
