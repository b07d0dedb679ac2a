// Loads a model with a progress line on a terminal.

import { Model, type KvType, type LoadOptions, type LoadProgress } from 'lapidary/node';
import { StatusLine, progressLine } from './status.js';
import { storeOptions, type StoreFlags } from './stores.js';

export interface LoadFlags extends StoreFlags {
  context?: number;
  kvType?: KvType;
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  projector?: string;
  /** False: none. */
  drafter?: string | false;
}

function line({ phase, loaded, total }: LoadProgress): string {
  return progressLine(phase, loaded, total, phase === 'upload' || phase === 'header');
}

/** Loads `name`; Ctrl-C meanwhile rejects with `cancelled`. Warnings of the engine go to stderr. */
export async function load(name: string, flags: LoadFlags): Promise<Model> {
  const controller = new AbortController();
  const onInterrupt = () => controller.abort();
  process.once('SIGINT', onInterrupt);
  const status = new StatusLine();
  const options: LoadOptions = {
    ...storeOptions(flags),
    signal: controller.signal,
    onLog: (level, text) => {
      if (level === 'warning' || level === 'error') process.stderr.write(`${level}: ${text}\n`);
    },
    ...(flags.context !== undefined && { contextLength: flags.context }),
    ...(flags.kvType !== undefined && { kvType: flags.kvType }),
    ...(flags.perLayerEmbeddings && { perLayerEmbeddings: flags.perLayerEmbeddings }),
    ...(flags.projector !== undefined && { projector: flags.projector }),
    ...(flags.drafter !== undefined && { drafter: flags.drafter }),
    ...(status.terminal && {
      onProgress: (progress: LoadProgress) =>
        status.show(() => line(progress), progress.loaded >= progress.total),
    }),
  };
  try {
    return await Model.load(name, options);
  } finally {
    process.off('SIGINT', onInterrupt);
    status.clear();
  }
}
