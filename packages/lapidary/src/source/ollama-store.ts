// Ollama's model folders on disk: what is there, and which files make up a model. Node only. Names, manifests and
// configs are parsed by the engine; here is what touches the disk.

import { distance } from 'fastest-levenshtein';
import { createHash } from 'node:crypto';
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Engine } from '../engine.js';
import { LapidaryError } from '../errors.js';
import { engineModule, type FoundModel } from '../platform.js';
import { FileSource, fileError } from './file.js';
import {
  MAX_TEXT,
  manifestPath,
  ollamaFolders,
  within,
  type ModelName,
  type StoreOptions,
} from './store-files.js';

/** A layer of a model, as its manifest has it. */
export interface StoreLayer {
  kind: string;
  mediaType: string;
  digest: string;
  /** Bytes. */
  size: number;
  /** File name in the store's blobs/. */
  blob: string;
}

/** A model of a store, as its list shows it. */
export interface StoredModel {
  /** The shortest name: "nano:latest". */
  name: string;
  /** The store that holds it. */
  store: string;
  /** SHA-256 of its manifest in hexadecimal, which Ollama calls the model's digest; empty when it cannot be read. */
  digest: string;
  /** Bytes of all layers. */
  size: number;
  modified: Date;
  /** What its maker says, empty when the config cannot be read. */
  family: string;
  parameters: string;
  fileType: string;
  /** Why it cannot be loaded, if it cannot. */
  problem?: string;
}

/** Something that could not be read. */
export interface StoreProblem {
  path: string;
  message: string;
}

/** A model's layers with their paths; every file that the engine needs is there, in its full size. */
export interface ModelFiles {
  name: string;
  store: string;
  layers: (StoreLayer & { path: string })[];
}

interface Manifest {
  /** Of the manifest's own text. */
  digest: string;
  layers: StoreLayer[];
  config: { digest: string; size: number; blob: string } | null;
}
interface Config {
  family: string;
  parameters: string;
  fileType: string;
}

const NEEDED = new Set(['model', 'projector', 'draft', 'adapter', 'system', 'params', 'messages']);
const hidden = (name: string) => name.startsWith('.');

/** The models in Ollama's folders on this machine. */
export class OllamaStore {
  private constructor(
    private readonly engine: Engine,
    /** Folders in Ollama's layout, in the order in which they are searched. */
    readonly stores: string[],
  ) {}

  /**
   * Searched: `stores`, then OLLAMA_MODELS, the user's own folder, the service's on Linux, then `fallbackStores`.
   * Folders that do not exist are passed over.
   */
  static async open(options: StoreOptions = {}): Promise<OllamaStore> {
    const folders = [
      ...(options.stores ?? []),
      ...ollamaFolders(options),
      ...(options.fallbackStores ?? []),
    ].filter((folder) => folder !== '');
    const engine = await Engine.create(await engineModule(), undefined);
    return new OllamaStore(engine, [...new Set(folders)]);
  }

  /** The parts of a name, with Ollama's defaults; `invalid_argument` for what is none. */
  parseName(text: string): ModelName {
    return this.engine.callSyncJson<ModelName>('lap_ollama_name', text);
  }

  /** Every model of every store, and what could not be read. A name that two stores have appears once. */
  async list(): Promise<{ models: StoredModel[]; problems: StoreProblem[] }> {
    const problems: StoreProblem[] = [];
    const models = new Map<string, StoredModel>();
    for (const store of this.stores) {
      for (const name of await this.names(store, problems)) {
        const key = name.display.toLowerCase();
        if (!models.has(key)) models.set(key, await this.describe(store, name));
      }
    }
    return { models: [...models.values()].sort((a, b) => a.name.localeCompare(b.name)), problems };
  }

  /**
   * The files of a model. `not_found`, with the nearest names, when no store has it or a blob is missing; `truncated`
   * or `integrity_error` when a blob's size is not the manifest's; `unsupported` for what is no GGUF model.
   */
  async resolve(text: string): Promise<ModelFiles> {
    const name = this.parseName(text);
    for (const store of this.stores) {
      const path = await manifestPath(store, name);
      if (path) return this.filesOf(store, name, path);
    }
    throw await this.missing(name);
  }

  /** The path of a model's weights; rejects as {@link resolve} does, and with `unsupported` for what {@link find} refuses. */
  async weights(text: string): Promise<string> {
    return weightsOf(await this.resolve(text));
  }

  /**
   * Opens a model's weights and reads the small layers beside them; rejects as {@link resolve} does, with `unsupported`
   * when there is an adapter, or not one file of weights, and with `invalid_format` for a broken layer.
   */
  async find(text: string): Promise<FoundModel> {
    const files = await this.resolve(text);
    const weights = weightsOf(files);
    const readLayer = async (kind: string) => {
      const layer = files.layers.find((each) => each.kind === kind);
      return layer && readText(layer.path);
    };
    const [params, system, messages] = await Promise.all([
      readLayer('params'),
      readLayer('system'),
      readLayer('messages'),
    ]);
    const found = {
      name: files.name,
      digest: files.layers.find(({ kind }) => kind === 'model')?.digest,
      params:
        params === undefined ? undefined : parseObject(params, `${files.name}: the params layer`),
      system,
      messages:
        messages === undefined
          ? undefined
          : parseArray(messages, `${files.name}: the messages layer`),
    };
    const paths = { projector: onlyOf(files, 'projector'), drafter: onlyOf(files, 'draft') };
    const opened: FileSource[] = [];
    const open = async (path: string) => {
      const source = await FileSource.open(path);
      opened.push(source);
      return source;
    };
    try {
      return {
        source: await open(weights),
        ...(paths.projector !== undefined && { projector: await open(paths.projector) }),
        ...(paths.drafter !== undefined && { drafter: await open(paths.drafter) }),
        ...found,
      };
    } catch (error) {
      for (const source of opened) await source.close();
      throw error;
    }
  }

  /** Names in a store whose parts are all valid; anything else under manifests/ is none of Ollama's. */
  private async names(store: string, problems: StoreProblem[]): Promise<ModelName[]> {
    const walk = async (parts: string[]): Promise<string[][]> => {
      const path = join(store, 'manifests', ...parts);
      let entries: string[];
      try {
        entries = await readdir(path);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'ENOENT' && code !== 'ENOTDIR')
          problems.push({ path, message: fileError(path, error).message });
        return [];
      }
      const children = entries.filter((entry) => !hidden(entry)).map((entry) => [...parts, entry]);
      if (parts.length === 3) return children;
      return (await Promise.all(children.map(walk))).flat();
    };
    const names: ModelName[] = [];
    for (const [host, space, model, tag] of await walk([])) {
      try {
        names.push(
          this.engine.callSyncJson<ModelName>(
            'lap_ollama_name',
            `${host}/${space}/${model}:${tag}`,
          ),
        );
      } catch {
        // A stray file.
      }
    }
    return names;
  }

  private async describe(store: string, name: ModelName): Promise<StoredModel> {
    const path = join(store, 'manifests', name.path);
    const found: StoredModel = {
      name: name.display,
      store,
      digest: '',
      size: 0,
      modified: new Date(0),
      family: '',
      parameters: '',
      fileType: '',
    };
    try {
      found.modified = (await stat(path)).mtime;
      const manifest = await this.readManifest(store, path);
      found.digest = manifest.digest;
      found.size = manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
      const config = await this.readConfig(store, manifest);
      if (config)
        Object.assign(found, {
          family: config.family,
          parameters: config.parameters,
          fileType: config.fileType,
        });
    } catch (error) {
      found.problem =
        error instanceof LapidaryError ? error.message : fileError(path, error).message;
    }
    return found;
  }

  private async readManifest(store: string, path: string): Promise<Manifest> {
    const text = await readText(await within(join(store, 'manifests'), path));
    return {
      ...this.engine.callSyncJson<Omit<Manifest, 'digest'>>('lap_ollama_manifest', text),
      digest: createHash('sha256').update(text).digest('hex'),
    };
  }

  private async readConfig(store: string, manifest: Manifest): Promise<Config | undefined> {
    if (!manifest.config) return undefined;
    const path = await blobPath(store, { ...manifest.config, kind: 'config' });
    return this.engine.callSyncJson<Config>('lap_ollama_config', await readText(path));
  }

  private async filesOf(store: string, name: ModelName, path: string): Promise<ModelFiles> {
    try {
      const manifest = await this.readManifest(store, path);
      await this.readConfig(store, manifest);
      const layers = await Promise.all(
        manifest.layers.map(async (layer) => ({
          ...layer,
          // A missing licence keeps nobody from loading a model.
          path: NEEDED.has(layer.kind)
            ? await blobPath(store, layer)
            : join(store, 'blobs', layer.blob),
        })),
      );
      return { name: name.display, store, layers };
    } catch (error) {
      if (error instanceof LapidaryError) {
        throw new LapidaryError(error.code, `${name.display}: ${error.message}`, { cause: error });
      }
      throw fileError(path, error);
    }
  }

  private async missing(name: ModelName): Promise<LapidaryError> {
    const { models, problems } = await this.list();
    const wanted = name.display.toLowerCase();
    const bare = wanted.replace(/:latest$/, '');
    const near = models
      .map((model) => {
        const display = model.name.toLowerCase();
        const apart = Math.min(
          distance(wanted, display),
          distance(bare, display.replace(/:[^:]*$/, '')),
        );
        return { name: model.name, apart };
      })
      .filter(({ apart }) => apart <= Math.max(2, bare.length / 3))
      .sort((a, b) => a.apart - b.apart)
      .slice(0, 3)
      .map((model) => `'${model.name}'`);
    const others = models.slice(0, 5).map((model) => model.name);
    const hint =
      near.length > 0
        ? `; did you mean ${near.join(' or ')}?`
        : others.length > 0
          ? `; there are ${others.join(', ')}${models.length > 5 ? ', …' : ''}.`
          : '; no model was found at all.';
    const unread = problems.map((problem) => `. Could not read ${problem.message}`).join('');
    return new LapidaryError(
      'not_found',
      `there is no model '${name.display}'${hint} Searched: ${this.stores.join(', ')}${unread}`,
    );
  }
}

/** The path of the one file of weights; refuses a model that is more than that. */
function weightsOf({ name, layers }: ModelFiles): string {
  const of = (kind: string) => layers.filter((layer) => layer.kind === kind);
  if (of('adapter').length > 0) {
    throw new LapidaryError(
      'unsupported',
      `${name} has a LoRA adapter layer, which cannot be applied yet`,
    );
  }
  const models = of('model');
  const [weights] = models;
  if (!weights || models.length > 1) {
    throw new LapidaryError(
      'unsupported',
      `${name} has ${models.length} model files; one is expected`,
    );
  }
  return weights.path;
}

/** The path of the one file of a kind, if there is one. */
function onlyOf({ name, layers }: ModelFiles, kind: string): string | undefined {
  const [found, ...more] = layers.filter((layer) => layer.kind === kind);
  if (more.length === 0) return found?.path;
  throw new LapidaryError(
    'unsupported',
    `${name} has ${more.length + 1} ${kind} files; one is expected`,
  );
}

/** The file of a layer, in its full size. */
async function blobPath(
  store: string,
  layer: { kind: string; blob: string; size: number },
): Promise<string> {
  const folder = join(store, 'blobs');
  const listed = join(folder, layer.blob);
  let path: string;
  try {
    path = await within(folder, listed);
  } catch (error) {
    if (error instanceof LapidaryError && error.code === 'not_found') {
      throw new LapidaryError(
        'not_found',
        `the ${layer.kind} file ${listed} is missing; pull the model again`,
      );
    }
    throw error;
  }
  const { size } = await stat(path);
  if (size !== layer.size) {
    throw new LapidaryError(
      size < layer.size ? 'truncated' : 'integrity_error',
      `the ${layer.kind} file ${listed} has ${size} bytes, its manifest says ${layer.size}; pull the model again`,
    );
  }
  return path;
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path);
    if (size > MAX_TEXT)
      throw new LapidaryError(
        'invalid_format',
        `${path} is ${size} bytes long, too long to be text`,
      );
    return await readFile(path, 'utf8');
  } catch (error) {
    throw error instanceof LapidaryError ? error : fileError(path, error);
  }
}

function parse(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LapidaryError('invalid_format', `${what} is not valid JSON; pull the model again`, {
      cause,
    });
  }
}

function parseObject(text: string, what: string): Record<string, unknown> {
  const value = parse(text, what);
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw new LapidaryError('invalid_format', `${what} is not a JSON object; pull the model again`);
}

function parseArray(text: string, what: string): unknown[] {
  const value = parse(text, what);
  if (Array.isArray(value)) return value as unknown[];
  throw new LapidaryError('invalid_format', `${what} is not a JSON array; pull the model again`);
}
