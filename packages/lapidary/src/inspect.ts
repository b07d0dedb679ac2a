// What a file's header says of the model in it.

import { Engine } from './engine.js';
import type { LoadOptions } from './load-options.js';
import { engineModule } from './platform.js';
import type { ByteSource } from './source/source.js';
import type { FileHeader } from './types.js';

/** Which file's header is read with what in mind: options of a load that change how much memory it takes. */
export type InspectOptions = Pick<
  LoadOptions,
  | 'wasm'
  | 'contextLength'
  | 'kvType'
  | 'batchSize'
  | 'sessions'
  | 'perLayerEmbeddings'
  | 'gpuMemory'
>;

/** Reads the header of a GGUF file and nothing else; needs no GPU. The source stays open. */
export async function inspect(
  source: ByteSource,
  { wasm, ...options }: InspectOptions = {},
): Promise<FileHeader> {
  const engine = await Engine.create(await engineModule(wasm), undefined);
  const { contextLength, kvType, batchSize, sessions, perLayerEmbeddings, gpuMemory } = options;
  const asked = { contextLength, kvType, batchSize, sessions, perLayerEmbeddings, gpuMemory };
  return engine.callJson<FileHeader>('lap_inspect', [
    engine.addSource(source),
    JSON.stringify(asked),
  ]);
}
