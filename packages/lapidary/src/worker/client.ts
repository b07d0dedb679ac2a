// The page's side: a connection to a worker, and models that live there.

import { LapidaryError } from '../errors.js';
import type { EventStream } from '../event-stream.js';
import { Finetune } from '../finetune.js';
import type { Model as PageModel } from '../model.js';
import { Reply } from '../reply.js';
import { throwIfAborted } from '../source/source.js';
import type { AudioPart, Recording, RecordingProgress, RecordOptions } from '../types.js';
import { Peer, ROOT, type RemoteObject } from './peer.js';
import { CONNECT, PROTOCOL, type ConnectMessage } from './protocol.js';

/** A worker as it is needed here; a Worker is one, and so is a MessagePort. */
export interface WorkerLike {
  /** As a Worker's. */
  postMessage(message: unknown, transfer: Transferable[]): void;
  /** As a Worker's. */
  addEventListener(type: 'error' | 'messageerror', listener: (event: Event) => void): void;
  /** As a Worker's; called for a worker that was started for one model. */
  terminate?(): void;
}

/**
 * `T` from another thread: what is not a promise or a stream of events there is a promise here. `Fields` are data, known
 * from the beginning.
 */
export type Remote<T, Fields extends keyof T = never> = {
  readonly [K in keyof T]: K extends Fields
    ? T[K]
    : T[K] extends (...args: infer Args) => infer Result
      ? Result extends Promise<unknown> | EventStream<unknown, unknown>
        ? T[K]
        : (...args: Args) => Promise<Result>
      : Promise<T[K]>;
};

/**
 * A model in a worker: what {@link PageModel} has, with promises where that answers at once (`tokenize`, `detokenize`,
 * `render`, `adapters`, `counters`).
 */
export type Model = Remote<PageModel, 'info' | 'device'>;

type StreamNames<T> = {
  [K in keyof T]: T[K] extends (...args: never) => EventStream<unknown, unknown> ? K : never;
}[keyof T];

type StreamClass = new (
  start: (emit: (event: unknown) => void, stop: AbortSignal) => Promise<object>,
  signal: AbortSignal | undefined,
  last: (report: object) => unknown,
) => EventStream<unknown, unknown>;

/** Methods that must give a stream at once; the compiler misses those that are not here. */
const STREAMS: Record<StreamNames<PageModel>, unknown> = {
  chat: Reply,
  generate: Reply,
  finetune: Finetune,
};

/** A recording that goes on in the worker. */
async function recordingOf(peer: Peer, ref: number, options: RecordOptions): Promise<Recording> {
  const remote = (await peer.call(ref, 'record', [options])) as RemoteObject;
  const ask = (member: string, ...args: unknown[]) => peer.call(remote.ref, member, args);
  let ended: Promise<AudioPart> | undefined;
  let released: Promise<void> | undefined;
  const release = () => {
    options.signal?.removeEventListener('abort', abort);
    peer.release(remote.ref);
  };
  const cancel = () => (released ??= ask('cancel').then(release));
  // The worker hears of it only while the call goes on that it was given with.
  const abort = () => void cancel().catch(() => {});
  if (options.signal?.aborted) abort();
  else options.signal?.addEventListener('abort', abort);
  return {
    // Of a part of a buffer all of it would be cloned.
    write: (samples) =>
      ask(
        'write',
        ArrayBuffer.isView(samples) && samples.byteLength < samples.buffer.byteLength
          ? samples.slice()
          : samples,
      ) as Promise<RecordingProgress>,
    end: () => (ended ??= ask('end').finally(release) as Promise<AudioPart>),
    cancel: () => (ended ? Promise.resolve() : cancel()),
  };
}

/** Milliseconds that calls have to tell their end after a model was closed. */
const LAST_WORDS = 1000;

export class Connection {
  private constructor(
    readonly peer: Peer,
    private readonly worker: WorkerLike | undefined,
  ) {}

  /** `own`: the worker is nobody else's, and ends with the connection. */
  static async open(
    worker: WorkerLike,
    { own, signal }: { own: boolean; signal: AbortSignal | undefined },
  ): Promise<Connection> {
    const { port1, port2 } = new MessageChannel();
    const peer = new Peer(port1);
    const connection = new Connection(peer, own ? worker : undefined);
    let ready = false;
    worker.addEventListener('error', (event) => {
      // A worker of the caller's has work of its own, which may fail.
      if (ready && !own) return;
      const { message } = event as ErrorEvent;
      const text = message
        ? `the worker failed: ${message}`
        : "the worker's script could not be loaded: is its address right, and does the page's policy allow it (worker-src)?";
      connection.end(new LapidaryError(message ? 'internal_error' : 'io_error', text));
    });
    const base = globalThis.location?.href as string | undefined;
    const connect: ConnectMessage = {
      type: CONNECT,
      protocol: PROTOCOL,
      base,
      port: port2,
    };
    const stop = () => {
      const cause = signal?.reason as unknown;
      connection.end(new LapidaryError('cancelled', 'cancelled by the caller', { cause }));
    };
    signal?.addEventListener('abort', stop);
    try {
      worker.postMessage(connect, [port2]);
      await peer.call(ROOT, 'ready', []);
      ready = true;
      return connection;
    } catch (error) {
      connection.end();
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  end(reason = new LapidaryError('invalid_argument', 'this model has been closed')): void {
    this.peer.fail(reason);
    this.worker?.terminate?.();
  }

  /** A method of what the worker offers. */
  call(member: string, args: unknown[]): Promise<unknown> {
    return this.peer.call(ROOT, member, args);
  }
}

/** The model that `remote` stands for; closing it ends `connection`. */
export function modelOf(connection: Connection, { ref, shape }: RemoteObject): Model {
  const { peer } = connection;
  const members: PropertyDescriptorMap = {};
  for (const name of shape.methods) {
    const stream = (STREAMS as Record<string, StreamClass | undefined>)[name];
    const value = stream
      ? (...args: unknown[]) =>
          new stream(
            (emit, stop) => peer.stream(ref, name, args, emit, stop) as Promise<object>,
            undefined,
            (report) => ({ type: 'done', ...report }),
          )
      : (...args: unknown[]) => peer.call(ref, name, args);
    members[name] = { value };
  }
  members.record = {
    value: (options: RecordOptions = {}) => recordingOf(peer, ref, options),
  };
  for (const name of shape.accessors) members[name] = { get: () => peer.get(ref, name) };
  let closed: Promise<void> | undefined;
  const close = async () => {
    try {
      await peer.call(ref, 'close', []);
      const patience = new Promise((resolve) => setTimeout(resolve, LAST_WORDS));
      await Promise.race([Promise.all(peer.open), patience]);
      peer.release(ref);
    } finally {
      connection.end();
    }
  };
  members.close = { value: () => (closed ??= close()) };
  return Object.defineProperties({ ...shape.fields }, members) as Model;
}

/** Throws for options that cannot leave their thread, and for a signal that is aborted. */
export function checkOptions(options: { gpu?: unknown; signal?: AbortSignal | undefined }): void {
  throwIfAborted(options.signal);
  if (options.gpu === undefined) return;
  throw new LapidaryError('invalid_argument', "'gpu' cannot go to a worker, which has its own");
}
