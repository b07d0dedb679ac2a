// Loads a model with a progress line on a terminal.

import { Model, type LoadOptions, type LoadProgress } from 'lapidary/node';
import { bytes } from './format.js';
import { storeOptions, type StoreFlags } from './stores.js';

export interface LoadFlags extends StoreFlags {
  context?: number;
  kvType?: 'f16' | 'f32';
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
}

const WIDTH = 24;

/** "upload   ████░░░░ 1.2 GB of 3.4 GB" */
export function progressLine(what: string, loaded: number, total: number, inBytes = true): string {
  const part = total > 0 ? Math.min(1, loaded / total) : 0;
  const bar = '█'.repeat(Math.round(part * WIDTH)).padEnd(WIDTH, '░');
  const numbers = inBytes ? `${bytes(loaded)} of ${bytes(total)}` : `${loaded} of ${total}`;
  return `${what.padEnd(8)} ${bar} ${numbers}`;
}

function line({ phase, loaded, total }: LoadProgress): string {
  return progressLine(phase, loaded, total, phase === 'upload' || phase === 'header');
}

/** Loads `name`; Ctrl-C meanwhile rejects with `cancelled`. Warnings of the engine go to stderr. */
export async function load(name: string, flags: LoadFlags): Promise<Model> {
  const controller = new AbortController();
  const onInterrupt = () => controller.abort();
  process.once('SIGINT', onInterrupt);
  const terminal = process.stderr.isTTY;
  let shown = 0;
  const options: LoadOptions = {
    ...storeOptions(flags),
    signal: controller.signal,
    onLog: (level, text) => {
      if (level === 'warning' || level === 'error') process.stderr.write(`${level}: ${text}\n`);
    },
    ...(flags.context !== undefined && { contextLength: flags.context }),
    ...(flags.kvType !== undefined && { kvType: flags.kvType }),
    ...(flags.perLayerEmbeddings && { perLayerEmbeddings: flags.perLayerEmbeddings }),
    ...(terminal && {
      onProgress: (progress: LoadProgress) => {
        const now = performance.now();
        if (now - shown < 50 && progress.loaded < progress.total) return;
        shown = now;
        process.stderr.write(`\r\x1b[K${line(progress)}`);
      },
    }),
  };
  try {
    return await Model.load(name, options);
  } finally {
    process.off('SIGINT', onInterrupt);
    if (terminal) process.stderr.write('\r\x1b[K');
  }
}
