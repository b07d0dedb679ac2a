// Loads a model with a progress line on a terminal.

import {
  Model,
  type KvType,
  type LoadOptions,
  type LoadProgress,
  type ModelInfo,
} from 'lapidary/node';
import { bytes } from './format.js';
import { StatusLine, progressLine } from './status.js';
import { storeOptions, type StoreFlags } from './stores.js';

export interface LoadFlags extends StoreFlags {
  context?: number;
  kvType?: KvType;
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  gpuMemory?: number;
  projector?: string;
  encoders?: 'transformers' | 'llama.cpp';
  /** False: none. */
  drafter?: string | false;
}

function line({ phase, loaded, total }: LoadProgress): string {
  return progressLine(phase, loaded, total, phase === 'upload' || phase === 'header');
}

/** What is read from the file whenever it is needed; nothing where all is on the GPU. */
export function streamingLine({ memory, layers }: ModelInfo): string | undefined {
  if (memory.fit !== 'streamed') return undefined;
  const read =
    memory.expertSlots !== undefined
      ? `of every layer ${memory.expertSlots} experts are kept, the others are read from the file as tokens need them`
      : `${layers - memory.residentLayers} of ${layers} layers are read from the file for every token`;
  return `${bytes(memory.total)} do not fit into ${bytes(memory.budget ?? 0)} of GPU memory: ${read}`;
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
    ...(flags.gpuMemory !== undefined && { gpuMemory: flags.gpuMemory }),
    ...(flags.projector !== undefined && { projector: flags.projector }),
    ...(flags.encoders && { encoders: flags.encoders }),
    ...(flags.drafter !== undefined && { drafter: flags.drafter }),
    ...(status.terminal && {
      onProgress: (progress: LoadProgress) =>
        status.show(() => line(progress), progress.loaded >= progress.total),
    }),
  };
  try {
    const model = await Model.load(name, options);
    status.clear();
    const line = streamingLine(model.info);
    if (line) process.stderr.write(`${line}\n`);
    return model;
  } finally {
    process.off('SIGINT', onInterrupt);
    status.clear();
  }
}
