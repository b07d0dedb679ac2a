// OpenAI's shape over a model that only pretends: what is refused and by which name, what is asked of the model, and how
// its events become chunks.

import type { ChatOptions, Message, RawOptions, ReplyEvent, ReplyReport } from 'lapidary/node';
import {
  LIMITS,
  RequestError,
  createOpenAI,
  errorAnswer,
  type ChatCompletionChunk,
  type ChatParams,
  type OpenAIModel,
  type ReplyLike,
} from 'lapidary/openai';
import type OpenAI from 'openai';
import { describe, expect, test } from 'vitest';

interface Call {
  messages?: Message[];
  prompt?: string | number[];
  options: ChatOptions & RawOptions;
}

const REPORT: ReplyReport = {
  reason: 'stop',
  usage: { promptTokens: 10, cachedTokens: 4, completionTokens: 3 },
  timings: { prefillMs: 1, decodeMs: 2, firstTokenMs: 1 },
  tokens: [1, 2, 3],
};

/** A model that plays `events` and keeps what it was asked. */
function pretend(events: ReplyEvent[] = [], report: Partial<ReplyReport> = {}) {
  const calls: Call[] = [];
  const reply = (signal?: AbortSignal): ReplyLike => {
    const end = (): ReplyReport => ({
      ...REPORT,
      ...report,
      ...(signal?.aborted && { reason: 'cancelled' }),
    });
    return {
      report: () => Promise.resolve(end()),
      async *[Symbol.asyncIterator]() {
        await Promise.resolve();
        for (const event of events) {
          if (signal?.aborted) break;
          yield event;
        }
        yield { type: 'done', ...end() };
      },
    };
  };
  const model: OpenAIModel = {
    info: { name: 'fake:latest' },
    chat: (messages, options = {}) => {
      calls.push({ messages, options });
      return reply(options.signal);
    },
    generate: (prompt, options = {}) => {
      calls.push({ prompt, options });
      return reply(options.signal);
    },
    detokenize: (ids) => (ids[0] === 100 ? '' : 'x'),
    tokenize: () => [48],
  };
  return { calls, openai: createOpenAI(model) };
}

const messages = [{ role: 'user', content: 'Hello' }];
const text = (word: string): ReplyEvent => ({ type: 'text', text: word });
const prefill: ReplyEvent = { type: 'prefill', processed: 10, total: 10, cached: 4 };
const call: ReplyEvent = { type: 'tool_call', name: 'f', arguments: { a: 1 } };

test('pictures are parts, as large as their detail says', async () => {
  const { openai, calls } = pretend();
  const url = 'data:image/png;base64,AA==';
  const content = [
    { type: 'image_url' as const, image_url: { url, detail: 'low' as const } },
    { type: 'text' as const, text: 'and' },
    { type: 'image_url' as const, image_url: { url } },
  ];
  await openai.chat.completions.create({ messages: [{ role: 'user', content }] });
  expect(calls[0]!.messages).toEqual([
    {
      role: 'user',
      content: [
        { type: 'image', image: url, maxTokens: 70 },
        { type: 'text', text: 'and' },
        { type: 'image', image: url },
      ],
    },
  ]);
});

async function refusal(request: object, create: 'chat' | 'completions' = 'chat') {
  const { openai, calls } = pretend();
  const made =
    create === 'chat'
      ? openai.chat.completions.create(request as never)
      : openai.completions.create(request as never);
  const error = await made.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RequestError);
  expect(calls).toEqual([]);
  const { code, param, message } = error as RequestError;
  return { code, param, message };
}

const deep = (depth: number): unknown => (depth > 0 ? { a: deep(depth - 1) } : 1);
const tool = (parameters?: unknown) => ({
  type: 'function' as const,
  function: { name: 'f', parameters: parameters as never },
});

const picture = (image_url: object) => [
  { role: 'user', content: [{ type: 'image_url', image_url }] },
];

const schemaFormat = (schema: unknown, name = 'answer') => ({
  response_format: { type: 'json_schema' as const, json_schema: { name, schema: schema as never } },
});
const FUNCTION = { type: 'function' as const };

describe('what is refused, by name', () => {
  test.each<[string, string, object]>([
    ['temperature', 'invalid_argument', { temperature: 3 }],
    ['temperature', 'invalid_argument', { temperature: '1' }],
    ['temperature', 'invalid_argument', { temperature: NaN }],
    ['top_p', 'invalid_argument', { top_p: -0.1 }],
    ['presence_penalty', 'invalid_argument', { presence_penalty: 2.1 }],
    ['frequency_penalty', 'invalid_argument', { frequency_penalty: [] }],
    ['seed', 'invalid_argument', { seed: 1.5 }],
    ['seed', 'invalid_argument', { seed: 1e300 }],
    ['max_tokens', 'invalid_argument', { max_tokens: 0 }],
    ['max_tokens', 'invalid_argument', { max_tokens: 5, max_completion_tokens: 5 }],
    ['stop', 'invalid_argument', { stop: [1] }],
    ['stop', 'invalid_argument', { stop: Array(17).fill('x') }],
    ['stop', 'invalid_argument', { stop: 'x'.repeat(LIMITS.stopText + 1) }],
    ['logit_bias', 'invalid_argument', { logit_bias: { word: 1 } }],
    ['logit_bias', 'invalid_argument', { logit_bias: { 1: 101 } }],
    ['logit_bias', 'invalid_argument', { logit_bias: [1] }],
    ['top_logprobs', 'invalid_argument', { top_logprobs: 2 }],
    ['top_logprobs', 'invalid_argument', { logprobs: true, top_logprobs: 21 }],
    ['stream', 'invalid_argument', { stream: 'yes' }],
    ['stream_options', 'invalid_argument', { stream_options: { include_usage: true } }],
    ['n', 'unsupported', { n: 2 }],
    ['n', 'invalid_argument', { n: 0 }],
    ['response_format', 'invalid_argument', { response_format: 'json' }],
    ['response_format.type', 'invalid_argument', { response_format: {} }],
    ['response_format.type', 'invalid_argument', { response_format: { type: 'grammar' } }],
    [
      'response_format.json_schema',
      'invalid_argument',
      { response_format: { type: 'json_schema' } },
    ],
    ['response_format.json_schema.name', 'invalid_argument', schemaFormat({}, '')],
    ['response_format.json_schema.schema', 'invalid_argument', schemaFormat([])],
    ['response_format.json_schema.schema', 'invalid_argument', schemaFormat(undefined)],
    ['response_format.json_schema.schema', 'invalid_argument', schemaFormat(deep(100))],
    [
      'response_format.json_schema.schema',
      'invalid_argument',
      schemaFormat({ const: 'x'.repeat(LIMITS.schemaText) }),
    ],
    ['functions', 'unsupported', { functions: [] }],
    ['audio', 'unsupported', { audio: {} }],
    ['modalities', 'unsupported', { modalities: ['text', 'audio'] }],
    ['store', 'unsupported', { store: true }],
    ['verbosity', 'unsupported', { verbosity: 'low' }],
    ['web_search_options', 'unsupported', { web_search_options: {} }],
    ['reasoning_effort', 'invalid_argument', { reasoning_effort: 'huge' }],
    ['tool_choice', 'invalid_argument', { tool_choice: 'any' }],
    ['tool_choice', 'invalid_argument', { tool_choice: 'required' }],
    ['tool_choice.type', 'unsupported', { tools: [tool()], tool_choice: { type: 'custom' } }],
    ['tool_choice.function', 'invalid_argument', { tools: [tool()], tool_choice: FUNCTION }],
    [
      'tool_choice.function.name',
      'invalid_argument',
      { tools: [tool()], tool_choice: { ...FUNCTION, function: { name: 'other' } } },
    ],
    ['tools', 'invalid_argument', { tools: Array(129).fill(tool()) }],
    ['tools', 'invalid_argument', { tools: [tool(deep(1000))] }],
    ['tools[0].function', 'invalid_argument', { tools: [{ type: 'function' }] }],
    ['tools[0].type', 'unsupported', { tools: [{ type: 'custom', custom: {} }] }],
    ['tools[0].function.parameters', 'invalid_argument', { tools: [tool('none')] }],
    ['messages', 'invalid_argument', { messages: [] }],
    ['messages', 'invalid_argument', { messages: 'Hello' }],
    ['messages', 'invalid_argument', { messages: Array(4097).fill(messages[0]) }],
    ['messages[0]', 'invalid_argument', { messages: [null] }],
    ['messages[0].role', 'invalid_argument', { messages: [{ role: 'king', content: '' }] }],
    ['messages[0].content', 'invalid_argument', { messages: [{ role: 'user' }] }],
    ['messages[0].content', 'invalid_argument', { messages: [{ role: 'user', content: 5 }] }],
    [
      'messages[1].content',
      'invalid_argument',
      { messages: Array(2).fill({ role: 'user', content: 'x'.repeat(LIMITS.text / 2 + 1) }) },
    ],
    [
      'messages[0].content[0].type',
      'unsupported',
      { messages: [{ role: 'user', content: [{ type: 'video_url', video_url: {} }] }] },
    ],
    [
      'messages[0].content[0].input_audio',
      'invalid_argument',
      { messages: [{ role: 'user', content: [{ type: 'input_audio', input_audio: {} }] }] },
    ],
    [
      'messages[0].content[0].input_audio.format',
      'unsupported',
      {
        messages: [
          {
            role: 'user',
            content: [{ type: 'input_audio', input_audio: { data: '', format: 'mp3' } }],
          },
        ],
      },
    ],
    [
      'messages[0].content[0].image_url.url',
      'unsupported',
      { messages: picture({ url: 'https://example.org/a.png' }) },
    ],
    ['messages[0].content[0].image_url', 'invalid_argument', { messages: picture({}) }],
    [
      'messages[0].content[0].image_url.detail',
      'invalid_argument',
      { messages: picture({ url: 'data:,', detail: 'all' }) },
    ],
    ['messages[0].tool_call_id', 'invalid_argument', { messages: [{ role: 'tool', content: '' }] }],
    [
      'messages[0].tool_calls',
      'invalid_argument',
      { messages: [{ role: 'user', content: '', tool_calls: [tool()] }] },
    ],
    ['foo', 'invalid_argument', { foo: 1 }],
    ['__proto__', 'invalid_argument', JSON.parse('{"__proto__":{"stream":true}}') as object],
  ])('%s: %s, %j', async (param, code, more) => {
    // Not spread: that would set a prototype.
    const request = Object.defineProperties<object>(
      {},
      {
        ...Object.getOwnPropertyDescriptors({ messages }),
        ...Object.getOwnPropertyDescriptors(more),
      },
    );
    const error = await refusal(request);
    expect([error.param, error.code]).toEqual([param, code]);
    expect(error.message.length).toBeLessThan(300);
  });

  test.each<[string, string, object]>([
    ['prompt', 'invalid_argument', {}],
    ['prompt', 'invalid_argument', { prompt: [] }],
    ['prompt', 'invalid_argument', { prompt: [-1] }],
    ['prompt', 'unsupported', { prompt: ['a', 'b'] }],
    ['best_of', 'unsupported', { prompt: 'a', best_of: 3 }],
    ['echo', 'unsupported', { prompt: 'a', echo: true }],
    ['suffix', 'unsupported', { prompt: 'a', suffix: 'b' }],
    ['logprobs', 'invalid_argument', { prompt: 'a', logprobs: true }],
    ['messages', 'invalid_argument', { prompt: 'a', messages }],
  ])('of completions, %s: %s, %j', async (param, code, request) => {
    const error = await refusal(request, 'completions');
    expect([error.param, error.code]).toEqual([param, code]);
  });

  test.each([null, undefined, [], 'text', 5])('%j is no request', async (request) => {
    expect((await refusal(request as never)).code).toBe('invalid_argument');
  });
});

test('what is asked of the model', async () => {
  const { openai, calls } = pretend();
  const tools = [{ type: 'function' as const, function: { name: 'f', strict: true } }];
  await openai.chat.completions.create({
    ...{ model: 'any', temperature: 0.5, top_p: 0.9, presence_penalty: 1, frequency_penalty: -1 },
    ...{ seed: -1, stop: 'END', max_completion_tokens: 9, logit_bias: { 5: -2 }, user: 'me' },
    ...{ tools, logprobs: true, top_logprobs: 0, reasoning_effort: 'low', n: 1, min_p: null },
    messages: [
      { role: 'system', content: [{ type: 'text', text: 'Be brief.' }] },
      { role: 'user', content: 'Hello' },
      {
        role: 'assistant',
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }],
        reasoning: 'Hm.',
      },
      { role: 'tool', tool_call_id: 'c1', content: 'done' },
    ],
  });
  const { signal, ...options } = calls[0]!.options;
  expect(signal).toBeInstanceOf(AbortSignal);
  expect(options).toEqual({
    ...{ temperature: 0.5, topP: 0.9, presencePenalty: 1, frequencyPenalty: -1 },
    ...{ seed: 2 ** 53 - 1, stop: ['END'], maxTokens: 9, logitBias: { 5: -2 } },
    ...{ tools: [{ type: 'function', function: { name: 'f' } }], logprobs: 1, think: true },
  });
  expect(calls[0]!.messages).toEqual([
    { role: 'system', content: [{ type: 'text', text: 'Be brief.' }] },
    { role: 'user', content: 'Hello' },
    {
      ...{ role: 'assistant', content: '', thinking: 'Hm.' },
      tool_calls: [{ id: 'c1', function: { name: 'f', arguments: '{}' } }],
    },
    { role: 'tool', content: 'done', tool_call_id: 'c1' },
  ]);
});

test('a choice of no tool keeps them from the model and forbids calls', async () => {
  const { openai, calls } = pretend([prefill, text('Hi')]);
  const tools = [{ type: 'function' as const, function: { name: 'f' } }];
  const request = { messages: [{ role: 'user' as const, content: 'Hello' }], tools };
  await openai.chat.completions.create({ ...request, tool_choice: 'none' });
  expect(calls[0]!.options.tools).toBeUndefined();
  expect(calls[0]!.options.logitBias).toEqual({ 48: -100 });
});

test('formats and forced calls reach the model', async () => {
  const { openai, calls } = pretend([prefill, text('{}')]);
  const ask = (more: object) =>
    openai.chat.completions.create({ messages: [{ role: 'user', content: 'Hello' }], ...more });
  const schema = { type: 'object' };
  await ask({ response_format: { type: 'text' } });
  await ask({ response_format: { type: 'json_object' } });
  await ask({ ...schemaFormat(schema), tool_choice: 'auto' });
  await ask({ tools: [tool()], tool_choice: 'required' });
  await ask({ tools: [tool()], tool_choice: { ...FUNCTION, function: { name: 'f' } } });
  expect(calls.map(({ options }) => options.format)).toEqual([
    ...[undefined, 'json', schema, undefined, undefined],
  ]);
  expect(calls.map(({ options }) => options.toolChoice)).toEqual([
    ...[undefined, undefined, undefined, 'required', { name: 'f' }],
  ]);
});

test('completions: a prompt, 16 tokens unless more are asked for, one <bos>', async () => {
  const { openai, calls } = pretend([text('b')]);
  const done = await openai.completions.create({ prompt: '<bos>a' });
  expect(done.choices[0]).toEqual({ index: 0, text: 'b', logprobs: null, finish_reason: 'stop' });
  await openai.completions.create({ prompt: [[2, 5]], max_tokens: 3 });
  expect(calls.map(({ prompt }) => prompt)).toEqual(['a', [2, 5]]);
  expect(calls.map(({ options }) => options.maxTokens)).toEqual([16, 3]);
});

async function chunksOf(events: ReplyEvent[], more: object = {}, report = {}) {
  const { openai } = pretend(events, report);
  const request = { messages: messages as never, stream: true as const, ...more };
  const chunks: ChatCompletionChunk[] = [];
  for await (const chunk of await openai.chat.completions.create(request)) chunks.push(chunk);
  return chunks;
}

describe('embeddings', () => {
  const vectors = [Float32Array.of(0.5, -2), Float32Array.of(1, 3)];
  const asked: unknown[] = [];
  const base: OpenAIModel = {
    info: { name: 'fake:latest' },
    chat: () => {
      throw new Error('not asked');
    },
    generate: () => {
      throw new Error('not asked');
    },
    detokenize: () => '',
    tokenize: () => [],
  };
  const openai = createOpenAI({
    ...base,
    embed: (input, options) => {
      asked.push(input, options);
      return Promise.resolve({ embeddings: vectors, promptTokens: [3, 4] });
    },
  });

  test('are lists of numbers, or base64 of little-endian f32', async () => {
    const plain = await openai.embeddings.create({ input: ['a', 'b'], dimensions: 2 });
    expect(plain).toEqual({
      object: 'list',
      data: vectors.map((floats, index) => ({
        ...{ object: 'embedding', index, embedding: Array.from(floats) },
      })),
      model: 'fake:latest',
      usage: { prompt_tokens: 7, total_tokens: 7 },
    });
    expect(asked).toEqual([['a', 'b'], { dimensions: 2 }]);
    const packed = await openai.embeddings.create({
      ...{ input: [[1], [2]], encoding_format: 'base64' },
    });
    expect(packed.data[0]?.embedding).toBe(
      Buffer.from(Float32Array.of(0.5, -2).buffer).toString('base64'),
    );
  });

  test.each([
    ['input', { input: '' }],
    ['input', {}],
    ['input', { input: [1, -2] }],
    ['input', { input: [1.5] }],
    ['input', { input: ['a', 5] }],
    ['input', { input: Array(9).fill('x'.repeat(LIMITS.text / 8)) }],
    ['dimensions', { input: 'a', dimensions: 0 }],
    ['encoding_format', { input: 'a', encoding_format: 'int8' }],
    ['stream', { input: 'a', stream: true }],
  ])('%s is refused where it is wrong', async (param, request) => {
    const wrong = openai.embeddings.create(request as never);
    await expect(wrong).rejects.toMatchObject({ code: 'invalid_argument', param });
  });

  test('of a model that gives none are refused', async () => {
    const wrong = createOpenAI(base).embeddings.create({ input: 'a' });
    await expect(wrong).rejects.toMatchObject({ code: 'unsupported' });
  });
});

describe('chunks', () => {
  test('of text, thinking and calls, in order', async () => {
    const thinking: ReplyEvent = { type: 'thinking', text: 'hm' };
    const chunks = await chunksOf([prefill, thinking, text('a'), call, call]);
    const deltas = chunks.map(({ choices }) => choices[0]!.delta);
    const made = { type: 'function', function: { name: 'f', arguments: '{"a":1}' } };
    expect(deltas).toMatchObject([
      { role: 'assistant', content: '' },
      { reasoning: 'hm' },
      { content: 'a' },
      { tool_calls: [{ index: 0, ...made }] },
      { tool_calls: [{ index: 1, ...made }] },
      {},
    ]);
    expect(chunks.map(({ choices }) => choices[0]!.finish_reason).filter(Boolean)).toEqual([
      'tool_calls',
    ]);
    expect('usage' in chunks[0]!).toBe(false);
    const ids = deltas.flatMap(({ tool_calls }) => tool_calls?.map(({ id }) => id) ?? []);
    expect(new Set(ids).size).toBe(2);
  });

  test('one call where more are not wanted', async () => {
    const chunks = await chunksOf([prefill, call, call], { parallel_tool_calls: false });
    const calls = chunks.flatMap(({ choices }) => choices[0]!.delta.tool_calls ?? []);
    expect(calls).toHaveLength(1);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe('tool_calls');
  });

  test.each(['length', 'context'] as const)('the reason %s is length', async (reason) => {
    const chunks = await chunksOf([text('a')], {}, { reason });
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe('length');
  });

  test('usage: null, then in a chunk of its own', async () => {
    const chunks = await chunksOf([text('a')], { stream_options: { include_usage: true } });
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
    expect(chunks.at(-1)).toMatchObject({
      choices: [],
      usage: {
        ...{ prompt_tokens: 10, completion_tokens: 3, total_tokens: 13 },
        prompt_tokens_details: { cached_tokens: 4 },
      },
    });
  });

  test('log probabilities of what is read only', async () => {
    const token = (id: number, word: string): ReplyEvent => ({
      ...{ type: 'token', id, text: word, logprob: -1 },
      top: [{ id, text: word, logprob: -1 }],
    });
    const thinking: ReplyEvent = { type: 'thinking', text: 'hm' };
    const chunks = await chunksOf(
      [
        ...[token(1, 'hm'), thinking, token(100, '<channel|>'), token(2, 'a'), text('a')],
        // Held back until it is known to be no stop text.
        ...[token(3, ' b'), token(4, '\ufffd'), text(' b?'), token(5, 'cut')],
      ],
      { logprobs: true, top_logprobs: 1 },
    );
    const shown = chunks.flatMap(({ choices }) => choices[0]!.logprobs?.content ?? []);
    expect(shown.map((each) => each.token)).toEqual(['a', ' b', '\ufffd']);
    expect(shown.map(({ bytes }) => bytes)).toEqual([[97], [32, 98], null]);
    expect(shown[0]!.top_logprobs).toEqual([{ token: 'a', logprob: -1, bytes: [97] }]);
  });
});

test('aborting rejects with cancelled, whole and in chunks', async () => {
  const { openai } = pretend([prefill, text('a'), text('b'), text('c')]);
  const request = { messages: messages as never };
  const cancelled = { code: 'cancelled', name: 'AbortError' };
  const signal = AbortSignal.abort();
  await expect(openai.chat.completions.create(request, { signal })).rejects.toMatchObject(
    cancelled,
  );
  const stream = await openai.chat.completions.create({ ...request, stream: true });
  const read = async () => {
    for await (const chunk of stream)
      if (chunk.choices[0]?.delta.content) stream.controller.abort();
  };
  await expect(read()).rejects.toMatchObject(cancelled);
});

test("the types are those of OpenAI's client", async () => {
  const { openai } = pretend([text('a')]);
  const params: OpenAI.ChatCompletionCreateParamsNonStreaming = {
    model: 'any',
    messages: [{ role: 'user', content: 'Hello' }],
  };
  // Its parts that cannot be honoured are typed away here, and refused when they come.
  const whole: OpenAI.ChatCompletion = await openai.chat.completions.create({
    ...params,
    messages: messages as never,
  } as ChatParams & { stream: false });
  expect(whole.choices[0]?.message.content).toBe('a');
  const stream = await openai.chat.completions.create({
    messages: messages as never,
    stream: true,
  });
  for await (const chunk of stream) {
    const same: OpenAI.ChatCompletionChunk = chunk;
    expect(same.object).toBe('chat.completion.chunk');
  }
  const { data } = await openai.models.list();
  expect(data satisfies OpenAI.Model[]).toMatchObject([{ id: 'fake:latest', object: 'model' }]);
});

test('what is no error of ours keeps its message to itself', () => {
  expect(JSON.stringify(errorAnswer(new Error('a secret path')))).not.toContain('secret');
  const { status, body } = errorAnswer(new RequestError('unsupported', 'no', 'n'));
  expect([status, body.error.param, body.error.code]).toEqual([400, 'n', 'unsupported_value']);
});
