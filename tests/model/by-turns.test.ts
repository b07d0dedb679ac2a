// Replies at once that are written by turns of some tokens each, as real GPUs write a few of them: each is what it is
// alone, and none waits for another's end. nano F16 with f32 keys and values.

import type { Model, ReplyReport } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';

const long = promptNamed('long').ids;
const noise = promptNamed('noise').ids;
const story = promptNamed('story').ids;
/** Forbids what ends a reply. */
const logitBias = { 1: -100, 106: -100, 50: -100 };

let model: Model;
beforeAll(async () => {
  const options = { kvType: 'f32', sessions: 3, variant: { stepsFrom: 9 } } as const;
  model = await loadBytes('nano-f16.gguf', nanoF16(), options);
}, 600_000);
afterAll(() => model?.close());

interface Asked {
  ids: number[];
  options: Parameters<Model['generate']>[1];
}
const start = ({ ids, options }: Asked) => model.generate(ids, { temperature: 0, ...options });
const said = ({ reason, tokens }: ReplyReport) => ({ reason, tokens });

async function alone(all: Asked[]) {
  const replies = [];
  for (const asked of all) {
    await model.truncate(0);
    replies.push(said(await start(asked).report()));
  }
  await model.truncate(0);
  return replies;
}
const together = async (all: Asked[]) =>
  (await Promise.all(all.map((asked) => start(asked).report()))).map(said);

test('each is what it is alone, more of them than there are sessions', async () => {
  const format = { type: 'object', properties: { old: { type: 'boolean' } }, required: ['old'] };
  const all: Asked[] = [
    { ids: story, options: { maxTokens: 50, logitBias } },
    { ids: long.slice(0, 600), options: { maxTokens: 20, logitBias, repeatPenalty: 1.3 } },
    { ids: noise, options: { maxTokens: 36, logitBias, temperature: 1, seed: 3 } },
    { ids: story, options: { maxTokens: 40, format } },
    { ids: noise, options: { maxTokens: 18, temperature: 1, topK: 0, topP: 1, seed: 5 } },
  ];
  const expected = await alone(all);
  expect(await together(all)).toEqual(expected);
});

test('none waits for the end of another, and one that is stopped leaves the rest', async () => {
  const all = [story, noise].map((ids) => ({ ids, options: { maxTokens: 60, logitBias } }));
  const expected = await alone(all);
  const stop = new AbortController();
  const endless = start({ ids: long, options: { logitBias, signal: stop.signal } });
  let ended = 0;
  const others = all.map((asked) =>
    start(asked)
      .report()
      .finally(() => ended++),
  );
  let written = 0;
  let report: ReplyReport | undefined;
  for await (const event of endless) {
    if (event.type === 'text') written++;
    // It began first and has no end: only if others have turns between do they end.
    if (ended === all.length && !stop.signal.aborted) stop.abort();
    if (event.type === 'done') report = event;
  }
  expect(report!.reason).toBe('cancelled');
  expect(written).toBeGreaterThan(60);
  expect((await Promise.all(others)).map(said)).toEqual(expected);
});
