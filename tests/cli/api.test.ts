// `serve` to several clients at once, and to those who should get nothing.

import { describe, expect, test } from 'vitest';
import {
  apiServer,
  ANSWER,
  ask,
  CAPITAL,
  CHAT,
  FRIEND,
  endless,
  greedy,
  question,
  schemaFormat,
  TOKEN,
} from './api-server.ts';
import { WEATHER } from '../support/weather.ts';
import { send as sendTo } from '../support/http.ts';

const api = apiServer();

/** A request that no client would make. */
async function send(
  path: string,
  headers: Record<string, string>,
  { method = 'POST', body }: { method?: string; body?: string } = {},
) {
  const bearing = { authorization: `Bearer ${TOKEN}`, ...headers };
  const answer = await sendTo(api.port, path, { method, headers: bearing, ...(body && { body }) });
  return { ...answer, body: answer.body.toString() };
}
const json = { 'content-type': 'application/json' };

describe('several clients at once', () => {
  const schema = { response_format: schemaFormat(CAPITAL).response_format };
  const options = { temperature: 0 };
  const asks: (() => Promise<unknown>)[] = [
    async () => (await api.openai.chat.completions.create(greedy)).choices[0]?.message.content,
    async () =>
      (await api.openai.chat.completions.create({ ...greedy, ...schema })).choices[0]?.message
        .content,
    async () => {
      let text = '';
      for await (const chunk of await api.openai.chat.completions.create({
        ...greedy,
        stream: true,
      })) {
        text += chunk.choices[0]?.delta.content ?? '';
      }
      return text;
    },
    async () => {
      const request = { ...greedy, messages: ask, tools: [WEATHER] };
      const [choice] = (await api.openai.chat.completions.create(request)).choices;
      const [call] = choice?.message.tool_calls ?? [];
      return call?.type === 'function' && call.function;
    },
    async () =>
      (await api.ollama.chat({ model: 'nano', messages: question, options })).message.content,
    async () => {
      const request = { model: 'nano', messages: question, options, format: CAPITAL };
      return (await api.ollama.chat(request)).message.content;
    },
    async () => {
      let text = '';
      const stream = await api.ollama.chat({
        model: 'nano',
        messages: question,
        options,
        stream: true,
      });
      for await (const part of stream) text += part.message.content;
      return text;
    },
    async () => {
      const request = { model: 'nano', prompt: 'The capital of France is', raw: true, options };
      return (await api.ollama.generate({ ...request, options: { ...options, num_predict: 3 } }))
        .response;
    },
  ];

  test('four of each get what they get alone', async () => {
    const alone = [];
    for (const one of asks) alone.push(await one());
    expect(alone.filter((text) => text === ANSWER)).toHaveLength(4);
    expect(await Promise.all(asks.map((one) => one()))).toEqual(alone);
  });

  test('four are written side by side; one that goes away makes room for one that waits', async () => {
    await api.settled();
    const stops = Array.from({ length: 5 }, () => new AbortController());
    const written = stops.map(() => 0);
    const read = async (i: number) => {
      const request = { ...endless, stream: true as const };
      const { signal } = stops[i]!;
      const stream = await api.openai.chat.completions.create(request, { signal });
      for await (const chunk of stream) if (chunk.choices[0]?.delta.content) written[i]!++;
    };
    const writes = async (...which: number[]) => {
      const enough = which.map((i) => written[i]! + 3);
      while (which.some((i, n) => written[i]! < enough[n]!)) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    };
    const reading = [0, 1, 2, 3].map(read);
    await writes(0, 1, 2, 3);
    reading.push(read(4));
    while ((await api.metric('queue_length')) < 1);
    await writes(0, 1, 2, 3);
    expect([await api.metric('replies_running'), written[4]]).toEqual([4, 0]);
    stops[1]!.abort();
    await writes(0, 2, 3, 4);
    for (const stop of stops) stop.abort();
    await Promise.allSettled(reading);
    await api.settled();
  });
});

describe('nobody else', () => {
  test.each<[string, string, Record<string, string>, string, number]>([
    ['no JSON', CHAT, json, '{"model":', 400],
    ['no object', '/api/chat', json, '[]', 400],
    ['nested too deep', '/api/chat', json, `{"messages":${'['.repeat(1e5)}`, 400],
    ['another type', CHAT, { 'content-type': 'text/plain' }, '{}', 415],
    ['no type', '/api/generate', {}, '{}', 415],
    ['packed', CHAT, { ...json, 'content-encoding': 'gzip' }, '{}', 415],
    ['too large', CHAT, json, ' '.repeat((20 << 20) + 1), 413],
    [
      'too large, in pieces',
      CHAT,
      { ...json, 'transfer-encoding': 'chunked' },
      ' '.repeat(21.5e6),
      413,
    ],
    ['another host', CHAT, { ...json, host: 'evil.example' }, '{}', 403],
    ['another origin', CHAT, { ...json, origin: 'https://evil.example' }, '{}', 403],
    ['no origin at all', '/api/chat', { ...json, origin: 'null' }, '{}', 403],
    ['a wrong token', CHAT, { ...json, authorization: 'Bearer nope' }, '{}', 401],
    ['no token', '/api/chat', { ...json, authorization: '' }, '{}', 401],
    ['nothing there', '/v1/nothing', json, '{}', 404],
    ['nothing there', '/api/nothing', json, '{}', 404],
  ])('%s: %s', async (_, path, headers, body, status) => {
    const answer = await send(path, headers, { body });
    expect(answer.status).toBe(status);
    const { error } = JSON.parse(answer.body) as { error: string | { message: string } };
    expect(typeof error === 'string' ? error : error.message).not.toBe('');
    expect(answer.headers['access-control-allow-origin']).toBeUndefined();
  });

  test.each([
    ['GET', CHAT, 'POST'],
    ['DELETE', '/v1/models/nano', 'GET, HEAD'],
    ['POST', '/api/tags', 'GET, HEAD'],
    ['POST', '/', 'GET, HEAD'],
  ])('%s %s is no method of it', async (method, path, allow) => {
    const { status, headers } = await send(path, json, { method });
    expect([status, headers.allow]).toEqual([405, allow]);
  });

  test('the page and the weights need the token, too', async () => {
    const none = { authorization: '' };
    expect((await send('/', none, { method: 'GET' })).status).toBe(401);
    expect((await send('/models/nano', none, { method: 'HEAD' })).status).toBe(401);
    expect((await send('/models/nano', {}, { method: 'HEAD' })).status).toBe(200);
  });

  test('an allowed origin and the own one may ask', async () => {
    const asked = { origin: FRIEND, 'access-control-request-headers': 'content-type' };
    const before = await send(CHAT, { ...asked, authorization: '' }, { method: 'OPTIONS' });
    expect([before.status, before.headers['access-control-allow-origin']]).toEqual([204, FRIEND]);
    const tags = await send('/api/tags', { origin: FRIEND }, { method: 'GET' });
    expect([tags.status, tags.headers['access-control-allow-origin']]).toEqual([200, FRIEND]);
    const said = JSON.stringify({ ...greedy, stream: true, max_tokens: 2 });
    const stream = await send(CHAT, { ...json, origin: FRIEND }, { body: said });
    expect(stream.headers).toMatchObject({
      'access-control-allow-origin': FRIEND,
      'content-type': 'text/event-stream',
    });
    expect(stream.body).toMatch(/data: \[DONE\]\n\n$/);
    expect((await send('/api/tags', { origin: api.base }, { method: 'GET' })).status).toBe(200);
  });
});

test('counts what it did, and says it in lines of JSON without what was said', async () => {
  const { body } = await send('/metrics', {}, { method: 'GET' });
  expect(body).toMatch(
    /^lapidary_requests_total\{method="POST",route="\/v1\/chat\/completions",status="200"\} \d+$/m,
  );
  expect(body).not.toContain('nothing');
  const lines = api.server
    .printed()
    .split('\n')
    .filter((line) => line.startsWith('{'));
  const events = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(events).toContainEqual(expect.objectContaining({ event: 'loaded', model: 'nano:latest' }));
  expect(events).toContainEqual(
    expect.objectContaining({ event: 'request', method: 'POST', path: CHAT, status: 200 }),
  );
  expect(api.server.printed()).not.toMatch(/France|Paris|token of these/);
});

test('stopped in the middle of a stream it says so, and ends well', async () => {
  const stream = await api.openai.chat.completions.create({ ...endless, stream: true });
  const read = async () => {
    let begun = false;
    for await (const chunk of stream) {
      // A second signal would end it at once.
      if (chunk.choices[0]?.delta.content && !begun) api.server.kill('SIGTERM');
      begun ||= Boolean(chunk.choices[0]?.delta.content);
    }
  };
  await expect(read()).rejects.toThrow(/stopped/);
  expect((await api.server.ended).code).toBe(0);
});
