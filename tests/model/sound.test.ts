// Sound in conversations: samples and WAV files to the model's own words, against an independent float64 reference of the
// tower in the place of tokens; windows of a long recording; and recordings that are none.

import { Model, type AudioInput, type Message } from 'lapidary/node';
import { createOpenAI } from 'lapidary/openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { argmax, maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, memorySource, readFloats } from '../support/fixtures.ts';
import { writeGguf } from '../support/gguf.ts';
import { rawMedia } from '../support/raw-media.ts';
import { bothTowers, HIDDEN, seeingText, textWith } from '../support/seeing.ts';
import { softLogprobs } from '../support/soft.ts';

const RATE = 16_000;
const TOKENS = 17; // of the recording below

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

/** The recording of tests/fixtures/audio. */
function recording(samples = 11_000): Float32Array<ArrayBuffer> {
  const wave = (hertz: number, t: number) => Math.sin(2 * Math.PI * hertz * t);
  return Float32Array.from({ length: samples }, (_, i) => {
    const t = i / RATE;
    return 0.4 * wave(440, t) + 0.2 * wave(1800, t * (1 + 0.3 * t)) + 0.05 * wave(5200, t);
  });
}

/** A WAV file of floats. */
function wav(samples: Float32Array, rate = RATE): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(44 + samples.byteLength);
  const view = new DataView(bytes.buffer);
  const text = (at: number, word: string) => bytes.set(new TextEncoder().encode(word), at);
  text(0, 'RIFF');
  view.setUint32(4, bytes.length - 8, true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 3, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 4, true);
  view.setUint16(32, 4, true);
  view.setUint16(34, 32, true);
  text(36, 'data');
  view.setUint32(40, samples.byteLength, true);
  bytes.set(new Uint8Array(samples.buffer), 44);
  return bytes;
}

let model: Model;
beforeAll(async () => {
  model = await loadBytes('tiny-e.gguf', textWith('audio'), {
    projector: memorySource('towers.gguf', bothTowers()),
    kvType: 'f32',
    contextLength: 4096,
  });
}, 300_000);
afterAll(() => model?.close());

const asking = (audio: AudioInput): Message[] => [
  {
    role: 'user',
    content: [
      { type: 'audio', audio },
      { type: 'text', text: 'hello' },
    ],
  },
];

async function answer(messages: Message[], on = model) {
  const reply = on.chat(messages, { temperature: 0, maxTokens: 2, logprobs: 20 });
  let top: { id: number; logprob: number }[] = [];
  let media = 0;
  for await (const event of reply) {
    if (event.type === 'token' && top.length === 0) top = event.top;
    if (event.type === 'media') media = event.total;
  }
  const { usage } = await reply.report();
  return { top, usage, media };
}

test('a recording in a message is its soft tokens in the prompt', async () => {
  const messages = asking(recording());
  const { tokens } = model.render(messages);
  // HF's rows of the two references.
  const rows = readFloats('audio/rows.f32').subarray(0, TOKENS * HIDDEN);
  const { ids, logprobs } = await softLogprobs(gpu, textWith('audio'), tokens, TOKENS, true, () =>
    Promise.resolve(rows),
  );
  const prompt = ids.length;
  const found = await answer(messages);
  expect(model.info.modalities).toEqual(['text', 'image', 'audio']);
  expect([found.media, found.usage.promptTokens]).toEqual([1, prompt]);
  const expected = found.top.map(({ id }) => logprobs[id]!);
  const difference = maxAbsDifference(
    found.top.map(({ logprob }) => logprob),
    expected,
  );
  report('log probabilities with sound', difference, 1e-4);
  expect(difference).toBeLessThan(1e-4);
  expect(found.top[0]!.id).toBe(argmax(logprobs));
  const again = await answer(messages);
  expect([again.media, again.usage.cachedTokens]).toEqual([0, prompt - 1]);
  // In every form it is the same.
  const forms: AudioInput[] = [
    wav(recording()),
    new Blob([wav(recording())]),
    { samples: recording(), sampleRate: RATE },
    `data:audio/wav;base64,${Buffer.from(wav(recording())).toString('base64')}`,
  ];
  for (const form of forms) {
    const { top } = await answer(asking(form));
    const values = (tops: typeof top) => tops.map(({ logprob }) => logprob);
    expect(maxAbsDifference(values(top), values(found.top))).toBeLessThan(1e-4);
  }
});

test('another recording is another', async () => {
  const one = await answer(asking(recording()));
  const two = await answer(asking(recording().map((value) => -0.3 * value ** 2)));
  expect(Math.abs(one.top[0]!.logprob - two.top[0]!.logprob)).toBeGreaterThan(1e-4);
});

test('transcribes by windows of 30 s', async () => {
  const long = recording(RATE * 31);
  const heard: number[] = [];
  const { segments, seconds } = await model.transcribe(
    { samples: long, sampleRate: RATE },
    { maxTokens: 2, onSegment: ({ start }) => void heard.push(start) },
  );
  expect(seconds).toBe(31);
  expect(heard).toEqual([0, 30]);
  expect(segments.map(({ end }) => end)).toEqual([30, 31]);
  const { usage } = await answer(asking({ samples: long, sampleRate: RATE }));
  // All windows, 25 tokens a second.
  expect(usage.promptTokens).toBeGreaterThan(31 * 25);
});

describe('a recording that is heard while it is made', () => {
  /** Pieces of odd lengths. */
  function* cut(samples: Float32Array): Generator<Float32Array> {
    const lengths = [1, 160, 4801, 37, 9999, 2048];
    for (let at = 0, i = 0; at < samples.length; i++) {
      const length = lengths[i % lengths.length]!;
      yield samples.subarray(at, (at += length));
    }
  }
  const streamOf = (pieces: Iterable<Float32Array>) => {
    const left = pieces[Symbol.iterator]();
    return new ReadableStream<Float32Array>({
      pull(queue) {
        const next = left.next();
        if (next.done) queue.close();
        else queue.enqueue(next.value);
      },
    });
  };
  const values = (top: { logprob: number }[]) => top.map(({ logprob }) => logprob);

  /** What is written, then asked about, is the same as a file of it, which has a name and rows of its own. */
  async function expectAsWhole(
    samples: Float32Array<ArrayBuffer>,
    rate: number,
    on = model,
    left = 1,
  ) {
    const recording = await on.record({ sampleRate: rate });
    let heard = { tokens: 0, seconds: 0 };
    for (const piece of cut(samples)) heard = await recording.write(piece);
    const seconds = samples.length / rate;
    expect(heard.seconds).toBeCloseTo(seconds, 6);
    expect(heard.tokens).toBeGreaterThan((seconds - left) * 25);
    const part = await recording.end();
    const live = await answer(
      [{ role: 'user', content: [part, { type: 'text', text: 'hello' }] }],
      on,
    );
    expect(live.media).toBe(0);
    // The part is its samples: given as such they are known.
    const raw = await answer(asking({ samples, sampleRate: rate }), on);
    expect([raw.media, raw.usage.cachedTokens]).toEqual([0, raw.usage.promptTokens - 1]);
    const whole = await answer(asking(wav(samples, rate)), on);
    expect(whole.media).toBe(1);
    expect(live.usage.promptTokens).toBe(whole.usage.promptTokens);
    const difference = maxAbsDifference(values(live.top), values(whole.top));
    report(`log probabilities of ${seconds} s at ${rate} Hz, live and whole`, difference, 1e-5);
    expect(difference).toBeLessThan(1e-5);
  }

  test('in odd pieces, over the end of a window', () => expectAsWhole(recording(RATE * 31), RATE));

  test('at 48 kHz', () => {
    const samples = Float32Array.from({ length: 2 * 48_000 + 7 }, (_, i) =>
      Math.fround(0.4 * Math.sin(i / 17) + 0.2 * Math.sin((i * i) / 3e6)),
    );
    return expectAsWhole(samples, 48_000);
  });

  test('by a model without a tower, window by window', async () => {
    const raw = await loadBytes('tiny-e.gguf', textWith('audio'), {
      projector: memorySource('raw.gguf', writeGguf(rawMedia())),
      kvType: 'f32',
      contextLength: 4096,
    });
    try {
      await expectAsWhole(recording(RATE * 31), RATE, raw, 30);
      const begun = await raw.record();
      await begun.write(recording());
      const closed = raw.close();
      await expect(begun.write(recording())).rejects.toMatchObject({ code: 'cancelled' });
      await expect(begun.end()).rejects.toMatchObject({ code: 'cancelled' });
      await closed;
      await expect(raw.record()).rejects.toMatchObject({ code: 'invalid_argument' });
    } finally {
      await raw.close();
    }
  });

  test('as a stream in a message, in this turn and in the next', async () => {
    const samples = recording(20_000);
    const expected = await answer(asking(wav(samples)));
    const streams = [
      () => streamOf(cut(samples)),
      async function* () {
        for (const piece of cut(samples)) yield await Promise.resolve(piece);
      },
    ];
    for (const stream of streams) {
      const messages = asking({ samples: stream(), sampleRate: RATE });
      const first = await answer(messages);
      expect(maxAbsDifference(values(first.top), values(expected.top))).toBeLessThan(1e-4);
      messages.push({ role: 'assistant', content: 'yes' }, { role: 'user', content: 'and?' });
      const second = await answer(messages);
      expect(second.usage.cachedTokens).toBeGreaterThan(30);
    }
    const { segments } = await model.transcribe(
      {
        samples: streamOf(cut(samples)),
        sampleRate: RATE,
      },
      { maxTokens: 1 },
    );
    expect(segments.map(({ end }) => end)).toEqual([1.25]);
  });

  test('frees what it took when it is given up', async () => {
    const samples = recording(RATE * 3).map((value) => -value);
    const take = async () => {
      const taken = await model.record();
      await taken.write(samples);
      return taken;
    };
    // Once for what stays: room for so many tokens, and kernels.
    await (await take()).cancel();
    await model.logits([1]);
    const before = model.counters.bufferBytes;
    const kept = await take();
    expect(model.counters.bufferBytes).toBeGreaterThan(before);
    const waiting = kept.write(samples);
    await kept.cancel();
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' });
    await expect(kept.end()).rejects.toMatchObject({ code: 'cancelled' });
    await model.logits([1]);
    expect(model.counters.bufferBytes).toBe(before);
    const controller = new AbortController();
    const stream = new ReadableStream<Float32Array>(
      { pull: (queue) => queue.enqueue(samples) },
      { highWaterMark: 0 },
    );
    const reply = model.chat(asking({ samples: stream, sampleRate: RATE }), {
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(), 200);
    expect((await reply.report()).reason).toBe('cancelled');
    await model.logits([1]);
    expect(model.counters.bufferBytes).toBe(before);
  });

  test('wrong samples are refused, and what was there stays', async () => {
    const samples = recording(12_345);
    const taken = await model.record({ channels: 2 });
    const refused = { code: 'invalid_argument' };
    const first = taken.write(samples.subarray(0, 12_000));
    await expect(taken.write(new Float32Array(2).fill(NaN))).rejects.toMatchObject(refused);
    await expect(taken.write(new Float32Array(2).fill(Infinity))).rejects.toMatchObject(refused);
    await expect(taken.write(new Float32Array(3))).rejects.toMatchObject(refused);
    await expect(taken.write([1, 2] as unknown as Float32Array)).rejects.toMatchObject(refused);
    expect((await first).seconds).toBe(6000 / RATE);
    const part = await taken.end();
    expect(part).toEqual({
      type: 'audio',
      audio: { samples: samples.slice(0, 12_000), sampleRate: RATE, channels: 2 },
    });
    await expect(taken.write(samples)).rejects.toMatchObject(refused);
    expect(await taken.end()).toBe(part);

    const short = await model.record();
    await short.write(new Float32Array(100));
    await expect(short.end()).rejects.toMatchObject(refused);
    await expect(model.record({ sampleRate: 0 })).rejects.toMatchObject({ code: 'unsupported' });
    await expect(model.record({ sampleRate: NaN })).rejects.toMatchObject(refused);
    await expect(model.record({ channels: 33 })).rejects.toMatchObject({ code: 'unsupported' });
    const stream = streamOf(['no samples' as unknown as Float32Array]);
    await expect(answer(asking({ samples: stream, sampleRate: RATE }))).rejects.toMatchObject(
      refused,
    );
    expect((await answer(asking(recording()))).usage.promptTokens).toBeGreaterThan(TOKENS);
  });
});

test("OpenAI's part", async () => {
  const openai = createOpenAI(model);
  const data = Buffer.from(wav(recording())).toString('base64');
  const { usage } = await openai.chat.completions.create({
    messages: [
      {
        role: 'user',
        content: [
          { type: 'input_audio', input_audio: { data, format: 'wav' } },
          { type: 'text', text: 'hello' },
        ],
      },
    ],
    max_tokens: 1,
  });
  const expected = await answer(asking(recording()));
  expect(usage.prompt_tokens).toBe(expected.usage.promptTokens);
});

test('what is no sound ends in typed errors, and the model goes on', async () => {
  const cut = wav(recording());
  const cases: [string, AudioInput, string][] = [
    ['nothing', new Uint8Array(0), 'truncated'],
    ['text', new TextEncoder().encode('no sound at all, but long enough'), 'invalid_format'],
    ['a truncated header', cut.slice(0, 30), 'truncated'],
    ['no samples', new Float32Array(0), 'invalid_argument'],
    ['a hundredth of a second', recording(100), 'invalid_argument'],
    ['NaN in samples', recording().fill(NaN, 500, 501), 'invalid_argument'],
    ['NaN in a file', wav(recording().fill(NaN, 500, 501)), 'invalid_format'],
    ['no rate', { samples: recording(), sampleRate: 0 }, 'unsupported'],
    ['a rate that is none', { samples: recording(), sampleRate: NaN }, 'invalid_argument'],
    [
      'half a channel',
      { samples: recording(), sampleRate: RATE, channels: 0.5 },
      'invalid_argument',
    ],
    ['an MP3 file', new TextEncoder().encode('ID3 and so on'), 'unsupported'],
    ['an M4A file', new Blob(['\0\0\0\x20ftypM4A and so on']), 'unsupported'],
    ['an MPEG frame', Uint8Array.of(0xff, 0xfb, 0x90, 0x64, 0), 'unsupported'],
    ['a number', 7 as unknown as AudioInput, 'invalid_argument'],
  ];
  for (const [what, audio, code] of cases) {
    const error: unknown = await answer(asking(audio)).catch((thrown: unknown) => thrown);
    expect(error, what).toMatchObject({ code });
  }
  // 8 channels at 192 kHz, and a file that ends early, are right answers.
  const wide = new Float32Array(8 * 192_000).fill(0.1);
  const { usage } = await answer(asking({ samples: wide, sampleRate: 192_000, channels: 8 }));
  expect(usage.promptTokens).toBeGreaterThan(25);
  expect((await answer(asking(cut.slice(0, 20_000)))).usage.promptTokens).toBeGreaterThan(7);
});

test('a model that hears nothing says so', async () => {
  const deaf = await loadBytes('tiny-e.gguf', seeingText());
  try {
    await expect(answer(asking(recording()), deaf)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('no sound') as string,
    });
    await expect(deaf.record()).rejects.toMatchObject({ code: 'unsupported' });
  } finally {
    await deaf.close();
  }
});
