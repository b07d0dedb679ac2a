// What every entry point exports.

export type { AdapterFile, AdapterLocation } from './adapters.js';
export type { ModelCache } from './cache/cache.js';
export { openCache } from './cache/open.js';
export type {
  CachedModel,
  CachedSource,
  CacheOptions,
  DownloadOptions,
  DownloadProgress,
  ExpectedFile,
} from './cache/types.js';
export { LapidaryError, ERROR_CODES, type ErrorCode } from './errors.js';
export { plainBytes, type DataInput, type DataOptions } from './data.js';
export type { EmbedInput, EmbedOptions, EmbedReport } from './embed.js';
export { Engine, type LogLevel } from './engine.js';
export {
  Finetune,
  type FinetuneEvent,
  type FinetuneOptions,
  type FinetuneProbe,
  type FinetuneReady,
  type FinetuneReport,
  type FinetuneSettings,
  type FinetuneSize,
  type FinetuneStep,
  type FinetuneTarget,
  type TrainedAdapter,
} from './finetune.js';
export { openDevice, type DeviceInfo, type OpenedDevice } from './gpu/device.js';
export type { GpuCounters } from './gpu/host.js';
export type { KernelTime } from './gpu/profiler.js';
export { inspect, type InspectOptions } from './inspect.js';
export {
  convertAdapter,
  mergeAdapters,
  MergedModel,
  type ConvertOptions,
  type MergeAdapter,
  type MergedMatrix,
  type MergeOptions,
  type MergeReport,
  type MergeType,
  type PeftAdapter,
} from './merge.js';
export { decodeAudio } from './media/decode.js';
export type { LoadOptions } from './load-options.js';
export { Model, type TokenizeOptions } from './model.js';
export { engineModule, findGpu, type FoundModel, type ModelLocation } from './platform.js';
export { Reply } from './reply.js';
export { BlobSource } from './source/blob.js';
export { HttpRangeSource, type HttpSourceOptions } from './source/http.js';
export type { SaveOptions } from './snapshot.js';
export type { Retry } from './source/retry.js';
export type { ByteSource } from './source/source.js';
export type * from './types.js';
