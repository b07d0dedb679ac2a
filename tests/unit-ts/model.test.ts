// The model API in Node: replies that are left, aborted, queued or closed, and progress as numbers.

import { fileURLToPath, pathToFileURL } from 'node:url';
import {
  LapidaryError,
  Model,
  OllamaStore,
  type ByteSource,
  type LoadProgress,
  type Message,
  type ReplyEvent,
} from 'lapidary/node';
import { createOpenAI } from 'lapidary/openai';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { promptNamed } from '../support/fixtures.ts';
import { WEATHER } from '../support/weather.ts';

const models = fileURLToPath(new URL('../../models', import.meta.url));
const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];
const greedy = { temperature: 0 };
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

let model: Model;
const progress: LoadProgress[] = [];
beforeAll(async () => {
  model = await Model.load('nano', {
    stores: [models],
    onProgress: (event) => progress.push(event),
  });
});
afterAll(() => model.close());

test('progress: every phase, in order, each ending at its total', () => {
  const phases = [...new Set(progress.map(({ phase }) => phase))];
  expect(phases).toEqual(['header', 'selftest', 'upload', 'compile']);
  for (const phase of phases) {
    const steps = progress.filter((event) => event.phase === phase);
    expect(steps.at(-1)?.loaded).toBe(steps.at(-1)?.total);
    expect(steps.map(({ loaded }) => loaded)).toEqual(
      steps.map(({ loaded }) => loaded).sort((a, b) => a - b),
    );
  }
});

test('a chat: text events, then one done event with the report', async () => {
  const events: ReplyEvent[] = [];
  const reply = model.chat(question, greedy);
  for await (const event of reply) events.push(event);
  const text = events.map((event) => (event.type === 'text' ? event.text : '')).join('');
  expect(text).toBe('The capital of France is Paris.');
  expect(events.filter(({ type }) => type === 'done')).toHaveLength(1);
  expect(events.at(-1)).toEqual({ type: 'done', ...(await reply.report()) });
  expect(model.detokenize((await reply.report()).tokens)).toBe(text);
  await expect(reply.text()).rejects.toThrow(/iterated once/);
});

/** The texts of the events of one type, joined. */
const textOf = (events: ReplyEvent[], type: 'text' | 'thinking') =>
  events.map((event) => (event.type === type ? event.text : '')).join('');

test('a chat with thinking: thinking events, then the answer', async () => {
  const messages = [{ role: 'user' as const, content: 'What is 12 + 7?' }];
  const { text, ids, greedy_text } = promptNamed('think');
  expect(model.render(messages, { think: true })).toEqual({ text, tokens: ids });
  const events: ReplyEvent[] = [];
  const reply = model.chat(messages, { ...greedy, think: true });
  for await (const event of reply) events.push(event);
  const thinking = 'I need to add 12 and 7. 12 + 7 = 19.\n';
  const answer = '12 + 7 = 19.';
  expect(greedy_text).toBe(`<|channel>thought\n${thinking}<channel|>${answer}<turn|>`);
  expect(textOf(events, 'thinking').trim()).toBe(thinking.trim());
  expect(textOf(events, 'text')).toBe(answer);
  const types = events.map(({ type }) => type).filter((type) => type !== 'prefill');
  expect(types.lastIndexOf('thinking')).toBeLessThan(types.indexOf('text'));
  expect((await reply.report()).reason).toBe('stop');
  // And on it goes, with what was thought before.
  const next = [
    ...messages,
    { role: 'assistant' as const, content: answer, thinking },
    { role: 'user' as const, content: 'What is 3 + 4?' },
  ];
  expect(await model.chat(next, greedy).text()).toBe('3 + 4 = 7.');
});

test('a chat with a tool: the call is parsed, its result goes back, the answer comes', async () => {
  const tools = [WEATHER];
  const messages: Message[] = [{ role: 'user', content: 'What is the weather in Paris?' }];
  const asked = promptNamed('tool_call');
  expect(model.render(messages, { tools })).toEqual({ text: asked.text, tokens: asked.ids });
  const events: ReplyEvent[] = [];
  const reply = model.chat(messages, { ...greedy, tools });
  for await (const event of reply) events.push(event);
  const call = { name: 'get_weather', arguments: { city: 'Paris' } };
  expect(events.filter(({ type }) => type === 'tool_call')).toEqual([
    { type: 'tool_call', ...call },
  ]);
  expect(textOf(events, 'text')).toBe('');
  expect(await reply.report()).toMatchObject({ reason: 'tool_calls', tokens: asked.greedy_ids });

  messages.push(
    { role: 'assistant', content: '', toolCalls: [call] },
    { role: 'tool', name: 'get_weather', content: '{"sky":"sunny","temperature":21}' },
  );
  const answer = model.chat(messages, { ...greedy, tools });
  expect(await answer.text()).toMatch(/^It is sunny in Paris\b.*\.$/);
  expect((await answer.report()).reason).toBe('stop');
});

test('leaving the loop stops the reply, and the next request runs', async () => {
  const reply = model.generate('Once upon a time', {
    temperature: 2,
    topK: 0,
    seed: 1,
    maxTokens: 1500,
  });
  for await (const event of reply) if (event.type === 'text') break;
  const { reason, usage } = await reply.report();
  expect(reason).toBe('cancelled');
  expect(usage.completionTokens).toBeLessThan(1500);
  expect(await model.chat(question, greedy).text()).toContain('Paris');
});

test('an AbortSignal ends a running reply, a waiting one, and one not begun', async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const long = { temperature: 2, topK: 0, seed: 1, maxTokens: 1500, signal };
  const [running, waiting] = [model.generate('Once', long), model.generate('Twice', long)];
  const last = model.chat(question, greedy);
  for await (const event of running) if (event.type === 'text') controller.abort();
  expect((await running.report()).reason).toBe('cancelled');
  expect(await waiting.report()).toMatchObject({ reason: 'cancelled', tokens: [] });
  expect(await model.chat(question, { signal: AbortSignal.abort() }).report()).toMatchObject({
    reason: 'cancelled',
  });
  expect(await last.text()).toContain('Paris');
});

test("OpenAI's shape: a whole answer, chunks, and a loop that is left", async () => {
  const openai = createOpenAI(model);
  const { choices, usage } = await openai.chat.completions.create({
    messages: question,
    ...greedy,
  });
  expect(choices[0]?.message.content).toBe('The capital of France is Paris.');
  expect(usage.total_tokens).toBe(usage.prompt_tokens + usage.completion_tokens);
  const long = { prompt: 'Once', temperature: 2, top_k: 0, seed: 1, max_tokens: 1500 };
  const submits = model.counters.submits;
  for await (const chunk of await openai.completions.create({ ...long, stream: true })) {
    if (chunk.choices[0]?.text) break;
  }
  expect(await model.chat(question, greedy).text()).toContain('Paris');
  expect(model.counters.submits - submits).toBeLessThan(500);
});

test('requests made together run one after another, each with its own answer', async () => {
  const ids = model.tokenize('The capital');
  const results = await Promise.all([
    model.chat(question, greedy).text(),
    model.logits(ids),
    model.chat(question, greedy).text(),
    model.logits(ids, { all: true }),
  ]);
  expect(results[0]).toBe('The capital of France is Paris.');
  expect(results[2]).toBe(results[0]);
  const { vocab } = model.info;
  expect(results[1].length).toBe(vocab);
  expect(results[3].length).toBe(vocab * ids.length);
  const last = results[3].subarray(-vocab);
  const worst = last.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (results[1][i] ?? NaN))),
    0,
  );
  expect(worst).toBeLessThan(1e-4);
});

test('a failed request leaves the queue in order; its error is the one asked for', async () => {
  const bad = model.chat(question, { temperature: -1 });
  const long = model.generate(new Array<number>(5000).fill(5));
  const good = model.chat(question, greedy);
  await expect(bad.text()).rejects.toEqual(code('invalid_argument'));
  await expect(long.report()).rejects.toEqual(code('context_overflow'));
  expect(await good.text()).toContain('Paris');
});

test('tokenize, detokenize and render agree', () => {
  const text = 'naïve café, 3.14 — ok?';
  expect(model.detokenize(model.tokenize(text, { addBos: false }))).toBe(text);
  const rendered = model.render(question);
  expect(rendered.text).toContain('<|turn>user\nWhat is the capital of France?');
  expect(model.tokenize(rendered.text, { addBos: false, special: 'parse' })).toEqual(
    rendered.tokens,
  );
  expect(() => model.render([{ role: 'nobody' as 'user', content: 'x' }])).toThrow(
    code('invalid_argument'),
  );
});

test('a profile holds what its own work did, also after one whose work failed', async () => {
  const ids = model.tokenize('The capital');
  const work = async () => {
    await model.truncate(0);
    await model.logits(ids);
  };
  const dispatches = async () =>
    (await model.profile(work)).reduce((sum, kernel) => sum + kernel.dispatches, 0);
  const first = await dispatches();
  expect(first).toBeGreaterThan(0);
  const failing = model.profile(async () => {
    await work();
    throw new Error('no more work');
  });
  await expect(failing).rejects.toThrow('no more work');
  await work();
  expect(await dispatches()).toBe(first);
});

test('the wasm heap stays small', () => expect(model.counters.heapBytes).toBeLessThan(64 << 20));

test('other ways to name a model: a file URL, any byte source; closing closes the source', async () => {
  const store = await OllamaStore.open({ stores: [models] });
  const path = await store.weights('nano');
  const byUrl = await Model.load(pathToFileURL(path), { contextLength: 64 });
  expect(byUrl.info.contextLength).toBe(64);
  await byUrl.close();

  const { source } = await store.find('nano');
  let closed = 0;
  const wrapped: ByteSource = {
    name: 'mine',
    size: source.size,
    read: (offset, length) => source.read(offset, length),
    close: () => {
      closed++;
      return source.close?.() ?? Promise.resolve();
    },
  };
  const own = await Model.load(wrapped);
  const reply = own.generate('Once', { temperature: 2, topK: 0, maxTokens: 1500 });
  for await (const event of reply) {
    if (event.type === 'text') break;
  }
  await Promise.all([own.close(), own.close()]);
  expect(closed).toBe(1);
  await expect(own.chat(question).text()).rejects.toEqual(code('invalid_argument'));
  expect(() => own.tokenize('x')).toThrow(code('invalid_argument'));
});

test('closing while a reply runs ends it as cancelled', async () => {
  const own = await Model.load('nano', { stores: [models] });
  const reply = own.generate('Once', { temperature: 2, topK: 0, maxTokens: 1500 });
  for await (const event of reply) if (event.type === 'text') void own.close();
  expect((await reply.report()).reason).toBe('cancelled');
});

test('aborted or failing loads reject, and close their source', async () => {
  let closed = 0;
  const failing: ByteSource = {
    name: 'failing',
    size: 1e6,
    read: () => Promise.reject(new Error('the disk is on fire')),
    close: () => Promise.resolve(void closed++),
  };
  const failure = (await Model.load(failing).catch((error: unknown) => error)) as Error;
  expect(failure).toEqual(code('io_error'));
  expect(failure.message).toContain('the disk is on fire');
  expect(closed).toBe(1);

  const controller = new AbortController();
  const loading = Model.load('nano', {
    stores: [models],
    signal: controller.signal,
    onProgress: ({ phase }) => {
      if (phase === 'upload') controller.abort();
    },
  });
  await expect(loading).rejects.toEqual(code('cancelled'));
  await expect(Model.load('nano', { signal: AbortSignal.abort() })).rejects.toEqual(
    code('cancelled'),
  );
  // What is being read when it is aborted ends then, not when it has come.
  const slow = new AbortController();
  const source: ByteSource = {
    name: 'slow',
    size: 1e6,
    read: (_offset, _length, signal) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () =>
          reject(new LapidaryError('cancelled', 'given up by the source')),
        );
        slow.abort();
      }),
  };
  await expect(Model.load(source, { signal: slow.signal })).rejects.toEqual(code('cancelled'));
  await expect(Model.load(7 as never)).rejects.toEqual(code('invalid_argument'));
});
