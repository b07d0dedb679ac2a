// The real vocabulary, 262,144 tokens and 514,906 merges, through the whole engine: ids, load time, wasm memory.

import type { GenerateOptions, LoadProgress, Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadBytes, readJson } from '../support/fixtures.ts';
import { gemmaVocabulary, tinyModelWith } from '../support/gemma-vocabulary.ts';
import { complaints } from '../support/schemas.ts';

interface Case {
  text: string;
  ids: number[];
}
const vectors = readJson<{ plain_no_special: Case[]; parse_special: Case[] }>(
  'gemma4/tokenizer_vectors.json',
);

// The vocabulary spells a space as U+2581: the ids of a text do not say which of the two stood there.
const spaced = (text: string) => text.replaceAll('\u2581', ' ');

let model: Model;
let tokens: string[];
let headerMs = 0;
beforeAll(async () => {
  const vocabulary = gemmaVocabulary();
  ({ tokens } = vocabulary);
  expect(tokens).toHaveLength(262_144);
  expect(vocabulary.merges).toHaveLength(514_906);
  const file = tinyModelWith(vocabulary);
  const started = performance.now();
  const onProgress = ({ phase }: LoadProgress) => {
    if (phase === 'header') headerMs = performance.now() - started;
  };
  model = await loadBytes('tiny-e-262144.gguf', file, { onProgress });
  const loaded = performance.now() - started;
  console.log(
    `262,144 tokens: header read after ${headerMs.toFixed(0)} ms, loaded after ${loaded.toFixed(0)} ms`,
  );
}, 300_000);
afterAll(() => model?.close());

test('ids of every case, plain', () => {
  expect(vectors.plain_no_special).toHaveLength(42);
  for (const { text, ids } of vectors.plain_no_special) {
    expect(model.tokenize(text, { addBos: false }), text).toEqual(ids);
    expect(model.tokenize(text, { addBos: false, special: 'user-defined' }), text).toEqual(ids);
    expect(model.detokenize(ids, { showControl: true }), text).toBe(spaced(text));
  }
});

test('ids of every case with special tokens parsed', () => {
  expect(vectors.parse_special).toHaveLength(11);
  for (const { text, ids } of vectors.parse_special) {
    expect(model.tokenize(text, { addBos: false, special: 'parse' }), text).toEqual(ids);
    expect(model.detokenize(ids, { showControl: true }), text).toBe(spaced(text));
  }
});

// Most of its tokens are equally likely, so that anything comes that may.
test.each<[string, GenerateOptions]>([
  ['the likeliest 64', { topK: 64 }],
  ['any', { topK: 0, topP: 1 }],
])('replies in a schema, of %s', async (_, options) => {
  const format = { type: 'array', items: { type: 'string', maxLength: 4 }, maxItems: 2 };
  const reply = model.generate('[', { format, seed: 1, maxTokens: 24, ...options });
  const text = await reply.text();
  if ((await reply.report()).reason === 'stop') expect(complaints(format, text)).toBe('');
  expect(text).toMatch(/^\[\s*["\]]/);
});

test('a long text comes back as it was, in linear time', () => {
  const text = vectors.plain_no_special
    .map((c) => c.text)
    .join(' ')
    .repeat(40);
  const started = performance.now();
  const ids = model.tokenize(text, { addBos: false });
  console.log(
    `${text.length} characters: ${ids.length} tokens, ${(performance.now() - started).toFixed(0)} ms`,
  );
  expect(model.detokenize(ids) === spaced(text)).toBe(true);
});

test('the model answers, and the wasm heap stays under 64 MB', async () => {
  const ids = model.tokenize('Hello, world!');
  const logits = await model.logits(ids);
  expect(logits).toHaveLength(tokens.length);
  expect(logits.every(Number.isFinite)).toBe(true);
  const { tokens: written } = await model
    .generate('Hello', { temperature: 1, topK: 40, seed: 3, maxTokens: 8 })
    .report();
  expect(written.length).toBeGreaterThan(0);
  console.log(`wasm heap: ${(model.counters.heapBytes / 2 ** 20).toFixed(1)} MiB`);
  expect(model.counters.heapBytes).toBeLessThan(64 * 2 ** 20);
});
