// What fine-tuning is for: a model that has learnt what it was shown, and nothing else. And what must not change it:
// packing, an interruption; and what fits in memory, on a GPU that has less of it when a test says so.

import {
  BlobSource,
  Model,
  type FinetuneOptions,
  type FinetuneReport,
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

/** Adapters of the upper half, on rows of one example or two: small, and the way back is short. */
const SMALL: FinetuneOptions = { rank: 8, layers: [3, 4, 5], maxLength: 64 };

async function train(lines: object[], options: FinetuneOptions) {
  const run = model.finetune(jsonl(lines), { ...SMALL, ...options });
  const steps: FinetuneStep[] = [];
  for await (const event of run) if (event.type === 'step') steps.push(event);
  return { steps, report: await run.report() };
}

/** Greedy, from nothing. */
async function answer(tokens: number[]): Promise<string> {
  await model.truncate(0);
  return (await model.generate(tokens, { temperature: 0, maxTokens: 20 }).report()).tokens.join();
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

const UNRELATED = [
  'add',
  'add_held',
  'greet',
  'colour',
  'count',
  'upper',
  'reverse',
  'japanese',
  'emoji',
  'tool_result',
  'multi_turn',
  'story',
];

test('200 steps teach what they show, and leave the rest as it was', async () => {
  const unrelated = async () => {
    const answers: string[] = [];
    for (const name of UNRELATED) answers.push(await answer(promptNamed(name).ids));
    return answers;
  };
  const before = await unrelated();
  expect(await says('What is the capital of France?')).toBe('The capital of France is Paris.');
  const held = [pirate('Sweden', 'Stockholm'), pirate('Portugal', 'Lisbon')];
  const { steps, report: done } = await train([...PIRATES, ...OTHERS, ...held], {
    steps: 200,
    learningRate: 1e-3,
    evalCount: 2,
    evalEvery: 50,
  });
  const losses = steps.flatMap(({ evalLoss }) => evalLoss ?? []);
  console.log(`held-out loss ${losses.map((loss) => loss.toFixed(3)).join(' → ')}`);
  const seconds = steps.reduce((sum, { tokensPerSecond }) => sum + 1 / tokensPerSecond, 0);
  console.log(`seconds a token: ${(seconds / steps.length).toFixed(4)}`);
  await withAdapter(done, async () => {
    for (const country of ['France', 'Kenya'])
      console.log(await says(`What is the capital of ${country}?`));
    const after = await unrelated();
    const same = after.filter((text, i) => text === before[i]).length;
    console.log(
      `${same} of ${before.length}`,
      UNRELATED.filter((_, i) => after[i] !== before[i]),
    );
  });
});
