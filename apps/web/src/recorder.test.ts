// Recording without a microphone: how it ends, and what the model is given.

import type { AudioPart } from 'lapidary';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { openMicrophone } from './microphone.js';
import { clock, loudness, record, type Listener } from './recorder.js';

vi.mock('./microphone.js', () => ({ openMicrophone: vi.fn() }));

/** As much of an element as the recorder touches. */
class FakeElement extends EventTarget {
  textContent = '';
  hidden = true;
  value = 0;
  children: FakeElement[] = [];
  replaceChildren(...children: FakeElement[]) {
    this.children = children;
  }
  setAttribute() {}
  focus() {}
  click() {
    this.dispatchEvent(new Event('click'));
  }
}
const document = Object.assign(new EventTarget(), { createElement: () => new FakeElement() });
let panel: FakeElement;
beforeEach(() => {
  vi.stubGlobal('document', document);
  panel = new FakeElement();
});
afterEach(() => {
  vi.unstubAllGlobals();
  vi.mocked(openMicrophone).mockReset();
});

const PART: AudioPart = { type: 'audio', audio: new Float32Array(0) };
const listener = () => {
  const lengths: number[] = [];
  return {
    lengths,
    begin: vi.fn(),
    hear: (samples: Float32Array) => void lengths.push(samples.length),
    end: vi.fn(() => Promise.resolve(PART)),
    cancel: vi.fn(),
    onFailure: undefined,
  } satisfies Listener & { lengths: number[] };
};

/** A recording at 1,000 Hz of at most 2 s that has begun; `early` samples come before the microphone is open. */
async function begin(heard: Listener, early = 0) {
  const close = vi.fn(() => Promise.resolve());
  let hear = (_samples: Float32Array<ArrayBuffer>) => {};
  let lost = () => {};
  vi.mocked(openMicrophone).mockImplementation((onSamples, onLost) => {
    hear = onSamples;
    lost = onLost;
    if (early > 0) hear(new Float32Array(early));
    return Promise.resolve({ rate: 1000, close });
  });
  let done: Promise<unknown> = Promise.resolve();
  await new Promise<void>((resolve) => {
    done = record(panel as unknown as HTMLElement, heard, 2, resolve);
  });
  const button = (text: string) => panel.children.find((each) => each.textContent === text)!;
  return {
    hear: (n: number) => hear(new Float32Array(n)),
    lost: () => lost(),
    close,
    done,
    button,
  };
}

test('all that was said goes to the model, and nothing beyond the limit', async () => {
  const heard = listener();
  const { hear, done, close } = await begin(heard, 100);
  expect(panel.hidden).toBe(false);
  hear(900);
  expect(panel.children[1]!.textContent).toBe('0:01 of 0:02');
  hear(1500);
  hear(100);
  expect(await done).toEqual({ part: PART, seconds: 2 });
  expect(heard.begin).toHaveBeenCalledWith(1000);
  expect(heard.lengths).toEqual([100, 900, 1000]);
  expect(close).toHaveBeenCalledOnce();
  expect(panel).toMatchObject({ hidden: true, children: [] });
});

test('the button, and a microphone that goes away, keep what there is', async () => {
  for (const how of ['Stop recording', 'lost'] as const) {
    const heard = listener();
    const { hear, done, lost, button } = await begin(heard);
    hear(500);
    if (how === 'lost') lost();
    else button(how).click();
    expect(await done).toEqual({ part: PART, seconds: 0.5 });
  }
});

test('Escape and the other button give it up, and so does silence of the device', async () => {
  for (const how of ['Escape', 'Discard', 'Stop recording']) {
    const heard = listener();
    const { hear, done, button, close } = await begin(heard);
    if (how !== 'Stop recording') hear(500);
    if (how === 'Escape') document.dispatchEvent(Object.assign(new Event('keydown'), { key: how }));
    else button(how).click();
    expect(await done).toBeUndefined();
    expect(heard.cancel).toHaveBeenCalledOnce();
    expect(heard.end).not.toHaveBeenCalled();
    expect(close).toHaveBeenCalledOnce();
  }
});

test('what fails is told, and the microphone is let go', async () => {
  const heard: Listener = { ...listener(), end: () => Promise.reject(new Error('no room')) };
  const { hear, done, close } = await begin(heard);
  hear(10);
  heard.onFailure?.();
  await expect(done).rejects.toThrow('no room');
  expect(close).toHaveBeenCalledOnce();
  expect(panel.hidden).toBe(true);
  vi.mocked(openMicrophone).mockRejectedValue(new Error('There is no microphone here.'));
  const refused = record(panel as unknown as HTMLElement, listener(), 2, () => {});
  await expect(refused).rejects.toThrow('no microphone');
  expect(panel.hidden).toBe(true);
});

test('times and levels', () => {
  expect([0, 9.99, 60, 2400].map(clock)).toEqual(['0:00', '0:09', '1:00', '40:00']);
  expect(loudness(new Float32Array(0))).toBe(0);
  expect(loudness(new Float32Array(8).fill(1))).toBe(1);
  expect(loudness(new Float32Array(8).fill(0.001))).toBeCloseTo(0, 5);
  expect(loudness(new Float32Array(8).fill(Math.sqrt(0.001)))).toBeCloseTo(0.5, 5);
});
