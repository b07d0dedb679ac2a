// Pictures of a conversation on their way to the engine: named by the digest of their bytes, decoded only where the engine
// has no soft tokens of them.

import type { Engine } from '../engine.js';
import { LapidaryError } from '../errors.js';
import { currentPlatform } from '../platform.js';
import { throwIfAborted } from '../source/source.js';
import type { ImageInput, ImagePart, RawImage } from '../types.js';
import { bytesOfFile } from './bytes.js';
import { pixelsOfBitmap } from './page.js';
import { pixelsOf, type Pixels } from './pixels.js';

/** Soft tokens that a picture becomes at most; the engine knows which numbers there are. */
const DEFAULT_IMAGE_TOKENS = 280;

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
  const isFile =
    typeof image === 'string' ||
    image instanceof URL ||
    image instanceof Blob ||
    image instanceof Uint8Array ||
    image instanceof ArrayBuffer;
  if (!isFile) {
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

/** Has the engine make a picture's soft tokens, and hold them. */
async function add(
  host: Host,
  key: string,
  maxTokens: number,
  picture: Picture,
  signal: AbortSignal,
) {
  const { engine, handle } = host;
  const pixels = await picture.decode();
  try {
    throwIfAborted(signal);
    const { width, height, channels } = pixels;
    const source = engine.addSource(pixels, signal);
    try {
      const spec = JSON.stringify({ key, width, height, channels, maxTokens });
      await engine.callJson('lap_media_add_image', [handle, source, spec], { signal });
    } finally {
      engine.removeSource(source);
    }
  } finally {
    await pixels.close?.();
  }
}

const isImage = (part: unknown): part is ImagePart =>
  typeof part === 'object' && part !== null && 'type' in part && part.type === 'image';
const hasImages = (message: unknown): message is { content: unknown[] } =>
  typeof message === 'object' &&
  message !== null &&
  'content' in message &&
  Array.isArray(message.content) &&
  message.content.some(isImage);

/** Messages as the engine reads them, where only the places of pictures count. */
export const withoutMedia = (messages: readonly unknown[]): unknown[] =>
  messages.map((message) =>
    hasImages(message)
      ? {
          ...message,
          content: message.content.map((part) => (isImage(part) ? { type: 'image' } : part)),
        }
      : message,
  );

/**
 * Does `work` with the messages as the engine reads them; meanwhile it has the soft tokens of every picture in them.
 * `onProgress` hears of those that are made for it.
 */
export async function withMedia<T>(
  host: Host,
  messages: readonly unknown[],
  signal: AbortSignal,
  onProgress: (processed: number, total: number) => void,
  work: (messages: readonly unknown[]) => Promise<T>,
): Promise<T> {
  if (!messages.some(hasImages)) return work(messages);
  const { engine, handle } = host;
  const held: string[] = [];
  try {
    const missing: { key: string; maxTokens: number; picture: Picture }[] = [];
    const named: unknown[] = [];
    for (const message of messages) {
      if (!hasImages(message)) {
        named.push(message);
        continue;
      }
      const content: unknown[] = [];
      for (const part of message.content) {
        if (!isImage(part)) {
          content.push(part);
          continue;
        }
        const { maxTokens = DEFAULT_IMAGE_TOKENS } = part;
        const picture = await open(part.image, signal);
        const key = `${picture.digest}:${maxTokens}`;
        if (engine.callSyncJson<{ tokens: number }>('lap_media_hold', handle, key).tokens > 0) {
          held.push(key);
        } else if (!missing.some((each) => each.key === key)) {
          missing.push({ key, maxTokens, picture });
        }
        content.push({ type: 'image', media: key });
      }
      named.push({ ...message, content });
    }
    for (const [done, { key, maxTokens, picture }] of missing.entries()) {
      onProgress(done, missing.length);
      await add(host, key, maxTokens, picture, signal);
      held.push(key);
    }
    if (missing.length > 0) onProgress(missing.length, missing.length);
    return await work(named);
  } finally {
    for (const key of held) {
      try {
        engine.callSync('lap_media_release', handle, key);
      } catch {
        // An engine that has stopped holds nothing.
      }
    }
  }
}
