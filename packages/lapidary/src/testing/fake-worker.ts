// A worker that is none: `lapidary/worker` talks with it as with a real one, and finds a model of the test's.

import type { Model } from '../model.js';
import { throwIfAborted } from '../source/source.js';
import type { LoadProgress } from '../types.js';
import type { WorkerLike } from '../worker/client.js';
import { serve } from '../worker/host.js';

/** What a fake worker does beside answering. */
export interface FakeWorkerOptions {
  /** What loading does instead of giving the model: it may throw, wait, or report progress. */
  load?: (
    where: unknown,
    options: { signal?: AbortSignal; onProgress?: (progress: LoadProgress) => void },
  ) => Model | Promise<Model>;
}

/**
 * `model` behind the protocol of a worker, in this thread: everything that a test's program says to it is copied as on the
 * way to a worker.
 *
 * ```ts
 * import { Model } from 'lapidary/worker';
 * const model = await Model.load('any name', { worker: fakeWorker(createFakeModel({ replies: ['Hi.'] })) });
 * ```
 */
export function fakeWorker(model: Model, { load }: FakeWorkerOptions = {}): WorkerLike {
  const { port1, port2 } = new MessageChannel();
  serve(port1, {
    load: (where: unknown, options: Parameters<NonNullable<typeof load>>[1]) => {
      throwIfAborted(options.signal);
      if (load) return load(where, options);
      options.onProgress?.({ phase: 'upload', loaded: 1, total: 1 });
      return model;
    },
  });
  // In Node an open port keeps the process alive.
  for (const port of [port1, port2]) (port as { unref?: () => void }).unref?.();
  return {
    postMessage: (message, transfer) => port2.postMessage(message, transfer),
    addEventListener: (type, listener) => port2.addEventListener(type, listener),
    terminate: () => port1.close(),
  };
}
