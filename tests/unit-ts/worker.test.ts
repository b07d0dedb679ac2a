// The worker twin over its own protocol, with a model that only pretends at the other end: everything crosses a
// MessageChannel, as to a real worker. tests/package has the engine in a real one.

import { createOpenAI } from 'lapidary/openai';
import { createFakeModel, fakeWorker, type FakeOptions } from 'lapidary/testing';
import {
  BlobSource,
  LapidaryError,
  Model,
  type ByteSource,
  type WorkerLike,
} from 'lapidary/worker';
import { describe, expect, test } from 'vitest';

const question = [{ role: 'user' as const, content: 'Why?' }];

async function pretend(options: FakeOptions = {}) {
  const fake = createFakeModel(options);
  const model = await Model.load('fake', { worker: fakeWorker(fake) });
  return { fake, model };
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'nothing went wrong',
    (error: unknown) =>
      error instanceof LapidaryError ? error.code : `${String(error)} is no LapidaryError`,
  );

describe('a model in a worker', () => {
  test('answers in pieces, with its report and its data', async () => {
    const { fake, model } = await pretend({ replies: ['Because of this.'], info: { name: 'x:y' } });
    expect(model.info).toEqual(fake.info);
    expect(model.device).toEqual(fake.device);
    const events: object[] = [];
    for await (const event of model.chat(question, { temperature: 0 })) events.push(event);
    expect(events.map((event) => ('text' in event ? event.text : ''))).toEqual(
      expect.arrayContaining(['Because', ' of', ' this.']),
    );
    expect(events.at(-1)).toMatchObject({ type: 'done', reason: 'stop' });
    expect(fake.requests).toEqual([
      { type: 'chat', messages: question, options: { temperature: 0 } },
    ]);
    await model.close();
  });

  test('gives promises for what the page has at once', async () => {
    const { fake, model } = await pretend();
    const ids = await model.tokenize('one two');
    expect(ids).toEqual(fake.tokenize('one two'));
    expect(await model.detokenize(ids)).toBe('one two');
    expect((await model.render(question)).text).toContain('Why?');
    expect(await model.counters).toEqual(fake.counters);
    const logits = await model.logits(ids);
    expect(logits).toBeInstanceOf(Float32Array);
    expect(logits.length).toBe(model.info.vocab);
    await model.close();
  });

  test('records: pieces go over, the part comes back', async () => {
    const { fake, model } = await pretend({ replies: ['I hear.'] });
    const recording = await model.record({ sampleRate: 8000 });
    const samples = Float32Array.from({ length: 100 }, (_, i) => i / 100);
    const heard = [samples.subarray(0, 30), samples.subarray(30)].map((piece) =>
      recording.write(piece),
    );
    expect((await Promise.all(heard)).at(-1)).toEqual({ tokens: 0, seconds: 0.0125 });
    const part = await recording.end();
    expect(part).toEqual({ type: 'audio', audio: { samples, sampleRate: 8000, channels: 1 } });
    expect(await recording.end()).toBe(part);
    await recording.cancel();
    expect(await codeOf(recording.write(samples))).toBe('invalid_argument');
    expect(await model.chat([{ role: 'user', content: [part] }]).text()).toBe('I hear.');
    expect(fake.requests[0]).toMatchObject({ messages: [{ content: [part] }] });

    const controller = new AbortController();
    const given = await model.record({ signal: controller.signal });
    await given.write(samples);
    controller.abort();
    expect(await codeOf(given.end())).toBe('cancelled');
    expect(await codeOf(model.record({ signal: controller.signal }))).toBe('cancelled');
    const left = await model.record();
    await model.close();
    expect(await codeOf(left.end())).not.toBe('nothing went wrong');
  });

  test('takes live samples as a stream, and as what can be iterated', async () => {
    const { fake, model } = await pretend({ replies: ['One.', 'Two.'] });
    const pieces = [Float32Array.of(0.5), Float32Array.of(0.25, 0.125)];
    const iterable = {
      async *[Symbol.asyncIterator]() {
        for (const piece of pieces) yield await Promise.resolve(piece);
      },
    };
    for (const samples of [new Blob([]).stream(), iterable]) {
      const audio = { samples: samples as unknown as typeof iterable, sampleRate: 8000 };
      await model.chat([{ role: 'user', content: [{ type: 'audio', audio }] }]).text();
      const { messages } = fake.requests.at(-1) as { messages: { content: unknown }[] };
      expect(messages[0]!.content).toMatchObject([
        { type: 'audio', audio: { samples: expect.any(ReadableStream) as unknown } },
      ]);
    }
    await model.close();
  });

  test('asked at once, answers one after another', async () => {
    const { model } = await pretend({ replies: ['first one', 'second one'], delay: 5 });
    const replies = [model.chat(question), model.generate('go on')];
    expect(await Promise.all(replies.map((reply) => reply.text()))).toEqual([
      'first one',
      'second one',
    ]);
    await model.close();
  });

  test('passes more events than may be under way at once', async () => {
    const words = Array.from({ length: 1000 }, (_, i) => `w${i}`).join(' ');
    const { model } = await pretend({ replies: [words] });
    expect(await model.chat(question).text()).toBe(words);
    await model.close();
  });

  test('stops when the loop is left, and when the signal says', async () => {
    const long = 'word '.repeat(1000);
    const { model } = await pretend({ replies: [long, long, 'short'], delay: 2 });
    const left = model.chat(question);
    let seen = 0;
    for await (const event of left) if (event.type === 'text' && ++seen === 3) break;
    const { reason, usage } = await left.report();
    expect(reason).toBe('cancelled');
    expect(usage.completionTokens).toBeLessThan(500);

    const stop = new AbortController();
    const stopped = model.chat(question, { signal: stop.signal });
    for await (const event of stopped) if (event.type === 'text') stop.abort();
    expect((await stopped.report()).reason).toBe('cancelled');

    const never = model.chat(question, { signal: AbortSignal.abort() });
    expect((await never.report()).reason).toBe('cancelled');
    expect(await model.chat(question).text()).toBe('short');
    await model.close();
  });

  test('keeps the class and the code of errors', async () => {
    const cause = new RangeError('too much');
    const { model } = await pretend({
      replies: [
        { error: new LapidaryError('device_lost', 'it went away', { cause }) },
        () => {
          throw new TypeError('odd');
        },
      ],
    });
    const error = await model
      .chat(question)
      .text()
      .catch((reason: unknown) => reason as Error);
    expect(error).toBeInstanceOf(LapidaryError);
    expect(error).toMatchObject({ code: 'device_lost', message: 'it went away' });
    expect((error as Error).cause).toBeInstanceOf(RangeError);
    await expect(model.chat(question).text()).rejects.toThrow(TypeError);
    expect(await codeOf(model.removeAdapter(7))).toBe('not_found');
    const aborted = { signal: AbortSignal.abort() };
    expect(await codeOf(model.prefill([], aborted))).toBe('cancelled');
    await model.close();
  });

  test('refuses what cannot cross, and goes on', async () => {
    const { model } = await pretend({ replies: ['fine'] });
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    const tools = [{ type: 'function' as const, function: { name: 'f', parameters: cyclic } }];
    expect(await codeOf(model.render(question, { tools }))).toBe('invalid_argument');
    const weak = new WeakMap() as unknown as string;
    expect(await codeOf(model.tokenize(weak))).toBe('invalid_argument');
    expect(await codeOf(Model.load('x', { gpu: {} } as object))).toBe('invalid_argument');
    class Cache {
      open() {}
    }
    const load = Model.load('x', {
      worker: fakeWorker(createFakeModel()),
      cache: new Cache(),
    } as object);
    await expect(load).rejects.toThrow(/^cache \(Cache\) is an object that cannot go/);
    expect(await model.chat(question).text()).toBe('fine');
    await model.close();
  });

  test('closed, ends what runs and answers nothing more', async () => {
    const { model } = await pretend({ replies: ['word '.repeat(1000)], delay: 2 });
    const running = model.chat(question);
    for await (const event of running) if (event.type === 'text') void model.close();
    expect((await running.report()).reason).toBe('cancelled');
    await model.close();
    expect(await codeOf(model.tokenize('x'))).toBe('invalid_argument');
    expect(await codeOf(model.chat(question).text())).toBe('invalid_argument');
  });

  test('has adapters and fine-tuning', async () => {
    const { model } = await pretend();
    const { id, name } = await model.loadAdapter('mine.gguf', { scale: 0.5 });
    expect(name).toBe('mine.gguf');
    await model.setAdapters([{ id, scale: 2 }]);
    expect((await model.adapters).map(({ scale }) => scale)).toEqual([2]);

    const run = model.finetune(new Blob(['{}']), { steps: 3 });
    const losses: number[] = [];
    for await (const event of run) if (event.type === 'step') losses.push(event.loss);
    expect(losses).toEqual([1, 1 / 2, 1 / 3]);
    expect((await run.report()).adapter.model).toBeInstanceOf(Uint8Array);
    await model.close();
  });

  test('runs what it is given in the page: profile', async () => {
    const { model } = await pretend({ replies: ['timed'] });
    let text = '';
    await model.profile(async () => {
      text = await model.chat(question).text();
    });
    expect(text).toBe('timed');
    await model.close();
  });
});

describe('loading', () => {
  test('hands over sources, callbacks and options', async () => {
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);
    const reads: [number, number][] = [];
    let closed = 0;
    const source: ByteSource = {
      name: 'mine',
      size: bytes.length,
      read: (offset, length) => {
        reads.push([offset, length]);
        // All of its memory: were it transferred, the second read would find nothing.
        return Promise.resolve(
          length === bytes.length ? bytes : bytes.slice(offset, offset + length),
        );
      },
      close: () => Promise.resolve(void closed++),
    };
    const progress: unknown[] = [];
    const fake = createFakeModel();
    const seen: Uint8Array[] = [];
    let given: Record<string, unknown> = {};
    const worker = fakeWorker(fake, {
      load: async (where, options) => {
        const far = where as ByteSource;
        given = options;
        seen.push(await far.read(0, 100), await far.read(0, 100), await far.read(5, 2));
        options.onProgress?.({ phase: 'header', loaded: 1, total: 2 });
        await far.close?.();
        return fake;
      },
    });
    const headers = { authorization: 'Bearer x' };
    const wasm = new URL('http://localhost/engine.wasm');
    const onProgress = (each: unknown) => progress.push(each);
    const model = await Model.load(source, { worker, onProgress, headers, wasm });
    expect(seen.map((each) => [...each])).toEqual([[...bytes], [...bytes], [5, 6]]);
    expect(reads).toEqual([
      [0, 100],
      [0, 100],
      [5, 2],
    ]);
    expect(closed).toBe(1);
    expect(progress).toEqual([{ phase: 'header', loaded: 1, total: 2 }]);
    expect(given).toMatchObject({ headers, wasm });
    expect(given.wasm).toBeInstanceOf(URL);
    await model.close();
  });

  test('hands over blobs, and a source that tells lies is caught', async () => {
    const blob = new Blob(['hello']);
    const liar: ByteSource = {
      name: 'liar',
      size: 9,
      read: () => Promise.resolve(new Uint8Array(3)),
    };
    const fake = createFakeModel();
    const kinds: string[] = [];
    const load = async (where: unknown) => {
      if (where instanceof Blob) kinds.push(await where.text());
      else if (where instanceof BlobSource) {
        kinds.push(new TextDecoder().decode(await where.read(0, 5)));
      } else kinds.push(await codeOf((where as ByteSource).read(0, 9)));
      return fake;
    };
    for (const where of [blob, new BlobSource(blob), liar]) {
      await Model.load(where, { worker: fakeWorker(fake, { load }) });
    }
    expect(kinds).toEqual(['hello', 'hello', 'truncated']);
    await fake.close();
  });

  test('reads a stream as it is asked for, and lets it go', async () => {
    let pulled = 0;
    let cancelled: unknown;
    const endless = new ReadableStream<Uint8Array>(
      {
        pull: (controller) => controller.enqueue(Uint8Array.of(pulled++)),
        cancel: () => void (cancelled = 'yes'),
      },
      { highWaterMark: 0 },
    );
    const short = new Blob(['abc']).stream();
    const fake = createFakeModel();
    const seen: unknown[] = [];
    const load = async (where: unknown) => {
      const reader = (where as ReadableStream<Uint8Array>).getReader();
      for (let i = 0; i < 3; i++) {
        const { done, value } = await reader.read();
        seen.push(done ? 'end' : [...value]);
        if (done) return fake;
      }
      await reader.cancel();
      return fake;
    };
    for (const where of [endless, short]) {
      await Model.load(where as unknown as Blob, { worker: fakeWorker(fake, { load }) });
    }
    expect(seen).toEqual([[0], [1], [2], [97, 98, 99], 'end']);
    expect(pulled).toBe(3);
    expect(cancelled).toBe('yes');
    await fake.close();
  });

  test('fails as the worker says, and ends when it is aborted', async () => {
    const fake = createFakeModel();
    const failing = fakeWorker(fake, {
      load: () => {
        throw new LapidaryError('not_found', 'nothing there');
      },
    });
    expect(await codeOf(Model.load('x', { worker: failing }))).toBe('not_found');
    const waiting = fakeWorker(fake, {
      load: (_, { signal }) =>
        new Promise((_resolve, reject) =>
          signal?.addEventListener('abort', () =>
            reject(new LapidaryError('cancelled', 'as you wish')),
          ),
        ),
    });
    const stop = new AbortController();
    const loading = Model.load('x', { worker: waiting, signal: stop.signal });
    setTimeout(() => stop.abort(), 20);
    expect(await codeOf(loading)).toBe('cancelled');
    expect(await codeOf(Model.load('x', { worker: waiting, signal: AbortSignal.abort() }))).toBe(
      'cancelled',
    );
  });

  test('a worker that does not answer can be given up, one that fails is told', async () => {
    const listeners: ((event: Event) => void)[] = [];
    const silent: WorkerLike = {
      postMessage: () => {},
      addEventListener: (type, listener) => void (type === 'error' && listeners.push(listener)),
    };
    const stop = new AbortController();
    const loading = Model.load('x', { worker: silent, signal: stop.signal });
    setTimeout(() => stop.abort(), 10);
    expect(await codeOf(loading)).toBe('cancelled');
    const failing = Model.load('x', { worker: silent });
    for (const listener of listeners) listener(new Event('error'));
    expect(await codeOf(failing)).toBe('io_error');
    expect(await codeOf(Model.load('x'))).toBe('unsupported');
  });
});

test("OpenAI's shape stands on a model in a worker, log probabilities included", async () => {
  const { model } = await pretend({ replies: ['It is so.', 'It is so.'] });
  const openai = createOpenAI(model);
  const whole = await openai.chat.completions.create({ messages: question, logprobs: true });
  expect(whole.choices[0]?.message.content).toBe('It is so.');
  expect(whole.choices[0]?.logprobs?.content?.map(({ token }) => token).join('')).toBe('It is so.');
  let text = '';
  const chunks = await openai.chat.completions.create({ messages: question, stream: true });
  for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? '';
  expect(text).toBe('It is so.');
  await model.close();
});
