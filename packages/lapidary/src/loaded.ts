// A model in an engine on a device: all that a lost device takes with it, and that can be made again.

import { Engine } from './engine.js';
import { openDevice, type DeviceInfo } from './gpu/device.js';
import type { LoadOptions } from './load-options.js';
import { currentPlatform, engineModule, type FoundModel } from './platform.js';
import { throwIfAborted } from './source/source.js';
import { keepCuts, knownCuts } from './tuning.js';
import type { Cuts, LoadProgress, ModelInfo } from './types.js';

/** More of them compile no faster. */
const MAX_PROCESSORS = 1024;

export interface Loaded {
  engine: Engine;
  /** The engine's handle of the model. */
  handle: number;
  /** The engine's handles of the model's files, from which it may read as long as the model lives. */
  sources: number[];
  info: ModelInfo;
  device: DeviceInfo;
  /** Keeps for later loads what cuts of kernels were found since the last time: an adapter brings new ones. */
  keepCuts(): Promise<void>;
}

/** Opens a device and loads the model there. On failure nothing is left behind; the source stays open. */
export async function loadOn(
  found: FoundModel,
  options: LoadOptions,
  signal: AbortSignal | undefined,
): Promise<Loaded> {
  const { onProgress } = options;
  let engine: Engine | undefined;
  // Aborting ends what is being read, too. The signal is that of the load only: later reads are not its.
  const reading = new AbortController();
  const onAbort = () => reading.abort(signal?.reason);
  signal?.addEventListener('abort', onAbort);
  try {
    const opened = await openDevice(options.gpu ?? (await currentPlatform().gpu()));
    try {
      engine = await Engine.create(await engineModule(options.wasm), opened, options.onLog);
    } catch (error) {
      opened.device.destroy();
      throw error;
    }
    throwIfAborted(signal);
    const { cache } = currentPlatform();
    const { description, architecture } = opened.info;
    const adapter = `${description} ${architecture}`;
    const log = options.onLog ?? (() => {});
    const tune = options.tune ?? !opened.info.software;
    let known = tune ? await knownCuts(cache, adapter, log) : {};
    const keep = async (found: Cuts) => {
      await keepCuts(cache, adapter, known, found, log);
      known = { ...known, ...found };
    };
    const source = engine.addSource(found.source, reading.signal);
    const projector = found.projector && engine.addSource(found.projector, reading.signal);
    const drafter = found.drafter && engine.addSource(found.drafter, reading.signal);
    const { model, ...info } = await engine.callJson<ModelInfo & { model: number }>(
      'lap_model_load',
      [
        source,
        JSON.stringify({
          contextLength: options.contextLength,
          kvType: options.kvType,
          batchSize: options.batchSize,
          sessions: options.sessions,
          perLayerEmbeddings: options.perLayerEmbeddings,
          gpuMemory: options.gpuMemory,
          encoders: options.encoders,
          params: found.params,
          system: found.system,
          name: found.name,
          digest: found.digest,
          variant: options.variant,
          cuts: known,
          projector,
          drafter,
          drafterOptional: options.drafter === undefined,
          draftTokens: options.draftTokens,
          tune,
          processors: Math.min(currentPlatform().processors(), MAX_PROCESSORS),
        }),
      ],
      { signal, onEvent: (event) => onProgress?.(event as LoadProgress) },
    );
    throwIfAborted(signal);
    engine.gpu?.uploader.release();
    await keep(info.cuts);
    const loaded = engine;
    return {
      engine,
      handle: model,
      sources: [source, projector, drafter].filter((each) => each !== undefined),
      info,
      device: opened.info,
      async keepCuts() {
        info.cuts = loaded.callSyncJson<ModelInfo>('lap_model_info', model).cuts;
        await keep(info.cuts);
      },
    };
  } catch (error) {
    engine?.destroy();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}
