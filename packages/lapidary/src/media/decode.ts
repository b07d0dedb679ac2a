// Files of sound other than WAV: what they are, and the browser's own decoders for them.

import { LapidaryError, messageOf } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import type { RawAudio } from '../types.js';
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

const KINDS: [at: number, magic: string, name: string][] = [
  [0, 'ID3', 'MP3'],
  [0, 'OggS', 'Ogg'],
  [0, 'fLaC', 'FLAC'],
  [4, 'ftyp', 'MP4'],
  [0, 'FORM', 'AIFF'],
  [0, 'caff', 'CAF'],
  [0, '\x1a\x45\xdf\xa3', 'WebM'],
];

/** What other than WAV a file of sound is, by its first bytes; undefined for WAV, and for what is not known. */
export function otherSound(bytes: Uint8Array): string | undefined {
  const head = String.fromCharCode(...bytes.subarray(0, 12));
  const kind = KINDS.find(([at, magic]) => head.startsWith(magic, at));
  if (kind) return kind[2];
  // A frame's eleven bits of synchronisation, and its layer: 0 is AAC's.
  const [first = 0, second = 0] = bytes;
  if (first !== 0xff || (second & 0xe0) !== 0xe0) return undefined;
  return (second & 0x06) === 0 ? 'AAC' : 'MP3';
}

/** For environments without decoders. */
export function refuseSound(name: string, kind: string, how: string): LapidaryError {
  return new LapidaryError(
    'unsupported',
    `${name} is ${kind}, and WAV is what is read here: ${how}`,
  );
}

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

/**
 * The samples of a file of sound, of any kind that the browser decodes (MP3, Ogg, M4A, FLAC, WebM, WAV), mono at 16 kHz,
 * at most an hour and a half. For models in workers, where there are no decoders: give them the samples.
 *
 * Rejects with `unsupported` outside of pages, `invalid_format` for what is no sound, `invalid_argument` for what is too
 * large or too long, `io_error`, `cancelled`.
 */
export async function decodeAudio(
  file: Blob,
  { signal }: { signal?: AbortSignal } = {},
): Promise<RawAudio & { samples: Float32Array<ArrayBuffer> }> {
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
