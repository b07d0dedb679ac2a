// How a model is found and loaded.

import type { LogLevel } from './engine.js';
import type { FindOptions, ModelLocation } from './platform.js';
import type { KernelVariant, KvType, LoadProgress } from './types.js';

/** How a model is found and loaded. */
export interface LoadOptions extends FindOptions {
  /** Called often, with numbers: see {@link LoadProgress}. */
  onProgress?: (progress: LoadProgress) => void;
  /** Aborting makes `load` reject with the code `cancelled` and frees what was loaded. */
  signal?: AbortSignal;
  /** Tokens that prompt and reply may have together. Default: the maker's, else 8192; never above the model's own. */
  contextLength?: number;
  /** How keys and values are kept. Default `f16`; `q8_0` takes little more than half of its memory. */
  kvType?: KvType;
  /** Tokens of a prompt that run at once, 1 to 4096: more take more memory (about 300 KB each for E2B). Default 512. */
  batchSize?: number;
  /**
   * Conversations whose keys and values stay in the cache side by side, 1 to 64, each with `contextLength` tokens of
   * GPU memory. A request goes on from the one that begins like it. So many replies are written at once, in steps that
   * give a token to each. Default 1.
   */
  sessions?: number;
  /**
   * Where the table of per-layer embeddings is, of E2B more than half of the file. `gpu`: in the GPU's memory.
   * `source`: it stays in the file, from which each new token's row is read; slower, most of all over HTTP. Default
   * `auto`: `gpu`, unless that memory runs out while loading; the model then loads again with `source`, and `onLog`
   * says so.
   */
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  /**
   * Bytes of GPU memory that the model may take. Where it needs more, the per-layer embeddings stay in the source first,
   * and then layers, which are read from there whenever they are needed: as fast as the source is. Where not even that
   * fits, `load` rejects with `out_of_memory`. `info.memory` says what became of it. WebGPU does not tell how much there
   * is. Default: all that the GPU has.
   */
  gpuMemory?: number;
  /**
   * The file of the vision tower, where it is not the model's own: what llama.cpp calls mmproj. Default: the one that an
   * Ollama model has beside its weights.
   */
  projector?: ModelLocation | undefined;
  /**
   * Whose encoders of pictures and sound to follow where they differ: Transformers, which has Gemma 4's definition, or
   * `llama.cpp`, which Ollama runs. That takes the quick form of GELU in vision towers whose file has no `clip.use_gelu`, and
   * cuts off log-mel energies at 0.001 instead of adding that to them. Default `transformers`.
   */
  encoders?: 'transformers' | 'llama.cpp';
  /**
   * The file of a drafter (GGUF architecture `gemma4-assistant`, what llama.cpp calls mtp): it guesses tokens that the
   * model then runs at once. Replies are what they are without it, token by token; they come sooner where guesses come
   * true. `false`: none. Default: the one that an Ollama model has beside its weights, if it fits.
   */
  drafter?: ModelLocation | false | undefined;
  /**
   * How many tokens the drafter guesses at a time, 1 to 8, whether that pays or not; for tests and measurements. Default:
   * as many as pay by the times and the share of right guesses measured so far, which may be none.
   */
  draftTokens?: number;
  /** The form of the kernels, for tests and benchmarks. Default: the fastest that this GPU computes rightly. */
  variant?: KernelVariant;
  /**
   * Whether to time kernels and keep the fastest cuts, for this load and, by adapter, for those to come (in Node in
   * `~/.cache/lapidary`, in a page in its cache storage). A number: for so many milliseconds, 0 to 600,000; `true`: 300.
   * What does not fit is left to the next load; a single compilation or timed submission that takes longer than those
   * before it may overrun. Default: `true` on real GPUs, `false` on software ones.
   */
  tune?: boolean | number;
  /**
   * Whether to go on when the GPU is lost (its driver restarts, the laptop changes GPUs): the model then loads again from
   * its source, which `onProgress` and `onLog` tell, with its adapters from where they came, and the request at hand goes
   * on, a reply after its last token. Fine-tuning fails with `device_lost`; its checkpoint is there to go on from.
   * Default `false`: requests fail with `device_lost`.
   */
  recover?: boolean;
  /** WebGPU itself, where `navigator.gpu` is not it. */
  gpu?: GPU;
  /** The engine: its URL, bytes, or compiled module. Default: `lapidary.wasm` beside this file. */
  wasm?: URL | BufferSource | WebAssembly.Module;
  /** What the engine has to say: dropped kernel variants, for instance. */
  onLog?: (level: LogLevel, text: string) => void;
}
