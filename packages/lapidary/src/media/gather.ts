// Sound whose samples are still to come: read as it comes, and heard meanwhile. Loaded when it is needed.

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import type { LiveAudio, RawAudio } from '../types.js';
import type { Host } from './media.js';
import { Listening, LiveRecording } from './recording.js';

type Pieces = LiveAudio['samples'];

/** How pieces are asked for one by one, and how they are given up. */
function readerOf(pieces: Pieces): { next(): Promise<IteratorResult<unknown>>; stop(): void } {
  if (pieces instanceof ReadableStream) {
    if (pieces.locked) {
      throw new LapidaryError(
        'invalid_argument',
        'a stream of samples can be read once; for later turns give what model.record() gives',
      );
    }
    const reader = pieces.getReader();
    return {
      next: () => reader.read() as Promise<IteratorResult<unknown>>,
      // Nobody waits for it: what the stream's owner fails of then is no matter of the recording.
      stop: () => void reader.cancel().catch(() => {}),
    };
  }
  const iterator = pieces[Symbol.asyncIterator]();
  return {
    next: () => iterator.next(),
    stop: () => void iterator.return?.().catch(() => {}),
  };
}

async function listen(
  host: Host,
  { samples, sampleRate: rate, channels = 1 }: LiveAudio,
  signal: AbortSignal,
): Promise<RawAudio> {
  const listening = await Listening.open(host, { rate, channels }, signal);
  const recording = new LiveRecording(listening, rate, channels, signal);
  let reader: ReturnType<typeof readerOf> | undefined;
  let onAbort: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    onAbort = () => reject(new LapidaryError('cancelled', 'cancelled by the caller'));
    signal.addEventListener('abort', onAbort);
  });
  stopped.catch(() => {});
  try {
    throwIfAborted(signal);
    reader = readerOf(samples);
    for (;;) {
      const piece = await Promise.race([reader.next(), stopped]);
      if (piece.done) break;
      await recording.write(piece.value as Float32Array);
    }
    return (await recording.end()).audio;
  } catch (error) {
    reader?.stop();
    await recording.cancel();
    throw error;
  } finally {
    if (onAbort) signal.removeEventListener('abort', onAbort);
  }
}

/** What streams have become: they can be read once, and stand in every later turn. */
const known = new WeakMap<Pieces, Promise<RawAudio>>();

/** All of a live sound; the engine has heard it by then. It is read once, whoever asks. */
export function gather(host: Host, audio: LiveAudio, signal: AbortSignal): Promise<RawAudio> {
  const { samples } = audio;
  let whole = known.get(samples);
  if (!whole) {
    whole = listen(host, audio, signal);
    known.set(samples, whole);
    whole.catch(() => known.delete(samples));
  }
  return whole;
}
