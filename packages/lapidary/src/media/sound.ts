// A recording in whatever form it comes: its key, and its bytes where they are needed.

import { LapidaryError } from '../errors.js';
import { memorySource } from '../source/memory.js';
import type { ByteSource } from '../source/source.js';
import type { AudioInput, RawAudio } from '../types.js';
import { digestOfBytes } from './digest.js';
import { isFile, openFile } from './file.js';

/** Hz, of samples that come without it. */
const SAMPLE_RATE = 16_000;

/** A recording that was looked at once; it may stand where an {@link AudioInput} does, and is not read again for its key. */
export class Sound {
  constructor(
    readonly key: string,
    /** What the engine is told of its bytes. */
    readonly spec: { format: 'wav' } | { format: 'f32'; rate: number; channels: number },
    readonly open: () => Promise<ByteSource>,
  ) {}
}

/** What samples are known by: the digest of their bytes, and how they are meant. */
export const soundKey = (digest: string, rate: number, channels: number): string =>
  `${digest}:f32:${rate}:${channels}`;

const isRaw = (audio: unknown): audio is RawAudio =>
  typeof audio === 'object' && audio !== null && 'samples' in audio;

/** The recording that a caller means; `invalid_argument` for what is none. */
export async function openSound(audio: AudioInput | Sound, signal: AbortSignal): Promise<Sound> {
  if (audio instanceof Sound) return audio;
  const raw = audio instanceof Float32Array ? { samples: audio, sampleRate: SAMPLE_RATE } : audio;
  if (isFile(raw)) {
    const file = await openFile(raw, signal);
    return new Sound(`${file.digest}:wav`, { format: 'wav' }, async () => {
      const { bytes, name } = await file.bytes();
      return memorySource(name, bytes);
    });
  }
  if (!isRaw(raw) || !(raw.samples instanceof Float32Array)) {
    throw new LapidaryError(
      'invalid_argument',
      'sound is a Blob, a URL, the bytes of a WAV file, a Float32Array, or { samples, sampleRate }',
    );
  }
  const { samples, sampleRate: rate, channels = 1 } = raw;
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  const key = soundKey(await digestOfBytes(bytes), rate, channels);
  const source = memorySource('the sound', bytes);
  return new Sound(key, { format: 'f32', rate, channels }, () => Promise.resolve(source));
}
