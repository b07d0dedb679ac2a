// A recording in whatever form it comes: its key, and its bytes where they are needed.

import { LapidaryError } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { memorySource } from '../source/memory.js';
import type { ByteSource } from '../source/source.js';
import type { AudioInput, RawAudio } from '../types.js';
import { digestOfBytes } from './digest.js';
import { isFile, openFile } from './file.js';
import { otherSound } from './sound-kind.js';

/** Hz, of samples that come without it. */
const SAMPLE_RATE = 16_000;

/** What the engine has of a recording: its bytes, and what they are. */
interface OpenSound {
  source: ByteSource;
  spec: { format: 'wav' } | { format: 'f32'; rate: number; channels: number };
}

/** A recording that was looked at once; it may stand where an {@link AudioInput} does, and is not read again for its key. */
export class Sound {
  constructor(
    readonly key: string,
    readonly open: () => Promise<OpenSound>,
  ) {}
}

const openSamples = ({ samples, sampleRate: rate, channels = 1 }: RawAudio): OpenSound => ({
  source: memorySource(
    'the sound',
    new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength),
  ),
  spec: { format: 'f32', rate, channels },
});

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
    return new Sound(`${file.digest}:file`, async () => {
      const { bytes, name } = await file.bytes();
      const other = otherSound(bytes);
      if (other) return openSamples(await currentPlatform().decodeSound(bytes, name, other));
      return { source: memorySource(name, bytes), spec: { format: 'wav' } };
    });
  }
  if (!isRaw(raw) || !(raw.samples instanceof Float32Array)) {
    throw new LapidaryError(
      'invalid_argument',
      'sound is a Blob, a URL, the bytes of a file, a Float32Array, or { samples, sampleRate }',
    );
  }
  const { samples, sampleRate: rate, channels = 1 } = raw;
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  const key = soundKey(await digestOfBytes(bytes), rate, channels);
  return new Sound(key, () => Promise.resolve(openSamples(raw)));
}
