// The page's camera and microphone where there is none: what the visitor reads; and a recording's way to the worker.

import { afterEach, expect, test, vi } from 'vitest';
import { closeDevice, openDevice } from './devices.js';
import { Listening } from './listening.js';

afterEach(() => vi.unstubAllGlobals());

function pretend(getUserMedia: unknown, secure = true) {
  vi.stubGlobal('isSecureContext', secure);
  vi.stubGlobal('navigator', { mediaDevices: getUserMedia && { getUserMedia } });
}
const failing = (name: string) => () => Promise.reject(new DOMException('technical', name));

test.each([
  ['NotAllowedError', /may not use the camera: allow it/],
  ['SecurityError', /may not use the camera: allow it/],
  ['NotFoundError', /no camera here/],
  ['OverconstrainedError', /no camera here/],
  ['NotReadableError', /another program/],
  ['TypeError', /does not start \(TypeError\)/],
])('%s is said in words', async (name, words) => {
  pretend(failing(name));
  await expect(openDevice('camera', {})).rejects.toThrow(words);
});

test('pages that are not secure, and browsers without devices, are told apart', async () => {
  pretend(undefined, false);
  await expect(openDevice('microphone', {})).rejects.toThrow(/only over https/);
  pretend(undefined);
  await expect(openDevice('microphone', {})).rejects.toThrow(/gives pages no microphone/);
});

test('a device is asked for as what it is, and let go', async () => {
  const stop = vi.fn();
  const stream = { getTracks: () => [{ stop }, { stop }] };
  const getUserMedia = vi.fn(() => Promise.resolve(stream));
  pretend(getUserMedia);
  expect(await openDevice('camera', { facingMode: 'user' })).toBe(stream);
  await openDevice('microphone', { channelCount: 1 });
  expect(getUserMedia.mock.calls).toEqual([
    [{ video: { facingMode: 'user' } }],
    [{ audio: { channelCount: 1 } }],
  ]);
  closeDevice(stream as unknown as MediaStream);
  expect(stop).toHaveBeenCalledTimes(2);
});

test('samples go to the worker, whose errors end the recording', async () => {
  const tell = vi.fn();
  const listening = new Listening(tell);
  const samples = new Float32Array(4);
  listening.begin(48_000);
  listening.hear(samples);
  const part = { type: 'audio' as const, audio: samples };
  const ended = listening.end();
  listening.done({ type: 'recorded', part });
  expect(await ended).toBe(part);
  expect(tell.mock.calls).toEqual([
    [{ type: 'record', rate: 48_000 }],
    [{ type: 'samples', samples }, [samples.buffer]],
    [{ type: 'recorded' }],
  ]);
  listening.onFailure = vi.fn();
  listening.begin(48_000);
  listening.fail('no room');
  expect(listening.onFailure).toHaveBeenCalledOnce();
  await expect(listening.end()).rejects.toThrow('no room');
  // The next one is another.
  listening.begin(48_000);
  const other = listening.end();
  listening.fail('late');
  await expect(other).rejects.toThrow('late');
});
