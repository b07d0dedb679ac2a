// Requests whose members are of every wrong kind, to each route, over a model that only pretends: they are refused with
// the member's name, or answered, and nothing goes wrong within.

import { createFakeModel } from 'lapidary/testing';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { excessOf } from '../../apps/cli/src/server/json.ts';
import { startApp, type AppServer } from '../support/app-server.ts';
import { post, send } from '../support/http.ts';

let app: AppServer;
beforeAll(async () => {
  app = await startApp(createFakeModel({ replies: Array<string>(5000).fill('Yes.') }));
});
afterAll(() => app.close());

const deep = (depth: number): unknown =>
  JSON.parse(`${'{"properties":{"a":'.repeat(depth)}{}${'}}'.repeat(depth)}`);
const WRONG: Record<string, unknown> = {
  ...{ true: true, 'a number': 1.5, 'below zero': -7, 'a large number': 1e300 },
  ...{ 'an empty text': '', 'a text': 'x', 'a long text': 'x'.repeat((4 << 20) + 1) },
  ...{
    'an empty list': [],
    'a list of nothing': [null],
    'lists in lists': [[[]]],
    'an object': {},
  },
  'a long list': Array<string>(5000).fill('x'),
  'many members': Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [String(i), i])),
  'something deep': deep(60),
  'a prototype': JSON.parse(
    '{"__proto__":{"type":"function"},"constructor":1,"toString":2}',
  ) as unknown,
};

const messages = [{ role: 'user', content: 'x' }];
const call = { function: { name: 'f', arguments: '{}' }, id: 'c' };
const tool = { type: 'function', function: { name: 'f', parameters: { type: 'object' } } };
const schema = { type: 'json_schema', json_schema: { name: 's', schema: { type: 'object' } } };
const sampling = { temperature: 1, top_p: 1, top_k: 1, min_p: 0, seed: 1, stop: ['x'] };
const penalties = { presence_penalty: 0, frequency_penalty: 0, repeat_penalty: 1 };
/** Requests that are right; each of their members, at every depth, is then made wrong. */
const REQUESTS: Record<string, object> = {
  '/v1/chat/completions': {
    ...{ model: 'nano', ...sampling, ...penalties, n: 1, max_tokens: 5, logit_bias: { 1: 1 } },
    messages: [
      { role: 'user', content: [{ type: 'text', text: 'x' }] },
      { role: 'assistant', content: 'x', tool_calls: [call], reasoning: 'x' },
      { role: 'tool', content: 'x', tool_call_id: 'c' },
    ],
    ...{ tools: [tool], tool_choice: 'auto', parallel_tool_calls: true, response_format: schema },
    ...{ logprobs: true, top_logprobs: 1, reasoning_effort: 'low', modalities: ['text'] },
    ...{ stream: true, stream_options: { include_usage: true }, store: false, user: 'x' },
  },
  '/v1/completions': {
    ...{ model: 'nano', prompt: 'x', ...sampling, ...penalties, max_tokens: 5, logit_bias: {} },
    ...{ n: 1, best_of: 1, echo: false, suffix: '', logprobs: 1, stream: false, user: 'x' },
  },
  '/v1/embeddings': { model: 'nano', input: ['x'], encoding_format: 'float', dimensions: 1 },
  '/api/chat': {
    ...{
      model: 'nano',
      stream: false,
      think: true,
      tools: [tool],
      keep_alive: '5m',
      format: 'json',
    },
    messages: [...messages, { role: 'assistant', content: '', tool_calls: [call] }],
    options: {
      ...sampling,
      ...penalties,
      repeat_last_n: 1,
      num_predict: 5,
      num_ctx: 100,
      mirostat: 0,
    },
    ...{ logprobs: true, top_logprobs: 1 },
  },
  '/api/generate': {
    ...{ model: 'nano', prompt: 'x', system: 'x', raw: false, stream: false, suffix: '' },
    ...{ template: '', context: [], images: [], format: { type: 'object' } },
  },
  '/api/embed': { model: 'nano', input: 'x', truncate: true, dimensions: 1, keep_alive: 1 },
  '/api/embeddings': { model: 'nano', prompt: 'x', options: { num_ctx: 10 } },
  '/api/show': { model: 'nano', name: 'nano' },
};

/** Where large values are tried: they take time. */
const LARGE = new Set([
  'model',
  'messages',
  'prompt',
  'input',
  'tools',
  'stop',
  'format',
  'options',
]);

/** Every member of `value`, and of what is in it, replaced by `wrong`, one at a time. */
function* spoilt(value: unknown, wrong: unknown, path = ''): Generator<[string, unknown]> {
  if (path) yield [path, wrong];
  if (typeof value !== 'object' || value === null) return;
  for (const [key, each] of Object.entries(value)) {
    for (const [where, other] of spoilt(each, wrong, path ? `${path}.${key}` : key)) {
      const copy: unknown = Array.isArray(value) ? [...(value as unknown[])] : { ...value };
      (copy as Record<string, unknown>)[key] = other;
      yield [where, copy];
    }
  }
}

test.each(Object.entries(REQUESTS))('%s', async (path, right) => {
  expect((await post(app.port, path, right)).status).toBe(200);
  let refused = 0;
  const asked: Promise<void>[] = [];
  for (const [kind, wrong] of Object.entries(WRONG)) {
    for (const [where, body] of spoilt(right, wrong)) {
      const large = JSON.stringify(wrong).length > 1e5;
      if (large && !LARGE.has(where)) continue;
      const said = `${where}: ${kind}`;
      asked.push(
        post(app.port, path, body).then((answer) => {
          const text = answer.body.toString();
          const wanted = [200, 400, 404].includes(answer.status);
          expect(wanted, `${said}: ${answer.status} ${text.slice(0, 200)}`).toBe(true);
          if (answer.status === 200) return;
          refused++;
          expect(JSON.parse(text)).toHaveProperty('error');
          expect(text.length).toBeLessThan(1000);
        }),
      );
      if (asked.length >= 16) await Promise.all(asked.splice(0));
    }
  }
  await Promise.all(asked);
  expect(refused).toBeGreaterThan(Object.keys(right).length * 5);
  expect(app.log.filter((line) => line.startsWith('failure'))).toEqual([]);
  expect((await send(app.port, '/api/version')).status).toBe(200);
});

test('JSON that is too deep, or has too many members, is not parsed', () => {
  const look = (text: string) => excessOf(Buffer.from(text));
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  expect(look(nested(128))).toBeUndefined();
  expect(look(nested(129))).toMatch(/128 deep/);
  expect(look(`[${nested(127)},${nested(127)}]`)).toBeUndefined();
  expect(look(`{"a":`.repeat(129))).toMatch(/deep/);
  const members = (count: number) => `{${Array<string>(count).fill('"a":0').join()}}`;
  expect(look(members(200_000))).toBeUndefined();
  expect(look(members(200_001))).toMatch(/200000 members/);
  // In texts nothing counts, whatever is escaped.
  expect(look(JSON.stringify({ a: '[{'.repeat(500), b: '\\"[['.repeat(500) }))).toBeUndefined();
  expect(look(`"\\\\${'['.repeat(200)}"`)).toBeUndefined();
  expect(look(`"\\\\"${'['.repeat(200)}`)).toMatch(/deep/);
  expect(look(`"${'['.repeat(200)}`)).toBeUndefined();
});
