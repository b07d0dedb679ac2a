// `lapidary/testing`: a model that plays a script behaves as a model does.

import { LapidaryError } from 'lapidary/node';
import { createFakeModel, type FakeReply } from 'lapidary/testing';
import { describe, expect, test } from 'vitest';

const question = [{ role: 'user' as const, content: 'Why?' }];
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'nothing went wrong',
    (error: unknown) => (error instanceof LapidaryError ? error.code : String(error)),
  );

test('comes word by word, with pauses, and is one reply at a time', async () => {
  const model = createFakeModel({ replies: ['one two three', 'four'], delay: 10 });
  const started = performance.now();
  const first = model.chat(question);
  const second = model.chat(question);
  const texts: string[] = [];
  for await (const event of first) if (event.type === 'text') texts.push(event.text);
  expect(texts).toEqual(['one', ' two', ' three']);
  expect(performance.now() - started).toBeGreaterThan(35);
  expect(await second.text()).toBe('four');
});

test('a function answers what was asked', async () => {
  const model = createFakeModel();
  model.queueReply((request) =>
    request.type === 'chat' ? `${request.messages.length} messages` : 'raw',
  );
  expect(await model.chat(question).text()).toBe('1 messages');
  expect(await codeOf(model.chat(question).text())).toBe('invalid_argument');
  expect(model.requests).toHaveLength(2);
});

describe('options end it as they would', () => {
  test.each<[string, object, FakeReply, object, string]>([
    ['maxTokens', { maxTokens: 2 }, 'a b c', { reason: 'length' }, 'a b'],
    ['stop', { stop: ['c', 'b'] }, 'a b c', { reason: 'stop', stop: 'b' }, 'a '],
    ['tools', {}, { toolCalls: [{ name: 'f', arguments: {} }] }, { reason: 'tool_calls' }, ''],
    ['a reason', {}, { text: 'a', reason: 'context' }, { reason: 'context' }, 'a'],
    ['thinking', { think: true }, { thinking: 'h m', text: 'a' }, { reason: 'stop' }, 'a'],
  ])('%s', async (_, options, reply, report, text) => {
    const model = createFakeModel({ replies: [reply] });
    const running = model.chat(question, options);
    expect(await running.text()).toBe(text);
    expect(await running.report()).toMatchObject(report);
  });

  test('the context', async () => {
    const model = createFakeModel({ replies: ['a b c d e'], info: { contextLength: 6 } });
    const { tokens } = model.render(question);
    const reply = model.chat(question);
    await reply.text();
    expect(await reply.report()).toMatchObject({
      reason: 'context',
      usage: { promptTokens: tokens.length, completionTokens: 6 - tokens.length },
    });
    const long = [{ role: 'user' as const, content: 'word '.repeat(10) }];
    expect(await codeOf(model.chat(long).text())).toBe('context_overflow');
  });
});

test('tokens are words, and come back as they were', () => {
  const model = createFakeModel();
  const text = '  one two\n\nthree ';
  const ids = model.tokenize(text);
  expect(ids).toHaveLength(5);
  expect(model.detokenize(ids)).toBe(text);
  expect(model.detokenize(ids, { showControl: true })).toBe(`<bos>${text}`);
  expect(model.tokenize(text, { addBos: false })).toEqual(ids.slice(1));
});

test('closed, it says so', async () => {
  const model = createFakeModel({ replies: ['a '.repeat(100)], delay: 5 });
  const running = model.chat(question);
  setTimeout(() => void model.close(), 20);
  expect((await running.report()).reason).toBe('cancelled');
  expect(() => model.tokenize('x')).toThrow(LapidaryError);
  expect(await codeOf(model.chat(question).text())).toBe('invalid_argument');
});
