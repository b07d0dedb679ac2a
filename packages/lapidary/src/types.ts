// What goes into a model and what comes out: messages, options, events, reports.

import type { Retry } from './source/retry.js';

/** Text in a message's content. */
export interface TextPart {
  type: 'text';
  text: string;
}

/** Pixels, row by row from the top, in 3 bytes (RGB) or 4 (the last unused); an `ImageData` is one. */
export interface RawImage {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray;
}

/**
 * A picture: its file (JPEG, PNG, WebP, GIF and what else the browser, or in Node `sharp`, decodes), as a Blob, as bytes,
 * or by its address (`https:`, `data:`, `blob:`, a path in Node); or pixels. At most 100 million pixels.
 */
export type ImageInput =
  string | URL | Blob | ImageBitmap | RawImage | Uint8Array<ArrayBuffer> | ArrayBuffer;

/** A picture in a message's content. It stays part of the conversation: give it again with every turn that follows. */
export interface ImagePart {
  type: 'image';
  image: ImageInput;
  /** Tokens that it becomes at most: more show the model more of its detail. Default 280. */
  maxTokens?: 70 | 140 | 280 | 560 | 1120 | undefined;
}

/** Samples from -1 to 1, channel after channel for each moment. */
export interface RawAudio {
  samples: Float32Array;
  /** Hz, 1,000 to 384,000. */
  sampleRate: number;
  /** Default 1. */
  channels?: number | undefined;
}

/** What {@link decodeAudio} gives: mono. */
export interface DecodedAudio extends RawAudio {
  samples: Float32Array<ArrayBuffer>;
}

/** Samples that are still to come, as of a microphone. */
export interface LiveAudio {
  /** Pieces of any length, as in {@link RawAudio}. They are read once, while the model listens. */
  samples: ReadableStream<Float32Array> | AsyncIterable<Float32Array>;
  /** Hz, 1,000 to 384,000. */
  sampleRate: number;
  /** Default 1. */
  channels?: number | undefined;
}

/**
 * Sound: a WAV file (PCM of 8 to 32 bits, floats, A-law, mu-law; any rate and channels) as a Blob, as bytes, or by its
 * address (a path in Node); or samples, a bare Float32Array being mono at 16,000 Hz, or as they come. In a page, not in
 * a worker, other files that the browser decodes (MP3, Ogg, M4A), too. It becomes 25 tokens a second.
 */
export type AudioInput =
  | string
  | URL
  | Blob
  | Uint8Array<ArrayBuffer>
  | ArrayBuffer
  | Float32Array<ArrayBuffer>
  | RawAudio
  | LiveAudio;

/** Sound in a message's content; it stays part of the conversation, as a picture does. */
export interface AudioPart {
  type: 'audio';
  audio: AudioInput;
  /** Only this window of 30 s, from 0. */
  window?: number | undefined;
}

/** What of a recording has been heard. */
export interface RecordingProgress {
  /** Soft tokens that have been made; the last part of a second waits for more. */
  tokens: number;
  /** Of the samples that were taken. */
  seconds: number;
}

/** A recording in the making: see {@link Model.record}. */
export interface Recording {
  /**
   * The next samples, from -1 to 1, channel after channel for each moment. They are copied at once, so that writes may
   * follow each other without waiting; each resolves when its samples have been heard, in their order: waiting for it
   * keeps memory bounded where they come faster than that. Rejects with `invalid_argument` for samples that are no
   * finite numbers or none of every channel, for what is too long, and after the end: what was there before stays. An
   * error of the engine (`out_of_memory`) ends the recording.
   */
  write(samples: Float32Array): Promise<RecordingProgress>;
  /**
   * Ends it: the part to put into messages, now and in later turns. Rejects as {@link write} does, and with
   * `invalid_argument` for under a hundredth of a second.
   */
  end(): Promise<AudioPart>;
  /** Gives it up and frees its memory; nothing happens after the end. */
  cancel(): Promise<void>;
}

/** Options of {@link Model.record}. */
export interface RecordOptions {
  /** Hz, 1,000 to 384,000. Default 16,000. */
  sampleRate?: number;
  /** Default 1. */
  channels?: number;
  /** Aborting gives the recording up, as {@link Recording.cancel} does. */
  signal?: AbortSignal;
}

/** What was said in a stretch of a recording. */
export interface TranscriptSegment {
  /** Seconds from the beginning of the recording. */
  start: number;
  end: number;
  text: string;
}

/** A recording in words. */
export interface Transcript {
  segments: TranscriptSegment[];
  /** Of the recording. */
  seconds: number;
}

/** Options of {@link Model.transcribe}. */
export interface TranscribeOptions extends GenerateOptions {
  /** What the model is told to do with each window. Default: to write down what is said, word for word. */
  prompt?: string;
  /** Called after each window of 30 s. */
  onSegment?: (segment: TranscriptSegment) => void;
  signal?: AbortSignal;
}

/** A part of a message's content. */
export type ContentPart = TextPart | ImagePart | AudioPart;

/** A call that the model made, as it stands in a message of the conversation. */
export interface ToolCall {
  name: string;
  arguments: Record<string, unknown>;
}

/** A message of a conversation, in the shape of OpenAI's and Ollama's. */
export interface Message {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  content: string | ContentPart[];
  /** assistant: what it thought before it answered. */
  thinking?: string;
  /** assistant: tools it called. */
  toolCalls?: ToolCall[];
  /** tool: which tool's answer this is. */
  name?: string;
}

/** A function that the model may call, in JSON Schema as OpenAI and Ollama have it. */
export interface Tool {
  type: 'function';
  function: {
    name: string;
    description?: string;
    parameters?: Record<string, unknown>;
  };
}

/** JSON Schema, of which docs/structured-output.md says what is supported. */
export type JsonSchema = Record<string, unknown>;

/** What is absent comes from the model's maker (an Ollama params layer), else from the engine. */
export interface GenerateOptions {
  /** 0 is greedy: always the likeliest token. */
  temperature?: number;
  /** Only the k likeliest tokens; 0 means all. */
  topK?: number;
  /** Only the likeliest tokens that together reach this probability, 0 to 1. */
  topP?: number;
  /** Only tokens at least this fraction as likely as the likeliest, 0 to 1. */
  minP?: number;
  /** Divides (or multiplies, below zero) logits of recent tokens; 1 is none. */
  repeatPenalty?: number;
  /** Tokens that the penalties look back on. */
  repeatLastN?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Added to the logits of these token ids, -100 to 100. */
  logitBias?: Record<number, number>;
  /** The same seed on the same device gives the same tokens. */
  seed?: number;
  /** Texts that end the reply; they are not part of it. */
  stop?: string[];
  /** Most tokens to write. */
  maxTokens?: number;
  /** Goes on past the tokens that end a reply: for benchmarks. */
  ignoreEos?: boolean;
  /** Alternatives reported with each token (`token` events); 0 is off. */
  logprobs?: number;
  /**
   * What the answer must be: `json`, any JSON object, or JSON that satisfies a schema. Only tokens that lead there are
   * drawn, and the reply ends where the value does. A reply that `maxTokens` or the context cuts off is a beginning of
   * such a value. A schema with keywords that are not supported fails with `unsupported`; they are named.
   */
  format?: 'json' | JsonSchema;
}

export interface ChatOptions extends GenerateOptions {
  /** Lets a thinking model think before it answers. */
  think?: boolean;
  tools?: Tool[];
  /**
   * `auto` (default): the model calls tools or answers. `required`: it calls at least one, with arguments that satisfy
   * its parameters' schema; a name: that one, once. There is no answer then, whatever `format` says.
   */
  toolChoice?: 'auto' | 'required' | { name: string };
  /** The last message is the model's own, to be continued. */
  continueFinalMessage?: boolean;
  /** Aborting ends the reply; it finishes with the reason `cancelled` and keeps what was written. */
  signal?: AbortSignal;
}

export interface RawOptions extends GenerateOptions {
  /** `parse`: control tokens written in the prompt count as such. `plain` (default): they are text. */
  special?: 'plain' | 'parse';
  /** As in {@link ChatOptions}. */
  signal?: AbortSignal;
}

/** A prompt to run ahead of its reply: a conversation as for {@link Model.chat}, or raw. */
export type PrefillPrompt =
  | ({ messages: Message[] } & RenderOptions)
  | { prompt: string; special?: 'plain' | 'parse' }
  | { tokens: number[] };

/** Tokens of a prompt; `cachedTokens` of them were in the KV cache already. */
export interface PrefillReport {
  promptTokens: number;
  cachedTokens: number;
}

/** Options of {@link Model.render}. */
export interface RenderOptions {
  think?: boolean;
  tools?: Tool[];
  /** Whether the model's turn is opened at the end. Default true. */
  addGenerationPrompt?: boolean;
  continueFinalMessage?: boolean;
}

/** A token and how likely the model held it. */
export interface TokenLogprob {
  id: number;
  text: string;
  /** Natural logarithm of the probability. */
  logprob: number;
}

/** How a reply ended: see {@link ReplyReport.reason}. */
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'cancelled' | 'context';

/** How a reply ended, and what it took. */
export interface ReplyReport {
  /** `stop`: the model or a stop text ended it; `length`: maxTokens; `context`: the context is full. */
  reason: FinishReason;
  /** The stop text that ended it. */
  stop?: string;
  /** Tokens. `cachedTokens` of the prompt were still in the KV cache. */
  usage: { promptTokens: number; cachedTokens: number; completionTokens: number };
  /** Milliseconds. `firstTokenMs`: from the start of the work to the first token. */
  timings: { prefillMs: number; decodeMs: number; firstTokenMs: number };
  /** Tokens that the drafter guessed, and those of them that came true; absent where the model has no drafter. */
  draft?: { drafted: number; accepted: number };
  /** What the sampler was seeded with. */
  seed?: number;
  /** Ids of what was written. */
  tokens: number[];
  /**
   * Where the GPU keeps only some experts (`info.memory.expertSlots`): those that were needed and there, and those that
   * were read from the source. Replies that went on at the same time count, too.
   */
  experts?: { hits: number; misses: number };
}

/** What happens while a reply is written, in order; `done` is the last. */
export type ReplyEvent =
  /** Pictures and sound of the conversation that the model had not met: so many of them have been read. */
  | { type: 'media'; processed: number; total: number }
  | { type: 'prefill'; processed: number; total: number; cached: number }
  | { type: 'text'; text: string }
  | { type: 'thinking'; text: string }
  | ({ type: 'tool_call' } & ToolCall)
  | ({ type: 'token'; top: TokenLogprob[] } & TokenLogprob)
  | ({ type: 'done' } & ReplyReport);

/** How far loading has come. Bytes, but kernels for `compile` and tests for `selftest`. */
export interface LoadProgress {
  /** `download`: into the cache, where one is used. */
  phase: 'download' | 'header' | 'selftest' | 'upload' | 'compile';
  loaded: number;
  /** Of a download 0, while the server has not said it. */
  total: number;
  /** A download's request has failed and waits for its next try. */
  retry?: Retry;
}

/** What of a kernel's forms may be asked for; what is absent is chosen at load. */
export interface KernelVariant {
  subgroups?: boolean;
  /** How decoding multiplies: f32, or integer products of activations in 16 or 8 bits. */
  dot?: 'f32' | 'int16' | 'int8';
  /**
   * How prompts are multiplied, wherever the weights allow it. Where absent: in f32, or as `dot` says or as `matrix`
   * where tuning found that faster. `matrix`: subgroup matrices of halves, for GPUs that have them and programs that
   * allowed experimental WebGPU (in Node LAPIDARY_UNSAFE_WEBGPU=1).
   */
  prefill?: 'f32' | 'int16' | 'int8' | 'matrix';
}

/**
 * A cut is how a kernel spreads its work over threads; what it computes does not depend on it. The third number of a
 * `matmul` is its form: 0 for f32, 1 for int16, 2 for int8, 3 for matrix; of attention they are threads, keys of a part,
 * and most parts. With five numbers it is the best of some: the fourth says how many were compared, the fifth how many
 * milliseconds of `tune` going on takes at least.
 */
export type Cuts = Record<
  string,
  [number, number, number] | [number, number, number, number, number]
>;

/**
 * How keys and values are kept: floats of 16 or 32 bits, or 8-bit integers in blocks of 32 with a scale each (8.5 bits an
 * element).
 */
export type KvType = 'f16' | 'f32' | 'q8_0';

/** What is loaded. */
export interface ModelInfo {
  architecture: string;
  family: string;
  title: string;
  name: string;
  parameters: number;
  layers: number;
  embedding: number;
  vocab: number;
  /** Tokens that prompt and reply may have together. */
  contextLength: number;
  /** What the model was trained for, in tokens. */
  modelContextLength: number;
  /** Conversations that the KV cache holds side by side. */
  sessions: number;
  kvType: KvType;
  /** What messages may hold. */
  modalities: ('text' | 'image' | 'audio')[];
  template: 'small' | 'large';
  gpuBytes: { weights: number; kv: number; scratch: number };
  /** What guesses tokens of replies; absent where nothing does. */
  drafter?: { layers: number; gpuBytes: number };
  memory: MemoryReport;
  /** Where the per-layer embeddings are; absent where the model has none. */
  perLayerEmbeddings?: 'gpu' | 'source';
  variant: Record<string, unknown>;
  kernels: number;
  /** How products are spread over threads, by kernel, where that was found by timing on this adapter. */
  cuts: Cuts;
}

/** How much GPU memory a model takes, told before it is loaded. All sizes are bytes. */
export interface MemoryReport {
  /** `streamed`: experts or layers that the budget has no room for are read from the source as they are needed. */
  fit: 'fits' | 'streamed' | 'does not fit';
  /** What all of it would take: the sum of `needs`. */
  total: number;
  /** The smallest budget that the model can run in. */
  least: number;
  /** What it takes under the budget. */
  planned: number;
  /** `gpuMemory`, where that was given. */
  budget?: number;
  /** Layers, from the first on, that stay on the GPU. */
  residentLayers: number;
  /** Of a mixture of experts of which not all fit: the experts of each layer that are on the GPU at a time. */
  expertSlots?: number;
  needs: {
    /** Matrices that every token passes. */
    dense: number;
    experts: number;
    /** Embeddings and the head. */
    tables: number;
    perLayerEmbeddings: number;
    /** Norms, scales, rotary tables. */
    vectors: number;
    /** Of pictures and sound, which are loaded when they are first needed. */
    towers: number;
    /** Its weights; 0 in what {@link inspect} says. */
    drafter: number;
    kv: number;
    /** Activations, logits. */
    scratch: number;
  };
}

/** A LoRA adapter of a model. */
export interface AdapterInfo {
  /** What {@link Model.setAdapters} and {@link Model.removeAdapter} call it. */
  id: number;
  name: string;
  /** What its changes are multiplied by, beside its own alpha / rank; 0: it is off. */
  scale: number;
  rank: number;
  alpha: number;
  /** Its own scale is alpha / √rank. */
  rsLora: boolean;
  /** The base's name, as the adapter's maker wrote it; may be empty. */
  baseModel: string;
  /** "sha256:…" of the base's file; may be empty. */
  baseDigest: string;
  /** Of the model, that it changes. */
  matrices: number;
  parameters: number;
  gpuBytes: number;
}

/** A value in a GGUF file's header; long arrays are only counted. */
export type MetadataValue =
  string | number | boolean | MetadataValue[] | { type: string; count: number };

/** What the header of a GGUF file says. */
export interface FileHeader {
  version: number;
  alignment: number;
  fileSize: number;
  dataOffset: number;
  metadata: Record<string, MetadataValue>;
  tensors: { name: string; shape: number[]; type: string; offset: number; bytes: number }[];
  /** Of a text model: the GPU memory that it takes as the options say. */
  memory?: MemoryReport;
}
