// llama.cpp with a projector: the same greedy answers about the same pictures. The projector is random, and so is what it
// tells the model; but it changes what is said.

import { type ContentPart, type Model } from 'lapidary/node';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadBytes, memorySource, nanoF16 } from '../support/fixtures.ts';
import { picture, projectorFor } from '../support/seeing.ts';
import { Wllama } from './wllama.ts';

// Both rules of size leave a picture as it is that has just as many patches: 256 soft tokens.
const SIDE = 768;
const MAX_TOKENS = 16;
// As in llama.test.ts.
const CLOSE = 0.1;

let model: Model;
let oracle: Wllama;
beforeAll(async () => {
  const file = nanoF16();
  const projector = projectorFor(256, 1);
  oracle = await Wllama.open(file, { projector });
  model = await loadBytes('nano-f16.gguf', file, {
    kvType: 'f32',
    tune: false,
    projector: memorySource('mmproj.gguf', projector),
  });
}, 300_000);
afterAll(async () => {
  await model?.close();
  await oracle?.close();
});

const png = async (seed: number): Promise<Uint8Array<ArrayBuffer>> => {
  const { data, width, height } = picture(SIDE, SIDE, seed);
  const raw = { width, height, channels: 3 as const };
  return new Uint8Array(await sharp(data, { raw }).png().toBuffer());
};

async function answer(content: (string | Uint8Array<ArrayBuffer>)[]) {
  const parts = content.map((part): ContentPart =>
    typeof part === 'string' ? { type: 'text', text: part } : { type: 'image', image: part },
  );
  const options = { temperature: 0, maxTokens: MAX_TOKENS };
  return model.chat([{ role: 'user', content: parts }], options).report();
}

test.each([
  ['before a question', [0], ['What is the capital of Japan?']],
  ['around a question', [1, 2], ['What color is grass?']],
])(
  'pictures %s',
  async (_, seeds, texts) => {
    const [first, ...others] = await Promise.all(seeds.map(png));
    const content = [...(first ? [first] : []), ...texts, ...others];
    const theirs = await oracle.answer(content, MAX_TOKENS);
    const { tokens, usage } = await answer(content);
    const blind = await answer(texts);
    const split = tokens.findIndex((id, i) => id !== theirs.tokens[i]);
    console.log(`${theirs.promptTokens} tokens: ${JSON.stringify(theirs.text)}`);
    expect(usage.promptTokens).toBe(theirs.promptTokens);
    expect(usage.promptTokens).toBeGreaterThan(256 * seeds.length);
    expect(tokens).not.toEqual(blind.tokens);
    if (split >= 0) expect(theirs.margins[split]).toBeLessThan(CLOSE);
    else expect(tokens).toEqual(theirs.tokens);
  },
  300_000,
);
