// llama.cpp on the same GGUF: token ids of 500 strings beyond the fixtures', greedy text of 20 conversations.

import type { Message, Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadBytes, nanoF16, prompts, readJson } from '../support/fixtures.ts';
import { testStrings } from './strings.ts';
import { Wllama } from './wllama.ts';

let model: Model;
let oracle: Wllama;
beforeAll(async () => {
  const file = nanoF16();
  oracle = await Wllama.open(file);
  model = await loadBytes('nano-f16.gguf', file, { kvType: 'f32' });
}, 300_000);
afterAll(async () => {
  await model?.close();
  await oracle?.close();
});

test('the same token ids for 500 strings that no fixture has', async () => {
  const known = new Set(
    readJson<{ text: string }[]>('nano/tokenizer_cases.json').map(({ text }) => text),
  );
  expect(known.size).toBe(252);
  const strings = testStrings(500, known);
  expect(new Set(strings).size).toBe(500);
  expect(strings.filter((text) => known.has(text))).toEqual([]);
  const others = await oracle.tokenize(strings);
  const differences = strings.flatMap((text, i) => {
    // llama.cpp takes user-defined tokens for what they are even where control tokens are text.
    const ids = model.tokenize(text, { addBos: false, special: 'user-defined' });
    return JSON.stringify(ids) === JSON.stringify(others[i])
      ? []
      : [{ text, ids, llama: others[i] }];
  });
  const total = others.reduce((sum, ids) => sum + ids.length, 0);
  console.log(`${strings.length} strings, ${total} tokens, ${differences.length} differ`);
  // The way the ids travel is no way to get them all right by being empty.
  expect(total).toBeGreaterThan(5000);
  expect(differences).toEqual([]);
});

const user = (content: string): Message => ({ role: 'user', content });
const assistant = (content: string): Message => ({ role: 'assistant', content });
const system = (content: string): Message => ({ role: 'system', content });
const CONVERSATIONS: Message[][] = [
  [user('What is the capital of Japan?')],
  [user('What is the capital of Kenya?')],
  [user('Which city is the capital of Italy?')],
  [user('What is 3 + 4?')],
  [user('What is 25 + 14?')],
  [user('What is 9 plus 8?')],
  [user('What color is grass?')],
  [user('What color is a banana?')],
  [user('How are you?')],
  [user('Good morning')],
  [user('Write banana in upper case.')],
  [user('Count from 2 to 8.')],
  [user('List the days of the week.')],
  [user('Spell the word cat backwards.')],
  [user('My name is Tom.'), assistant('Nice to meet you, Tom.'), user('What is my name?')],
  [
    user('What is the capital of Spain?'),
    assistant('The capital of Spain is Madrid.'),
    user('And of Peru?'),
  ],
  [system('Answer in upper case.'), user('What is the capital of Egypt?')],
  [system('You are a helpful assistant.'), user('Hi')],
  [user('Tell me a story about a dog.')],
  [user('Übersetze: 日本 🚀 <turn|> {"a": 1}\n\n```js\nlet x = 0;\n```')],
];
const MAX_TOKENS = 40;
// llama.cpp rounds activations to F16 for F16 weights: seen, up to 2e-2 on a logit.
const CLOSE = 0.1;

test('the same greedy text for 20 conversations', async () => {
  expect(CONVERSATIONS).toHaveLength(20);
  const fixtures = new Set(prompts.map(({ text }) => text));
  const close: string[] = [];
  const lengths: number[] = [];
  for (const messages of CONVERSATIONS) {
    const { text, tokens: promptIds } = model.render(messages);
    expect(fixtures.has(text)).toBe(false);
    expect(text.startsWith('<bos>')).toBe(true);
    // What the user wrote is text here; to llama.cpp the whole prompt is one string.
    const plain = !JSON.stringify(messages).includes('<turn|>');
    if (!plain) {
      expect(model.tokenize(text, { addBos: false, special: 'parse' })).not.toEqual(promptIds);
    }
    const ids = model.tokenize(text, { addBos: false, special: 'parse' });
    if (plain) expect(ids).toEqual(promptIds);
    const theirs = await oracle.greedy(text.slice('<bos>'.length), MAX_TOKENS);
    expect(theirs.promptTokens).toBe(ids.length);
    const { tokens } = await model
      .generate(ids, { temperature: 0, maxTokens: MAX_TOKENS })
      .report();
    // Both lists end with the token that ended the reply, unless its length did.
    const ours = tokens;
    const split = ours.findIndex((id, i) => id !== theirs.tokens[i]);
    lengths.push(ours.length);
    if (split < 0 && ours.length === theirs.tokens.length) {
      expect(model.detokenize(ours)).toBe(theirs.text);
      continue;
    }
    const at = split < 0 ? ours.length : split;
    const margin = theirs.margins[at] ?? Infinity;
    expect(
      margin,
      `${text}\nours: ${model.detokenize(ours)}\nllama.cpp: ${theirs.text} [${theirs.tokens.join()}] instead of [${ours.join()}]`,
    ).toBeLessThan(CLOSE);
    close.push(`step ${at}, llama.cpp's margin ${margin.toFixed(4)}`);
  }
  console.log(
    `${lengths.join(' ')} tokens; splits at close margins: ${close.join('; ') || 'none'}`,
  );
  expect(close.length).toBeLessThanOrEqual(2);
});
