// `serve` to the clients that people have: npm's `openai` and `ollama`, on nano; and to those who should get nothing.

import { request } from 'node:http';
import { Ollama } from 'ollama';
import OpenAI, { APIError } from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { QUESTION, main, root, start, type Running } from './harness.ts';
import { complaints } from '../support/schemas.ts';
import { WEATHER } from '../support/weather.ts';

const TOKEN = 'a token of these tests';
const FRIEND = 'https://friend.example';

let server: Running;
let base = '';
let openai: OpenAI;
let ollama: Ollama;

beforeAll(async () => {
  const flags = ['--models', `${root}models`, '--origin', FRIEND, '--context', '512'];
  server = start(process.execPath, [main, 'serve', '--port', '0', '--log', 'json', ...flags], {
    LAPIDARY_TOKEN: TOKEN,
  });
  await server.until(/http:\/\/localhost:\d+\//);
  base = /http:\/\/localhost:\d+/.exec(server.printed())![0].replace('localhost', '127.0.0.1');
  openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: TOKEN, maxRetries: 0 });
  ollama = new Ollama({ host: base, headers: { Authorization: `Bearer ${TOKEN}` } });
});
afterAll(() => server.kill('SIGKILL'));

const question = [{ role: 'user' as const, content: QUESTION }];
const ANSWER = 'The capital of France is Paris.';
const greedy = { model: 'nano', messages: question, temperature: 0 };
const CAPITAL = {
  type: 'object',
  properties: { city: { enum: ['London', 'Paris'] }, sure: { type: 'boolean' } },
  required: ['city', 'sure'],
  additionalProperties: false,
};
const schemaFormat = (schema: Record<string, unknown>) => ({
  response_format: {
    type: 'json_schema' as const,
    json_schema: { name: 'answer', strict: true, schema },
  },
});
/** A reply that goes on and on. */
const endless = {
  model: 'nano',
  messages: [{ role: 'user' as const, content: 'Tell me a story.' }],
  temperature: 0,
  logit_bias: { 1: -100, 106: -100, 50: -100 },
};

async function metric(name: string): Promise<number> {
  const answer = await fetch(`${base}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const line = new RegExp(`^lapidary_${name} (\\d+)$`, 'm').exec(await answer.text());
  return Number(line?.[1]);
}

/** Waits until nothing runs; then nothing more may be written. */
async function settled(): Promise<number> {
  while ((await metric('replies_running')) + (await metric('queue_length')) > 0) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return metric('generated_tokens_total');
}

const ask = [{ role: 'user' as const, content: 'What is the weather in Paris?' }];

describe("OpenAI's client", () => {
  test('lists the models and finds one', async () => {
    const ids: string[] = [];
    for await (const { id } of openai.models.list()) ids.push(id);
    expect(ids).toContain('nano:latest');
    expect(await openai.models.retrieve('nano')).toMatchObject({ id: 'nano:latest' });
    await expect(openai.models.retrieve('nothing')).rejects.toMatchObject({ status: 404 });
  });

  test('gets a whole answer with its usage, and after that from the cache', async () => {
    const first = await openai.chat.completions.create(greedy);
    const { message, finish_reason } = first.choices[0]!;
    expect([message.role, message.content, finish_reason]).toEqual(['assistant', ANSWER, 'stop']);
    const { prompt_tokens, completion_tokens, total_tokens } = first.usage!;
    expect(total_tokens).toBe(prompt_tokens + completion_tokens);
    expect(first).toMatchObject({ object: 'chat.completion', model: 'nano:latest' });
    const again = await openai.chat.completions.create(greedy);
    expect(again.usage?.prompt_tokens_details?.cached_tokens).toBe(prompt_tokens - 1);
  });

  test('gets it in chunks, with the usage last where it is asked for', async () => {
    const stream_options = { include_usage: true };
    const stream = await openai.chat.completions.create({
      ...greedy,
      stream: true,
      stream_options,
    });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: 'assistant', content: '' });
    expect(chunks.map((each) => each.choices[0]?.delta.content ?? '').join('')).toBe(ANSWER);
    expect(chunks.length).toBeGreaterThan(4);
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop');
    expect(chunks.at(-1)?.choices).toEqual([]);
    expect(chunks.at(-1)?.usage?.completion_tokens).toBeGreaterThan(4);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  test('calls a tool, whole and in chunks, and answers from its result', async () => {
    const request = { ...greedy, messages: ask, tools: [WEATHER] };
    const { choices } = await openai.chat.completions.create(request);
    const { message, finish_reason } = choices[0]!;
    expect([finish_reason, message.content]).toEqual(['tool_calls', null]);
    const [call] = message.tool_calls!;
    expect(call).toMatchObject({ type: 'function', function: { name: 'get_weather' } });
    if (call?.type !== 'function') throw new Error('no call');
    expect(JSON.parse(call.function.arguments)).toEqual({ city: 'Paris' });

    const stream = openai.chat.completions.stream(request);
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]?.message.tool_calls).toMatchObject([{ function: call.function }]);

    const content = '{"sky":"sunny","temperature":21}';
    const result = { role: 'tool' as const, tool_call_id: call.id, content };
    const next = await openai.chat.completions.create({
      ...request,
      messages: [...ask, message, result],
    });
    expect(next.choices[0]?.message.content).toMatch(/^It is sunny in Paris\b/);
    const none = await openai.chat.completions.create({ ...request, tool_choice: 'none' });
    expect(none.choices[0]?.finish_reason).not.toBe('tool_calls');
  });

  test('answers as a schema says, whole and in chunks, and in JSON mode', async () => {
    const request = { ...greedy, ...schemaFormat(CAPITAL), max_tokens: 60 };
    const { choices } = await openai.chat.completions.parse(request);
    expect(choices[0]?.finish_reason).toBe('stop');
    const { parsed, content } = choices[0]!.message;
    expect(parsed).toMatchObject({ city: 'Paris' });
    expect(complaints(CAPITAL, content!)).toBe('');
    const final = await openai.chat.completions.stream(request).finalChatCompletion();
    expect(final.choices[0]?.message.content).toBe(content);

    const any = { ...greedy, response_format: { type: 'json_object' as const }, max_tokens: 20 };
    const free = await openai.chat.completions.create(any);
    expect(free.choices[0]?.message.content).toMatch(/^\{/);
  });

  test('calls a tool because it must', async () => {
    const request = { ...greedy, tools: [WEATHER], max_tokens: 80 };
    for (const tool_choice of [
      'required' as const,
      { type: 'function' as const, function: { name: 'get_weather' } },
    ]) {
      const { choices } = await openai.chat.completions.create({
        ...request,
        ...{ tool_choice, parallel_tool_calls: false },
      });
      const [call] = choices[0]!.message.tool_calls ?? [];
      if (call?.type !== 'function') throw new Error('no call');
      expect(call.function.name).toBe('get_weather');
      const { parameters } = WEATHER.function;
      expect(complaints(parameters, call.function.arguments)).toBe('');
    }
  });

  test('thinks where it is told to', async () => {
    const messages = [{ role: 'user' as const, content: 'What is 12 + 7?' }];
    const { choices } = await openai.chat.completions.create({
      ...{ ...greedy, messages, reasoning_effort: 'medium' },
    });
    expect(choices[0]?.message).toMatchObject({
      content: '12 + 7 = 19.',
      reasoning: expect.stringContaining('12 and 7') as string,
    });
  });

  test('stop, max_tokens, seed, logprobs and logit_bias do what they say', async () => {
    const text = async (more: object) => {
      const { choices } = await openai.chat.completions.create({ ...greedy, ...more });
      return [choices[0]?.message.content, choices[0]?.finish_reason];
    };
    expect(await text({ stop: [' Paris', 'nothing'] })).toEqual([
      'The capital of France is',
      'stop',
    ]);
    const [short, why] = await text({ max_completion_tokens: 3 });
    expect(why).toBe('length');
    expect(ANSWER.startsWith(short!)).toBe(true);
    const drawn = { ...endless, temperature: 2, top_p: 1, max_tokens: 12 };
    const seeded = (seed: number) => text({ ...drawn, seed });
    expect(await seeded(7)).toEqual(await seeded(7));
    expect(await seeded(7)).not.toEqual(await seeded(8));

    const { choices } = await openai.chat.completions.create({
      ...{ ...greedy, logprobs: true, top_logprobs: 2 },
    });
    const tokens = choices[0]!.logprobs!.content!;
    expect(tokens.map(({ token }) => token).join('')).toBe(ANSWER);
    for (const { token, logprob, bytes, top_logprobs } of tokens) {
      expect(Buffer.from(bytes!).toString()).toBe(token);
      expect(top_logprobs.map((each) => each.logprob)[0]).toBeCloseTo(logprob, 4);
      expect(top_logprobs).toHaveLength(2);
    }
  });

  test('writes a prompt on, whole and in chunks', async () => {
    const request = { model: 'nano', prompt: 'The capital of', temperature: 0, max_tokens: 4 };
    const { choices, usage } = await openai.completions.create({ ...request, logprobs: 1 });
    expect(usage?.completion_tokens).toBe(4);
    expect(choices[0]?.finish_reason).toBe('length');
    const { tokens, text_offset } = choices[0]!.logprobs!;
    expect(tokens!.join('')).toBe(choices[0]!.text);
    expect(text_offset![0]).toBe(0);
    let text = '';
    const stream = await openai.completions.create({ ...request, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
    expect(text).toBe(choices[0]?.text);
  });

  test('gets embeddings: of texts and tokens, in base64 and as numbers, with fewer dimensions', async () => {
    const input = ['The sky is blue.', 'Blue is the sky.', 'Bread is baked in ovens.'];
    // This client asks for base64 where nothing is said, and unpacks it.
    const packed = await openai.embeddings.create({ model: 'nano', input });
    const plain = await openai.embeddings.create({
      ...{ model: 'nano', input, encoding_format: 'float' },
    });
    expect(packed.data.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(packed.data.map(({ embedding }) => embedding)).toEqual(
      plain.data.map(({ embedding }) => embedding),
    );
    const [sky, again, bread] = plain.data.map(({ embedding }) => embedding);
    const dot = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
    expect(dot(sky!, sky!)).toBeCloseTo(1, 6);
    expect(dot(sky!, again!)).toBeGreaterThan(dot(sky!, bread!));
    expect(plain.usage.prompt_tokens).toBeGreaterThan(9);
    expect(plain.usage.total_tokens).toBe(plain.usage.prompt_tokens);
    const short = await openai.embeddings.create({
      model: 'nano',
      input: input[0]!,
      dimensions: 8,
    });
    const length = Math.hypot(...sky!.slice(0, 8));
    short.data[0]!.embedding.forEach((x, i) => expect(x).toBeCloseTo(sky![i]! / length, 5));
    const tokens = await openai.embeddings.create({
      model: 'nano',
      input: [
        [2, 5],
        [2, 5, 6],
      ],
    });
    expect(tokens.usage.prompt_tokens).toBe(5);
  });

  test.each<[string, object, string, string | null]>([
    ['an empty text', { input: ['x', ''] }, 'invalid_value', 'input'],
    ['no text', { input: [] }, 'invalid_value', 'input'],
    ['too many texts', { input: Array(2049).fill('x') }, 'invalid_value', 'input'],
    ['another encoding', { encoding_format: 'hex' }, 'invalid_value', 'encoding_format'],
    ['more dimensions than there are', { dimensions: 4096 }, 'invalid_value', null],
    ['what does not fit', { input: 'word '.repeat(2000) }, 'context_length_exceeded', null],
  ])('is refused embeddings of %s', async (_, more, code, param) => {
    const wrong = openai.embeddings.create({ model: 'nano', input: 'x', ...more });
    await expect(wrong).rejects.toMatchObject({ status: 400, code, param });
  });

  test.each(['in chunks', 'whole'])('that goes away stops its reply: %s', async (how) => {
    const before = await settled();
    const controller = new AbortController();
    const { signal } = controller;
    if (how === 'whole') {
      const whole = openai.chat.completions.create(endless, { signal });
      setTimeout(() => controller.abort(), 300);
      await expect(whole).rejects.toThrow(/aborted/);
    } else {
      const stream = await openai.chat.completions.create({ ...endless, stream: true }, { signal });
      let seen = 0;
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content && ++seen === 5) break;
      }
    }
    const written = await settled();
    // The context has room for 500. Five were read; a few more may come before the server hears of it.
    expect(written - before).toBeGreaterThanOrEqual(how === 'whole' ? 0 : 5);
    expect(written - before).toBeLessThan(how === 'whole' ? 400 : 50);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await settled()).toBe(written);
  });

  test('one that waits and goes away never gets its turn, and those behind it do', async () => {
    const before = await settled();
    // As many as are written at once.
    const others = await Promise.all(
      Array.from({ length: 4 }, () =>
        openai.chat.completions.create({ ...endless, max_tokens: 24, stream: true }),
      ),
    );
    const controller = new AbortController();
    const waits = openai.chat.completions.create(endless, { signal: controller.signal });
    const last = openai.chat.completions.create(greedy);
    while ((await metric('queue_length')) < 2);
    controller.abort();
    await expect(waits).rejects.toThrow(/aborted/);
    for (const other of others) for await (const chunk of other) void chunk;
    const { choices, usage } = await last;
    expect(choices[0]?.message.content).toBe(ANSWER);
    expect((await settled()) - before).toBe(96 + usage!.completion_tokens);
  });

  test.each<[string, object, number, string | null, string | null]>([
    ['an unknown model', { model: 'nothing' }, 404, 'model_not_found', null],
    ['no model', { model: undefined }, 400, 'invalid_value', null],
    ['a path for a model', { model: '../../x.gguf' }, 400, 'invalid_value', null],
    ['n', { n: 2 }, 400, 'unsupported_value', 'n'],
    [
      'a format',
      { response_format: { type: 'grammar' } },
      ...([400, 'invalid_value', 'response_format.type'] as const),
    ],
    [
      'a schema that cannot be followed',
      { ...schemaFormat({ not: {} }), stream: true },
      ...([400, 'unsupported_value', null] as const),
    ],
    [
      'a picture',
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      ...([400, 'unsupported_value', 'messages[0].content[0].type'] as const),
    ],
    ['what is none of its members', { foo: 1 }, 400, 'invalid_value', 'foo'],
    [
      'more than the context holds',
      { messages: [{ role: 'user', content: 'word '.repeat(2000) }], stream: true },
      ...([400, 'context_length_exceeded', null] as const),
    ],
  ])('is refused %s', async (_, more, status, code, param) => {
    const wrong = openai.chat.completions.create({ ...greedy, ...more } as never);
    const error = (await wrong.then(
      () => undefined,
      (reason: unknown) => reason,
    )) as APIError;
    expect(error).toBeInstanceOf(APIError);
    expect([error.status, error.code, error.param]).toEqual([status, code, param]);
    expect(error.type).toBe('invalid_request_error');
  });
});

describe("Ollama's client", () => {
  test('sees version, models, what one is, and what is loaded', async () => {
    expect((await ollama.version()).version).toMatch(/^\d+\.\d+\.\d+$/);
    const { models } = await ollama.list();
    const nano = models.find(({ name }) => name === 'nano:latest')!;
    expect(nano.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(nano.size).toBeGreaterThan(1e6);
    const shown = await ollama.show({ model: 'nano' });
    expect(shown.details).toMatchObject({ format: 'gguf', family: 'gemma4' });
    expect(shown.capabilities).toContain('tools');
    expect(shown.model_info).toMatchObject({ 'general.architecture': 'gemma4' });
    expect(shown.parameters).toContain('temperature');
    await ollama.generate({ model: 'nano', prompt: '', keep_alive: '10m' });
    const [loaded] = (await ollama.ps()).models;
    expect(loaded).toMatchObject({ name: 'nano:latest', digest: nano.digest });
    const minutes = (Date.parse(String(loaded!.expires_at)) - Date.now()) / 60_000;
    expect(minutes).toBeGreaterThan(9);
    expect(minutes).toBeLessThanOrEqual(10);
  });

  const options = { temperature: 0 };

  test('chats, whole and in pieces, with times', async () => {
    const whole = await ollama.chat({ model: 'nano', messages: question, options });
    expect(whole.message).toEqual({ role: 'assistant', content: ANSWER });
    expect(whole).toMatchObject({ model: 'nano', done: true, done_reason: 'stop' });
    expect(whole.eval_count).toBeGreaterThan(4);
    expect(whole.total_duration).toBeGreaterThan(whole.eval_duration);
    expect(whole.eval_duration).toBeGreaterThan(1e5);
    const ranked = await ollama.chat({
      ...{ model: 'nano', messages: question, options, logprobs: true, top_logprobs: 1 },
    });
    expect(ranked.logprobs?.map(({ token }) => token).join('')).toBe(ANSWER);
    expect(ranked.logprobs?.[0]?.top_logprobs).toHaveLength(1);
    let text = '';
    const parts = await ollama.chat({ model: 'nano', messages: question, options, stream: true });
    for await (const part of parts) {
      text += part.message.content;
      if (part.done) expect(part.prompt_eval_count).toBe(whole.prompt_eval_count);
    }
    expect(text).toBe(ANSWER);
  });

  test('calls a tool and thinks', async () => {
    const called = await ollama.chat({ model: 'nano', messages: ask, tools: [WEATHER], options });
    const [call] = called.message.tool_calls!;
    expect(call?.function).toMatchObject({ name: 'get_weather', arguments: { city: 'Paris' } });
    const content = '{"sky":"sunny","temperature":21}';
    const messages = [...ask, called.message, { role: 'tool', tool_name: 'get_weather', content }];
    const next = await ollama.chat({ model: 'nano', messages, tools: [WEATHER], options });
    expect(next.message.content).toMatch(/^It is sunny in Paris\b/);
    const sum = [{ role: 'user', content: 'What is 12 + 7?' }];
    const { message } = await ollama.chat({ model: 'nano', messages: sum, think: true, options });
    expect(message.content).toBe('12 + 7 = 19.');
    expect(message.thinking).toContain('12 and 7');
  });

  test('generates, raw as well, and within its options', async () => {
    const { response } = await ollama.generate({ model: 'nano', prompt: QUESTION, options });
    expect(response).toBe(ANSWER);
    const prompt = `<bos><|turn>user\n${QUESTION}<turn|>\n<|turn>model\n`;
    const raw = await ollama.generate({ model: 'nano', prompt, raw: true, options });
    expect(raw.response).toBe(ANSWER);
    const few = await ollama.generate({
      ...{ model: 'nano', prompt: QUESTION, options: { ...options, num_predict: 2 } },
    });
    expect([few.done_reason, few.eval_count]).toEqual(['length', 2]);
  });

  test('embeds texts, cut where they are too long, and one as it was done before', async () => {
    const request = { model: 'nano', input: ['The sky is blue.', 'word '.repeat(2000)] };
    const { embeddings, prompt_eval_count, total_duration } = await ollama.embed(request);
    expect(embeddings.map((each) => Math.hypot(...each).toFixed(5))).toEqual([
      '1.00000',
      '1.00000',
    ]);
    // The context has room for 512.
    expect(prompt_eval_count).toBeGreaterThan(512);
    expect(prompt_eval_count).toBeLessThan(530);
    expect(total_duration).toBeGreaterThan(1e5);
    await expect(ollama.embed({ ...request, truncate: false })).rejects.toThrow(/context of 512/);
    const few = await ollama.embed({
      ...{ model: 'nano', input: 'The sky is blue.', dimensions: 4 },
    });
    expect(few.embeddings[0]).toHaveLength(4);
    expect((await ollama.embed({ model: 'nano', input: '' })).embeddings).toEqual([]);
    const { embedding } = await ollama.embeddings({ model: 'nano', prompt: 'The sky is blue.' });
    const length = Math.hypot(...embedding);
    expect(length).toBeGreaterThan(1.5);
    embedding.forEach((x, i) => expect(x / length).toBeCloseTo(embeddings[0]![i]!, 5));
    await expect(ollama.embed({ model: 'nano', input: [5] as never })).rejects.toThrow(/'input'/);
  });

  test('abort ends a stream, and the reply behind it', async () => {
    const before = await settled();
    // A client of its own: abort ends all that one has asked for.
    const other = new Ollama({ host: base, headers: { Authorization: `Bearer ${TOKEN}` } });
    const hot = { temperature: 2, top_k: 0, top_p: 1, seed: 1 };
    const prompt = 'Once upon a time';
    const stream = await other.generate({
      ...{ model: 'nano', prompt, raw: true, stream: true, options: hot },
    });
    const read = async () => {
      for await (const part of stream) if (!part.done) other.abort();
    };
    await expect(read()).rejects.toThrow(/abort/i);
    expect((await settled()) - before).toBeLessThan(300);
  });

  test('answers as a schema says', async () => {
    const chat = { model: 'nano', messages: question, options: { ...options, num_predict: 60 } };
    const { message } = await ollama.chat({ ...chat, format: CAPITAL });
    expect(complaints(CAPITAL, message.content)).toBe('');
    const { response } = await ollama.generate({
      ...{ model: 'nano', prompt: QUESTION, format: CAPITAL, options: chat.options },
    });
    expect(JSON.parse(response ?? '')).toMatchObject({ city: 'Paris' });
    expect((await ollama.chat({ ...chat, format: 'json' })).message.content).toMatch(/^\{/);
  });

  test('is told what is wrong', async () => {
    const chat = (more: object) => ollama.chat({ model: 'nano', messages: question, ...more });
    await expect(chat({ model: 'nothing' })).rejects.toMatchObject({ status_code: 404 });
    await expect(chat({ format: 'xml' })).rejects.toThrow(/'format' must be/);
    await expect(chat({ format: { not: {} } })).rejects.toThrow(/'not' at #/);
    await expect(chat({ keep_alive: 'soon' })).rejects.toMatchObject({ status_code: 400 });
    await expect(chat({ options: { temperature: 'hot' } })).rejects.toThrow(/options.temperature/);
  });

  test('keep_alive 0 unloads the model; the next request loads it again', async () => {
    await ollama.chat({ model: 'nano', messages: question, options, keep_alive: 0 });
    await expect.poll(async () => (await ollama.ps()).models).toEqual([]);
    const { load_duration } = await ollama.chat({ model: 'nano', messages: question, options });
    expect(load_duration).toBeGreaterThan(1e6);
  });
});

interface Answer {
  status: number;
  body: string;
  headers: Record<string, unknown>;
}

/** A request that no client would make. */
function send(
  path: string,
  headers: Record<string, string>,
  { method = 'POST', body = '' } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const bearing = { authorization: `Bearer ${TOKEN}`, ...headers };
    const sent = request(`${base}${path}`, { method, headers: bearing }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => (text += part));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: text, headers: response.headers }),
      );
    });
    sent.on('error', reject).end(body);
  });
}
const json = { 'content-type': 'application/json' };
const CHAT = '/v1/chat/completions';

describe('several clients at once', () => {
  const schema = { response_format: schemaFormat(CAPITAL).response_format };
  const options = { temperature: 0 };
  const asks: (() => Promise<unknown>)[] = [
    async () => (await openai.chat.completions.create(greedy)).choices[0]?.message.content,
    async () =>
      (await openai.chat.completions.create({ ...greedy, ...schema })).choices[0]?.message.content,
    async () => {
      let text = '';
      for await (const chunk of await openai.chat.completions.create({ ...greedy, stream: true })) {
        text += chunk.choices[0]?.delta.content ?? '';
      }
      return text;
    },
    async () => {
      const request = { ...greedy, messages: ask, tools: [WEATHER] };
      const [choice] = (await openai.chat.completions.create(request)).choices;
      const [call] = choice?.message.tool_calls ?? [];
      return call?.type === 'function' && call.function;
    },
    async () => (await ollama.chat({ model: 'nano', messages: question, options })).message.content,
    async () => {
      const request = { model: 'nano', messages: question, options, format: CAPITAL };
      return (await ollama.chat(request)).message.content;
    },
    async () => {
      let text = '';
      const stream = await ollama.chat({
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
      return (await ollama.generate({ ...request, options: { ...options, num_predict: 3 } }))
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
    await settled();
    const stops = Array.from({ length: 5 }, () => new AbortController());
    const written = stops.map(() => 0);
    const read = async (i: number) => {
      const request = { ...endless, stream: true as const };
      const { signal } = stops[i]!;
      const stream = await openai.chat.completions.create(request, { signal });
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
    while ((await metric('queue_length')) < 1);
    await writes(0, 1, 2, 3);
    expect([await metric('replies_running'), written[4]]).toEqual([4, 0]);
    stops[1]!.abort();
    await writes(0, 2, 3, 4);
    for (const stop of stops) stop.abort();
    await Promise.allSettled(reading);
    await settled();
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
    ['too large', CHAT, json, ' '.repeat((8 << 20) + 1), 413],
    [
      'too large, in pieces',
      CHAT,
      { ...json, 'transfer-encoding': 'chunked' },
      ' '.repeat(9e6),
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
    expect((await send('/api/tags', { origin: base }, { method: 'GET' })).status).toBe(200);
  });
});

test('counts what it did, and says it in lines of JSON without what was said', async () => {
  const { body } = await send('/metrics', {}, { method: 'GET' });
  expect(body).toMatch(
    /^lapidary_requests_total\{method="POST",route="\/v1\/chat\/completions",status="200"\} \d+$/m,
  );
  expect(body).not.toContain('nothing');
  const lines = server
    .printed()
    .split('\n')
    .filter((line) => line.startsWith('{'));
  const events = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(events).toContainEqual(expect.objectContaining({ event: 'loaded', model: 'nano:latest' }));
  expect(events).toContainEqual(
    expect.objectContaining({ event: 'request', method: 'POST', path: CHAT, status: 200 }),
  );
  expect(server.printed()).not.toMatch(/France|Paris|token of these/);
});

test('stopped in the middle of a stream it says so, and ends well', async () => {
  const stream = await openai.chat.completions.create({ ...endless, stream: true });
  const read = async () => {
    let begun = false;
    for await (const chunk of stream) {
      // A second signal would end it at once.
      if (chunk.choices[0]?.delta.content && !begun) server.kill('SIGTERM');
      begun ||= Boolean(chunk.choices[0]?.delta.content);
    }
  };
  await expect(read()).rejects.toThrow(/stopped/);
  expect((await server.ended).code).toBe(0);
});
