// Pictures and sound of a conversation on their way to the engine: named by the digest of their bytes, decoded only where
// the engine has no soft tokens of them.

import type { Engine } from '../engine.js';
import { throwIfAborted, type ByteSource } from '../source/source.js';
import type { AudioInput, AudioPart, ImagePart } from '../types.js';
import { openImage } from './image.js';
import { whole } from './live.js';
import { openSound, type Sound } from './sound.js';

/** Soft tokens that a picture becomes at most; the engine knows which numbers there are. */
const DEFAULT_IMAGE_TOKENS = 280;

/** A model in an engine. */
export interface Host {
  engine: Engine;
  handle: number;
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
  const picture = await openImage(part.image, signal);
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

async function nameSound(
  host: Host,
  audio: AudioInput | Sound,
  signal: AbortSignal,
): Promise<NamedMedium> {
  const { key, open } = await openSound(audio, signal);
  return {
    key,
    kind: 'audio',
    async add() {
      const { source, spec } = await open();
      return addToEngine(host, source, { key, ...spec }, 'audio', signal);
    },
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
  sound: Sound,
  signal: AbortSignal,
): Promise<HeldMedium & { done(): void }> {
  const medium = await nameSound(host, sound, signal);
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
          : await nameSound(host, await whole(host, part.audio, signal), signal);
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
