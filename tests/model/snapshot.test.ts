// Sessions saved and restored: what a model makes of a snapshot must be, bit for bit, what it makes of the cache that was
// saved. nano F16; prompts that wrap around the ring of sliding layers (window 128, here 704 slots).

import type { LoadOptions, Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { loadBytes, nanoF16, promptNamed, readFixture } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { sharedGpu } from '../support/shared-gpu.ts';

const long = promptNamed('long').ids;
const story = promptNamed('story').ids;
const noise = promptNamed('noise').ids;
const greedy = { temperature: 0, maxTokens: 12 };
const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];

let shared: Awaited<ReturnType<typeof sharedGpu>>;
let model: Model;
const load = (options: LoadOptions = {}, bytes = nanoF16()) =>
  loadBytes('nano-f16.gguf', bytes, { gpu: shared.gpu, batchSize: 64, ...options });
beforeAll(async () => {
  shared = await sharedGpu();
  model = await load();
}, 600_000);
afterAll(async () => {
  await model?.close();
  shared?.close();
});

/** The same model, loaded anew: nothing is in its cache. */
async function reopen(): Promise<void> {
  await model.close();
  model = await load();
}
const cachedTokens = async (ids: number[]) =>
  (await model.generate(ids, { temperature: 0, maxTokens: 1 }).report()).usage.cachedTokens;

describe('what is restored', () => {
  test.each([
    ['a few tokens', story],
    ['more than the ring', long],
  ])('is what was saved, bit for bit: %s', async (_, ids) => {
    await model.truncate(0);
    await model.prefill([{ tokens: ids }]);
    const saved = await model.saveSession();
    const all = await model.saveSession({ rewind: 1e6 });
    const logits = await model.logits(ids);
    const reply = await model.generate(ids, greedy).report();
    await reopen();
    expect(await model.restoreSession(saved)).toEqual({ tokens: ids.length });
    expect(await model.saveSession()).toEqual(saved);
    const before = model.counters.dispatches;
    expect(await model.logits(ids)).toEqual(logits);
    const dispatches = model.counters.dispatches - before;
    const again = await model.generate(ids, greedy).report();
    expect(again.tokens).toEqual(reply.tokens);
    expect(again.usage).toEqual(reply.usage);
    expect(again.usage.cachedTokens).toBe(ids.length - 1);
    // And it is what the prompt itself makes, which takes more than the one token did.
    await model.truncate(0);
    const start = model.counters.dispatches;
    await model.prefill([{ tokens: ids }]);
    expect(model.counters.dispatches - start + dispatches).toBeGreaterThan(dispatches);
    expect(await model.saveSession()).toEqual(saved);
    // Of the ring there is no more to save than it has.
    await model.truncate(0);
    await model.restoreSession(all);
    expect(await model.saveSession({ rewind: 1e6 })).toEqual(all);
  });

  test('holds what a reply wrote, and the conversation goes on from there', async () => {
    await model.truncate(0);
    const first = model.chat(question, { temperature: 0 });
    const answer = await first.text();
    const { usage } = await first.report();
    const saved = await model.saveSession();
    const next = [
      ...question,
      { role: 'assistant' as const, content: answer },
      { role: 'user' as const, content: 'What is 3 + 4?' },
    ];
    const expected = await model.chat(next, { temperature: 0 }).report();
    await reopen();
    await model.restoreSession(new Blob([saved]));
    const found = await model.chat(next, { temperature: 0 }).report();
    expect(found.tokens).toEqual(expected.tokens);
    expect(found.usage).toEqual(expected.usage);
    expect(found.usage.cachedTokens).toBeGreaterThanOrEqual(
      usage.promptTokens + usage.completionTokens - 1,
    );
  });

  test('can be taken back as far as was asked for', async () => {
    const other = [...long.slice(0, 380), ...noise];
    await model.truncate(0);
    await model.prefill([{ tokens: long.slice(0, 400) }]);
    const [short, more] = [await model.saveSession(), await model.saveSession({ rewind: 20 })];
    expect(more.length).toBeGreaterThan(short.length);
    const expected = await model.logits(other);
    await model.truncate(0);
    await model.restoreSession(short);
    expect(await cachedTokens(other)).toBe(0);
    await model.truncate(0);
    await model.restoreSession(more);
    expect(await model.logits(other)).toEqual(expected);
    await model.truncate(0);
    await model.restoreSession(more);
    expect(await cachedTokens(other)).toBe(380);
  });
});

describe('what is refused', () => {
  let saved: Uint8Array<ArrayBuffer>;
  beforeAll(async () => {
    await model.truncate(0);
    await model.prefill([{ tokens: story }]);
    saved = await model.saveSession();
    await model.truncate(0);
    await model.prefill([{ tokens: noise }]);
  });
  const intact = async () => expect(await cachedTokens([...noise, 5])).toBe(noise.length);

  test('every byte that has changed, and every part', async () => {
    await model.truncate(0);
    await model.prefill([{ tokens: [2] }]);
    const small = await model.saveSession();
    await model.truncate(0);
    await model.prefill([{ tokens: noise }]);
    for (let at = 0; at < small.length; at++) {
      const damaged = small.slice();
      damaged[at]! ^= 1 << (at % 8);
      await expect(model.restoreSession(damaged)).rejects.toMatchObject({
        code: expect.stringMatching(/^(integrity_error|invalid_format|truncated)$/) as string,
      });
    }
    for (const length of [0, 1, 19, 20, small.length - 33, small.length - 1]) {
      await expect(model.restoreSession(small.subarray(0, length))).rejects.toMatchObject({
        code: expect.stringMatching(/^(invalid_format|truncated)$/) as string,
      });
    }
    await intact();
    expect(await model.restoreSession(small)).toEqual({ tokens: 1 });
    await model.truncate(0);
    await model.prefill([{ tokens: noise }]);
  });

  test('that of another model, of other adapters, of another cache', async () => {
    const refused = { code: 'integrity_error' };
    const tiny = await load({}, readFixture('gemma4/tiny-e.gguf'));
    await expect(tiny.restoreSession(saved)).rejects.toMatchObject(refused);
    await tiny.close();
    // One weight is another, in a piece of the file that is looked at.
    const file = nanoF16();
    file[file.length - 5]! ^= 1;
    const near = await load({}, file);
    await expect(near.restoreSession(saved)).rejects.toMatchObject(refused);
    await near.close();
    const other = await load({ contextLength: 256 });
    await expect(other.restoreSession(saved)).rejects.toMatchObject(refused);
    await other.close();
    await intact();
    const random = randomAdapter(parseGguf(nanoF16()), { seed: 3, rank: 2, targets: ['ffn_down'] });
    const load2 = () => model.loadAdapter(adapterSource(random), { scale: 0.5 });
    const { id } = await load2();
    await expect(model.restoreSession(saved)).rejects.toMatchObject(refused);
    await model.prefill([{ tokens: story }]);
    const adapted = await model.saveSession();
    await model.setAdapters([{ id, scale: 0.25 }]);
    await expect(model.restoreSession(adapted)).rejects.toMatchObject(refused);
    await model.removeAdapter(id);
    await expect(model.restoreSession(adapted)).rejects.toMatchObject(refused);
    // The same adapter, loaded again.
    const again = await load2();
    expect(await model.restoreSession(adapted)).toEqual({ tokens: story.length });
    await model.removeAdapter(again.id);
    expect(await model.restoreSession(saved)).toEqual({ tokens: story.length });
  });

  test('saving nothing, and what is no number', async () => {
    await model.truncate(0);
    await expect(model.saveSession()).rejects.toMatchObject({ code: 'invalid_argument' });
    await model.prefill([{ tokens: story }]);
    for (const rewind of [-1, 0.5]) {
      await expect(model.saveSession({ rewind })).rejects.toMatchObject({
        code: 'invalid_argument',
      });
    }
    const signal = AbortSignal.abort();
    await expect(model.saveSession({ signal })).rejects.toMatchObject({ code: 'cancelled' });
    await expect(model.restoreSession(saved, { signal })).rejects.toMatchObject({
      code: 'cancelled',
    });
  });
});

test('of several sessions the one unused for longest gives way', async () => {
  await model.close();
  model = await load({ sessions: 2 });
  await model.prefill([{ tokens: story }, { tokens: noise }]);
  await cachedTokens(story);
  const saved = await model.saveSession();
  const other = long.slice(300, 330);
  await cachedTokens(noise);
  await cachedTokens(other); // in the place of story
  expect(await model.restoreSession(saved)).toEqual({ tokens: story.length });
  expect(await cachedTokens(story)).toBe(story.length - 1);
  expect(await cachedTokens([...other, 5])).toBe(30);
  // One that begins like it, and has gone on, stays; what it holds all of does not.
  expect(await cachedTokens([...story, 5])).toBe(story.length);
  await model.restoreSession(saved);
  expect(await cachedTokens([...story, 5, 6])).toBe(story.length + 1);
});
