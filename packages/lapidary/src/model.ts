// A model, loaded and ready: the package's main class.

import { findAdapter, readConfig, type AdapterLocation } from './adapters.js';
import type { DataInput } from './data.js';
import { Engine, type LogLevel } from './engine.js';
import { LapidaryError } from './errors.js';
import {
  probeFinetune,
  startFinetune,
  type Finetune,
  type FinetuneHost,
  type FinetuneOptions,
  type FinetuneProbe,
  type FinetuneSettings,
} from './finetune.js';
import { openDevice, type DeviceInfo } from './gpu/device.js';
import type { GpuCounters } from './gpu/host.js';
import type { KernelTime } from './gpu/profiler.js';
import {
  currentPlatform,
  engineModule,
  findModel,
  type FindOptions,
  type ModelLocation,
} from './platform.js';
import { Reply } from './reply.js';
import { throwIfAborted, type ByteSource } from './source/source.js';
import { keepCuts, knownCuts } from './tuning.js';
import type {
  AdapterInfo,
  ChatOptions,
  FileHeader,
  KernelVariant,
  LoadProgress,
  Message,
  ModelInfo,
  PrefillPrompt,
  PrefillReport,
  RawOptions,
  RenderOptions,
  ReplyEvent,
  ReplyReport,
} from './types.js';

export interface LoadOptions extends FindOptions {
  /** Called often, with numbers: see {@link LoadProgress}. */
  onProgress?: (progress: LoadProgress) => void;
  /** Aborting makes `load` reject with the code `cancelled` and frees what was loaded. */
  signal?: AbortSignal;
  /** Tokens that prompt and reply may have together. Default: the maker's, else 8192; never above the model's own. */
  contextLength?: number;
  /** How keys and values are kept. Default `f16`. */
  kvType?: 'f16' | 'f32';
  /** Tokens of a prompt that run at once, 1 to 4096: more take more memory (about 300 KB each for E2B). Default 512. */
  batchSize?: number;
  /**
   * Conversations whose keys and values stay in the cache side by side, 1 to 64, each with `contextLength` tokens of
   * GPU memory. A request goes on from the one that begins like it. Default 1.
   */
  sessions?: number;
  /**
   * Where the table of per-layer embeddings is, of E2B more than half of the file. `gpu`: in the GPU's memory.
   * `source`: it stays in the file, from which each new token's row is read; slower, most of all over HTTP. Default
   * `auto`: `gpu`, unless that memory runs out while loading; the model then loads again with `source`, and `onLog`
   * says so.
   */
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  /** The form of the kernels, for tests and benchmarks. Default: the fastest that this GPU computes rightly. */
  variant?: KernelVariant;
  /**
   * Whether to time kernels and keep the fastest cuts, for this load and, by adapter, for those to come (in Node in
   * `~/.cache/lapidary`, in a page in its cache storage). A number: for so many milliseconds, 0 to 600,000; `true`: 300.
   * What does not fit is left to the next load; a single compilation or timed submission that takes longer than those
   * before it may overrun. Default: `true` on real GPUs, `false` on software ones.
   */
  tune?: boolean | number;
  /** WebGPU itself, where `navigator.gpu` is not it. */
  gpu?: GPU;
  /** The engine: its URL, bytes, or compiled module. Default: `lapidary.wasm` beside this file. */
  wasm?: URL | BufferSource | WebAssembly.Module;
  /** What the engine has to say: dropped kernel variants, for instance. */
  onLog?: (level: LogLevel, text: string) => void;
}

export interface TokenizeOptions {
  /** Whether `<bos>` comes first. Default true. */
  addBos?: boolean;
  /** What control tokens written in the text are. Default `plain`: text. */
  special?: 'plain' | 'user-defined' | 'parse';
}

/** More of them compile no faster. */
const MAX_PROCESSORS = 1024;
const SPECIALS = { plain: 0, 'user-defined': 1, parse: 2 } as const;

/**
 * A model on the GPU. One request runs at a time; others wait their turn. Every failure is a {@link LapidaryError}
 * with a stable `code`.
 *
 * ```ts
 * const model = await Model.load('./models/gemma4.gguf', { onProgress: console.log });
 * for await (const event of model.chat([{ role: 'user', content: 'Why is the sky blue?' }])) {
 *   if (event.type === 'text') process.stdout.write(event.text);
 * }
 * await model.close();
 * ```
 */
export class Model {
  private queue: Promise<unknown> = Promise.resolve();
  private readonly closing = new AbortController();
  private closed: Promise<void> | undefined;

  private constructor(
    private readonly engine: Engine,
    private readonly handle: number,
    private readonly source: ByteSource,
    /** The engine's handle of `source`, from which rows may be read as long as the model lives. */
    private readonly sourceHandle: number,
    private readonly prefix: unknown[],
    /** What is loaded. */
    readonly info: ModelInfo,
    /** What it runs on. */
    readonly device: DeviceInfo,
  ) {}

  /**
   * Loads a model: an Ollama name such as `gemma4:e2b` or a path to a .gguf file (Node), a URL whose server answers
   * range requests (any, with the option `cache`), a File or Blob, or any {@link ByteSource} (which the model closes with itself).
   *
   * Rejects with `not_found`, `no_adapter`, `out_of_memory`, `invalid_format`, `unsupported`, `truncated`, `io_error`,
   * `cancelled`, `self_test_failed` and others; nothing is left behind then.
   */
  static async load(where: ModelLocation, options: LoadOptions = {}): Promise<Model> {
    const { signal, onProgress } = options;
    throwIfAborted(signal);
    const found = await findModel(where, options);
    let engine: Engine | undefined;
    // Aborting ends what is being read, too. The signal is that of the load only: later reads are not its.
    const reading = new AbortController();
    const onAbort = () => reading.abort(signal?.reason);
    signal?.addEventListener('abort', onAbort);
    try {
      const opened = await openDevice(options.gpu ?? (await currentPlatform().gpu()));
      try {
        engine = await Engine.create(await engineModule(options.wasm), opened, options.onLog);
      } catch (error) {
        opened.device.destroy();
        throw error;
      }
      throwIfAborted(signal);
      const { cache } = currentPlatform();
      const { description, architecture } = opened.info;
      const adapter = `${description} ${architecture}`;
      const log = options.onLog ?? (() => {});
      const tune = options.tune ?? !opened.info.software;
      const known = tune ? await knownCuts(cache, adapter, log) : {};
      const source = engine.addSource(found.source, reading.signal);
      const { model, ...info } = await engine.callJson<ModelInfo & { model: number }>(
        'lap_model_load',
        [
          source,
          JSON.stringify({
            contextLength: options.contextLength,
            kvType: options.kvType,
            batchSize: options.batchSize,
            sessions: options.sessions,
            perLayerEmbeddings: options.perLayerEmbeddings,
            params: found.params,
            system: found.system,
            name: found.name,
            digest: found.digest,
            variant: options.variant,
            cuts: known,
            tune,
            processors: Math.min(currentPlatform().processors(), MAX_PROCESSORS),
          }),
        ],
        { signal, onEvent: (event) => onProgress?.(event as LoadProgress) },
      );
      throwIfAborted(signal);
      engine.gpu?.uploader.release();
      await keepCuts(cache, adapter, known, info.cuts, log);
      const { messages } = found;
      return new Model(engine, model, found.source, source, messages ?? [], info, opened.info);
    } catch (error) {
      engine?.destroy();
      await found.source.close?.().catch(() => {});
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /**
   * Answers a conversation. What the KV cache still holds of it from the last request is not computed again.
   * The reply fails with `context_overflow` when the conversation does not fit, `invalid_argument` for bad options.
   */
  chat(messages: Message[], options: ChatOptions = {}): Reply {
    const { think, tools, continueFinalMessage, signal, ...rest } = options;
    const all = [...this.prefix, ...messages];
    const request = { messages: all, tools, think, continueFinalMessage, options: rest };
    return this.reply('lap_chat', request, signal);
  }

  /** Continues a raw prompt, text (`<bos>` is put before it) or token ids, with no chat template. */
  generate(prompt: string | number[], options: RawOptions = {}): Reply {
    const { special, signal, ...rest } = options;
    const what = typeof prompt === 'string' ? { prompt } : { tokens: prompt };
    return this.reply('lap_generate', { ...what, special, options: rest }, signal);
  }

  /**
   * Runs prompts into the KV cache, so that replies to them, or to what begins like them, start at once: a system
   * prompt, the conversations of a page that opens. They share batches, which is faster than one after the other.
   * At most as many as the model was loaded with `sessions`; aborting keeps what has been run and rejects with
   * `cancelled`.
   */
  prefill(
    prompts: PrefillPrompt[],
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<PrefillReport[]> {
    return this.enqueue(async () => {
      throwIfAborted(signal);
      this.checkOpen();
      const request = prompts.map((prompt) =>
        'messages' in prompt
          ? { ...prompt, messages: [...this.prefix, ...prompt.messages] }
          : prompt,
      );
      const ending = this.endingWith(signal);
      const args = [this.handle, JSON.stringify({ prompts: request })];
      const done = await this.engine.callJson<PrefillReport[]>('lap_prefill', args, {
        signal: ending,
      });
      throwIfAborted(ending);
      return done;
    });
  }

  /** Token ids of `text`. */
  tokenize(text: string, { addBos = true, special = 'plain' }: TokenizeOptions = {}): number[] {
    this.checkOpen();
    const flags = (addBos ? 1 : 0) | (SPECIALS[special] << 1);
    const bytes = this.engine.callSync('lap_tokenize', this.handle, text, flags);
    return Array.from(new Uint32Array(bytes.buffer));
  }

  /** The text of token ids; control tokens are left out unless `showControl`. */
  detokenize(
    ids: ArrayLike<number>,
    { showControl = false }: { showControl?: boolean } = {},
  ): string {
    this.checkOpen();
    return this.engine.callSyncText(
      'lap_detokenize',
      this.handle,
      idBytes(ids),
      showControl ? 1 : 0,
    );
  }

  /** The prompt that {@link chat} would make of a conversation, as text and as token ids. */
  render(messages: Message[], options: RenderOptions = {}): { text: string; tokens: number[] } {
    this.checkOpen();
    const request = JSON.stringify({ ...options, messages: [...this.prefix, ...messages] });
    return this.engine.callSyncJson('lap_render', this.handle, request);
  }

  /**
   * Logits after the last of `ids`, or after every one: f32 [1 or ids.length, vocab], in rows. The session of the KV
   * cache that is used for it holds `ids` and nothing else afterwards.
   */
  logits(ids: ArrayLike<number>, { all = false }: { all?: boolean } = {}): Promise<Float32Array> {
    return this.enqueue(async () => {
      this.checkOpen();
      const args = [this.handle, idBytes(ids), all ? 1 : 0];
      this.endingWith();
      const bytes = await this.engine.call('lap_logits', args).done;
      return new Float32Array(bytes.buffer);
    });
  }

  /** Forgets what each session of the KV cache holds beyond `length` tokens. */
  truncate(length: number): Promise<void> {
    return this.enqueue(() => {
      this.checkOpen();
      this.engine.callSync('lap_truncate', this.handle, length);
      return Promise.resolve();
    });
  }

  /**
   * Loads a LoRA adapter and switches it on, beside those that are on already, for the replies that follow; the model
   * stays loaded. `scale` is multiplied with the adapter's own; 0 loads it switched off.
   *
   * Rejects with `invalid_format` where a matrix does not fit this model (its name is in the message), `unsupported`
   * for what cannot be applied, `integrity_error` where it names another base, and with `not_found`, `truncated`,
   * `out_of_memory`, `io_error`, `cancelled`; nothing has changed then.
   */
  loadAdapter(
    where: AdapterLocation,
    { scale, signal }: { scale?: number; signal?: AbortSignal } = {},
  ): Promise<AdapterInfo> {
    return this.enqueue(async () => {
      throwIfAborted(signal);
      this.checkOpen();
      const ending = this.endingWith(signal);
      const found = await findAdapter(where, { signal: ending });
      const source = this.engine.addSource(found.model, ending);
      try {
        const config = await readConfig(found, ending);
        const request = JSON.stringify({ name: found.model.name, scale, config });
        return await this.engine.callJson<AdapterInfo>(
          'lap_adapter_load',
          [this.handle, source, request],
          { signal: ending },
        );
      } finally {
        this.engine.removeSource(source);
        await found.config?.close?.();
        await found.model.close?.();
      }
    });
  }

  /** The adapters that are loaded, in the order of their loading, with the scales that are in use. */
  get adapters(): AdapterInfo[] {
    this.checkOpen();
    return this.engine.callSyncJson('lap_adapters', this.handle);
  }

  /**
   * From the next reply on these adapters change the model, all at once, each at its `scale` (default 1); the others
   * stay loaded, switched off. None at all: the base model's own answers, bit for bit. What the KV cache holds serves
   * replies under the very adapters and scales that it was made with.
   */
  setAdapters(active: { id: number; scale?: number }[]): Promise<void> {
    return this.enqueue(async () => {
      this.checkOpen();
      await this.engine.call('lap_adapters_set', [this.handle, JSON.stringify(active)]).done;
    });
  }

  /** Switches an adapter off and frees its memory. */
  removeAdapter(id: number): Promise<void> {
    return this.enqueue(async () => {
      this.checkOpen();
      await this.engine.call('lap_adapter_remove', [this.handle, id]).done;
    });
  }

  /**
   * Trains a LoRA adapter on `data`, JSON Lines in any of the usual shapes (docs/fine-tuning.md), plain or gzipped. The
   * model itself does not change, and answers between the steps; give the report's adapter to {@link loadAdapter} to
   * use it at once.
   *
   * Fails with `invalid_argument` for settings that cannot be, `invalid_format` for a line that is no example (its
   * number is in the message), `out_of_memory` with the largest batch that fits.
   */
  finetune(data: DataInput, options: FinetuneOptions = {}): Finetune {
    const signal = options.signal
      ? AbortSignal.any([options.signal, this.closing.signal])
      : this.closing.signal;
    return startFinetune(this.finetuneHost(), data, { ...options, signal });
  }

  /**
   * What memory {@link Model.finetune} would take with these settings, whether the GPU has room for it, and the longest
   * row and the largest batch that fit. Found by allocating; nothing stays allocated. Rejects with `out_of_memory` where
   * the model cannot be trained on this GPU at all.
   */
  finetuneProbe(settings: FinetuneSettings = {}): Promise<FinetuneProbe> {
    return probeFinetune(this.finetuneHost(), settings);
  }

  private finetuneHost(): FinetuneHost {
    const enqueue = <T>(work: () => Promise<T>): Promise<T> =>
      this.enqueue(() => {
        this.checkOpen();
        this.endingWith();
        return work();
      });
    const { contextLength } = this.info;
    return { engine: this.engine, handle: this.handle, enqueue, contextLength };
  }

  /** How often the GPU was bothered since loading began, and bytes of wasm memory: for tests and benchmarks. */
  get counters(): GpuCounters & { heapBytes: number } {
    if (!this.engine.gpu) throw new LapidaryError('internal_error', 'a model without a GPU');
    return { ...this.engine.gpu.counters, heapBytes: this.engine.heapBytes };
  }

  /**
   * Times every kernel on the GPU while `work` runs (timestamp queries; `unsupported` where there are none). Each
   * dispatch then waits for the one before it: the sum says where time goes, not how fast the model is.
   */
  async profile(work: () => Promise<unknown>): Promise<KernelTime[]> {
    const { gpu } = this.engine;
    if (!gpu) throw new LapidaryError('internal_error', 'a model without a GPU');
    gpu.startProfile();
    const taken = async () => {
      await this.queue;
      return gpu.takeProfile();
    };
    try {
      await work();
    } catch (error) {
      // What runs later is not to be timed. If taking fails as well, that follows from what the work failed of.
      await taken().catch(() => []);
      throw error;
    }
    return taken();
  }

  /** Stops what runs, frees the GPU memory and closes the source. Requests made later fail with `invalid_argument`. */
  close(): Promise<void> {
    this.closed ??= (async () => {
      this.closing.abort();
      await this.queue;
      try {
        this.engine.callVoid('lap_model_close', this.handle);
      } catch {
        // An engine that has stopped holds nothing that destroy() does not free.
      }
      this.engine.destroy();
      await this.source.close?.();
    })();
    return this.closed;
  }

  private checkOpen(): void {
    if (this.closed) throw new LapidaryError('invalid_argument', 'this model has been closed');
  }

  /** Runs `work` after all that was asked before it, whether that went well or not. */
  private enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.queue.then(work);
    this.queue = result.catch(() => {});
    return result;
  }

  /** What ends the request that begins now, its reads of the source included: `signal`, or closing the model. */
  private endingWith(signal?: AbortSignal): AbortSignal {
    const closing = this.closing.signal;
    const ending = signal ? AbortSignal.any([signal, closing]) : closing;
    this.engine.readUntil(this.sourceHandle, ending);
    return ending;
  }

  private reply(name: string, request: object, signal: AbortSignal | undefined): Reply {
    const json = JSON.stringify(request);
    return new Reply(
      (emit, stop) =>
        this.enqueue(async () => {
          if (stop.aborted) return NEVER_STARTED;
          this.checkOpen();
          return this.engine.callJson<ReplyReport>(name, [this.handle, json], {
            signal: this.endingWith(stop),
            onEvent: (event) => emit(event as ReplyEvent),
          });
        }),
      signal,
    );
  }
}

const NEVER_STARTED: ReplyReport = {
  reason: 'cancelled',
  usage: { promptTokens: 0, cachedTokens: 0, completionTokens: 0 },
  timings: { prefillMs: 0, decodeMs: 0, firstTokenMs: 0 },
  tokens: [],
};

function idBytes(ids: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Uint32Array.from(ids).buffer);
}

/** Reads the header of a GGUF file and nothing else; needs no GPU. The source stays open. */
export async function inspect(
  source: ByteSource,
  options: { wasm?: URL | BufferSource | WebAssembly.Module } = {},
): Promise<FileHeader> {
  const engine = await Engine.create(await engineModule(options.wasm), undefined);
  return engine.callJson<FileHeader>('lap_inspect', [engine.addSource(source)]);
}
