// The GPU is lost in the middle of work: a typed error, or, with `recover`, the model comes back and goes on. The device
// that a test destroys is the one that the model runs on.

import {
  Model,
  findGpu,
  type ChatOptions,
  type LoadOptions,
  type Message,
  type ReplyEvent,
} from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { models, nanoF16, promptNamed } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { WEATHER } from '../support/weather.ts';
import { wrappedGpu } from '../support/wrapped-gpu.ts';

const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];
const story = promptNamed('story').ids;
const lost = { code: 'device_lost' };

const devices: GPUDevice[] = [];
const last = () => devices.at(-1)!;
/** Destroys the device in use, and waits until that shows. */
async function lose(): Promise<void> {
  const device = last();
  device.destroy();
  await device.lost;
}

let gpu: GPU;
let model: Model;
const load = (options: LoadOptions) => Model.load('nano', { stores: [models], gpu, ...options });
beforeAll(async () => {
  gpu = await wrappedGpu(async (_, descriptor) => {
    // An adapter gives one device only.
    const adapter = await (await findGpu())!.requestAdapter();
    const device = await adapter!.requestDevice(descriptor);
    devices.push(device);
    return device;
  });
  model = await load({ recover: true });
}, 600_000);
afterAll(() => model?.close());

/** All events of a reply, the device being lost when so many of `type` have come. */
async function eventsOf(
  asked: Message[] | number[],
  options: ChatOptions,
  type?: ReplyEvent['type'],
  counts: number[] = [],
): Promise<ReplyEvent[]> {
  const reply =
    typeof asked[0] === 'number'
      ? model.generate(asked as number[], options)
      : model.chat(asked as Message[], options);
  const events: ReplyEvent[] = [];
  let seen = 0;
  for await (const event of reply) {
    events.push(event);
    if (event.type === type && counts.includes(++seen)) last().destroy();
  }
  return events;
}
/** What was said, without what depends on the time. */
const said = (events: ReplyEvent[]) =>
  events
    .filter(({ type }) => type !== 'prefill')
    .map((event) => {
      if (event.type !== 'done') return event;
      const { reason, tokens, seed, usage, stop } = event;
      const { promptTokens, completionTokens } = usage;
      return { reason, tokens, seed, stop, promptTokens, completionTokens };
    });

describe('with recover a reply goes on after its last token', () => {
  const never = { 1: -100, 106: -100, 50: -100 };
  const about = (content: string): Message[] => [{ role: 'user', content }];
  const told = { logitBias: never, maxTokens: 40 };
  const cases: {
    name: string;
    asked: Message[] | number[];
    options: ChatOptions;
    /** Lost when so many events of this type have come. */
    type: ReplyEvent['type'];
    counts: number[];
  }[] = [
    { name: 'at its prompt', asked: question, options: {}, type: 'prefill', counts: [1] },
    { name: 'twice', asked: story, options: told, type: 'text', counts: [5, 20] },
    {
      name: 'drawn, with penalties and a stop text',
      asked: story,
      options: { ...told, temperature: 1, seed: 11, repeatPenalty: 1.2, stop: ['. The'] },
      type: 'text',
      counts: [3],
    },
    {
      name: 'before it calls a tool, with log probabilities',
      asked: about('What is the weather in Paris?'),
      options: { tools: [WEATHER], logprobs: 1 },
      type: 'token',
      counts: [4],
    },
  ];
  test.each(cases)('$name', async ({ asked, options: more, type, counts }) => {
    const options = { temperature: 0, seed: 7, ...more };
    await model.truncate(0);
    const whole = said(await eventsOf(asked, options));
    await model.truncate(0);
    const before = devices.length;
    const events = await eventsOf(asked, options, type, counts);
    expect(devices.length - before).toBe(counts.length);
    // Log probabilities after the loss come from other kernels, and differ by roundings.
    const rounded = (all: unknown) =>
      JSON.stringify(all, (key, value: unknown) =>
        key === 'logprob' ? (value as number).toFixed(3) : value,
      );
    expect(rounded(said(events))).toEqual(rounded(whole));
  });

  test('one that nobody seeds keeps its seed', async () => {
    const options = { temperature: 2, topK: 0, topP: 1, maxTokens: 30 };
    const events = await eventsOf(story, options, 'text', [6]);
    const done = events.at(-1);
    if (done?.type !== 'done') throw new Error('it has not ended');
    await model.truncate(0);
    const again = await model.generate(story, { ...options, seed: done.seed! }).report();
    expect(again.tokens).toEqual(done.tokens);
  });
});

describe('with recover everything else is done once more', () => {
  test('what finds the GPU gone when it begins', async () => {
    await model.truncate(0);
    const logits = await model.logits(story);
    await lose();
    expect(await model.logits(story)).toEqual(logits);
    expect(model.tokenize('Hello')).toHaveLength(2);
  });

  test('adapters come back with their ids and scales', async () => {
    const skip = (name: string) => !name.startsWith('blk.1.');
    const adapter = (seed: number) =>
      adapterSource(randomAdapter(parseGguf(nanoF16()), { seed, rank: 2, skip }));
    const gone = await model.loadAdapter(adapter(1));
    const kept = await model.loadAdapter(adapter(2), { scale: 0.5 });
    const off = await model.loadAdapter(adapter(3), { scale: 0 });
    await model.removeAdapter(gone.id);
    const before = model.adapters;
    const logits = await model.logits(story);
    await lose();
    expect(await model.logits(story)).toEqual(logits);
    expect(model.adapters).toEqual(before);
    expect(before.map(({ id, scale }) => [id, scale])).toEqual([
      [kept.id, 0.5],
      [off.id, 0],
    ]);
    expect((await model.loadAdapter(adapter(4))).id).toBe(off.id + 1);
  });

  test('a model that cannot load again says so, and one that closes does not', async () => {
    let broken = false;
    const flaky = await wrappedGpu(async (adapter, descriptor) => {
      if (broken) throw new Error('no device today');
      const device = await adapter.requestDevice(descriptor);
      devices.push(device);
      return device;
    });
    const other = await load({ recover: true, gpu: flaky });
    broken = true;
    await lose();
    await expect(other.logits(story)).rejects.toMatchObject({
      code: 'device_lost',
      message: expect.stringContaining('no device today') as string,
    });
    await other.close();
    await expect(other.logits(story)).rejects.toMatchObject({ code: 'invalid_argument' });
  });
});

test('without recover a reply fails with device_lost, and so does what follows', async () => {
  const plain = await load({});
  const reply = plain.chat(question, { temperature: 0 });
  const read = async () => {
    for await (const event of reply) if (event.type === 'text') last().destroy();
  };
  await expect(read()).rejects.toMatchObject(lost);
  await expect(reply.report()).rejects.toMatchObject(lost);
  await expect(plain.logits(story)).rejects.toMatchObject(lost);
  await expect(plain.embed('x')).rejects.toMatchObject(lost);
  await expect(plain.chat(question).text()).rejects.toMatchObject(lost);
  await plain.close();
});

test.each(['header', 'selftest', 'upload', 'compile'])(
  'a load that loses the GPU at %s fails with device_lost',
  async (phase) => {
    let done = false;
    const loading = load({
      recover: true,
      onProgress: (progress) => {
        if (progress.phase === phase && !done) last().destroy();
        done ||= progress.phase === phase;
      },
    });
    await expect(loading).rejects.toMatchObject(lost);
  },
);
