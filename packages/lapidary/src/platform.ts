// What differs between a page, a worker and Node: where WebGPU comes from, where the .wasm lies, and what a name means.

import { adapterAtAddress, type FoundAdapter } from './adapters.js';
import type { ModelCache } from './cache/cache.js';
import { openCache } from './cache/open.js';
import type { DownloadProgress, ExpectedFile } from './cache/types.js';
import { LapidaryError } from './errors.js';
import { decodeAudio } from './media/decode.js';
import { fetchBytes } from './media/fetch.js';
import { decodeInPage } from './media/page.js';
import type { Pixels } from './media/pixels.js';
import { refuseSound } from './media/sound-kind.js';
import { BlobSource } from './source/blob.js';
import { HttpRangeSource } from './source/http.js';
import type { ByteSource } from './source/source.js';
import type { TextCache } from './tuning.js';
import type { RawAudio } from './types.js';

/** Where a model is loaded from: see {@link Model.load}. */
export type ModelLocation = string | URL | Blob | ByteSource;

/** A model's weights, with what its maker says beside them (an Ollama store's other layers). */
export interface FoundModel {
  source: ByteSource;
  /** How people call it: "gemma4:e2b", a path, a URL. */
  name: string;
  /** "sha256:…" of the weights' file, where it is known. */
  digest?: string | undefined;
  params?: Record<string, unknown> | undefined;
  system?: string | undefined;
  /** A file of vision and audio towers beside the weights. */
  projector?: ByteSource | undefined;
  /** Messages that stand before every chat. */
  messages?: unknown[] | undefined;
}

export interface FindOptions extends ExpectedFile {
  /** Folders in Ollama's layout that are searched first (Node only). */
  stores?: string[] | undefined;
  /** Folders in Ollama's layout that are searched last (Node only). */
  fallbackStores?: string[] | undefined;
  headers?: Record<string, string> | undefined;
  signal?: AbortSignal | undefined;
  /**
   * Whether a model at an address of the web is downloaded into the browser's storage first, and from then on read from
   * there, offline too: `true`, or a cache that was opened with options. `digest` and `size` say what the file must be.
   * Nothing else is cached: names, files, blobs and byte sources are read as they are. Node has no such cache, and
   * rejects with `unsupported`. Default false.
   */
  cache?: boolean | ModelCache | undefined;
  /** Called while a model is downloaded into the cache. */
  onProgress?: ((progress: DownloadProgress) => void) | undefined;
}

export interface Platform {
  gpu(): Promise<GPU | undefined>;
  wasm(url: URL): Promise<WebAssembly.Module>;
  /** How many processors there are. */
  processors(): number;
  /** What this environment remembers from one load to the next. */
  cache: TextCache;
  /** Opens a name or path that is not a web address. */
  find(name: string | URL, options: FindOptions): Promise<FoundModel>;
  /** The same for an adapter's files. */
  findAdapter(name: string | URL, options: FindOptions): Promise<FoundAdapter>;
  /** All of a small file at a path; `invalid_argument` for one of more than `most` bytes. */
  readFile(name: string | URL, most: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  /** Decodes the file of a picture; `invalid_format` where it cannot. */
  decodeImage(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Pixels>;
  /** Decodes a file of sound that is no WAV, but `kind`; `unsupported` where nothing does. */
  decodeSound(bytes: Uint8Array<ArrayBuffer>, name: string, kind: string): Promise<RawAudio>;
}

let base: string | undefined;
/** The address by which relative ones are meant: a worker's is its page's. Default: the script's own. */
export function setBase(url: string): void {
  base = url;
}

const cacheUrl = (name: string) => new URL(`/.lapidary/${name}`, globalThis.location.href);

/** Cache storage, which pages and workers share; absent outside secure contexts. */
const pageCache: TextCache = {
  async read(name) {
    const cache = await globalThis.caches?.open('lapidary');
    return (await cache?.match(cacheUrl(name)))?.text();
  },
  async write(name, text) {
    const cache = await globalThis.caches?.open('lapidary');
    await cache?.put(cacheUrl(name), new Response(text));
  },
};

/** The address that a page means by a path. */
function pageUrl(name: string | URL, refusal: string): URL {
  const from = base ?? globalThis.location?.href;
  const text = String(name);
  if (!/^\.{0,2}\//.test(text) || !from) throw new LapidaryError('not_found', refusal);
  return new URL(text, from);
}

const browser: Platform = {
  cache: pageCache,
  processors: () => globalThis.navigator?.hardwareConcurrency ?? 1,
  gpu: () => Promise.resolve(globalThis.navigator?.gpu),
  async wasm(url) {
    const response = await fetch(url);
    if (!response.ok) {
      throw new LapidaryError('not_found', `${url.href}: the server answered ${response.status}`);
    }
    // compileStreaming insists on a MIME type that simple servers do not send.
    const type = response.headers.get('content-type') ?? '';
    return type.startsWith('application/wasm')
      ? WebAssembly.compileStreaming(response)
      : WebAssembly.compile(await response.arrayBuffer());
  },
  async find(name, options) {
    const url = pageUrl(
      name,
      `'${String(name)}' is a name, and a page cannot read an Ollama store: give a URL, a File or a Blob`,
    );
    return modelAtAddress(url, options);
  },
  async findAdapter(name, options) {
    const refusal = `a page cannot read '${String(name)}': give a URL, a File or a Blob`;
    return adapterAtAddress(pageUrl(name, refusal), options);
  },
  readFile(name, most, signal) {
    const refusal = `a page cannot read '${String(name)}': give a URL, a File or a Blob`;
    return fetchBytes(pageUrl(name, refusal).href, most, signal);
  },
  decodeImage: decodeInPage,
  async decodeSound(bytes, name, kind) {
    if (typeof OfflineAudioContext === 'undefined') {
      throw refuseSound(
        name,
        kind,
        'in a worker give the samples that decodeAudio() finds in the page',
      );
    }
    return decodeAudio(new File([bytes], name));
  },
};

let platform = browser;

/** Replaces the browser's ways by another environment's; `lapidary/node` does this for Node. */
export function setPlatform(other: Platform): void {
  platform = other;
}
export function currentPlatform(): Platform {
  return platform;
}

/** WebGPU as {@link Model.load} finds it: `navigator.gpu` in a page, Dawn in Node. */
export const findGpu = (): Promise<GPU | undefined> => platform.gpu();

const isSource = (value: unknown): value is ByteSource =>
  typeof value === 'object' && value !== null && 'read' in value && 'size' in value;

async function modelAtAddress(where: string | URL, options: FindOptions): Promise<FoundModel> {
  if (options.cache) {
    const cache = options.cache === true ? await openCache() : options.cache;
    const source = await cache.fetch(where, options);
    return { source, name: source.name, digest: source.digest };
  }
  const source = await HttpRangeSource.open(where, options);
  return { source, name: source.name };
}

/** Opens whatever a caller may name a model by. */
export async function findModel(where: ModelLocation, options: FindOptions): Promise<FoundModel> {
  const isName = typeof where === 'string' || where instanceof URL;
  if ((options.digest ?? options.size) !== undefined && !(isName && options.cache)) {
    throw new LapidaryError(
      'invalid_argument',
      'digest and size are checked of what is downloaded into the cache only (the option `cache`)',
    );
  }
  if (isName) {
    return /^https?:/i.test(String(where))
      ? modelAtAddress(where, options)
      : platform.find(where, options);
  }
  if (where instanceof Blob) {
    const source = new BlobSource(where);
    return { source, name: source.name };
  }
  if (isSource(where)) return { source: where, name: where.name };
  throw new LapidaryError(
    'invalid_argument',
    'a model is a name, a URL, a File, a Blob or a ByteSource',
  );
}

/** Opens the file of a projector: by its path, its address, or as {@link findModel} does what is no name. */
export async function findProjector(
  where: ModelLocation,
  { headers, signal }: FindOptions,
): Promise<FoundModel> {
  return findModel(where, { headers, signal });
}

/** Closes a model's files. */
export async function closeFound({ source, projector }: FoundModel): Promise<void> {
  await source.close?.();
  await projector?.close?.();
}

let compiled: Promise<WebAssembly.Module> | undefined;

/** The engine's module: `wasm` if given (its URL, bytes or itself), else the one beside this file, compiled once. */
export async function engineModule(
  wasm?: URL | BufferSource | WebAssembly.Module,
): Promise<WebAssembly.Module> {
  if (wasm instanceof WebAssembly.Module) return wasm;
  if (wasm instanceof URL) return platform.wasm(wasm);
  if (wasm) return WebAssembly.compile(wasm);
  compiled ??= platform.wasm(new URL('./lapidary.wasm', import.meta.url));
  try {
    return await compiled;
  } catch (error) {
    compiled = undefined;
    throw error;
  }
}
