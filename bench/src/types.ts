// What a benchmark is asked for and what it reports.

import type {
  AdapterInfo,
  ByteSource,
  DeviceInfo,
  KernelTime,
  KernelVariant,
  KvType,
  LoadOptions,
  LoadProgress,
  ModelInfo,
} from 'lapidary';
import type { LogitAnswers } from './known.js';

/** A model's file, opened anew for each load. */
export interface Subject {
  /** How people call it. */
  name: string;
  open(): Promise<ByteSource>;
}

export interface BenchOptions {
  /** Tokens before those whose decoding is timed. */
  contexts: number[];
  /** Lengths of the prompts whose prefill is timed. */
  prefills: number[];
  /** Times each number is measured; the median counts. */
  repeats: number;
  /** Times the model is loaded. Default: as `repeats`. */
  loads?: number;
  /** Tokens of each timed decode. */
  decodeTokens: number;
  /** The prompt before which the first token is awaited. */
  firstTokenPrompt: number;
  /** Times every kernel, too. */
  profile: boolean;
  /** The form of the kernels: as for `Model.load`. */
  variant?: KernelVariant;
  kvType?: KvType;
  /** Tokens of a prompt that run at once: as for `Model.load`. */
  batchSize?: number;
  /** Sessions of the KV cache; with more than one, so many prompts are timed together, too. */
  sessions?: number;
  /** So many replies at once are timed; there are as many sessions at least. */
  concurrency?: number[];
  /** Where the table of per-layer embeddings is: as for `Model.load`. */
  perLayerEmbeddings?: NonNullable<LoadOptions['perLayerEmbeddings']>;
  /** Opens the file of a drafter, which guesses tokens of replies. */
  drafter?: () => Promise<ByteSource>;
  /** So many at a time: as for `Model.load`. */
  draftTokens?: number;
  /** Bytes of GPU memory that the model may take: as for `Model.load`. */
  gpuMemory?: number;
  /**
   * All but the load and the first token after it with a LoRA adapter of random values, of this rank, on the seven
   * projections of every layer.
   */
  loraRank?: number;
  /** Whether, or how long, loads look for faster cuts of kernels: as for `Model.load`. */
  tune?: boolean | number;
  /** Known answers beside those that come with the project; the first that are of the file count. */
  knownAnswers?: LogitAnswers[];
  /** Nano's known answers, where not the project's own: for tests of the gate. */
  nanoAnswers?: NanoAnswers;
  signal?: AbortSignal;
  /** What is being done, in a line. */
  onProgress?: (text: string) => void;
}

export const DEFAULTS: BenchOptions = {
  contexts: [128, 2048, 8192],
  prefills: [128, 512, 2048],
  repeats: 5,
  decodeTokens: 128,
  firstTokenPrompt: 512,
  profile: false,
};

/** What nano answers, greedily. */
export interface NanoAnswers {
  model: string;
  source: string;
  greedy: { name: string; ids: number[]; tokens: number[]; text: string }[];
}

/** A number measured several times. */
export interface Measured {
  median: number;
  min: number;
  max: number;
  values: number[];
}

export interface GateReport {
  /** What was checked: `nano only` where the model has no known answers. */
  checked: 'nano only' | 'nano and logits';
  nano: { prompts: number; tokens: number };
  /**
   * Of replies at once: how far the log probabilities of their first tokens are at most from those that the same
   * prompts give alone.
   */
  together?: { replies: number; difference: number; tolerance: number };
  logits?: {
    source: string;
    compared: number;
    /** Root mean square of the differences, over that of the known logits: the worst of the ways below. */
    error: number;
    tolerance: number;
    /** The same error for each way to compute them: a prompt at once, a token at a time. */
    prefill: number;
    decode: number;
  };
}

export interface Bandwidth {
  /** Bytes of the buffer that was read. */
  bufferBytes: number;
  bytesPerSecond: Measured;
}

export interface LoadReport {
  fileBytes: number;
  milliseconds: Measured;
  /** Of each phase; they follow one another. */
  phases: Partial<Record<LoadProgress['phase'], Measured>>;
  /** The file's bytes over the time of the whole load, and of its upload alone. */
  bytesPerSecond: Measured;
  uploadBytesPerSecond: Measured;
}

export interface FirstToken {
  promptTokens: number;
  /** Milliseconds from the request to its answer of one token. Cold: the first request after a load. */
  cold: Measured;
  warm: Measured;
}

/** A length that the model's context has no room for. */
export interface Skipped {
  skipped: string;
}

export interface Prefill {
  promptTokens: number;
  tokensPerSecond: Measured;
}

/** Prompts of as many sessions: in shared batches, and one after another. */
export interface Together {
  prompts: number;
  promptTokens: number;
  tokensPerSecond: Measured;
  oneByOne: Measured;
}

export interface Decode {
  context: number;
  tokens: number;
  tokensPerSecond: Measured;
  millisecondsPerToken: number;
  /** Weight bytes read in a second over the peak that was measured. */
  shareOfPeak: number;
  /** Whether every repetition wrote the same tokens. */
  repeatable: boolean;
  /** Tokens that the drafter guessed in all repetitions, and those that came true; absent without one. */
  draft?: { drafted: number; accepted: number };
  /** Where the GPU keeps only some experts: the share of those needed that were there. */
  expertHits?: number;
}

/** Replies that are written at once, each after a prompt of its own that the cache holds. */
export interface Concurrent {
  replies: number;
  context: number;
  /** Of each reply. */
  tokens: number;
  /** Of all replies together. */
  tokensPerSecond: Measured;
}

/** What one more token costs, as counted at the host's door. */
export type PerToken = Record<
  'dispatches' | 'submits' | 'bindGroups' | 'buffers' | 'writes' | 'bytesRead',
  number
>;

export interface Memory {
  gpu: ModelInfo['gpuBytes'];
  /** Bytes of GPU buffers when all was measured, and their peak since the load began. */
  bufferBytes: number;
  bufferBytesPeak: number;
  wasmHeap: number;
}

export interface Profile {
  context: number;
  promptTokens: number;
  tokens: number;
  /** GPU time of each kernel over `tokens` tokens, and over one prompt. */
  decode: KernelTime[];
  prefill: KernelTime[];
}

export interface BenchReport {
  schema: 1;
  date: string;
  host: string;
  device: DeviceInfo;
  model: {
    name: string;
    fileBytes: number;
    digest: string;
    /** Bytes of weights that one token reads. */
    weightBytesPerToken: number;
    info: ModelInfo;
  };
  /** The adapter that was on, and how long it took to load. */
  adapter?: AdapterInfo & { milliseconds: number };
  options: Omit<BenchOptions, 'signal' | 'onProgress' | 'knownAnswers' | 'nanoAnswers'>;
  gate: GateReport;
  bandwidth: Bandwidth;
  load: LoadReport;
  firstToken: FirstToken | Skipped;
  prefill: (Prefill | (Skipped & { promptTokens: number }))[];
  /** Where there are several sessions. */
  together?: Together | Skipped;
  decode: (Decode | (Skipped & { context: number }))[];
  /** The first of `decode` again, with tokens drawn (temperature 1, top_k 64, top_p 0.95) instead of the best taken. */
  drawn: Decode | Skipped;
  /** With `concurrency`. */
  concurrent?: (Concurrent | (Skipped & { replies: number }))[];
  perToken: PerToken | Skipped;
  memory: Memory;
  profile?: Profile | Skipped;
}

/** What bench/peer.mjs measures of another engine. */
export type PeerReport =
  | { name: string; skipped: string }
  | {
      name: string;
      version: string;
      /** Whether the adapter offers shader-f16, without which this peer falls back to the CPU. */
      f16: boolean;
      loadMs: number;
      prefill: BenchReport['prefill'];
      decode: (
        Pick<Decode, 'context' | 'tokens' | 'tokensPerSecond'> | (Skipped & { context: number })
      )[];
      /** What it logged about its device. */
      log: string[];
    };
