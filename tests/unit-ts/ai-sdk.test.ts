// The AI SDK itself (npm ai) over a model that plays a script.

import {
  createProviderRegistry,
  embedMany,
  generateText,
  isStepCount,
  jsonSchema,
  Output,
  streamText,
  tool,
  type LanguageModelUsage,
} from 'ai';
import { createLapidary, type LapidaryOptions } from 'lapidary/ai-sdk';
import type { ImagePart, Message } from 'lapidary/node';
import { LapidaryError, Model } from 'lapidary/worker';
import { createFakeModel, fakeWorker, type FakeReply, type FakeRequest } from 'lapidary/testing';
import { beforeAll, describe, expect, test } from 'vitest';

beforeAll(() => {
  // The tests read warnings from results.
  globalThis.AI_SDK_LOG_WARNINGS = false;
});

function pretend(replies: FakeReply[], { delay = 0 } = {}) {
  const fake = createFakeModel({ replies, delay });
  const lapidary = createLapidary({ fake });
  return { fake, model: (options?: LapidaryOptions) => lapidary('fake', options) };
}

const weather = tool({
  description: 'The weather of a city',
  inputSchema: jsonSchema<{ city: string }>({
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
  }),
  execute: ({ city }) => Promise.resolve({ city, degrees: 21 }),
});

const asked = (requests: readonly FakeRequest[], at = 0) => {
  const request = requests[at];
  if (request?.type !== 'chat') throw new Error('nothing was asked');
  return request;
};

describe('generateText', () => {
  test('gives the text, the usage and why it ended', async () => {
    const { fake, model } = pretend(['The sky scatters blue light.']);
    const result = await generateText({
      model: model(),
      instructions: 'Be brief.',
      prompt: 'Why is the sky blue?',
      temperature: 0.5,
      topK: 10,
      topP: 0.9,
      presencePenalty: 0.1,
      frequencyPenalty: 0.2,
      seed: 7,
      maxOutputTokens: 100,
      stopSequences: ['END'],
      providerOptions: { lapidary: { minP: 0.05 } },
    });
    expect(result.text).toBe('The sky scatters blue light.');
    expect(result.finishReason).toBe('stop');
    const { inputTokens, outputTokens, totalTokens }: LanguageModelUsage = result.usage;
    expect(outputTokens).toBe(5);
    expect(totalTokens).toBe((inputTokens ?? 0) + 5);
    expect(result.warnings).toEqual([]);
    expect(result.response.modelId).toBe('fake:latest');
    const { messages, options } = asked(fake.requests);
    expect(messages).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'text', text: 'Why is the sky blue?' }] },
    ]);
    expect(options).toEqual({
      temperature: 0.5,
      topK: 10,
      topP: 0.9,
      minP: 0.05,
      presencePenalty: 0.1,
      frequencyPenalty: 0.2,
      seed: 7,
      maxTokens: 100,
      stop: ['END'],
      think: false,
    });
  });

  test('lets tools be called, and the model read what they say', async () => {
    const { fake, model } = pretend([
      { text: 'Let me look.', toolCalls: [{ name: 'weather', arguments: { city: 'Bern' } }] },
      'It has 21 degrees.',
    ]);
    const result = await generateText({
      model: model(),
      tools: { weather },
      stopWhen: isStepCount(3),
      prompt: 'How warm is Bern?',
    });
    expect(result.text).toBe('It has 21 degrees.');
    expect(result.steps).toHaveLength(2);
    expect(result.steps[0]?.finishReason).toBe('tool-calls');
    expect(result.steps[0]?.toolResults[0]?.output).toEqual({ city: 'Bern', degrees: 21 });
    expect(asked(fake.requests).options.tools).toMatchObject([
      { type: 'function', function: { name: 'weather', description: 'The weather of a city' } },
    ]);
    expect(asked(fake.requests, 1).messages.slice(1)).toEqual([
      {
        role: 'assistant',
        content: 'Let me look.',
        toolCalls: [{ name: 'weather', arguments: { city: 'Bern' } }],
      },
      { role: 'tool', name: 'weather', content: '{"city":"Bern","degrees":21}' },
    ]);
  });

  test('keeps reasoning apart, where it is asked for', async () => {
    const reply = { thinking: 'Blue scatters more.', text: 'Rayleigh.' };
    const { fake, model } = pretend([reply, reply, reply]);
    const thought = await generateText({ model: model(), prompt: 'Why?', reasoning: 'high' });
    expect([thought.reasoningText, thought.text]).toEqual(['Blue scatters more.', 'Rayleigh.']);
    const usual = await generateText({ model: model({ think: true }), prompt: 'Why?' });
    expect(usual.reasoningText).toBe('Blue scatters more.');
    const none = await generateText({
      model: model({ think: true }),
      prompt: 'Why?',
      reasoning: 'none',
    });
    expect(none.reasoningText).toBeUndefined();
    expect(fake.requests.map(({ options }) => 'think' in options && options.think)).toEqual([
      true,
      true,
      false,
    ]);
  });

  test('warns of what it cannot do, and refuses what is no text', async () => {
    const call = { name: 'weather', arguments: { city: 'Oslo' } };
    const { fake, model } = pretend([{ toolCalls: [call] }, 'no call', 'never']);
    const { warnings } = await generateText({
      model: model(),
      prompt: 'x',
      tools: { weather: { ...weather, strict: true } as typeof weather },
      providerOptions: { lapidary: { mirostat: 2 } },
    });
    expect(warnings).toEqual([
      expect.objectContaining({ feature: 'providerOptions.lapidary.mirostat' }),
      expect.objectContaining({ feature: 'tool weather: strict' }),
    ]);
    await generateText({ model: model(), prompt: 'x', tools: { weather }, toolChoice: 'none' });
    const { options } = asked(fake.requests, 1);
    expect(options.tools).toBeUndefined();
    expect(Object.values(options.logitBias ?? {})).toEqual([-100]);

    const file = { type: 'file' as const, mediaType: 'audio/wav', data: Uint8Array.of(1, 2, 3) };
    const refused = generateText({
      model: model(),
      messages: [{ role: 'user', content: [file] }],
    });
    await expect(refused).rejects.toMatchObject({ code: 'unsupported' });
    expect(fake.requests).toHaveLength(2);
  });

  test('hands pictures on', async () => {
    const { fake, model } = pretend(['ok']);
    const data = Uint8Array.of(1, 2, 3);
    await generateText({
      model: model(),
      messages: [
        {
          role: 'user',
          content: [
            { type: 'file', mediaType: 'image/png', data },
            { type: 'text', text: 'What is this?' },
          ],
        },
      ],
    });
    const [{ content }] = asked(fake.requests).messages as [Message];
    expect(content).toMatchObject([{ type: 'image' }, { type: 'text', text: 'What is this?' }]);
    const { image } = (content as ImagePart[])[0]!;
    // As bytes, or in base64, as the SDK pleases.
    const bytes =
      typeof image === 'string'
        ? Buffer.from(image.split(',')[1]!, 'base64')
        : (image as Uint8Array);
    expect([...bytes]).toEqual([...data]);
  });

  test('has JSON and calls forced by the model', async () => {
    const call = { toolCalls: [{ name: 'weather', arguments: { city: 'Oslo' } }] };
    const { fake, model } = pretend(['{"city":"Bern"}', '{}', call, call]);
    const schema = {
      type: 'object' as const,
      properties: { city: { type: 'string' as const } },
      required: ['city'],
    };
    const output = Output.object({ schema: jsonSchema<{ city: string }>(schema) });
    const { output: object } = await generateText({ model: model(), prompt: 'x', output });
    expect(object).toEqual({ city: 'Bern' });
    await generateText({ model: model(), prompt: 'x', output: Output.json() });
    for (const toolChoice of ['required', { type: 'tool', toolName: 'weather' }] as const) {
      const tools = { weather };
      const { warnings } = await generateText({ model: model(), prompt: 'x', tools, toolChoice });
      expect(warnings).toEqual([]);
    }
    const options = [0, 1, 2, 3].map((at) => asked(fake.requests, at).options);
    expect(options.map(({ format }) => format)).toEqual([schema, 'json', undefined, undefined]);
    expect(options.map(({ toolChoice }) => toolChoice)).toEqual([
      undefined,
      undefined,
      'required',
      { name: 'weather' },
    ]);
  });

  test('fails as the model does, and stops when told', async () => {
    const { model } = pretend([{ error: 'device_lost' }, 'word '.repeat(500)], { delay: 2 });
    const failed: unknown = await generateText({ model: model(), prompt: 'x' }).catch(
      (error: unknown) => error,
    );
    expect(failed).toBeInstanceOf(LapidaryError);
    expect(failed).toMatchObject({ code: 'device_lost' });
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    const stopped = generateText({ model: model(), prompt: 'x', abortSignal: stop.signal });
    await expect(stopped).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('streamText', () => {
  test('streams text and reasoning, over a worker as well', async () => {
    const reply = { thinking: 'Hm, let me see.', text: 'One two three.' };
    const fake = createFakeModel({ replies: [reply] });
    let loads = 0;
    const lapidary = createLapidary({
      far: () => {
        loads++;
        return Model.load('any', { worker: fakeWorker(fake) });
      },
    });
    const model = createProviderRegistry({ lapidary }).languageModel('lapidary:far');
    const result = streamText({ model, prompt: 'Count.', reasoning: 'medium' });
    const parts: string[] = [];
    let text = '';
    for await (const part of result.stream) {
      parts.push(part.type);
      if (part.type === 'text-delta') text += part.text;
    }
    expect(text).toBe('One two three.');
    expect(parts).toEqual([
      'start',
      'start-step',
      'reasoning-start',
      ...Array<string>(4).fill('reasoning-delta'),
      'reasoning-end',
      'text-start',
      ...Array<string>(3).fill('text-delta'),
      'text-end',
      'finish-step',
      'finish',
    ]);
    expect((await result.usage).outputTokens).toBe(7);
    expect(loads).toBe(1);
    await fake.close();
  });

  test('streams calls, runs tools and goes on', async () => {
    const call = { toolCalls: [{ name: 'weather', arguments: { city: 'Rome' } }] };
    const { model } = pretend([call, 'Warm.']);
    const tools = { weather };
    const result = streamText({ model: model(), tools, stopWhen: isStepCount(2), prompt: 'Rome?' });
    expect(await result.text).toBe('Warm.');
    expect((await result.steps)[0]?.toolCalls[0]).toMatchObject({ input: { city: 'Rome' } });
  });

  test('tells errors, and ends the reply when it is aborted or left', async () => {
    const long = 'word '.repeat(500);
    const { fake, model } = pretend([{ text: 'a', error: 'gpu_error' }, long, long, 'free'], {
      delay: 2,
    });
    const errors: unknown[] = [];
    const failing = streamText({
      model: model(),
      prompt: 'x',
      onError: ({ error }) => void errors.push(error),
    });
    await failing.consumeStream();
    expect(errors).toEqual([expect.objectContaining({ code: 'gpu_error' })]);

    const stop = new AbortController();
    const aborted = streamText({ model: model(), prompt: 'x', abortSignal: stop.signal });
    const kinds: string[] = [];
    for await (const part of aborted.stream) {
      kinds.push(part.type);
      if (part.type === 'text-delta') stop.abort();
    }
    expect(kinds).toContain('abort');

    const { stream } = await model().doStream({
      prompt: [{ role: 'user', content: [{ type: 'text', text: 'x' }] }],
    });
    const reader = stream.getReader();
    for (let i = 0; i < 5; i++) await reader.read();
    await reader.cancel();
    // One reply runs at a time: this one is there because the others have ended.
    expect(await fake.chat([{ role: 'user', content: 'x' }]).text()).toBe('free');
  });
});

test('embeds texts, in a worker as well', async () => {
  const fake = createFakeModel({ info: { embedding: 8 } });
  const far = await Model.load('any', { worker: fakeWorker(fake) });
  const lapidary = createLapidary({ fake, far });
  const values = ['one', 'two', 'one'];
  for (const id of ['fake', 'far']) {
    const { embeddings, usage } = await embedMany({ model: lapidary.embeddingModel(id), values });
    expect(embeddings.map((vector) => vector.length)).toEqual([8, 8, 8]);
    expect(embeddings[0]).toEqual(embeddings[2]);
    expect(embeddings[0]).not.toEqual(embeddings[1]);
    expect(usage.tokens).toBe(6);
  }
  await far.close();
});

test('knows its models', () => {
  const lapidary = createLapidary({ fake: createFakeModel() });
  expect(() => lapidary('other')).toThrow(LapidaryError);
  expect(() => lapidary.embeddingModel('other')).toThrow("there is no model 'other'");
  expect(lapidary('fake')).toMatchObject({ specificationVersion: 'v4', modelId: 'fake' });
});
