// Where a LoRA adapter's files come from: a page's files, addresses, or paths in Node.

import type { Engine } from './engine.js';
import { LapidaryError } from './errors.js';
import { currentPlatform, type FindOptions } from './platform.js';
import { BlobSource } from './source/blob.js';
import { HttpRangeSource } from './source/http.js';
import type { ByteSource } from './source/source.js';
import type { AdapterInfo } from './types.js';

/** One file of an adapter. */
export type AdapterFile = string | URL | Blob | ByteSource;

/**
 * Where an adapter is loaded from: a GGUF LoRA, PEFT's `adapter_model.safetensors` or a rullama file, by path (Node;
 * PEFT's folder, too), address, or as a File, Blob or {@link ByteSource}. PEFT's `adapter_config.json` is found beside
 * a path or an address; else it is given as well: as `config`, or in a list of files as a page's picker gives them.
 */
export type AdapterLocation =
  AdapterFile | readonly File[] | { model: AdapterFile; config?: AdapterFile | undefined };

/** An adapter's files, opened. */
export interface FoundAdapter {
  model: ByteSource;
  config?: ByteSource | undefined;
}

/** What PEFT calls its configuration. */
export const CONFIG_NAME = 'adapter_config.json';
/** As the engine's kMaxPeftConfigBytes. */
const MAX_CONFIG_BYTES = 256 << 10;

const isWebAddress = (where: string | URL) => /^https?:/i.test(String(where));

const isSource = (value: object): value is ByteSource => 'read' in value && 'size' in value;

/** `open`, but undefined where there is nothing. */
export async function ifThere<T>(open: Promise<T>): Promise<T | undefined> {
  try {
    return await open;
  } catch (error) {
    if (error instanceof LapidaryError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** Opens the file at a web address and, for safetensors, the configuration beside it. */
export async function adapterAtAddress(
  where: string | URL,
  options: FindOptions,
): Promise<FoundAdapter> {
  const url = new URL(where);
  const model = await HttpRangeSource.open(url, options);
  if (!/\.safetensors$/i.test(url.pathname)) return { model };
  const beside = new URL(CONFIG_NAME, url);
  beside.search = url.search;
  return { model, config: await ifThere(HttpRangeSource.open(beside, options)) };
}

async function openFile(where: AdapterFile, options: FindOptions): Promise<FoundAdapter> {
  if (typeof where === 'string' || where instanceof URL) {
    return isWebAddress(where)
      ? adapterAtAddress(where, options)
      : currentPlatform().findAdapter(where, options);
  }
  return { model: where instanceof Blob ? new BlobSource(where) : where };
}

export async function findAdapter(
  where: AdapterLocation,
  options: FindOptions,
): Promise<FoundAdapter> {
  if (Array.isArray(where)) {
    const files = where as readonly File[];
    const config = files.find(({ name }) => /\.json$/i.test(name));
    const [model, ...more] = files.filter((file) => file !== config);
    if (!model || more.length > 0) {
      throw new LapidaryError(
        'invalid_argument',
        `an adapter is one .gguf or .safetensors file, with its ${CONFIG_NAME}: ${files.length} files were given`,
      );
    }
    return findAdapter({ model, config }, options);
  }
  if (typeof where === 'object' && 'model' in where) {
    const found = await openFile(where.model, options);
    if (where.config === undefined) return found;
    await found.config?.close?.();
    return { model: found.model, config: (await openFile(where.config, options)).model };
  }
  if (
    typeof where === 'string' ||
    where instanceof URL ||
    where instanceof Blob ||
    (typeof where === 'object' && isSource(where))
  ) {
    return openFile(where, options);
  }
  throw new LapidaryError(
    'invalid_argument',
    'an adapter is a path, a URL, a File, a Blob, a ByteSource, or a list of files',
  );
}

/** The text of the configuration, if there is one. */
export async function readConfig(
  { config }: FoundAdapter,
  signal?: AbortSignal,
): Promise<string | undefined> {
  if (!config) return undefined;
  if (config.size > MAX_CONFIG_BYTES) {
    throw new LapidaryError(
      'unsupported',
      `${config.name} has ${config.size} bytes; at most ${MAX_CONFIG_BYTES} are read`,
    );
  }
  return new TextDecoder().decode(await config.read(0, config.size, signal));
}

/** Loads an adapter into an engine's model; `id`: what to call it, above those of all that are loaded. */
export async function loadAdapter(
  engine: Engine,
  model: number,
  where: AdapterLocation,
  options: { scale?: number | undefined; id?: number },
  signal: AbortSignal,
): Promise<AdapterInfo> {
  const found = await findAdapter(where, { signal });
  const source = engine.addSource(found.model, signal);
  try {
    const config = await readConfig(found, signal);
    const request = JSON.stringify({ name: found.model.name, config, ...options });
    return await engine.callJson<AdapterInfo>('lap_adapter_load', [model, source, request], {
      signal,
    });
  } finally {
    engine.removeSource(source);
    await found.config?.close?.();
    await found.model.close?.();
  }
}
