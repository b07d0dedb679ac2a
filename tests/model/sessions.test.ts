// Several conversations in one KV cache: their prompts share batches, and none shows in another's numbers. nano F16
// with f32 keys and values.

import type { Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';

const SAME = 1e-4;
const long = promptNamed('long').ids;
const noise = promptNamed('noise').ids;
const story = promptNamed('story').ids;
/** Forbids what ends a reply. */
const never = { 1: -100, 106: -100, 50: -100 };
const greedy = { temperature: 0, maxTokens: 12 };

let model: Model;
beforeAll(async () => {
  model = await loadBytes('nano-f16.gguf', nanoF16(), { kvType: 'f32', sessions: 3 });
}, 600_000);
afterAll(() => model?.close());

async function cachedTokens(ids: number[]): Promise<number> {
  const { usage } = await model.generate(ids, { temperature: 0, maxTokens: 1 }).report();
  return usage.cachedTokens;
}

describe('prompts in shared batches', () => {
  const prompts = [story, long, noise];

  test('each is what it is alone', async () => {
    const alone = [];
    for (const ids of prompts) {
      await model.truncate(0);
      const logits = await model.logits(ids);
      alone.push({ logits, reply: await model.generate(ids, greedy).report() });
    }
    await model.truncate(0);
    const before = model.counters.submits;
    const done = await model.prefill(prompts.map((tokens) => ({ tokens })));
    const submits = model.counters.submits - before;
    expect(done).toEqual(prompts.map((ids) => ({ promptTokens: ids.length, cachedTokens: 0 })));
    // 512 tokens a batch, and all prompts are in them.
    const total = prompts.reduce((sum, ids) => sum + ids.length, 0);
    expect(submits).toBe(Math.ceil(total / 512));
    for (const [i, ids] of prompts.entries()) {
      const difference = maxAbsDifference(await model.logits(ids), alone[i]!.logits);
      report(`prompt ${i} of a shared batch`, difference, SAME);
      expect(difference).toBeLessThan(SAME);
    }
    for (const [i, ids] of prompts.entries()) {
      const reply = await model.generate(ids, greedy).report();
      expect(reply.usage.cachedTokens).toBe(ids.length - 1);
      expect(reply.tokens).toEqual(alone[i]!.reply.tokens);
    }
  });

  test('what the cache holds of them is not run again', async () => {
    await model.truncate(0);
    await model.prefill([{ tokens: story }, { tokens: noise }]);
    const longer = [...story, ...noise];
    expect(await model.prefill([{ tokens: noise }, { tokens: longer }])).toEqual([
      { promptTokens: noise.length, cachedTokens: noise.length - 1 },
      { promptTokens: longer.length, cachedTokens: story.length },
    ]);
  });

  test('conversations and texts', async () => {
    await model.truncate(0);
    const messages = [{ role: 'user' as const, content: 'What is the capital of France?' }];
    const { tokens } = model.render(messages);
    const [chat, text] = await model.prefill([{ messages }, { prompt: 'Once upon a time' }]);
    expect(chat!.promptTokens).toBe(tokens.length);
    expect(text!.promptTokens).toBe(model.tokenize('Once upon a time').length);
    const reply = await model.chat(messages, greedy).report();
    expect(reply.usage.cachedTokens).toBe(tokens.length - 1);
  });

  test.each([
    ['more than there are sessions', [story, story, story, story], 'invalid_argument'],
    ['an empty one', [story, []], 'invalid_argument'],
    ['an id outside the vocabulary', [[1e6]], 'invalid_argument'],
    ['one that fills the context', [Array<number>(1e5).fill(5)], 'context_overflow'],
  ])('%s is refused, and nothing is lost', async (_, lists, code) => {
    await model.prefill([{ tokens: story }]);
    await expect(model.prefill(lists.map((tokens) => ({ tokens })))).rejects.toMatchObject({
      code,
    });
    expect(await cachedTokens(story)).toBe(story.length - 1);
  });

  test('aborting keeps what was run', async () => {
    await model.truncate(0);
    const most = long.slice(0, 520);
    const stop = new AbortController();
    const running = model.prefill([{ tokens: most }, { tokens: story }], { signal: stop.signal });
    // Its first batch is under way when the engine next looks.
    setTimeout(() => stop.abort(), 0);
    await expect(running).rejects.toMatchObject({ code: 'cancelled' });
    const again = await model.logits(most);
    await model.truncate(0);
    expect(maxAbsDifference(again, await model.logits(most))).toBeLessThan(SAME);
  });
});

describe('which conversation a request goes on from', () => {
  test('the one that begins like it; else the one unused for longest', async () => {
    await model.truncate(0);
    const [a, b, c, d] = [noise, long.slice(200, 240), long.slice(300, 360), long.slice(60, 100)];
    for (const ids of [a, b, c]) await cachedTokens(ids);
    expect(await cachedTokens([...a, 5])).toBe(a.length);
    expect(await cachedTokens([...c, 5])).toBe(c.length);
    expect(await cachedTokens(d)).toBe(0); // in the place of b
    expect(await cachedTokens([...a, 5, 6])).toBe(a.length + 1);
    expect(await cachedTokens([...c, 5, 6])).toBe(c.length + 1);
    expect(await cachedTokens(b)).toBe(0);
  });

  test('the one whose reply is to be written anew', async () => {
    await model.truncate(0);
    await model.generate(story, { ...greedy, logitBias: never, maxTokens: 40 }).report();
    expect(await cachedTokens(story)).toBe(story.length - 1);
  });

  test('a short shared beginning does not cost a long conversation', async () => {
    await model.truncate(0);
    const conversation = long.slice(0, 200);
    await cachedTokens(conversation);
    const other = [...long.slice(0, 20), ...noise];
    expect(await cachedTokens(other)).toBe(0);
    expect(await cachedTokens([...conversation, 5])).toBe(conversation.length);
  });
});

test.each([0, 65, 'two'])('%s sessions are refused', async (sessions) => {
  await expect(
    loadBytes('nano-f16.gguf', nanoF16(), { sessions: sessions as number }),
  ).rejects.toMatchObject({ code: 'invalid_argument' });
});
