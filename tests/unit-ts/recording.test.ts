// Recordings without an engine: what is kept of them, and how they end.

import { expect, test } from 'vitest';
import { LiveRecording, type Listening } from '../../packages/lapidary/src/media/recording.ts';
import { LapidaryError } from '../../packages/lapidary/src/errors.ts';

const never = new AbortController().signal;

/** An engine that answers `write` and `end` so. */
const engine = (answers: { write?: () => Promise<unknown>; end?: () => Promise<unknown> }) => {
  const calls: string[] = [];
  const listening = {
    write: (samples: Float32Array) => {
      calls.push(`write ${samples.length}`);
      return answers.write?.() ?? Promise.resolve({ tokens: 3, seconds: 0 });
    },
    end: (key: string) => {
      calls.push(`end ${key}`);
      return answers.end?.() ?? Promise.resolve();
    },
    close: () => void calls.push('close'),
  };
  return { calls, listening: listening as unknown as Listening };
};

test('what the engine lags behind with it hears together', async () => {
  const { calls, listening } = engine({});
  const recording = new LiveRecording(listening, 8000, 1, never);
  const samples = new Float32Array(10).fill(0.5);
  const all = Promise.all([1, 2, 3].map((n) => recording.write(samples.subarray(0, n))));
  // It was copied.
  samples.fill(1);
  expect(await all).toEqual(Array(3).fill({ tokens: 3, seconds: 6 / 8000 }));
  const { audio } = await recording.end();
  expect(audio.samples).toEqual(new Float32Array(6).fill(0.5));
  expect(calls).toEqual([
    'write 6',
    expect.stringMatching(/^end [0-9a-f]{64}:f32:8000:1$/),
    'close',
  ]);
});

test('is bounded, and can be ended then', async () => {
  const recording = new LiveRecording(undefined, 8000, 1, never, 1 << 20);
  const half = new Float32Array(1 << 17);
  await recording.write(half);
  await recording.write(half);
  await expect(recording.write(new Float32Array(1))).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringContaining('1 MiB') as string,
  });
  expect((await recording.end()).audio.samples.length).toBe(1 << 18);
});

test('an error of the engine ends it, a lost GPU does not', async () => {
  const fail = (code: 'out_of_memory' | 'device_lost') => () =>
    Promise.reject(new LapidaryError(code, 'as told'));
  const full = engine({ write: fail('out_of_memory') });
  const broken = new LiveRecording(full.listening, 8000, 1, never);
  for (const asked of [() => broken.write(new Float32Array(9)), () => broken.end()]) {
    await expect(asked()).rejects.toMatchObject({ code: 'out_of_memory' });
  }
  expect(full.calls).toEqual(['write 9', 'close']);

  const lost = engine({ write: fail('device_lost') });
  const kept = new LiveRecording(lost.listening, 8000, 1, never);
  await kept.write(new Float32Array(9));
  await kept.write(new Float32Array(1));
  expect((await kept.end()).audio.samples.length).toBe(10);
  expect(lost.calls).toEqual(['write 9', 'close']);
});

test('ends with its model', async () => {
  const { calls, listening } = engine({});
  const closing = new AbortController();
  const recording = new LiveRecording(listening, 8000, 1, closing.signal);
  await recording.write(new Float32Array(9));
  closing.abort();
  await expect(recording.write(new Float32Array(9))).rejects.toMatchObject({ code: 'cancelled' });
  await expect(recording.end()).rejects.toMatchObject({ code: 'cancelled' });
  expect(calls).toEqual(['write 9', 'close']);
});
