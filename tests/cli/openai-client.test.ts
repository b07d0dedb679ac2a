// `serve` to npm's `openai`, on nano.

import OpenAI, { APIError } from 'openai';
import { describe, expect, test } from 'vitest';
import { apiServer, ANSWER, ask, CAPITAL, endless, greedy, schemaFormat } from './api-server.ts';
import { complaints } from '../support/schemas.ts';
import { WEATHER } from '../support/weather.ts';

const api = apiServer();

describe("OpenAI's client", () => {
  test('lists the models and finds one', async () => {
    const ids: string[] = [];
    for await (const { id } of api.openai.models.list()) ids.push(id);
    expect(ids).toContain('nano:latest');
    expect(await api.openai.models.retrieve('nano')).toMatchObject({ id: 'nano:latest' });
    await expect(api.openai.models.retrieve('nothing')).rejects.toMatchObject({ status: 404 });
  });

  test('gets a whole answer with its usage, and after that from the cache', async () => {
    const first = await api.openai.chat.completions.create(greedy);
    const { message, finish_reason } = first.choices[0]!;
    expect([message.role, message.content, finish_reason]).toEqual(['assistant', ANSWER, 'stop']);
    const { prompt_tokens, completion_tokens, total_tokens } = first.usage!;
    expect(total_tokens).toBe(prompt_tokens + completion_tokens);
    expect(first).toMatchObject({ object: 'chat.completion', model: 'nano:latest' });
    const again = await api.openai.chat.completions.create(greedy);
    expect(again.usage?.prompt_tokens_details?.cached_tokens).toBe(prompt_tokens - 1);
  });

  test('gets it in chunks, with the usage last where it is asked for', async () => {
    const stream_options = { include_usage: true };
    const stream = await api.openai.chat.completions.create({
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
    const { choices } = await api.openai.chat.completions.create(request);
    const { message, finish_reason } = choices[0]!;
    expect([finish_reason, message.content]).toEqual(['tool_calls', null]);
    const [call] = message.tool_calls!;
    expect(call).toMatchObject({ type: 'function', function: { name: 'get_weather' } });
    if (call?.type !== 'function') throw new Error('no call');
    expect(JSON.parse(call.function.arguments)).toEqual({ city: 'Paris' });

    const stream = api.openai.chat.completions.stream(request);
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]?.message.tool_calls).toMatchObject([{ function: call.function }]);

    const content = '{"sky":"sunny","temperature":21}';
    const result = { role: 'tool' as const, tool_call_id: call.id, content };
    const next = await api.openai.chat.completions.create({
      ...request,
      messages: [...ask, message, result],
    });
    expect(next.choices[0]?.message.content).toMatch(/^It is sunny in Paris\b/);
    const none = await api.openai.chat.completions.create({ ...request, tool_choice: 'none' });
    expect(none.choices[0]?.finish_reason).not.toBe('tool_calls');
  });

  test('answers as a schema says, whole and in chunks, and in JSON mode', async () => {
    const request = { ...greedy, ...schemaFormat(CAPITAL), max_tokens: 60 };
    const { choices } = await api.openai.chat.completions.parse(request);
    expect(choices[0]?.finish_reason).toBe('stop');
    const { parsed, content } = choices[0]!.message;
    expect(parsed).toMatchObject({ city: 'Paris' });
    expect(complaints(CAPITAL, content!)).toBe('');
    const final = await api.openai.chat.completions.stream(request).finalChatCompletion();
    expect(final.choices[0]?.message.content).toBe(content);

    const any = { ...greedy, response_format: { type: 'json_object' as const }, max_tokens: 20 };
    const free = await api.openai.chat.completions.create(any);
    expect(free.choices[0]?.message.content).toMatch(/^\{/);
  });

  test('calls a tool because it must', async () => {
    const request = { ...greedy, tools: [WEATHER], max_tokens: 80 };
    for (const tool_choice of [
      'required' as const,
      { type: 'function' as const, function: { name: 'get_weather' } },
    ]) {
      const { choices } = await api.openai.chat.completions.create({
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
    const { choices } = await api.openai.chat.completions.create({
      ...{ ...greedy, messages, reasoning_effort: 'medium' },
    });
    expect(choices[0]?.message).toMatchObject({
      content: '12 + 7 = 19.',
      reasoning: expect.stringContaining('12 and 7') as string,
    });
  });

  test('stop, max_tokens, seed, logprobs and logit_bias do what they say', async () => {
    const text = async (more: object) => {
      const { choices } = await api.openai.chat.completions.create({ ...greedy, ...more });
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

    const { choices } = await api.openai.chat.completions.create({
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
    const { choices, usage } = await api.openai.completions.create({ ...request, logprobs: 1 });
    expect(usage?.completion_tokens).toBe(4);
    expect(choices[0]?.finish_reason).toBe('length');
    const { tokens, text_offset } = choices[0]!.logprobs!;
    expect(tokens!.join('')).toBe(choices[0]!.text);
    expect(text_offset![0]).toBe(0);
    let text = '';
    const stream = await api.openai.completions.create({ ...request, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
    expect(text).toBe(choices[0]?.text);
  });

  test('gets embeddings: of texts and tokens, in base64 and as numbers, with fewer dimensions', async () => {
    const input = ['The sky is blue.', 'Blue is the sky.', 'Bread is baked in ovens.'];
    // This client asks for base64 where nothing is said, and unpacks it.
    const packed = await api.openai.embeddings.create({ model: 'nano', input });
    const plain = await api.openai.embeddings.create({
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
    const short = await api.openai.embeddings.create({
      model: 'nano',
      input: input[0]!,
      dimensions: 8,
    });
    const length = Math.hypot(...sky!.slice(0, 8));
    short.data[0]!.embedding.forEach((x, i) => expect(x).toBeCloseTo(sky![i]! / length, 5));
    const tokens = await api.openai.embeddings.create({
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
    const wrong = api.openai.embeddings.create({ model: 'nano', input: 'x', ...more });
    await expect(wrong).rejects.toMatchObject({ status: 400, code, param });
  });

  test.each(['in chunks', 'whole'])('that goes away stops its reply: %s', async (how) => {
    const before = await api.settled();
    const controller = new AbortController();
    const { signal } = controller;
    if (how === 'whole') {
      const whole = api.openai.chat.completions.create(endless, { signal });
      setTimeout(() => controller.abort(), 300);
      await expect(whole).rejects.toThrow(/aborted/);
    } else {
      const stream = await api.openai.chat.completions.create(
        { ...endless, stream: true },
        { signal },
      );
      let seen = 0;
      for await (const chunk of stream) {
        if (chunk.choices[0]?.delta.content && ++seen === 5) break;
      }
    }
    const written = await api.settled();
    // The context has room for 500. Five were read; a few more may come before the server hears of it.
    expect(written - before).toBeGreaterThanOrEqual(how === 'whole' ? 0 : 5);
    expect(written - before).toBeLessThan(how === 'whole' ? 400 : 50);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await api.settled()).toBe(written);
  });

  test('one that waits and goes away never gets its turn, and those behind it do', async () => {
    const before = await api.settled();
    // As many as are written at once.
    const others = await Promise.all(
      Array.from({ length: 4 }, () =>
        api.openai.chat.completions.create({ ...endless, max_tokens: 24, stream: true }),
      ),
    );
    const controller = new AbortController();
    const waits = api.openai.chat.completions.create(endless, { signal: controller.signal });
    const last = api.openai.chat.completions.create(greedy);
    while ((await api.metric('queue_length')) < 2);
    controller.abort();
    await expect(waits).rejects.toThrow(/aborted/);
    for (const other of others) for await (const chunk of other) void chunk;
    const { choices, usage } = await last;
    expect(choices[0]?.message.content).toBe(ANSWER);
    expect((await api.settled()) - before).toBe(96 + usage!.completion_tokens);
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
      'a picture at an address',
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      ...([400, 'unsupported_value', 'messages[0].content[0].image_url.url'] as const),
    ],
    ['what is none of its members', { foo: 1 }, 400, 'invalid_value', 'foo'],
    [
      'more than the context holds',
      { messages: [{ role: 'user', content: 'word '.repeat(2000) }], stream: true },
      ...([400, 'context_length_exceeded', null] as const),
    ],
  ])('is refused %s', async (_, more, status, code, param) => {
    const wrong = api.openai.chat.completions.create({ ...greedy, ...more } as never);
    const error = (await wrong.then(
      () => undefined,
      (reason: unknown) => reason,
    )) as APIError;
    expect(error).toBeInstanceOf(APIError);
    expect([error.status, error.code, error.param]).toEqual([status, code, param]);
    expect(error.type).toBe('invalid_request_error');
  });
});
