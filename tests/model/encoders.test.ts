// The encoders of pictures and sound: whose definition they follow where two differ, and what becomes of one when the GPU
// has no room for the other.

import type { LoadOptions, Message, Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, memorySource } from '../support/fixtures.ts';
import { parseGguf, writeGguf } from '../support/gguf.ts';
import { bothTowers, picture, textWith } from '../support/seeing.ts';
import { shortOfMemory } from '../support/short-of-memory.ts';

const RATE = 16_000;
const text = textWith('image', 'audio');
const open: Model[] = [];
async function load(options: LoadOptions = {}, towers = bothTowers()): Promise<Model> {
  const projector = memorySource('towers.gguf', towers);
  const model = await loadBytes('tiny-e.gguf', text, { projector, kvType: 'f32', ...options });
  open.push(model);
  return model;
}
let model: Model;
beforeAll(async () => (model = await load()), 300_000);
afterAll(() => Promise.all(open.map((each) => each.close())));

const seeing: Message[] = [
  {
    role: 'user',
    content: [
      { type: 'image', image: picture(384, 384), maxTokens: 70 },
      { type: 'text', text: 'hello' },
    ],
  },
];
const hearing = (length = RATE): Message[] => {
  // Quiet at first: there the floor of energies counts.
  const samples = Float32Array.from(
    { length },
    (_, i) => 0.4 * (i / length) ** 4 * Math.sin(i / 7),
  );
  const audio = { samples, sampleRate: RATE };
  return [
    {
      role: 'user',
      content: [
        { type: 'audio', audio },
        { type: 'text', text: 'hello' },
      ],
    },
  ];
};

/** The log probabilities of the first token of an answer, by id. */
async function answer(messages: Message[], on: Model): Promise<number[]> {
  const reply = on.chat(messages, { temperature: 0, maxTokens: 1, logprobs: 20 });
  for await (const event of reply) {
    if (event.type === 'token')
      return event.top.sort((a, b) => a.id - b.id).map(({ logprob }) => logprob);
  }
  throw new Error('no token was written');
}

/** The same but for the order of sums, which depends on what the cache held. */
const expectAlike = (a: number[], b: number[]) => expect(maxAbsDifference(a, b)).toBeLessThan(5e-5);

test('those of llama.cpp are another way to see and to hear', async () => {
  const other = await load({ encoders: 'llama.cpp' });
  // What a file says counts: it says quick GELU to everyone.
  const file = parseGguf(bothTowers());
  file.metadata.set('clip.use_gelu', { type: 'bool', value: false });
  const said = await load({}, writeGguf(file));
  const seen = await answer(seeing, other);
  expectAlike(seen, await answer(seeing, said));
  const difference = maxAbsDifference(seen, await answer(seeing, model));
  expect(difference).toBeGreaterThan(1e-4);
  const heard = maxAbsDifference(await answer(hearing(), other), await answer(hearing(), model));
  expect(heard).toBeGreaterThan(1e-4);
  report('log probabilities of a picture, quick GELU against GELU', difference, 1);
  report('log probabilities of sound, one floor against the other', heard, 1);
  // And it says GELU to everyone.
  file.metadata.set('clip.use_gelu', { type: 'bool', value: true });
  const gelu = await load({ encoders: 'llama.cpp' }, writeGguf(file));
  expectAlike(await answer(seeing, gelu), await answer(seeing, model));
  await expect(load({ encoders: 'ollama' as 'llama.cpp' })).rejects.toMatchObject({
    code: 'invalid_argument',
  });
}, 300_000);

test('one makes room for the other, and comes back when it is needed', async () => {
  let refusals = 1;
  let refused = '';
  const scarce = await load({
    gpu: await shortOfMemory((label) => label === refused && refusals-- > 0),
  });
  // Nothing is there that could go.
  refused = 'position tables';
  await expect(answer(seeing, scarce)).rejects.toMatchObject({ code: 'out_of_memory' });
  await answer(hearing(), scarce);
  refusals = 1;
  expectAlike(await answer(seeing, scarce), await answer(seeing, model));
  expect(refusals).toBeLessThan(1);
  // The ears are loaded again, for which the eyes must go now.
  refused = 'past tokens';
  refusals = 1;
  expectAlike(await answer(hearing(20_000), scarce), await answer(hearing(20_000), model));
  expect(refusals).toBeLessThan(1);
}, 300_000);
