// Pulls a model: its manifest, the layers that are not there, and then, when all are whole, the manifest into the store.

import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { createHash, randomUUID } from 'node:crypto';
import { dirname, join } from 'node:path';
import { Engine } from '../engine.js';
import { LapidaryError } from '../errors.js';
import { engineModule } from '../platform.js';
import { retrying, type Retry } from '../source/retry.js';
import { throwIfAborted } from '../source/source.js';
import { manifestPath, ollamaFolders, type ModelName } from '../source/store-files.js';
import { registryUrl } from './address.js';
import { diskError, realDisk, type Disk } from './disk.js';
import { download } from './download.js';
import { lock } from './lock.js';
import { matches, PartialBlob, partialBytes, partialPath, type Wanted } from './partial.js';
import { Registry } from './registry.js';
import { storeLock } from './store-lock.js';

/** A layer as progress names it. */
export interface PulledLayer {
  /** "sha256:…" */
  digest: string;
  /** "model", "projector", "template", "params", "license", "config", … */
  kind: string;
  /** Bytes. */
  size: number;
}

/** How far a pull is. */
export interface PullProgress {
  /** What is being done; 'write' writes the manifest, and is the last. */
  phase: 'manifest' | 'download' | 'verify' | 'write';
  /** In 'download' and 'verify': which layer, and its place among all of them, from 0. */
  layer?: PulledLayer & { index: number; count: number };
  /** Bytes of that layer that are there, or are verified. */
  loaded: number;
  total: number;
  /** A request failed and will be made again. */
  retry?: Retry;
  /** Another program fetches this layer; this one waits for it. */
  waiting?: true;
}

/** Where a model is pulled to, and how. */
export interface PullOptions {
  /** The folder in Ollama's layout, made if it is not there. Default: where Ollama keeps this user's models. */
  store?: string | undefined;
  /** Origin of the registry, in place of the host in the model's name: "http://localhost:5000". */
  registry?: string | URL | undefined;
  /**
   * Asks a registry on another machine in plain http: any, or one of those that are named, "host:port". One on this machine is
   * asked so anyway.
   */
  insecure?: boolean | string[] | undefined;
  /** Hashes layers that are there already, too, and fetches those anew that are not what they should be. */
  verify?: boolean | undefined;
  signal?: AbortSignal | undefined;
  /** Told of progress, at most some times a second. */
  onProgress?: ((progress: PullProgress) => void) | undefined;
  /** Requests at a time. Default 4. */
  connections?: number | undefined;
  /** Bytes that one request asks for. Default 64 MiB. */
  partBytes?: number | undefined;
  /** Tries of a request that may fail one after another without a byte more. Default 7. */
  tries?: number | undefined;
  /** Milliseconds before the second try; doubled for each further one, up to 30 s. Default 1000. */
  backOff?: number | undefined;
  /** Milliseconds without a byte after which a request is given up and made again. Default 30,000. */
  stallMs?: number | undefined;
  /** What a disk can do; for tests. */
  disk?: Disk | undefined;
}

/** What a pull brought. */
export interface Pulled {
  /** The shortest name: "gemma4:e2b". */
  name: string;
  /** The folder that holds it. */
  store: string;
  /** SHA-256 of the manifest, which Ollama calls the model's digest. */
  digest: string;
  /** Bytes of all layers. */
  size: number;
  /** Bytes of the layers that were not there before. */
  fetched: number;
  layers: PulledLayer[];
}

interface Layer extends PulledLayer, Wanted {}

/** Layers may vanish before the manifest names them: Ollama clears its folder when it starts. */
const ROUNDS = 3;
const MANIFEST_TRIES = 4;
const PROGRESS_EVERY_MS = 50;

/** Every blob that a manifest names, once. Throws as the engine does for a manifest that is none of a model that runs here. */
function layersOf(engine: Engine, manifest: Uint8Array): Layer[] {
  const text = new TextDecoder().decode(manifest);
  const { layers, config } = engine.callSyncJson<{ layers: Layer[]; config: Layer | null }>(
    'lap_ollama_manifest',
    text,
  );
  const blobs = new Map<string, Layer>();
  for (const layer of [...layers, ...(config ? [{ ...config, kind: 'config' }] : [])]) {
    const known = blobs.get(layer.blob);
    if (known && known.size !== layer.size) {
      const message = `the manifest gives two sizes for ${layer.digest}`;
      throw new LapidaryError('invalid_format', message);
    }
    const { digest, kind, size, blob } = layer;
    if (!known) blobs.set(blob, { digest, kind, size, blob });
  }
  return [...blobs.values()];
}

class Pull {
  private fetched = 0;
  private shown = -Infinity;
  private readonly disk: Disk;
  private readonly signal: AbortSignal;

  constructor(
    private readonly name: ModelName,
    private readonly store: string,
    private readonly registry: Registry,
    private readonly options: PullOptions,
  ) {
    this.disk = options.disk ?? realDisk;
    this.signal = options.signal ?? new AbortController().signal;
  }

  async run(engine: Engine): Promise<Pulled> {
    const { name, store } = this;
    const bytes = await this.manifest();
    const layers = layersOf(engine, bytes);
    const blobs = join(store, 'blobs');
    await mkdir(blobs, { recursive: true }).catch((error: unknown) => {
      throw diskError(blobs, error);
    });
    await this.checkRoom(layers);
    for (let round = 1; ; round++) {
      for (const [index, layer] of layers.entries()) {
        await this.layer(layer, { index, count: layers.length }, round);
      }
      if (await this.commit(layers, bytes)) break;
      if (round === ROUNDS) {
        const message = `layers of ${name.display} vanish from ${blobs}: does another program clear it?`;
        throw new LapidaryError('io_error', message);
      }
    }
    return {
      name: name.display,
      store,
      digest: createHash('sha256').update(bytes).digest('hex'),
      size: layers.reduce((sum, { size }) => sum + size, 0),
      fetched: this.fetched,
      layers: layers.map(({ digest, kind, size }) => ({ digest, kind, size })),
    };
  }

  private tell(progress: PullProgress, always = false): void {
    const now = performance.now();
    if (!always && now - this.shown < PROGRESS_EVERY_MS) return;
    this.shown = now;
    this.options.onProgress?.(progress);
  }

  private manifest(): Promise<Uint8Array> {
    const { options, signal, registry } = this;
    const at: PullProgress = { phase: 'manifest', loaded: 0, total: 0 };
    this.tell(at, true);
    return retrying(registry.host, () => registry.manifest(signal), {
      tries: Math.min(options.tries ?? MANIFEST_TRIES, MANIFEST_TRIES),
      backOff: options.backOff ?? 1000,
      signal,
      onRetry: (retry) => this.tell({ ...at, retry }, true),
    });
  }

  private path({ blob }: Wanted): string {
    return join(this.store, 'blobs', blob);
  }

  /** Whether a blob is there in its size. */
  private async isThere(layer: Wanted): Promise<boolean> {
    try {
      const stats = await stat(this.path(layer));
      return stats.isFile() && stats.size === layer.size;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
      throw diskError(this.path(layer), error);
    }
  }

  private async checkRoom(layers: Layer[]): Promise<void> {
    let needed = 0;
    for (const layer of layers) {
      if (!(await this.isThere(layer))) {
        needed += layer.size - (await partialBytes(this.store, layer));
      }
    }
    const free = needed > 0 ? await this.disk.free(this.store) : Infinity;
    if (needed <= free) return;
    throw new LapidaryError(
      'quota_exceeded',
      `${this.name.display} needs ${needed} bytes more in ${this.store}, where ${Math.floor(free)} are free`,
    );
  }

  /** Makes sure that a layer is there. */
  private async layer(
    layer: Layer,
    place: { index: number; count: number },
    round: number,
  ): Promise<void> {
    const { digest, kind, size, blob } = layer;
    const shown = { layer: { digest, kind, size, ...place }, total: size };
    const there = () => this.tell({ phase: 'download', ...shown, loaded: size }, true);
    throwIfAborted(this.signal);
    const verify = this.options.verify && round === 1;
    if (!verify && (await this.isThere(layer))) return there();
    const path = partialPath(this.store, blob, 'lock');
    await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
      throw diskError(path, error);
    });
    const onWait = async () => {
      const loaded = await partialBytes(this.store, layer);
      this.tell({ phase: 'download', ...shown, loaded, waiting: true });
    };
    const { lost, release } = await lock(path, { signal: this.signal, onWait });
    try {
      const signal = AbortSignal.any([this.signal, lost]);
      const isWhole = async () => {
        if (!(await this.isThere(layer))) return false;
        if (!verify) return true;
        this.tell({ phase: 'verify', ...shown, loaded: 0 }, true);
        return matches(this.path(layer), digest, signal);
      };
      if (await isWhole()) return there();
      await this.fetch(layer, shown, signal);
      this.fetched += size;
    } catch (error) {
      throwIfAborted(this.signal);
      if (lost.aborted) throw lost.reason;
      throw error;
    } finally {
      await release();
    }
  }

  private async fetch(
    wanted: Layer,
    shown: Pick<PullProgress, 'layer' | 'total'> & { total: number },
    signal: AbortSignal,
  ): Promise<void> {
    const { options, registry, disk, store } = this;
    const partBytes = options.partBytes ?? 64 << 20;
    const partial = await PartialBlob.open(store, wanted, {
      ...{ model: this.name.display, partBytes, disk },
    });
    const at = (): PullProgress => ({ phase: 'download', ...shown, loaded: partial.loaded });
    let closed = false;
    try {
      this.tell(at(), true);
      await download(registry, wanted, partial, {
        pace: {
          connections: options.connections ?? 4,
          tries: options.tries ?? 7,
          backOff: options.backOff ?? 1000,
        },
        events: {
          onBytes: () => this.tell(at()),
          onRetry: (retry) => this.tell({ ...at(), retry }, true),
        },
        signal,
      });
      this.tell(at(), true);
      const verified = (loaded: number, always = false) =>
        this.tell({ phase: 'verify', ...shown, loaded }, always);
      const digest = await partial.digest(verified, signal);
      if (wanted.blob !== `sha256-${digest}`) {
        closed = true;
        await partial.discard();
        throw new LapidaryError(
          'integrity_error',
          `what ${registry.host} sent for ${wanted.digest} has the SHA-256 ${digest}; it was thrown away, pull again`,
        );
      }
      verified(wanted.size, true);
      throwIfAborted(signal);
      closed = true;
      await partial.finish(this.path(wanted));
    } finally {
      // What came is kept for the next time. If even that cannot be written, what was written before is.
      if (!closed) {
        await partial.save().catch(() => {});
        await partial.close();
      }
    }
  }

  /** Writes the manifest if every layer is there; false if one is not. */
  private async commit(layers: Layer[], manifest: Uint8Array): Promise<boolean> {
    const { name, store, signal } = this;
    this.tell({ phase: 'write', loaded: 0, total: 0 }, true);
    const { release } = await storeLock(store, signal);
    const path = (await manifestPath(store, name)) ?? join(store, 'manifests', name.path);
    // A dot first: neither Ollama nor this takes it for a manifest.
    const fresh = join(dirname(path), `.${randomUUID()}`);
    try {
      for (const layer of layers) if (!(await this.isThere(layer))) return false;
      await mkdir(dirname(path), { recursive: true });
      const file = await open(fresh, 'wx');
      try {
        await file.writeFile(manifest);
        await file.datasync();
      } finally {
        await file.close();
      }
      throwIfAborted(signal);
      await rename(fresh, path);
      return true;
    } catch (error) {
      await rm(fresh, { force: true });
      throw diskError(path, error);
    } finally {
      await release();
    }
  }
}

/**
 * Fetches a model from its registry into a store, as Ollama does. Layers that are there are not fetched; what an earlier
 * pull left unfinished is gone on from; the manifest comes last. Rejects with `invalid_argument` for a name or registry that
 * is none, `not_found` where the registry has no such model, `unsupported` for one that does not run here,
 * `invalid_format` for a manifest that is none, `quota_exceeded` where there is no room, `integrity_error` for bytes that are
 * not what their digest says, `io_error` when the line or the disk fails for long, `busy`, and `cancelled`.
 */
export async function pullModel(text: string, options: PullOptions = {}): Promise<Pulled> {
  throwIfAborted(options.signal);
  const engine = await Engine.create(await engineModule(), undefined);
  const name = engine.callSyncJson<ModelName>('lap_ollama_name', text);
  const { registry, insecure } = options;
  const url = registryUrl({ name: text, host: name.host, registry, insecure });
  const { namespace, model, tag } = name;
  const source = new Registry({ url, namespace, model, tag }, options.stallMs ?? 30_000);
  return new Pull(name, options.store || ollamaFolders()[0]!, source, options).run(engine);
}
