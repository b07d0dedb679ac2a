// Replies held to a format, on nano: they validate, their tokens are drawn as the model would draw them among those
// that are allowed, and what is around them (thoughts, calls, ends) is as without a format.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ChatOptions, JsonSchema, Message, Model, ReplyEvent, Tool } from 'lapidary/node';
import { loadBytes, nanoF16 } from '../support/fixtures.ts';
import { SCHEMAS, complaints } from '../support/schemas.ts';
import { WEATHER } from '../support/weather.ts';

let model: Model;
beforeAll(async () => {
  model = await loadBytes('nano-f16.gguf', nanoF16(), { contextLength: 1024 });
}, 600_000);
afterAll(() => model?.close());

const ask = (content: string): Message[] => [{ role: 'user', content }];

async function reply(messages: Message[], options: ChatOptions) {
  const running = model.chat(messages, options);
  const events: ReplyEvent[] = [];
  for await (const event of running) events.push(event);
  const of = (type: 'text' | 'thinking') =>
    events.map((event) => (event.type === type ? event.text : '')).join('');
  const calls = events.filter((event) => event.type === 'tool_call');
  const { reason, tokens } = await running.report();
  return { text: of('text'), thinking: of('thinking'), calls, reason, tokens };
}

/** How many replies are drawn; 1,000 take minutes on a software GPU. */
const REPLIES = Number(process.env.LAPIDARY_FORMAT_REPLIES ?? 120);
const digit = { type: 'integer', minimum: 0, maximum: 9 };
/** Schemas whose values a model that draws at random ends soon. */
const SHORT: JsonSchema[] = [
  { type: 'boolean' },
  { type: ['null', 'boolean'] },
  { enum: ['Paris', 'London', 'Rome', 7, null, [1], { a: 'é' }] },
  { const: 'x"\\n' },
  { ...digit, minimum: -20, maximum: 120 },
  { type: 'number', exclusiveMinimum: 0, maximum: 1 },
  { type: 'string', minLength: 1, maxLength: 3 },
  { type: 'string', pattern: '^[A-Z]{2}\\d$' },
  { type: 'array', items: digit, minItems: 1, maxItems: 2 },
  { type: 'object', properties: { a: digit }, required: ['a'], additionalProperties: false },
  { type: 'object', properties: { a: { type: 'boolean' }, b: { type: 'null' } }, required: ['b'] },
  { anyOf: [{ type: 'null' }, { type: 'array', items: { type: 'null' }, maxItems: 1 }] },
];

test(`${REPLIES} replies drawn at random: those that end by themselves validate`, async () => {
  const long = Object.values(SCHEMAS);
  const texts = new Set<string>();
  const ended = { short: 0, long: 0 };
  for (let i = 0; i < REPLIES; i++) {
    const of = i % 5 === 0 ? 'long' : 'short';
    const format = of === 'long' ? long[(i / 5) % long.length]! : SHORT[i % SHORT.length]!;
    const turn = Math.floor(i / SHORT.length);
    const { text, reason } = await reply(ask('Give me some JSON.'), {
      ...{ format, seed: i, temperature: [0.8, 1.5, 4][turn % 3]!, topK: turn % 2 ? 64 : 0 },
      ...{ topP: i % 7 ? 1 : 0.9, maxTokens: 20 },
    });
    texts.add(text);
    if (reason !== 'stop') {
      expect([reason, i]).toEqual(['length', i]);
      continue;
    }
    ended[of]++;
    expect(complaints(format, text), `reply ${i}, ${JSON.stringify(format)}`).toBe('');
  }
  expect(ended.short).toBeGreaterThan(0.6 * REPLIES);
  expect(ended.long).toBeGreaterThan(0.03 * REPLIES);
  expect(texts.size).toBeGreaterThan(0.25 * REPLIES);
});

test('a greedy answer ends by itself, at once where its value does', async () => {
  const format = { enum: ['Paris', 'London'] };
  const { text, reason, tokens } = await reply(ask('What is the capital of France?'), {
    ...{ format, temperature: 0, maxTokens: 50 },
  });
  expect([text, reason]).toEqual(['"Paris"', 'stop']);
  // No token that ends the reply was needed.
  expect(model.detokenize(tokens, { showControl: true })).toBe('"Paris"');
});

describe('the distribution', () => {
  const messages = ask('Is the sky blue?');
  const format = { type: 'boolean' };

  /** Probabilities at temperature 1 of the tokens that true or false may begin with. */
  async function expected(): Promise<Map<number, number>> {
    const { tokens } = model.render(messages);
    const logits = await model.logits(tokens);
    const ids = Array.from(logits, (_, id) => id).filter((id) => {
      const text = model.detokenize([id]);
      return text !== '' && ['true', 'false'].some((word) => word.startsWith(text));
    });
    const shares = ids.map((id) => Math.exp(logits[id]! - Math.max(...ids.map((i) => logits[i]!))));
    const sum = shares.reduce((a, b) => a + b, 0);
    return new Map(ids.map((id, i) => [id, shares[i]! / sum]));
  }

  test('is the model’s, restricted to what is allowed', async () => {
    const wanted = await expected();
    const draws = 80;
    const seen = new Map<number, number>();
    for (let seed = 0; seed < draws; seed++) {
      const options = { format, seed, temperature: 1, topK: 0, topP: 1, maxTokens: 1 };
      const [token] = (await reply(messages, options)).tokens;
      seen.set(token!, (seen.get(token!) ?? 0) + 1);
    }
    for (const id of seen.keys()) expect(wanted.has(id), model.detokenize([id])).toBe(true);
    for (const [id, share] of wanted) {
      const deviation = Math.sqrt(draws * share * (1 - share));
      const count = seen.get(id) ?? 0;
      const far = Math.abs(count - draws * share) / Math.max(deviation, 1);
      expect(far, `${model.detokenize([id])}: ${count} of ${draws}, not ${share}`).toBeLessThan(
        4.5,
      );
    }
  });

  test('is cut by top_k after that: the likeliest of the allowed tokens alone come', async () => {
    const ranked = [...(await expected())].sort((a, b) => b[1] - a[1]).map(([id]) => id);
    for (let seed = 0; seed < 12; seed++) {
      const options = { format, seed, temperature: 100, topK: 2, topP: 1, maxTokens: 1 };
      const [token] = (await reply(messages, options)).tokens;
      expect(ranked.slice(0, 2)).toContain(token);
    }
    const { tokens } = await reply(messages, { format, temperature: 0, maxTokens: 1 });
    expect(tokens).toEqual(ranked.slice(0, 1));
  });

  test('is adjusted by biases before it', async () => {
    const ranked = [...(await expected())].sort((a, b) => b[1] - a[1]).map(([id]) => id);
    const logitBias = { [ranked[0]!]: -100 };
    const { tokens } = await reply(messages, { format, logitBias, temperature: 0, maxTokens: 1 });
    expect(tokens).toEqual([ranked[1]]);
  });
});

test('the thought comes first, free, then the answer', async () => {
  const { text, thinking } = await reply(ask('What is 12 + 7?'), {
    ...{ think: true, format: { enum: ['12 + 7 = 19.', 'no'] }, temperature: 0, maxTokens: 120 },
  });
  expect(thinking).toContain('12 and 7');
  expect(text).toBe('"12 + 7 = 19."');
});

test('what follows an answer goes on from the cache, as after any other', async () => {
  const first = ask('What is the capital of France?');
  const { text } = await reply(first, { format: SCHEMAS.choice!, temperature: 0, maxTokens: 40 });
  const next: Message[] = [...first, { role: 'assistant', content: text }, ...ask('Why?')];
  const warm = model.chat(next, { temperature: 0, maxTokens: 12 });
  const told = await warm.report();
  expect(told.usage.cachedTokens).toBeGreaterThan(model.render(first).tokens.length - 2);
  await model.truncate(0);
  const cold = await model.chat(next, { temperature: 0, maxTokens: 12 }).report();
  expect(cold.tokens).toEqual(told.tokens);
});

describe('calls', () => {
  const tools = [WEATHER as Tool];

  test('are forced, with arguments that satisfy the parameters', async () => {
    const city = { type: 'string', maxLength: 12 };
    const days = { type: 'integer', minimum: 1, maximum: 9 };
    const parameters = { type: 'object', properties: { days, city }, required: ['city', 'days'] };
    const named: Tool = { type: 'function', function: { name: 'forecast', parameters } };
    for (let seed = 1; seed <= 4; seed++) {
      const { calls, text, reason } = await reply(ask('Hello!'), {
        ...{ tools: [...tools, named], toolChoice: { name: 'forecast' }, seed, maxTokens: 80 },
      });
      expect([text, reason, calls.length]).toEqual(['', 'tool_calls', 1]);
      expect(calls[0]!.name).toBe('forecast');
      expect(complaints(parameters, JSON.stringify(calls[0]!.arguments))).toBe('');
    }
  });

  test('the model’s own choice where any will do', async () => {
    const { calls, reason } = await reply(ask('What is the weather in Paris?'), {
      ...{ tools, toolChoice: 'required', temperature: 0, maxTokens: 80 },
    });
    expect(reason).toBe('tool_calls');
    expect(calls[0]).toMatchObject({ name: 'get_weather', arguments: { city: 'Paris' } });
  });

  test('are as good as an answer in a format', async () => {
    const format = { type: 'boolean' };
    const options = { tools, format, temperature: 0, maxTokens: 80 };
    const called = await reply(ask('What is the weather in Paris?'), options);
    expect([called.reason, called.text]).toEqual(['tool_calls', '']);
  });
});

test('raw prompts, too', async () => {
  const running = model.generate('The capital of France is', { format: 'json', maxTokens: 40 });
  const text = await running.text();
  expect(text).toMatch(/^\{/);
});

test('log probabilities are the model’s own', async () => {
  const messages = ask('Is the sky blue?');
  const logits = await model.logits(model.render(messages).tokens);
  const most = Math.max(...logits);
  const total = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
  const options = { format: { type: 'boolean' }, temperature: 0, maxTokens: 1, logprobs: 3 };
  const events: ReplyEvent[] = [];
  for await (const event of model.chat(messages, options)) events.push(event);
  const [token] = events.filter((event) => event.type === 'token');
  expect(token!.logprob).toBeCloseTo(logits[token!.id]! - total, 2);
  expect(token!.top).toHaveLength(3);
  expect(token!.top[0]!.logprob).toBeCloseTo(most - total, 2);
});

test.each<[string, ChatOptions, string]>([
  ['a keyword', { format: { type: 'string', contentEncoding: 'x' } }, "'contentEncoding' at #"],
  ['a format that is none', { format: 'xml' as never }, "'format' must be"],
  ['a tool that is not there', { toolChoice: { name: 'f' } }, 'no tool'],
  ['a choice that is none', { toolChoice: 'any' as never }, 'toolChoice'],
  ['going on past the end', { format: 'json', ignoreEos: true }, 'ignoreEos'],
])('refused: %s', async (_, options, message) => {
  await expect(reply(ask('Hello'), options)).rejects.toThrow(message);
});

test('refused: an answer that is continued', async () => {
  const begun: Message[] = [...ask('Hello'), { role: 'assistant', content: '{' }];
  await expect(reply(begun, { format: 'json', continueFinalMessage: true })).rejects.toMatchObject({
    code: 'unsupported',
  });
});
