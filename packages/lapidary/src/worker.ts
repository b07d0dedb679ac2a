// The entry point `lapidary/worker`: the page's interface, with the engine and the GPU in a worker.

import { LapidaryError } from './errors.js';
import type {
  ConvertOptions,
  MergeAdapter,
  MergeOptions,
  PeftAdapter,
  convertAdapter as convertHere,
} from './merge.js';
import type { LoadOptions as PageLoadOptions } from './load-options.js';
import type { inspect as inspectHere } from './inspect.js';
import type { ModelLocation } from './platform.js';
import type { AdapterLocation } from './adapters.js';
import { checkOptions, Connection, modelOf, type Model as WorkerModel } from './worker/client.js';
import type { WorkerLike } from './worker/client.js';
import { MergedModel } from './worker/merged.js';
import type { RemoteObject } from './worker/peer.js';

export * from './exported.js';
export type { Remote, WorkerLike } from './worker/client.js';
export { MergedModel } from './worker/merged.js';

/** A worker that serves models (its script is `lapidary/worker-host`, or imports it), or its script's address. */
export type WorkerOption = WorkerLike | URL | string;

/** Which worker does the work. */
export interface WorkerOptions {
  /** Default: a worker of its own, from `worker-host.js` beside this file, which ends when the work does. */
  worker?: WorkerOption | undefined;
}

/** Options of `Model.load` in a worker: those of a page, and which worker. */
export interface LoadOptions extends Omit<PageLoadOptions, 'gpu'>, WorkerOptions {}

function start(script: URL | string | undefined): WorkerLike {
  if (typeof Worker === 'undefined') {
    throw new LapidaryError('unsupported', "there are no web workers here; in Node use 'lapidary'");
  }
  if (script !== undefined) return new Worker(script, { type: 'module', name: 'lapidary' });
  // Bundlers know this form, and no other.
  return new Worker(new URL('./worker-host.js', import.meta.url), { type: 'module' });
}

function connect(worker: WorkerOption | undefined, signal?: AbortSignal): Promise<Connection> {
  const given = typeof worker === 'object' && !(worker instanceof URL);
  return Connection.open(given ? worker : start(worker), { own: !given, signal });
}

/** Runs one function of the worker's. */
async function once<T>(
  name: string,
  args: unknown[],
  { worker, ...options }: WorkerOptions & { signal?: AbortSignal | undefined },
): Promise<T> {
  checkOptions(options);
  const connection = await connect(worker, options.signal);
  try {
    return (await connection.call(name, [...args, options])) as T;
  } finally {
    connection.end();
  }
}

/** Asks for an object that stays in the worker, and makes of it what lives here. */
async function opened<T>(
  name: string,
  args: unknown[],
  { worker, ...options }: WorkerOptions & { signal?: AbortSignal | undefined },
  make: (connection: Connection, remote: RemoteObject) => T,
): Promise<T> {
  checkOptions(options);
  const connection = await connect(worker, options.signal);
  try {
    return make(connection, (await connection.call(name, [...args, options])) as RemoteObject);
  } catch (error) {
    connection.end();
    throw error;
  }
}

/** Loads models in a worker. */
export const Model = {
  /**
   * As the page's `Model.load`, in a worker. Sources of any kind are read where they are: a File or an address by the
   * worker, another ByteSource by the page.
   *
   * Rejects as that does, and with `io_error` where the worker's script cannot be loaded.
   */
  load: (where: ModelLocation, options: LoadOptions = {}): Promise<WorkerModel> =>
    opened('load', [where], options, modelOf),
};
/** A model in a worker: the page's, with promises where that answers at once. */
export type Model = WorkerModel;

/** As the page's, in a worker. */
export const inspect = (
  source: Parameters<typeof inspectHere>[0],
  options: NonNullable<Parameters<typeof inspectHere>[1]> & WorkerOptions = {},
): ReturnType<typeof inspectHere> => once('inspect', [source], options);

/** As the page's, in a worker. */
export const convertAdapter = ((
  adapter: AdapterLocation,
  to: 'gguf' | 'peft',
  options: ConvertOptions & WorkerOptions = {},
): Promise<Uint8Array<ArrayBuffer> | PeftAdapter> =>
  once('convertAdapter', [adapter, to], options)) as typeof convertHere;

/** As the page's, in a worker, which lives until the merged file is read to its end or closed. */
export const mergeAdapters = (
  model: ModelLocation,
  adapters: readonly MergeAdapter[],
  options: MergeOptions & WorkerOptions = {},
): Promise<MergedModel> =>
  opened(
    'mergeAdapters',
    [model, adapters],
    options,
    (connection, remote) => new MergedModel(connection, remote, options.signal),
  );
