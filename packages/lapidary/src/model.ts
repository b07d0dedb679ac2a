// A model, loaded and ready: the package's main class.

import { loadAdapter, type AdapterLocation } from './adapters.js';
import type { DataInput } from './data.js';
import { embed, type EmbedInput, type EmbedOptions, type EmbedReport } from './embed.js';
import type { Engine } from './engine.js';
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
import type { DeviceInfo } from './gpu/device.js';
import type { GpuCounters } from './gpu/host.js';
import type { KernelTime } from './gpu/profiler.js';
import type { LoadOptions } from './load-options.js';
import { loadOn, type Loaded } from './loaded.js';
import { whole } from './media/live.js';
import { holdSound, withMedia, withoutMedia, type Host } from './media/media.js';
import { transcribe } from './media/transcribe.js';
import {
  closeFound,
  findModel,
  findBeside,
  type FoundModel,
  type ModelLocation,
} from './platform.js';
import { KeptReply, Recovery } from './recovery.js';
import { Reply } from './reply.js';
import { modelIdentity, restoreSession, saveSession, type SaveOptions } from './snapshot.js';
import { throwIfAborted } from './source/source.js';
import { Turns } from './turns.js';
import type {
  AdapterInfo,
  AudioInput,
  ChatOptions,
  Message,
  ModelInfo,
  PrefillPrompt,
  PrefillReport,
  RawOptions,
  Recording,
  RecordOptions,
  RenderOptions,
  ReplyEvent,
  ReplyReport,
  TranscribeOptions,
  Transcript,
} from './types.js';

/** How a text becomes token ids. */
export interface TokenizeOptions {
  /** Whether `<bos>` comes first. Default true. */
  addBos?: boolean;
  /** What control tokens written in the text are. Default `plain`: text. */
  special?: 'plain' | 'user-defined' | 'parse';
}

const SPECIALS = { plain: 0, 'user-defined': 1, parse: 2 } as const;

/**
 * A model on the GPU. As many replies as it was loaded with `sessions` are written side by side; what else is asked of
 * it runs by itself. All wait their turn in the order in which they were asked for. Every failure is a {@link LapidaryError}
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
  private readonly turns = new Turns(() => this.info.sessions);
  /** Replies that go on. */
  private replying = 0;
  private readonly closing = new AbortController();
  private closed: Promise<void> | undefined;
  private identity: string | undefined;

  private readonly recovery: Recovery;

  private constructor(
    loaded: Loaded,
    private readonly found: FoundModel,
    options: LoadOptions,
  ) {
    this.recovery = new Recovery(loaded, found, options, this.closing.signal);
  }

  private get engine(): Engine {
    return this.recovery.loaded.engine;
  }
  private get handle(): number {
    return this.recovery.loaded.handle;
  }
  private get host(): Host {
    return { engine: this.engine, handle: this.handle };
  }
  private get prefix(): unknown[] {
    return this.found.messages ?? [];
  }
  /** What is loaded. */
  get info(): ModelInfo {
    return this.recovery.loaded.info;
  }
  /** What it runs on. */
  get device(): DeviceInfo {
    return this.recovery.loaded.device;
  }

  /**
   * Loads a model: an Ollama name such as `gemma4:e2b` or a path to a .gguf file (Node), a URL whose server answers
   * range requests (any, with the option `cache`), a File or Blob, or any {@link ByteSource} (which the model closes with itself).
   *
   * Rejects with `not_found`, `no_adapter`, `out_of_memory`, `invalid_format`, `unsupported`, `truncated`, `io_error`,
   * `cancelled`, `self_test_failed`, `device_lost` and others; nothing is left behind then.
   */
  static async load(where: ModelLocation, options: LoadOptions = {}): Promise<Model> {
    const { signal } = options;
    throwIfAborted(signal);
    const found = await findModel(where, options);
    try {
      for (const kind of ['projector', 'drafter'] as const) {
        const where = options[kind];
        if (where === undefined) continue;
        const source = where === false ? undefined : await findBeside(where, options);
        await found[kind]?.close?.();
        found[kind] = source;
      }
      return new Model(await loadOn(found, options, signal), found, options);
    } catch (error) {
      await closeFound(found).catch(() => {});
      throw error;
    }
  }

  /**
   * Answers a conversation. What the KV cache still holds of it from the last request is not computed again.
   * The reply fails with `context_overflow` when the conversation does not fit, `invalid_argument` for bad options.
   */
  chat(messages: Message[], options: ChatOptions = {}): Reply {
    const { think, tools, toolChoice, continueFinalMessage, signal, ...rest } = options;
    const all = [...this.prefix, ...messages];
    const request = { tools, toolChoice, think, continueFinalMessage, options: rest };
    return this.reply('lap_chat', request, signal, all);
  }

  /**
   * Writes down what is said in a recording, by windows of 30 s, each on its own. Rejects with `unsupported` where the
   * model takes no sound, `invalid_format` for what is no WAV file, `cancelled`, and as replies fail.
   */
  transcribe(audio: AudioInput, options: TranscribeOptions = {}): Promise<Transcript> {
    const { signal } = options;
    return transcribe(
      {
        chat: (messages, chatOptions) => this.chat(messages, chatOptions),
        hear: (live) => this.listen(signal, (ending) => whole(this.host, live, ending)),
        hold: (sound) =>
          this.request(() => {
            throwIfAborted(signal);
            return holdSound(this.host, sound, this.endingWith(signal));
          }),
      },
      audio,
      options,
    );
  }

  /**
   * Begins a recording that the model hears while it is made, as of a microphone: after its end only the last part of a
   * second is left to encode. It begins when it is its turn, as a reply does; its writes wait for nothing but each other.
   * Rejects with `unsupported` where the model takes no sound or no such rate, `invalid_argument` for options that are
   * none, `out_of_memory`, `io_error`, `cancelled`.
   *
   * ```ts
   * const recording = await model.record({ sampleRate: 48_000 });
   * for await (const samples of microphone) await recording.write(samples);
   * const reply = model.chat([{ role: 'user', content: [await recording.end()] }]);
   * ```
   */
  record({ sampleRate = 16_000, channels = 1, signal }: RecordOptions = {}): Promise<Recording> {
    return this.listen(signal, async (ending) => {
      // Loaded when it is needed: most models hear nothing.
      const { Listening, LiveRecording } = await import('./media/recording.js');
      const listening = await Listening.open(this.host, { rate: sampleRate, channels }, ending);
      return new LiveRecording(listening, sampleRate, channels, ending);
    });
  }

  /** Does `work`, for which the audio tower may be loaded, beside replies. */
  private listen<T>(
    signal: AbortSignal | undefined,
    work: (ending: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.turns.beside(async () => {
      throwIfAborted(signal);
      this.checkOpen();
      this.replying++;
      try {
        return await this.recovery.run(() => work(this.endingWith(signal)));
      } finally {
        this.replying--;
      }
    });
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
    return this.request(async () => {
      throwIfAborted(signal);
      const ending = this.endingWith(signal);
      const lists = prompts.map((prompt) =>
        'messages' in prompt ? [...this.prefix, ...prompt.messages] : [],
      );
      // The media of all are there while one call runs them.
      const done = await withMedia(
        this.host,
        lists.flat(),
        ending,
        () => {},
        (named) => {
          let at = 0;
          const ready = prompts.map((prompt, i) =>
            'messages' in prompt
              ? { ...prompt, messages: named.slice(at, (at += lists[i]!.length)) }
              : prompt,
          );
          const args = [this.handle, JSON.stringify({ prompts: ready })];
          return this.engine.callJson<PrefillReport[]>('lap_prefill', args, { signal: ending });
        },
      );
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

  /**
   * The prompt that {@link chat} would make of a conversation, as text and as token ids. A picture is one tag there, in the
   * place of its tokens.
   */
  render(messages: Message[], options: RenderOptions = {}): { text: string; tokens: number[] } {
    this.checkOpen();
    const all = withoutMedia([...this.prefix, ...messages]);
    const request = JSON.stringify({ ...options, messages: all });
    return this.engine.callSyncJson('lap_render', this.handle, request);
  }

  /**
   * Logits after the last of `ids`, or after every one: f32 [1 or ids.length, vocab], in rows. The session of the KV
   * cache that is used for it holds `ids` and nothing else afterwards.
   */
  logits(ids: ArrayLike<number>, { all = false }: { all?: boolean } = {}): Promise<Float32Array> {
    return this.request(async () => {
      const args = [this.handle, idBytes(ids), all ? 1 : 0];
      this.endingWith();
      const bytes = await this.engine.call('lap_logits', args).done;
      return new Float32Array(bytes.buffer);
    });
  }

  /**
   * Embeddings of texts: their hidden states after the model's last norm, pooled into a vector each. Several texts share
   * batches where the model was loaded with several `sessions`, of which they take the place of half at most (of one at
   * least). Rejects with `context_overflow` for a text that does not fit, `invalid_argument` for bad options, `cancelled`.
   */
  embed(input: EmbedInput | EmbedInput[], options: EmbedOptions = {}): Promise<EmbedReport> {
    return this.request(() => {
      throwIfAborted(options.signal);
      return embed(this.engine, this.handle, input, options, this.endingWith(options.signal));
    });
  }

  /**
   * Saves what the KV cache holds of the conversation or prompt that ran last, {@link Model.prefill} included, as bytes
   * to keep: after {@link restoreSession} what begins like it goes on from there and is not computed again. They fit
   * this model with the adapters that were on, loaded with the same `contextLength`, `kvType` and `batchSize`. Rejects with
   * `invalid_argument` where nothing is cached.
   */
  saveSession(options: SaveOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    return this.request(async () => {
      throwIfAborted(options.signal);
      const ending = this.endingWith(options.signal);
      const identity = await this.identify(ending);
      return saveSession(this.engine, this.handle, identity, options, ending);
    });
  }

  /**
   * Puts back what {@link saveSession} gave, in the place of a conversation that it holds all of, or of the one unused for
   * longest, and says how many tokens it has. Bytes that are damaged or not of this model are refused, and nothing has changed then:
   * `integrity_error`, `invalid_format`, `truncated`, `unsupported` (another version). Without them the prompt is simply
   * computed again.
   */
  restoreSession(
    snapshot: Uint8Array | Blob,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ tokens: number }> {
    return this.request(async () => {
      throwIfAborted(signal);
      const ending = this.endingWith(signal);
      const identity = await this.identify(ending);
      return restoreSession(this.engine, this.handle, identity, snapshot, ending);
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
    return this.changeAdapters(async () => {
      throwIfAborted(signal);
      const ending = this.endingWith(signal);
      const info = await loadAdapter(this.engine, this.handle, where, { scale }, ending);
      this.recovery.keepAdapter(info.id, where);
      return info;
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
    return this.changeAdapters(async () => {
      await this.engine.call('lap_adapters_set', [this.handle, JSON.stringify(active)]).done;
    });
  }

  /** Switches an adapter off and frees its memory. */
  removeAdapter(id: number): Promise<void> {
    return this.changeAdapters(async () => {
      await this.engine.call('lap_adapter_remove', [this.handle, id]).done;
      this.recovery.forgetAdapter(id);
    });
  }

  /** A request after which other adapters may be on, for which cuts of kernels were found. */
  private changeAdapters<T>(work: () => Promise<T>): Promise<T> {
    return this.request(async () => {
      const result = await work();
      await this.recovery.loaded.keepCuts();
      return result;
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
      await this.enqueue(() => Promise.resolve());
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
      await this.enqueue(() => Promise.resolve());
      try {
        this.engine.callVoid('lap_model_close', this.handle);
      } catch {
        // An engine that has stopped holds nothing that destroy() does not free.
      }
      this.engine.destroy();
      await closeFound(this.found);
    })();
    return this.closed;
  }

  private checkOpen(): void {
    if (this.closed) throw new LapidaryError('invalid_argument', 'this model has been closed');
  }

  /** Runs `work` when it is its turn, and once more where the GPU was lost meanwhile and the model came back. */
  private request<T>(work: () => Promise<T>): Promise<T> {
    return this.enqueue(() => {
      this.checkOpen();
      return this.recovery.run(work);
    });
  }

  /** Runs `work` after all that was asked before it, whether that went well or not. */
  private enqueue<T>(work: () => Promise<T>): Promise<T> {
    return this.turns.byItself(work);
  }

  /**
   * What ends the request that begins now: `signal`, or closing the model. So do its reads of the source end, unless they
   * are other replies', too.
   */
  private endingWith(signal?: AbortSignal): AbortSignal {
    const closing = this.closing.signal;
    const ending = signal ? AbortSignal.any([signal, closing]) : closing;
    const { sources } = this.recovery.loaded;
    for (const source of sources) {
      this.engine.readUntil(source, this.replying > 1 ? closing : ending);
    }
    return ending;
  }

  /** Names the model's file; of one without a digest pieces are read for it, once. */
  private async identify(signal: AbortSignal): Promise<string> {
    const { source, digest } = this.found;
    return (this.identity ??= await modelIdentity(source, digest, signal));
  }

  private reply(
    name: string,
    request: object,
    signal: AbortSignal | undefined,
    messages?: unknown[],
  ): Reply {
    const start = (emit: (event: ReplyEvent) => void, stop: AbortSignal) =>
      this.turns.beside(async () => {
        if (stop.aborted) return NEVER_STARTED;
        this.checkOpen();
        const kept = this.recovery.wanted ? new KeptReply(emit) : undefined;
        const onEvent = (event: unknown) =>
          kept ? kept.take(event as ReplyEvent) : emit(event as ReplyEvent);
        this.replying++;
        try {
          return await this.recovery.run(() => {
            const ending = this.endingWith(stop);
            const ask = (conversation?: readonly unknown[]) => {
              const json = JSON.stringify({ ...request, messages: conversation, ...kept?.how });
              const args = [this.handle, json];
              return this.engine.callJson<ReplyReport>(name, args, { signal: ending, onEvent });
            };
            const told = (processed: number, total: number) =>
              onEvent({ type: 'media', processed, total });
            return messages ? withMedia(this.host, messages, ending, told, ask) : ask();
          });
        } catch (error) {
          // While pictures are read: a reply that is stopped ends well, and there is none yet.
          if (stop.aborted && messages && isCancelled(error)) return NEVER_STARTED;
          throw error;
        } finally {
          this.replying--;
        }
      });
    return new Reply(start, signal);
  }
}

const isCancelled = (error: unknown) =>
  error instanceof LapidaryError && error.code === 'cancelled';

const NEVER_STARTED: ReplyReport = {
  reason: 'cancelled',
  usage: { promptTokens: 0, cachedTokens: 0, completionTokens: 0 },
  timings: { prefillMs: 0, decodeMs: 0, firstTokenMs: 0 },
  tokens: [],
};

function idBytes(ids: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Uint32Array.from(ids).buffer);
}
