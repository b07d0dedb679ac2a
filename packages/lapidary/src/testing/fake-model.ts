// A model that answers what its script says.

import type { EmbedInput, EmbedOptions, EmbedReport } from '../embed.js';
import { LapidaryError } from '../errors.js';
import {
  Finetune,
  type FinetuneOptions,
  type FinetuneProbe,
  type FinetuneReport,
} from '../finetune.js';
import { LiveRecording } from '../media/recording.js';
import type { Model, TokenizeOptions } from '../model.js';
import { Reply } from '../reply.js';
import { throwIfAborted } from '../source/source.js';
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
  TranscribeOptions,
  Transcript,
} from '../types.js';
import { pause, play, type FakeReply, type FakeRequest } from './script.js';
import { Vocabulary } from './vocabulary.js';

export type { FakeReply, FakeRequest } from './script.js';

/** What a fake model answers, and how fast. */
export interface FakeOptions {
  /** Answers in the order of the requests. */
  replies?: FakeReply[];
  /** Milliseconds before each word. Default 0. */
  delay?: number;
  /** What {@link Model.info} says, where it matters; `contextLength` bounds prompts and replies. */
  info?: Partial<ModelInfo>;
}

/** What a fake model has beside a model's members. */
export interface FakeControls {
  /** What it was asked so far. */
  readonly requests: readonly FakeRequest[];
  /** More answers, after those that are left. */
  queueReply(...replies: FakeReply[]): void;
}

/** A {@link Model}, wherever one is expected. */
export type FakeModel = Model & FakeControls;

const INFO: ModelInfo = {
  architecture: 'fake',
  family: 'fake',
  title: 'Fake',
  name: 'fake:latest',
  parameters: 0,
  layers: 1,
  embedding: 1,
  vocab: Vocabulary.size,
  contextLength: 8192,
  modelContextLength: 8192,
  sessions: 1,
  kvType: 'f16',
  modalities: ['text', 'image', 'audio'],
  template: 'small',
  gpuBytes: { weights: 0, kv: 0, scratch: 0 },
  memory: {
    fit: 'fits',
    ...{ total: 0, least: 0, planned: 0, residentLayers: 1 },
    needs: {
      ...{ dense: 0, experts: 0, tables: 0, perLayerEmbeddings: 0 },
      ...{ vectors: 0, towers: 0, drafter: 0, kv: 0, scratch: 0 },
    },
  },
  variant: {},
  kernels: 0,
  cuts: {},
};
const NO_COUNTS = { heapBytes: 0 } as Model['counters'];
const STEPS = 3;

const textOf = ({ content }: Message): string =>
  typeof content === 'string'
    ? content
    : content.map((part) => (part.type === 'text' ? part.text : `<|${part.type}|>`)).join('');

/** Some vector of length 1. */
function directionOf(ids: number[], dimensions: number): Float32Array {
  const vector = Float32Array.from({ length: dimensions }, (_, i) =>
    ids.reduce((sum, id, at) => sum + Math.sin(id * (i + 1) + at), 1e-3),
  );
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

/** safetensors that hold nothing. */
const emptyAdapter = () => ({
  model: Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 123, 125),
  config: JSON.stringify({ peft_type: 'LORA', r: 1, lora_alpha: 1, target_modules: [] }),
});

class Fake implements FakeControls {
  readonly info: ModelInfo;
  readonly device = { description: 'no GPU', vendor: '', architecture: '', software: true };
  readonly #vocabulary = new Vocabulary();
  readonly #replies: FakeReply[];
  readonly #requests: FakeRequest[] = [];
  readonly #closing = new AbortController();
  readonly #adapters: AdapterInfo[] = [];
  readonly #delay: number;
  #adapterIds = 0;
  #queue: Promise<unknown> = Promise.resolve();

  constructor({ replies = [], delay = 0, info = {} }: FakeOptions) {
    this.info = { ...INFO, ...info };
    this.#replies = [...replies];
    this.#delay = delay;
  }

  get requests(): readonly FakeRequest[] {
    return this.#requests;
  }

  queueReply(...replies: FakeReply[]): void {
    this.#replies.push(...replies);
  }

  /** A scripted reply for a recording of a second. */
  async transcribe(audio: AudioInput, options: TranscribeOptions = {}): Promise<Transcript> {
    const { prompt = '', onSegment, ...rest } = options;
    const content = [
      { type: 'audio', audio, window: 0 },
      { type: 'text', text: prompt },
    ] as const;
    const text = await this.chat([{ role: 'user', content: [...content] }], rest).text();
    const segment = { start: 0, end: 1, text };
    onSegment?.(segment);
    return { segments: [segment], seconds: 1 };
  }

  /** A recording that nobody hears. */
  record({ sampleRate = 16_000, channels = 1, signal }: RecordOptions = {}): Promise<Recording> {
    return this.#enqueue(() => {
      throwIfAborted(signal);
      return new LiveRecording(undefined, sampleRate, channels, this.#ending(signal));
    });
  }

  chat(messages: Message[], { signal, ...options }: ChatOptions = {}): Reply {
    const tokens = () => this.render(messages, options).tokens;
    return this.#reply({ type: 'chat', messages, options }, tokens, signal);
  }

  generate(prompt: string | number[], { signal, ...options }: RawOptions = {}): Reply {
    const tokens = () => (typeof prompt === 'string' ? this.tokenize(prompt) : prompt);
    return this.#reply({ type: 'generate', prompt, options }, tokens, signal);
  }

  prefill(
    prompts: PrefillPrompt[],
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<PrefillReport[]> {
    return this.#enqueue(() => {
      throwIfAborted(signal);
      return prompts.map((prompt) => {
        const tokens =
          'messages' in prompt
            ? this.render(prompt.messages, prompt).tokens
            : 'tokens' in prompt
              ? prompt.tokens
              : this.tokenize(prompt.prompt);
        return { promptTokens: tokens.length, cachedTokens: 0 };
      });
    });
  }

  tokenize(text: string, { addBos = true }: TokenizeOptions = {}): number[] {
    this.#checkOpen();
    return this.#vocabulary.tokenize(text, addBos);
  }

  detokenize(ids: ArrayLike<number>, { showControl = false } = {}): string {
    this.#checkOpen();
    return this.#vocabulary.detokenize(ids, showControl);
  }

  render(
    messages: Message[],
    { addGenerationPrompt = true }: RenderOptions = {},
  ): { text: string; tokens: number[] } {
    const turns = messages.map((message) => `${message.role}: ${textOf(message)}\n`);
    const text = turns.join('') + (addGenerationPrompt ? 'assistant: ' : '');
    return { text, tokens: this.tokenize(text) };
  }

  /** Zeros. */
  logits(ids: ArrayLike<number>, { all = false } = {}): Promise<Float32Array> {
    return this.#enqueue(() => new Float32Array((all ? ids.length : 1) * this.info.vocab));
  }

  /** Vectors of length 1 that are equal for equal texts, `info.embedding` dimensions each. */
  embed(
    input: EmbedInput | EmbedInput[],
    { signal, dimensions = this.info.embedding }: EmbedOptions = {},
  ): Promise<EmbedReport> {
    return this.#enqueue(() => {
      throwIfAborted(signal);
      const isOne = typeof input === 'string' || typeof input[0] === 'number';
      const inputs = (isOne ? [input] : input) as EmbedInput[];
      const all = inputs.map((each) => (typeof each === 'string' ? this.tokenize(each) : each));
      return {
        embeddings: all.map((ids) => directionOf(ids, dimensions)),
        promptTokens: all.map((ids) => ids.length),
      };
    });
  }

  /** Bytes that say nothing: a fake model caches nothing. */
  saveSession(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#enqueue(() => new Uint8Array(8));
  }

  restoreSession(): Promise<{ tokens: number }> {
    return this.#enqueue(() => ({ tokens: 0 }));
  }

  truncate(_length: number): Promise<void> {
    return this.#enqueue(() => {});
  }

  loadAdapter(
    where: unknown,
    { scale = 1, signal }: { scale?: number; signal?: AbortSignal } = {},
  ): Promise<AdapterInfo> {
    return this.#enqueue(() => {
      throwIfAborted(signal);
      const named = where as { name?: unknown };
      const info: AdapterInfo = {
        id: ++this.#adapterIds,
        name: typeof named.name === 'string' ? named.name : String(where),
        scale,
        rank: 1,
        alpha: 1,
        rsLora: false,
        baseModel: '',
        baseDigest: '',
        matrices: 0,
        parameters: 0,
        gpuBytes: 0,
      };
      this.#adapters.push(info);
      return { ...info };
    });
  }

  get adapters(): AdapterInfo[] {
    this.#checkOpen();
    return this.#adapters.map((info) => ({ ...info }));
  }

  setAdapters(active: { id: number; scale?: number }[]): Promise<void> {
    return this.#enqueue(() => {
      for (const { id } of active) this.#adapterAt(id);
      for (const info of this.#adapters) {
        const chosen = active.find(({ id }) => id === info.id);
        info.scale = chosen ? (chosen.scale ?? 1) : 0;
      }
    });
  }

  removeAdapter(id: number): Promise<void> {
    return this.#enqueue(() => {
      this.#adapters.splice(this.#adapterAt(id), 1);
    });
  }

  /** Steps with a falling loss, and an adapter that changes nothing. */
  finetune(_data: unknown, { signal, ...options }: FinetuneOptions = {}): Finetune {
    const steps = options.steps ?? STEPS;
    const gpuBytes = 0;
    const ready = { examples: 1, evalExamples: 0, positions: 1, supervised: 1, shapes: {} };
    const nothingBad = { badLines: 0, problems: [], cut: 0, split: 0, dropped: 0 };
    return new Finetune(
      async (emit, stop) => {
        this.#checkOpen();
        const start = { step: 0, steps, parameters: 0, gpuBytes };
        emit({ type: 'ready', ...ready, ...nothingBad, ...start });
        const report = (reason: FinetuneReport['reason'], step: number): FinetuneReport => ({
          reason,
          step,
          steps,
          adapter: emptyAdapter(),
        });
        for (let step = 1; step <= steps; step++) {
          await pause(this.#delay, stop);
          if (stop.aborted) return report('cancelled', step - 1);
          const rates = { gradientNorm: 1, learningRate: 1e-4, tokensPerSecond: 1, secondsLeft: 0 };
          emit({ type: 'step', step, steps, epoch: 1, loss: 1 / step, ...rates, gpuBytes });
        }
        return report('done', steps);
      },
      this.#ending(signal),
      (report) => ({ type: 'done', ...report }),
    );
  }

  finetuneProbe(): Promise<FinetuneProbe> {
    const size = { maxLength: 512, batch: 1, bytes: 0 };
    return this.#enqueue(() => ({
      ...size,
      fits: true,
      parameters: 0,
      longest: size,
      largest: size,
    }));
  }

  get counters(): Model['counters'] {
    return NO_COUNTS;
  }

  async profile(work: () => Promise<unknown>): Promise<[]> {
    await work();
    return [];
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#queue;
  }

  #adapterAt(id: number): number {
    const at = this.#adapters.findIndex((info) => info.id === id);
    if (at < 0) throw new LapidaryError('not_found', `there is no adapter ${id}`);
    return at;
  }

  #checkOpen(): void {
    if (this.#closing.signal.aborted) {
      throw new LapidaryError('invalid_argument', 'this model has been closed');
    }
  }

  #ending(signal: AbortSignal | undefined): AbortSignal {
    return signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
  }

  /** One request at a time, as a model has it. */
  #enqueue<T>(work: () => T | Promise<T>): Promise<T> {
    const result = this.#queue.then(() => {
      this.#checkOpen();
      return work();
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  #reply(request: FakeRequest, promptOf: () => number[], signal: AbortSignal | undefined): Reply {
    this.#requests.push(request);
    return new Reply((emit, stop) => {
      const any = AbortSignal.any([stop, this.#closing.signal]);
      return this.#enqueue(() => {
        const { contextLength } = this.info;
        const promptTokens = promptOf().length;
        if (promptTokens >= contextLength) {
          throw new LapidaryError(
            'context_overflow',
            `the prompt has ${promptTokens} tokens, the context ${contextLength}`,
          );
        }
        // What is stopped before its turn takes no reply.
        const reply = any.aborted ? '' : this.#replies.shift();
        if (reply === undefined) {
          throw new LapidaryError(
            'invalid_argument',
            'the fake model has no reply left: queue one',
          );
        }
        const vocabulary = this.#vocabulary;
        const playing = { request, promptTokens, vocabulary, delay: this.#delay, contextLength };
        return play(reply, playing, emit, any);
      });
    }, signal);
  }
}

/**
 * A model that gives `replies`, one a request, and keeps what it was asked.
 *
 * ```ts
 * const model = createFakeModel({ replies: ['Hello there.', { error: 'device_lost' }] });
 * expect(await greet(model)).toBe('Hello there.');
 * expect(model.requests[0]).toMatchObject({ type: 'chat', options: { temperature: 0 } });
 * ```
 */
export function createFakeModel(options: FakeOptions = {}): FakeModel {
  // Model has private members, which nothing but itself can have.
  const fake: Omit<FakeModel, never> = new Fake(options);
  return fake as FakeModel;
}
