// A recording in words: the model is asked for those of each window.

import { throwIfAborted } from '../source/source.js';
import type {
  AudioInput,
  ChatOptions,
  LiveAudio,
  Message,
  RawAudio,
  TranscribeOptions,
  Transcript,
  TranscriptSegment,
} from '../types.js';
import { isLive } from './live.js';
import { openSound, type Sound } from './sound.js';

/** Of sound that is encoded at once. */
const WINDOW_SECONDS = 30;
const PROMPT =
  'Write down what is said here, word for word, in the language that it is said in. Write nothing else.';

/** What transcribing takes of a model. */
interface Listener {
  chat(messages: Message[], options: ChatOptions): { text(): Promise<string> };
  /** All of a live sound. */
  hear(audio: LiveAudio): Promise<RawAudio>;
  /** Has the engine hold the recording until `done`. */
  hold(sound: Sound): Promise<{ windows: number; seconds: number; done(): void }>;
}

export async function transcribe(
  model: Listener,
  audio: AudioInput,
  { prompt = PROMPT, onSegment, signal, ...options }: TranscribeOptions,
): Promise<Transcript> {
  const whole = isLive(audio) ? await model.hear(audio) : audio;
  const sound = await openSound(whole, signal ?? new AbortController().signal);
  const held = await model.hold(sound);
  try {
    const segments: TranscriptSegment[] = [];
    for (let window = 0; window < held.windows; window++) {
      const content = [
        // Within the package a recording that is open stands where callers have its input.
        { type: 'audio' as const, audio: sound as unknown as AudioInput, window },
        { type: 'text' as const, text: prompt },
      ];
      const reply = model.chat([{ role: 'user', content }], {
        temperature: 0,
        ...options,
        ...(signal && { signal }),
      });
      const text = (await reply.text()).trim();
      throwIfAborted(signal);
      const start = window * WINDOW_SECONDS;
      const segment = { start, end: Math.min(start + WINDOW_SECONDS, held.seconds), text };
      segments.push(segment);
      onSegment?.(segment);
    }
    return { segments, seconds: held.seconds };
  } finally {
    held.done();
  }
}
