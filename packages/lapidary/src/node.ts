// The entry point of Node: everything index.ts has, plus files, Ollama's store, and WebGPU by Dawn.

import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { availableParallelism, homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { CONFIG_NAME, ifThere, type FoundAdapter } from './adapters.js';
import { LapidaryError, messageOf } from './errors.js';
import { dawnFlags } from './gpu/dawn.js';
import { isSoftware } from './gpu/device.js';
import { waitPatiently, type WaitedFor } from './gpu/patience.js';
import { tooLarge } from './media/fetch.js';
import { decodeWithSharp } from './media/sharp.js';
import { refuseSound } from './media/sound-kind.js';
import { setPlatform, type FindOptions, type FoundModel } from './platform.js';
import { FileSource } from './source/file.js';
import { OllamaStore } from './source/ollama-store.js';
import type { TextCache } from './tuning.js';

export * from './exported.js';
export { isLoopback } from './pull/address.js';
export type { Disk, DiskFile } from './pull/disk.js';
export {
  pullModel,
  type Pulled,
  type PulledLayer,
  type PullOptions,
  type PullProgress,
} from './pull/pull.js';
export { removeModel, type Removed, type RemoveOptions } from './pull/remove.js';
export { FileSource } from './source/file.js';
export {
  OllamaStore,
  type ModelFiles,
  type StoredModel,
  type StoreLayer,
  type StoreProblem,
} from './source/ollama-store.js';
export { ollamaFolders, type ModelName, type StoreOptions } from './source/store-files.js';

let dawn: Promise<GPU> | undefined;
// Collected, what create() returned takes the process down with it: all are kept as long as the process lives.
const created: GPU[] = [];

type Dawn = Pick<typeof import('webgpu'), 'create' | 'globals'>;

/** The npm package `webgpu`, or the module that LAPIDARY_WEBGPU names by its path: the same exports. */
async function importDawn(): Promise<Dawn> {
  const path = process.env.LAPIDARY_WEBGPU;
  if (!path) return import('webgpu');
  const module = (await import(pathToFileURL(resolve(path)).href)) as Dawn | { default: Dawn };
  return 'default' in module ? module.default : module;
}

async function openDawn(): Promise<GPU> {
  try {
    const { create, globals } = await importDawn();
    Object.assign(globalThis, globals);
    waitPatiently(globals as unknown as WaitedFor);
    // What a page must not have, for it may be anybody's, a program of one's own may. Timers to the nanosecond;
    // and on real GPUs no bounds checks inside kernels (an eighth of decoding's time): every kernel is the
    // engine's own, and its shapes are checked before it is made. Software GPUs keep the checks: tests run there.
    const open = (...features: string[]): GPU => {
      const gpu = create([
        'disable-dawn-features=timestamp_quantization',
        ...dawnFlags(process.env, ...features),
      ]);
      created.push(gpu);
      return gpu;
    };
    const gpu = open();
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    return adapter && !isSoftware(adapter.info) ? open('disable_robustness') : gpu;
  } catch (error) {
    const module = process.env.LAPIDARY_WEBGPU ?? "npm package 'webgpu'";
    throw new LapidaryError(
      'no_adapter',
      `WebGPU for Node (${module}) did not start: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

/** Whether a name is meant as a path: it ends in .gguf, or begins as only paths do. */
export function isPath(name: string): boolean {
  return /\.gguf$/i.test(name) || /^([.~]{0,2}[/\\]|[a-z]:[/\\])/i.test(name);
}

async function find(name: string | URL, options: FindOptions): Promise<FoundModel> {
  if (name instanceof URL || isPath(name)) {
    const path = name instanceof URL ? fileURLToPath(name) : name;
    return { source: await FileSource.open(path), name: path };
  }
  const store = await OllamaStore.open(options);
  return store.find(name);
}

/** A file, or the folder that PEFT wrote. */
async function findAdapter(name: string | URL): Promise<FoundAdapter> {
  const path = name instanceof URL ? fileURLToPath(name) : name;
  const isFolder = await stat(path).then(
    (stats) => stats.isDirectory(),
    () => false, // opening it says what is wrong
  );
  const file = isFolder ? join(path, 'adapter_model.safetensors') : path;
  const model = await FileSource.open(file);
  if (!/\.safetensors$/i.test(file)) return { model };
  return { model, config: await ifThere(FileSource.open(join(dirname(file), CONFIG_NAME))) };
}

const cacheFolder = () =>
  process.env.LAPIDARY_CACHE ||
  join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'lapidary');

const fileCache: TextCache = {
  async read(name) {
    try {
      return await readFile(join(cacheFolder(), name), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  },
  async write(name, text) {
    await mkdir(cacheFolder(), { recursive: true });
    // Written beside and renamed: a reader never meets half of it.
    const fresh = join(cacheFolder(), `${name}.${process.pid}`);
    await writeFile(fresh, text);
    await rename(fresh, join(cacheFolder(), name));
  },
};

/** A file at a path, whole. */
async function readSmallFile(name: string | URL, most: number, signal: AbortSignal) {
  const source = await FileSource.open(name instanceof URL ? fileURLToPath(name) : name);
  try {
    if (source.size > most) throw tooLarge(source.name, most);
    const bytes = new Uint8Array(source.size);
    await source.readInto(0, bytes, signal);
    return bytes;
  } finally {
    await source.close();
  }
}

setPlatform({
  cache: fileCache,
  processors: availableParallelism,
  gpu: () => (dawn ??= openDawn()),
  wasm: async (url) => WebAssembly.compile(await readFile(url)),
  find,
  findAdapter,
  readFile: readSmallFile,
  decodeImage: decodeWithSharp,
  decodeSound: (_bytes, name, kind) =>
    Promise.reject(refuseSound(name, kind, 'convert it, say with ffmpeg -i FILE sound.wav')),
});
