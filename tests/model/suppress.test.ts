// Tokens that a file says are never to be written (tokenizer.ggml.suppress_tokens): no way of drawing gives one.

import type { GenerateOptions } from 'lapidary/node';
import { expect, test } from 'vitest';
import { loadBytes, readFixture } from '../support/fixtures.ts';
import { parseGguf, writeGguf } from '../support/gguf.ts';

const prompt = [2, 270, 266, 271];
const ways: [string, GenerateOptions][] = [
  ['greedy', { temperature: 0 }],
  ['greedy, with log probabilities', { temperature: 0, logprobs: 3 }],
  ['drawn', { temperature: 1, topK: 20, seed: 3 }],
  ['drawn from all', { temperature: 2, topK: 0, topP: 1, seed: 4 }],
  ['with penalties', { temperature: 0, repeatPenalty: 1.2 }],
];

async function replies(file: Uint8Array, bias: Record<string, number>): Promise<number[][]> {
  const model = await loadBytes('tiny-dense.gguf', file, { kvType: 'f32', sessions: 2 });
  try {
    const written: number[][] = [];
    const ask = (options: GenerateOptions) =>
      model
        .generate(prompt, { maxTokens: 8, ignoreEos: true, logitBias: bias, ...options })
        .report()
        .then(({ tokens }) => tokens);
    for (const [, options] of ways) written.push(await ask(options));
    // Two at once go by steps.
    written.push(...(await Promise.all([ask({ temperature: 0 }), ask(ways[2]![1])])));
    return written;
  } finally {
    await model.close();
  }
}

test('suppressed tokens are never drawn, however it is done', async () => {
  const gguf = readFixture('gemma4/tiny-dense.gguf');
  const before = await replies(gguf, {});
  const suppressed = [...new Set(before.flat())].sort((a, b) => a - b);
  expect(suppressed.length).toBeGreaterThan(8);
  const file = parseGguf(gguf);
  file.metadata.set('tokenizer.ggml.suppress_tokens', { type: 'i32s', value: suppressed });
  const bias = Object.fromEntries(suppressed.slice(0, 3).map((id) => [id, 50]));
  const after = await replies(writeGguf(file), bias);
  expect(after.map((tokens) => tokens.length)).toEqual(before.map((tokens) => tokens.length));
  expect(after.flat().filter((id) => suppressed.includes(id))).toEqual([]);
});
