// Recording with the microphone: what the visitor sees of it, and its samples on their way to the model. Loaded when it is
// first used.

import type { AudioPart } from 'lapidary';
import { openMicrophone, type Microphone } from './microphone.js';

/** Who hears the samples while they come. */
export interface Listener {
  begin(rate: number): void;
  hear(samples: Float32Array<ArrayBuffer>): void;
  /** The part of a message that they have become. */
  end(): Promise<AudioPart>;
  cancel(): void;
  /** Called where it fails before its end, which then says why. */
  onFailure: (() => void) | undefined;
}

export const clock = (seconds: number): string =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, '0')}`;

/** How loud samples are, 0 to 1: of 60 dB. */
export function loudness(samples: Float32Array): number {
  let sum = 0;
  for (const value of samples) sum += value * value;
  const decibels = 10 * Math.log10(sum / Math.max(samples.length, 1));
  return Math.min(1, Math.max(0, 1 + decibels / 60));
}

function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  text: string,
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
function button(text: string): HTMLButtonElement {
  const made = make('button', text);
  made.type = 'button';
  return made;
}

/**
 * Records until the visitor ends it, `most` seconds have come or the microphone goes away, and gives the part of a message;
 * nothing where it is given up. `panel` shows it from when the microphone is open, of which `begun` is told.
 */
export async function record(
  panel: HTMLElement,
  listener: Listener,
  most: number,
  begun: () => void,
): Promise<{ part: AudioPart; seconds: number } | undefined> {
  const time = make('span', clock(0));
  time.setAttribute('role', 'timer');
  const level = document.createElement('meter');
  level.setAttribute('aria-label', 'Level');
  const stop = button('Stop recording');
  const discard = button('Discard');
  panel.replaceChildren(make('span', 'Recording'), time, level, stop, discard);

  let given = 0;
  let microphone: Microphone | undefined;
  // Pieces that come before the rate is known.
  const early: Float32Array<ArrayBuffer>[] = [];
  let end = (_keep: boolean) => {};
  const ended = new Promise<boolean>((resolve) => (end = resolve));
  const hear = (samples: Float32Array<ArrayBuffer>) => {
    if (!microphone) {
      early.push(samples);
      return;
    }
    const room = Math.floor(most * microphone.rate) - given;
    if (room <= 0) return;
    const taken = samples.length > room ? samples.slice(0, room) : samples;
    given += taken.length;
    level.value = loudness(taken);
    const seconds = given / microphone.rate;
    time.textContent = `${clock(seconds)} of ${clock(most)}`;
    listener.hear(taken);
    if (taken.length === room) end(true);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === 'Escape') end(false);
  };
  stop.addEventListener('click', () => end(true));
  discard.addEventListener('click', () => end(false));
  document.addEventListener('keydown', onKey);
  listener.onFailure = () => end(true);
  try {
    const opened = await openMicrophone(hear, () => end(true));
    listener.begin(opened.rate);
    microphone = opened;
    for (const samples of early) hear(samples);
    panel.hidden = false;
    begun();
    stop.focus();
    const keep = await ended;
    await opened.close();
    if (!keep || given === 0) {
      listener.cancel();
      return undefined;
    }
    return { part: await listener.end(), seconds: given / opened.rate };
  } finally {
    listener.onFailure = undefined;
    document.removeEventListener('keydown', onKey);
    panel.hidden = true;
    panel.replaceChildren();
  }
}
