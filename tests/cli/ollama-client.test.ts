// `serve` to npm's `ollama`, on nano.

import { Ollama } from 'ollama';
import { describe, expect, test } from 'vitest';
import { apiServer, ANSWER, ask, CAPITAL, question, TOKEN } from './api-server.ts';
import { QUESTION } from './harness.ts';
import { complaints } from '../support/schemas.ts';
import { WEATHER } from '../support/weather.ts';

const api = apiServer();

describe("Ollama's client", () => {
  test('sees version, models, what one is, and what is loaded', async () => {
    expect((await api.ollama.version()).version).toMatch(/^\d+\.\d+\.\d+$/);
    const { models } = await api.ollama.list();
    const nano = models.find(({ name }) => name === 'nano:latest')!;
    expect(nano.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(nano.size).toBeGreaterThan(1e6);
    const shown = await api.ollama.show({ model: 'nano' });
    expect(shown.details).toMatchObject({ format: 'gguf', family: 'gemma4' });
    expect(shown.capabilities).toContain('tools');
    expect(shown.model_info).toMatchObject({ 'general.architecture': 'gemma4' });
    expect(shown.parameters).toContain('temperature');
    await api.ollama.generate({ model: 'nano', prompt: '', keep_alive: '10m' });
    const [loaded] = (await api.ollama.ps()).models;
    expect(loaded).toMatchObject({ name: 'nano:latest', digest: nano.digest });
    const minutes = (Date.parse(String(loaded!.expires_at)) - Date.now()) / 60_000;
    expect(minutes).toBeGreaterThan(9);
    expect(minutes).toBeLessThanOrEqual(10);
  });

  const options = { temperature: 0 };

  test('chats, whole and in pieces, with times', async () => {
    const whole = await api.ollama.chat({ model: 'nano', messages: question, options });
    expect(whole.message).toEqual({ role: 'assistant', content: ANSWER });
    expect(whole).toMatchObject({ model: 'nano', done: true, done_reason: 'stop' });
    expect(whole.eval_count).toBeGreaterThan(4);
    expect(whole.total_duration).toBeGreaterThan(whole.eval_duration);
    expect(whole.eval_duration).toBeGreaterThan(1e5);
    const ranked = await api.ollama.chat({
      ...{ model: 'nano', messages: question, options, logprobs: true, top_logprobs: 1 },
    });
    expect(ranked.logprobs?.map(({ token }) => token).join('')).toBe(ANSWER);
    expect(ranked.logprobs?.[0]?.top_logprobs).toHaveLength(1);
    let text = '';
    const parts = await api.ollama.chat({
      model: 'nano',
      messages: question,
      options,
      stream: true,
    });
    for await (const part of parts) {
      text += part.message.content;
      if (part.done) expect(part.prompt_eval_count).toBe(whole.prompt_eval_count);
    }
    expect(text).toBe(ANSWER);
  });

  test('calls a tool and thinks', async () => {
    const called = await api.ollama.chat({
      model: 'nano',
      messages: ask,
      tools: [WEATHER],
      options,
    });
    const [call] = called.message.tool_calls!;
    expect(call?.function).toMatchObject({ name: 'get_weather', arguments: { city: 'Paris' } });
    const content = '{"sky":"sunny","temperature":21}';
    const messages = [...ask, called.message, { role: 'tool', tool_name: 'get_weather', content }];
    const next = await api.ollama.chat({ model: 'nano', messages, tools: [WEATHER], options });
    expect(next.message.content).toMatch(/^It is sunny in Paris\b/);
    const sum = [{ role: 'user', content: 'What is 12 + 7?' }];
    const { message } = await api.ollama.chat({
      model: 'nano',
      messages: sum,
      think: true,
      options,
    });
    expect(message.content).toBe('12 + 7 = 19.');
    expect(message.thinking).toContain('12 and 7');
  });

  test('generates, raw as well, and within its options', async () => {
    const { response } = await api.ollama.generate({ model: 'nano', prompt: QUESTION, options });
    expect(response).toBe(ANSWER);
    const prompt = `<bos><|turn>user\n${QUESTION}<turn|>\n<|turn>model\n`;
    const raw = await api.ollama.generate({ model: 'nano', prompt, raw: true, options });
    expect(raw.response).toBe(ANSWER);
    const few = await api.ollama.generate({
      ...{ model: 'nano', prompt: QUESTION, options: { ...options, num_predict: 2 } },
    });
    expect([few.done_reason, few.eval_count]).toEqual(['length', 2]);
  });

  test('embeds texts, cut where they are too long, and one as it was done before', async () => {
    const request = { model: 'nano', input: ['The sky is blue.', 'word '.repeat(2000)] };
    const { embeddings, prompt_eval_count, total_duration } = await api.ollama.embed(request);
    expect(embeddings.map((each) => Math.hypot(...each).toFixed(5))).toEqual([
      '1.00000',
      '1.00000',
    ]);
    // The context has room for 512.
    expect(prompt_eval_count).toBeGreaterThan(512);
    expect(prompt_eval_count).toBeLessThan(530);
    expect(total_duration).toBeGreaterThan(1e5);
    await expect(api.ollama.embed({ ...request, truncate: false })).rejects.toThrow(
      /context of 512/,
    );
    const few = await api.ollama.embed({
      ...{ model: 'nano', input: 'The sky is blue.', dimensions: 4 },
    });
    expect(few.embeddings[0]).toHaveLength(4);
    expect((await api.ollama.embed({ model: 'nano', input: '' })).embeddings).toEqual([]);
    const { embedding } = await api.ollama.embeddings({
      model: 'nano',
      prompt: 'The sky is blue.',
    });
    const length = Math.hypot(...embedding);
    expect(length).toBeGreaterThan(1.5);
    embedding.forEach((x, i) => expect(x / length).toBeCloseTo(embeddings[0]![i]!, 5));
    await expect(api.ollama.embed({ model: 'nano', input: [5] as never })).rejects.toThrow(
      /'input'/,
    );
  });

  test('abort ends a stream, and the reply behind it', async () => {
    const before = await api.settled();
    // A client of its own: abort ends all that one has asked for.
    const other = new Ollama({ host: api.base, headers: { Authorization: `Bearer ${TOKEN}` } });
    const hot = { temperature: 2, top_k: 0, top_p: 1, seed: 1 };
    const prompt = 'Once upon a time';
    const stream = await other.generate({
      ...{ model: 'nano', prompt, raw: true, stream: true, options: hot },
    });
    const read = async () => {
      for await (const part of stream) if (!part.done) other.abort();
    };
    await expect(read()).rejects.toThrow(/abort/i);
    expect((await api.settled()) - before).toBeLessThan(300);
  });

  test('answers as a schema says', async () => {
    const chat = { model: 'nano', messages: question, options: { ...options, num_predict: 60 } };
    const { message } = await api.ollama.chat({ ...chat, format: CAPITAL });
    expect(complaints(CAPITAL, message.content)).toBe('');
    const { response } = await api.ollama.generate({
      ...{ model: 'nano', prompt: QUESTION, format: CAPITAL, options: chat.options },
    });
    expect(JSON.parse(response ?? '')).toMatchObject({ city: 'Paris' });
    expect((await api.ollama.chat({ ...chat, format: 'json' })).message.content).toMatch(/^\{/);
  });

  test('is told what is wrong', async () => {
    const chat = (more: object) => api.ollama.chat({ model: 'nano', messages: question, ...more });
    await expect(chat({ model: 'nothing' })).rejects.toMatchObject({ status_code: 404 });
    await expect(chat({ format: 'xml' })).rejects.toThrow(/'format' must be/);
    await expect(chat({ format: { not: {} } })).rejects.toThrow(/'not' at #/);
    await expect(chat({ keep_alive: 'soon' })).rejects.toMatchObject({ status_code: 400 });
    await expect(chat({ options: { temperature: 'hot' } })).rejects.toThrow(/options.temperature/);
  });

  test('keep_alive 0 unloads the model; the next request loads it again', async () => {
    await api.ollama.chat({ model: 'nano', messages: question, options, keep_alive: 0 });
    await expect.poll(async () => (await api.ollama.ps()).models).toEqual([]);
    const { load_duration } = await api.ollama.chat({ model: 'nano', messages: question, options });
    expect(load_duration).toBeGreaterThan(1e6);
  });
});
