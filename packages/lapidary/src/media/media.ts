// Pictures and sound of a conversation on their way to the engine: named by the digest of their bytes, decoded only where
// the engine has no soft tokens of them.

import type { Engine } from '../engine.js';
import { LapidaryError } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { throwIfAborted, type ByteSource } from '../source/source.js';
import type { AudioInput, AudioPart, ImageInput, ImagePart, RawAudio, RawImage } from '../types.js';
import { bytesOfFile } from './bytes.js';
import { pixelsOfBitmap } from './page.js';
import { pixelsOf, type Pixels } from './pixels.js';

/** Soft tokens that a picture becomes at most; the engine knows which numbers there are. */
const DEFAULT_IMAGE_TOKENS = 280;

/** Hz, of samples that come without it. */
const SAMPLE_RATE = 16_000;

/** A model in an engine. */
interface Host {
  engine: Engine;
  handle: number;
}

/** A picture that may have to be decoded. */
interface Picture {
  digest: string;
  decode(): Promise<Pixels>;
}

const isBitmap = (image: object): image is ImageBitmap =>
  typeof ImageBitmap !== 'undefined' && image instanceof ImageBitmap;
const isRaw = (image: object): image is RawImage =>
  'data' in image && 'width' in image && 'height' in image;

/** Digests of what does not change. */
const known = new WeakMap<Blob | ImageBitmap, string>();

/** Loaded when it is needed: most conversations have no pictures. */
const newHasher = async () => (await import('../cache/sha256.js')).sha256();

/** Bytes of pixels that are hashed at once. */
const PIECE = 16 << 20;

async function digestOf(pixels: Pixels, signal: AbortSignal): Promise<string> {
  const { width, height, channels, size } = pixels;
  const hasher = await newHasher();
  hasher.update(new TextEncoder().encode(`${width} ${height} ${channels} `));
  for (let at = 0; at < size; at += PIECE) {
    hasher.update(await pixels.read(at, Math.min(PIECE, size - at), signal));
  }
  return hasher.digest();
}

async function digestOfFile(bytes: Uint8Array): Promise<string> {
  const hasher = await newHasher();
  hasher.update(bytes);
  return hasher.digest();
}

const isFile = (value: unknown): value is Exclude<AudioInput, Float32Array | RawAudio> =>
  typeof value === 'string' ||
  value instanceof URL ||
  value instanceof Blob ||
  value instanceof Uint8Array ||
  value instanceof ArrayBuffer;

/** The picture that a caller means; `invalid_argument` for what is none. */
async function open(image: ImageInput, signal: AbortSignal): Promise<Picture> {
  if (typeof image === 'object' && image !== null) {
    if (isBitmap(image)) {
      const pixels = pixelsOfBitmap('the picture', image);
      const digest = known.get(image) ?? (await digestOf(pixels, signal));
      known.set(image, digest);
      return { digest, decode: () => Promise.resolve(pixels) };
    }
    if (isRaw(image)) {
      const pixels = pixelsOf('the picture', image);
      return { digest: await digestOf(pixels, signal), decode: () => Promise.resolve(pixels) };
    }
  }
  if (!isFile(image)) {
    throw new LapidaryError(
      'invalid_argument',
      'a picture is a Blob, an ImageBitmap, a URL, the bytes of a file, or pixels: { width, height, data }',
    );
  }
  const file = () => bytesOfFile(image, signal);
  const blob = image instanceof Blob ? image : undefined;
  const remembered = blob && known.get(blob);
  const read = remembered === undefined ? await file() : undefined;
  const digest = remembered ?? (await digestOfFile(read!.bytes));
  if (blob) known.set(blob, digest);
  return {
    digest,
    async decode() {
      const { bytes, name } = read ?? (await file());
      if (bytes.length === 0) throw new LapidaryError('truncated', `${name} is empty`);
      return currentPlatform().decodeImage(bytes, name);
    },
  };
}

/** A recording as the engine reads it. */
interface Sound {
  source: ByteSource;
  format: 'wav' | 'f32';
  rate?: number;
  channels?: number;
}

const bytesOf = (view: Float32Array) =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function memory(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    size: bytes.length,
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  };
}

/** The recording that a caller means, and its key. */
async function openSound(
  audio: AudioInput,
  signal: AbortSignal,
): Promise<{ key: string; sound: Sound }> {
  const raw = audio instanceof Float32Array ? { samples: audio, sampleRate: SAMPLE_RATE } : audio;
  if (typeof raw === 'object' && raw !== null && 'samples' in raw) {
    const { samples, sampleRate: rate, channels = 1 } = raw;
    if (!(samples instanceof Float32Array)) {
      throw new LapidaryError('invalid_argument', 'samples of sound are a Float32Array');
    }
    const bytes = bytesOf(samples);
    const key = `${await digestOfFile(bytes)}:f32:${rate}:${channels}`;
    return { key, sound: { source: memory('the sound', bytes), format: 'f32', rate, channels } };
  }
  if (!isFile(raw)) {
    throw new LapidaryError(
      'invalid_argument',
      'sound is a Blob, a URL, the bytes of a WAV file, a Float32Array, or { samples, sampleRate }',
    );
  }
  const { bytes, name } = await bytesOfFile(raw, signal);
  return {
    key: `${await digestOfFile(bytes)}:wav`,
    sound: { source: memory(name, bytes), format: 'wav' },
  };
}

/** Has the engine make the soft tokens of what `source` holds, and hold them. */
async function addToEngine(
  { engine, handle }: Host,
  source: ByteSource,
  spec: object,
  kind: 'image' | 'audio',
  signal: AbortSignal,
): Promise<HeldMedium> {
  const opened = engine.addSource(source, signal);
  try {
    const args = [handle, opened, JSON.stringify(spec), kind === 'audio' ? 1 : 0];
    return await engine.callJson<HeldMedium>('lap_media_add', args, { signal });
  } finally {
    engine.removeSource(opened);
  }
}

/** What the engine holds of a medium; no tokens where it has none. */
interface HeldMedium {
  tokens: number;
  windows: number;
  seconds: number;
}

/** A medium of a conversation, and how the engine comes by it where it must. */
interface NamedMedium {
  key: string;
  kind: 'image' | 'audio';
  add(): Promise<HeldMedium>;
}

async function nameImage(host: Host, part: ImagePart, signal: AbortSignal): Promise<NamedMedium> {
  const { maxTokens = DEFAULT_IMAGE_TOKENS } = part;
  const picture = await open(part.image, signal);
  const key = `${picture.digest}:${maxTokens}`;
  return {
    key,
    kind: 'image',
    async add() {
      const pixels = await picture.decode();
      try {
        throwIfAborted(signal);
        const { width, height, channels } = pixels;
        const spec = { key, width, height, channels, maxTokens };
        return await addToEngine(host, pixels, spec, 'image', signal);
      } finally {
        await pixels.close?.();
      }
    },
  };
}

async function nameAudio(host: Host, audio: AudioInput, signal: AbortSignal): Promise<NamedMedium> {
  const { key, sound } = await openSound(audio, signal);
  const { source, ...spec } = sound;
  return {
    key,
    kind: 'audio',
    add: () => addToEngine(host, source, { key, ...spec }, 'audio', signal),
  };
}

function hold({ engine, handle }: Host, { key, kind }: NamedMedium): HeldMedium {
  const audio = kind === 'audio' ? 1 : 0;
  return engine.callSyncJson<HeldMedium>('lap_media_hold', handle, key, audio);
}

function release({ engine, handle }: Host, key: string): void {
  try {
    engine.callSync('lap_media_release', handle, key);
  } catch {
    // An engine that has stopped holds nothing.
  }
}

const isPart = (part: unknown, type: string) =>
  typeof part === 'object' && part !== null && 'type' in part && part.type === type;
const isImage = (part: unknown): part is ImagePart => isPart(part, 'image');
const isAudio = (part: unknown): part is AudioPart => isPart(part, 'audio');
const hasMedia = (message: unknown): message is { content: unknown[] } =>
  typeof message === 'object' &&
  message !== null &&
  'content' in message &&
  Array.isArray(message.content) &&
  message.content.some((part) => isImage(part) || isAudio(part));

/** Messages as the engine reads them, where only the places of media count. */
export const withoutMedia = (messages: readonly unknown[]): unknown[] =>
  messages.map((message) =>
    hasMedia(message)
      ? {
          ...message,
          content: message.content.map((part) =>
            isImage(part) ? { type: 'image' } : isAudio(part) ? { type: 'audio' } : part,
          ),
        }
      : message,
  );

/** A recording that the engine holds until `done`. */
export async function holdSound(
  host: Host,
  audio: AudioInput,
  signal: AbortSignal,
): Promise<HeldMedium & { done(): void }> {
  const medium = await nameAudio(host, audio, signal);
  const there = hold(host, medium);
  const held = there.tokens > 0 ? there : await medium.add();
  return { ...held, done: () => release(host, medium.key) };
}

/**
 * Does `work` with the messages as the engine reads them; meanwhile it has the soft tokens of every medium in them.
 * `onProgress` hears of those that are made for it.
 */
export async function withMedia<T>(
  host: Host,
  messages: readonly unknown[],
  signal: AbortSignal,
  onProgress: (processed: number, total: number) => void,
  work: (messages: readonly unknown[]) => Promise<T>,
): Promise<T> {
  if (!messages.some(hasMedia)) return work(messages);
  const held: string[] = [];
  try {
    const missing = new Map<string, NamedMedium>();
    const named: unknown[] = [];
    for (const message of messages) {
      if (!hasMedia(message)) {
        named.push(message);
        continue;
      }
      const content: unknown[] = [];
      for (const part of message.content) {
        if (!isImage(part) && !isAudio(part)) {
          content.push(part);
          continue;
        }
        const medium = isImage(part)
          ? await nameImage(host, part, signal)
          : await nameAudio(host, part.audio, signal);
        const { key, kind } = medium;
        if (hold(host, medium).tokens > 0) held.push(key);
        else missing.set(key, medium);
        content.push({ type: kind, media: key, ...(isAudio(part) && { window: part.window }) });
      }
      named.push({ ...message, content });
    }
    let done = 0;
    for (const [key, medium] of missing) {
      onProgress(done++, missing.size);
      await medium.add();
      held.push(key);
    }
    if (missing.size > 0) onProgress(missing.size, missing.size);
    return await work(named);
  } finally {
    for (const key of held) release(host, key);
  }
}
