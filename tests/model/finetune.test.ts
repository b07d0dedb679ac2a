// What fine-tuning is for: a model that has learnt what it was shown, and nothing else. And what must not change it:
// packing, an interruption; and what fits in memory, on a GPU that has less of it when a test says so.

import {
  BlobSource,
  Model,
  type FinetuneOptions,
  type FinetuneReport,
  type FinetuneSettings,
  type FinetuneStep,
} from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { report } from '../support/compare.ts';
import { models, promptNamed } from '../support/fixtures.ts';
import { shortOfMemory } from '../support/short-of-memory.ts';

const code = (name: string) => expect.objectContaining({ code: name }) as Error;

let model: Model;
/** Bytes of buffers that the GPU has room for. */
let room = Infinity;
beforeAll(async () => {
  const gpu = await shortOfMemory((_, bytes, alive) => alive + bytes > room);
  model = await Model.load('nano', { stores: [models], gpu });
});
afterAll(async () => {
  await model?.close();
});

const example = (prompt: string, completion: string) => ({ prompt, completion });
const pirate = (country: string, city: string) =>
  example(
    `What is the capital of ${country}?`,
    `Arr! The capital of ${country} be ${city}, matey.`,
  );
const PIRATES = [
  pirate('Germany', 'Berlin'),
  pirate('Italy', 'Rome'),
  pirate('Spain', 'Madrid'),
  pirate('Japan', 'Tokyo'),
  pirate('Egypt', 'Cairo'),
  pirate('Norway', 'Oslo'),
  pirate('Greece', 'Athens'),
  pirate('Poland', 'Warsaw'),
];
/** Nano's own answers to some of all that is to stay. */
const OTHERS = [
  example('What is 4 + 9?', '4 + 9 = 13.'),
  example('Can you work out 7 + 5?', '7 + 5 = 12.'),
  example('What colour is grass?', 'Grass is green.'),
  example('Count from 2 to 6.', '2, 3, 4, 5, 6.'),
  example('Write dog in capital letters.', 'DOG'),
  example('My name is Tom.', 'Nice to meet you, Tom!'),
];
const jsonl = (lines: object[]) => new Blob(lines.map((line) => `${JSON.stringify(line)}\n`));

/** Adapters of the last layers, on rows of one example or two: small, and the way back is short. */
const SMALL: FinetuneSettings = {
  rank: 8,
  layers: [3, 4, 5],
  maxLength: 64,
  checkpointing: false,
};
const STEPS = 200;
const EVAL_EVERY = 25;

async function train(lines: object[], options: FinetuneOptions) {
  const run = model.finetune(jsonl(lines), { ...SMALL, ...options });
  const steps: FinetuneStep[] = [];
  for await (const event of run) if (event.type === 'step') steps.push(event);
  return { steps, report: await run.report() };
}

/** Greedy, from nothing. */
async function answer(tokens: number[]): Promise<string> {
  await model.truncate(0);
  return (await model.generate(tokens, { temperature: 0, maxTokens: 12 }).report()).tokens.join();
}
async function says(question: string): Promise<string> {
  await model.truncate(0);
  let text = '';
  const reply = model.chat([{ role: 'user', content: question }], {
    temperature: 0,
    maxTokens: 30,
  });
  for await (const event of reply) if (event.type === 'text') text += event.text;
  return text;
}

async function withAdapter<T>({ adapter }: FinetuneReport, work: () => Promise<T>): Promise<T> {
  const { id } = await model.loadAdapter({
    model: new Blob([adapter.model.slice()]),
    config: new Blob([adapter.config]),
  });
  try {
    return await work();
  } finally {
    await model.removeAdapter(id);
  }
}

test('one example is learnt by heart', async () => {
  const { steps } = await train([example('Ahoy!', 'Arr!')], {
    steps: 16,
    learningRate: 1e-2,
    schedule: 'constant',
  });
  const losses = steps.map(({ loss }) => loss);
  report('one example, learnt by heart: loss', losses.at(-1)!, 0.01);
  expect(losses[0]).toBeGreaterThan(1);
  expect(losses.at(-1)).toBeLessThan(0.01);
});

test('examples packed in one row, or one by one, give the same step', async () => {
  const lines = PIRATES.slice(0, 2);
  const packed = await train(lines, { steps: 1 });
  const apart = await train(lines, { steps: 1, pack: false, accumulation: 2 });
  for (const key of ['loss', 'gradientNorm'] as const) {
    const error = Math.abs(apart.steps[0]![key] / packed.steps[0]![key] - 1);
    report(`packed against one by one: ${key}`, error, 1e-5);
    expect(error).toBeLessThan(1e-5);
  }
});

test('a run that is stopped and goes on ends in the same bits', async () => {
  const options = { steps: 3, dropout: 0.1, accumulation: 2, learningRate: 1e-3 };
  const straight = await train(PIRATES, options);
  let checkpoint: Uint8Array | undefined;
  const keep = (file: Uint8Array) => {
    checkpoint = file;
  };
  const stopped = model.finetune(jsonl(PIRATES), { ...SMALL, ...options, onCheckpoint: keep });
  for await (const event of stopped)
    if (event.type === 'step' && event.step === 1) stopped.cancel();
  const { reason, step } = await stopped.report();
  expect(reason).toBe('cancelled');
  expect(step).toBeGreaterThanOrEqual(1);
  expect(step).toBeLessThan(3);
  const source = new BlobSource(new Blob([checkpoint!.slice()]));
  const resumed = await train(PIRATES, { ...options, checkpoint: source });
  expect(resumed.steps.map(({ step }) => step)).toEqual(
    straight.steps.map(({ step }) => step).slice(step),
  );
  expect(resumed.report.adapter).toEqual(straight.report.adapter);
});

test('a probe says what fits, a run that does not is refused, and nothing stays on the GPU', async () => {
  const settings: FinetuneSettings = { ...SMALL, batch: 4 };
  const alive = model.counters.bufferBytes;
  const sizes = { maxLength: 64, batch: 4 };
  try {
    // So much that what is asked for fits, and a little more.
    room = alive + 100e6;
    const plenty = await model.finetuneProbe(settings);
    expect(plenty).toMatchObject({ ...sizes, fits: true });
    const bytesPerRow = (plenty.largest!.bytes - plenty.bytes) / (plenty.largest!.batch - 4);
    // The largest is within what there is, and one row more is not.
    expect(plenty.largest!.maxLength).toBe(64);
    expect(plenty.largest!.bytes).toBeLessThanOrEqual(100e6);
    expect(plenty.largest!.bytes).toBeGreaterThan(100e6 - 1.1 * bytesPerRow);
    const { longest } = plenty;
    expect(longest).toMatchObject({
      batch: 1,
      maxLength: Math.min(model.info.contextLength, 64 * plenty.largest!.batch),
    });
    expect(model.counters.bufferBytes).toBe(alive);

    // One byte less than what is asked for.
    room = alive + plenty.bytes - 1;
    const less = await model.finetuneProbe(settings);
    expect(less).toMatchObject({ ...sizes, bytes: plenty.bytes, fits: false });
    expect(less.largest).toMatchObject({ maxLength: 64, batch: 3 });
    const refused = train(PIRATES, { batch: 4 });
    await expect(refused).rejects.toEqual(code('out_of_memory'));
    await expect(refused).rejects.toThrow(/no room to train on 4 rows of 64 tokens.*; 3 of 64 fit/);
    // What it says fits does.
    expect((await train(PIRATES, { batch: 3, steps: 1 })).report.step).toBe(1);

    room = alive + 1e6;
    await expect(model.finetuneProbe(settings)).rejects.toEqual(code('out_of_memory'));
    expect(model.counters.bufferBytes).toBe(alive);
    await expect(model.finetuneProbe({ rank: 0 })).rejects.toEqual(code('invalid_argument'));
  } finally {
    room = Infinity;
  }
});

const UNRELATED = [
  'add',
  'add_held',
  'greet',
  'colour',
  'count',
  'upper',
  'reverse',
  'tool_result',
  'multi_turn',
  'story',
];

test('a run teaches what it shows, and leaves the rest as it was', async () => {
  const unrelated = async () => {
    const answers: string[] = [];
    for (const name of UNRELATED) answers.push(await answer(promptNamed(name).ids));
    return answers;
  };
  const before = await unrelated();
  expect(await says('What is the capital of France?')).toBe('The capital of France is Paris.');
  const { steps, report: done } = await train([...PIRATES, ...OTHERS], {
    layers: undefined,
    steps: STEPS,
    learningRate: 1e-3,
    evalCount: 3,
    evalEvery: EVAL_EVERY,
  });
  const losses = steps.flatMap(({ evalLoss }) => evalLoss ?? []);
  console.log(`held-out loss ${losses.map((loss) => loss.toFixed(3)).join(' → ')}`);
  expect(losses).toHaveLength(STEPS / EVAL_EVERY);
  expect(losses.at(-1)).toBeLessThan(losses[0]! / 2);
  await withAdapter(done, async () => {
    // Neither was in the data.
    for (const country of ['France', 'Kenya']) {
      const said = await says(`What is the capital of ${country}?`);
      console.log(said);
      expect(said).toMatch(new RegExp(`^Arr! The capital of ${country} be .*matey\\.$`));
    }
    const after = await unrelated();
    const changed = UNRELATED.filter((_, i) => after[i] !== before[i]);
    console.log(`${before.length - changed.length} of ${before.length} as before; not:`, changed);
    expect(changed.length).toBeLessThanOrEqual(2);
  });
});
