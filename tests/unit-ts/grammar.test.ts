// Replies in a format, drawn from random logits over nano's vocabulary by the engine's own compiler, matcher and
// sampler (tests/kernels/grammar_probe.cpp), judged by Ajv.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Engine, JsonSchema, ReplyEvent, Tool } from 'lapidary/node';
import { readFixture } from '../support/fixtures.ts';
import { kernelTests } from '../support/kernel-tests.ts';
import { SCHEMAS, complaints } from '../support/schemas.ts';

interface Drawn {
  events: ReplyEvent[];
  /** Whether it ended by itself. */
  whole: boolean;
  tokens: number;
}

let engine: Engine;
const vocabulary = readFixture('nano/tokenizer.json.gz');
beforeAll(async () => {
  engine = await kernelTests();
});

const draw = async (request: object): Promise<Drawn[]> => {
  const bytes = await engine.call('grammar_replies', [vocabulary, JSON.stringify(request)]).done;
  return JSON.parse(new TextDecoder().decode(bytes)) as Drawn[];
};
const textOf = ({ events }: Drawn, type: 'text' | 'thinking' = 'text') =>
  events.map((event) => (event.type === type ? event.text : '')).join('');

describe('1,000 replies', () => {
  const names = Object.keys(SCHEMAS);
  const replies = Math.ceil(1000 / names.length);
  let whole = 0;

  test.each(names)('%s: every one that ends by itself parses and validates', async (name) => {
    const schema = SCHEMAS[name]!;
    const drawn = await draw({ format: schema, replies, seed: 7, maxTokens: 250 });
    expect(drawn).toHaveLength(replies);
    const ended = drawn.filter((reply) => reply.whole);
    expect(ended.map((reply) => complaints(schema, textOf(reply))).filter(Boolean)).toEqual([]);
    // Most do end.
    expect(ended.length).toBeGreaterThan(replies / 2);
    whole += ended.length;
  });

  test('are 1,000 or more, and they differ', async () => {
    expect(replies * names.length).toBeGreaterThanOrEqual(1000);
    expect(whole).toBeGreaterThan(800);
    const drawn = await draw({ format: SCHEMAS.person, replies: 20, seed: 3 });
    expect(new Set(drawn.map((reply) => textOf(reply))).size).toBe(20);
  });
});

test('JSON mode: any object', async () => {
  const drawn = await draw({ format: 'json', replies: 50, maxTokens: 1000 });
  const ended = drawn.filter(({ whole }) => whole).map((reply) => textOf(reply));
  expect(ended.length).toBeGreaterThan(25);
  const object = { type: 'object' };
  expect(ended.map((text) => complaints(object, text)).filter(Boolean)).toEqual([]);
});

test('greedily, too, replies end', async () => {
  for (const format of [SCHEMAS.person, SCHEMAS.counted, SCHEMAS.dates, SCHEMAS.numbers]) {
    const [reply] = await draw({ format, temperature: 0, maxTokens: 2000 });
    expect(complaints(format!, textOf(reply!))).toBe('');
    expect(reply!.whole).toBe(true);
  }
});

test('after a thought, or without one', async () => {
  const format = SCHEMAS.choice!;
  const drawn = await draw({ format, mayThink: true, replies: 40, seed: 11, maxTokens: 600 });
  const ended = drawn.filter(({ whole }) => whole);
  expect(ended.map((reply) => complaints(format, textOf(reply))).filter(Boolean)).toEqual([]);
  const thoughts = ended.filter((reply) => textOf(reply, 'thinking') !== '').length;
  expect(thoughts).toBeGreaterThan(0);
  expect(thoughts).toBeLessThan(ended.length);
});

const tool = (name: string, parameters?: JsonSchema): Tool => ({
  type: 'function',
  function: { name, ...(parameters && { parameters }) },
});

test('forced calls: each with arguments that satisfy its parameters', async () => {
  const schemas = Object.entries(SCHEMAS).filter(([, { type }]) => type === 'object');
  expect(schemas.length).toBeGreaterThan(10);
  for (const [name, schema] of schemas) {
    const tools = [tool(name, schema), tool('stop')];
    const drawn = await draw({ tools, mustCall: true, replies: 8, maxTokens: 400 });
    const ended = drawn.filter(({ whole }) => whole);
    expect(ended.length, name).toBeGreaterThan(2);
    for (const reply of ended) {
      expect(textOf(reply)).toBe('');
      const calls = reply.events.filter((event) => event.type === 'tool_call');
      expect(calls.length).toBeGreaterThan(0);
      for (const call of calls) {
        const wanted = call.name === name ? schema : { type: 'object', maxProperties: 0 };
        expect(complaints(wanted, JSON.stringify(call.arguments)), name).toBe('');
      }
    }
  }
});

test('beside tools that may be called: an answer or calls, never both', async () => {
  const format = SCHEMAS.counted!;
  const drawn = await draw({ format, tools: [tool('f')], replies: 60, seed: 5 });
  const ended = drawn.filter(({ whole }) => whole);
  const answers = ended.filter((reply) => complaints(format, textOf(reply)) === '');
  expect(answers.length).toBeGreaterThan(5);
  for (const reply of answers) {
    expect(reply.events.some(({ type }) => type === 'tool_call')).toBe(false);
  }
});

test('what cannot be followed is refused', async () => {
  const not = { properties: { a: { not: {} } } };
  await expect(draw({ format: not })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringContaining("'not' at #/properties/a") as string,
  });
  await expect(draw({ format: 'xml' })).rejects.toMatchObject({ code: 'invalid_argument' });
});
