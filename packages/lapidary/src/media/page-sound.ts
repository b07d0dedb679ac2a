// Files of sound by the browser's own decoders. Loaded when it is needed.

import { LapidaryError, messageOf } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import type { DecodedAudio } from '../types.js';
import { tooLarge } from './fetch.js';
import { MAX_FILE_BYTES } from './pixels.js';

/** Hz: what models take. */
const RATE = 16_000;
/** As the engine's: an hour and a half. */
const MOST_SECONDS = 5_400;
/** Bytes of a file that does not say how long it is: decoded it may be a hundred times as large. */
const MOST_UNMEASURED = 16 << 20;
/** Milliseconds that a browser has to read how long a file is. */
const MEASURE_MS = 5_000;

/** Seconds of a file, where the browser says so without decoding it. */
async function measure(file: Blob): Promise<number | undefined> {
  // A policy may forbid it (media-src), which is no error of the file's.
  const url = URL.createObjectURL(file);
  const player = new Audio();
  try {
    return await new Promise<number | undefined>((resolve) => {
      const give = () => resolve(Number.isFinite(player.duration) ? player.duration : undefined);
      player.addEventListener('loadedmetadata', give);
      player.addEventListener('error', () => resolve(undefined));
      setTimeout(() => resolve(undefined), MEASURE_MS);
      player.preload = 'metadata';
      player.src = url;
    });
  } finally {
    player.removeAttribute('src');
    URL.revokeObjectURL(url);
  }
}

const tooLong = (name: string, seconds: number) =>
  new LapidaryError(
    'invalid_argument',
    `${name} has ${Math.round(seconds)} s of sound; at most ${MOST_SECONDS} are read: cut it`,
  );

/** The mean of the channels, as the engine takes it of a file. */
function mono(buffer: AudioBuffer): Float32Array<ArrayBuffer> {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) =>
    buffer.getChannelData(i),
  );
  const [only] = channels;
  if (only && channels.length === 1) return only;
  return Float32Array.from({ length: buffer.length }, (_, i) => {
    let sum = 0;
    for (const channel of channels) sum += channel[i]!;
    return sum / channels.length;
  });
}

/** {@link decodeAudio}. */
export async function decodeInPage(
  file: Blob,
  signal: AbortSignal | undefined,
): Promise<DecodedAudio> {
  const name = 'name' in file && typeof file.name === 'string' ? file.name : 'the file';
  throwIfAborted(signal);
  if (typeof OfflineAudioContext === 'undefined' || typeof Audio === 'undefined') {
    throw new LapidaryError('unsupported', `${name}: only pages have decoders for files of sound`);
  }
  if (file.size > MAX_FILE_BYTES) throw tooLarge(name, MAX_FILE_BYTES);
  const seconds = await measure(file);
  throwIfAborted(signal);
  if (seconds === undefined && file.size > MOST_UNMEASURED) throw tooLarge(name, MOST_UNMEASURED);
  if (seconds !== undefined && seconds > MOST_SECONDS) throw tooLong(name, seconds);
  let bytes: ArrayBuffer;
  try {
    bytes = await file.arrayBuffer();
  } catch (cause) {
    throw new LapidaryError('io_error', `${name}: ${messageOf(cause)}; choose the file again`, {
      cause,
    });
  }
  let decoded: AudioBuffer;
  try {
    decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  } catch (cause) {
    throw new LapidaryError(
      'invalid_format',
      `${name} is no sound that this browser decodes: ${messageOf(cause)}`,
      { cause },
    );
  }
  throwIfAborted(signal);
  if (decoded.duration > MOST_SECONDS) throw tooLong(name, decoded.duration);
  return { samples: mono(decoded), sampleRate: RATE, channels: 1 };
}
