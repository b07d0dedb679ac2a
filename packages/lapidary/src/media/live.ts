// Sound whose samples are still to come.

import type { LiveAudio, RawAudio } from '../types.js';
import type { Host } from './media.js';

/** Whether it is sound whose samples are still to come. */
export const isLive = (audio: unknown): audio is LiveAudio =>
  typeof audio === 'object' &&
  audio !== null &&
  'samples' in audio &&
  typeof audio.samples === 'object' &&
  audio.samples !== null &&
  (audio.samples instanceof ReadableStream || Symbol.asyncIterator in audio.samples);

/** All of a sound: of a live one, which the engine has heard by then, what it became. */
export async function whole<Other>(
  host: Host,
  audio: Other | LiveAudio,
  signal: AbortSignal,
): Promise<Exclude<Other, LiveAudio> | RawAudio> {
  if (!isLive(audio)) return audio as Exclude<Other, LiveAudio>;
  const { gather } = await import('./gather.js');
  return gather(host, audio, signal);
}
