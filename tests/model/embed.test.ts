// Embeddings against the final hidden states of another implementation (HF), against the model's own logits, and
// against each other: alone and in shared batches. nano F16 with f32 keys and values, batches of 128.

import type { Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed, readFloats, readJson } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';

const LIMIT = 2e-5;
const long = promptNamed('long').ids;
const story = promptNamed('story').ids;
const noise = promptNamed('noise').ids;
const capital = promptNamed('capital').ids;

let model: Model;
beforeAll(async () => {
  model = await loadBytes('nano-f16.gguf', nanoF16(), {
    ...{ kvType: 'f32', sessions: 3, batchSize: 128 },
  });
}, 600_000);
afterAll(() => model?.close());

/** HF's hidden states of `capital` after the last norm, in rows. */
function finalStates(): number[][] {
  const { final_norm } = readJson<Record<string, { offset: number; shape: number[] }>>(
    'nano/hidden_capital.json',
  );
  const at = final_norm!.offset / 4;
  const all = readFloats('nano/hidden_capital.bin.gz');
  return capital.map((_, row) =>
    Array.from(
      all.subarray(at + row * model.info.embedding, at + (row + 1) * model.info.embedding),
    ),
  );
}
const meanOf = (rows: number[][]) =>
  rows[0]!.map((_, i) => rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length);
const lengthOf = (values: ArrayLike<number>) => Math.hypot(...Array.from(values));
const unit = (values: number[]) => values.map((value) => value / lengthOf(values));

async function one(ids: number[] | string, options = {}): Promise<Float32Array> {
  const { embeddings } = await model.embed(ids, options);
  expect(embeddings).toHaveLength(1);
  return embeddings[0]!;
}
function expectClose(
  name: string,
  found: Float32Array,
  expected: ArrayLike<number>,
  limit = LIMIT,
) {
  const wanted = Float32Array.from(expected);
  expect(found).toHaveLength(wanted.length);
  const difference = maxAbsDifference(found, wanted) / Math.max(...wanted.map(Math.abs));
  report(name, difference, limit);
  expect(difference).toBeLessThan(limit);
}

describe('of one text', () => {
  test.each([
    ['the mean, of length 1', {}, (rows: number[][]) => unit(meanOf(rows))],
    ['the mean as it is', { normalize: false }, meanOf],
    ['the last position', { pooling: 'last' }, (rows: number[][]) => unit(rows.at(-1)!)],
    [
      'its first dimensions',
      { dimensions: 64 },
      (rows: number[][]) => unit(meanOf(rows).slice(0, 64)),
    ],
    [
      'those as they are',
      { dimensions: 3, normalize: false, pooling: 'last' },
      (rows: number[][]) => rows.at(-1)!.slice(0, 3),
    ],
  ])("%s is HF's", async (name, options, expected) => {
    expectClose(name, await one(capital, options), expected(finalStates()));
  });

  test('the last position times the head is what the model says next', async () => {
    const { tensors } = parseGguf(nanoF16());
    const head = tensors.find(({ name }) => name === 'token_embd.weight')!.data;
    const halves = new DataView(head.buffer, head.byteOffset, head.byteLength);
    const half = (i: number) => {
      const bits = halves.getUint16(2 * i, true);
      const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
      const size =
        exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
      return bits & 0x8000 ? -size : size;
    };
    const ids = long.slice(0, 300);
    const state = await one(ids, { pooling: 'last', normalize: false });
    const logits = await model.logits(ids);
    for (let id = 0; id < 40; id++) {
      const product = state.reduce((sum, value, i) => sum + value * half(id * state.length + i), 0);
      expect(Math.abs(30 * Math.tanh(product / 30) - logits[id]!)).toBeLessThan(1e-3);
    }
  });

  test('the mean goes on from one batch to the next', async () => {
    const raw = { normalize: false };
    const whole = await one(long.slice(0, 130), raw);
    const batch = await one(long.slice(0, 128), raw);
    const [a, b] = [
      await one(long.slice(0, 129), { ...raw, pooling: 'last' }),
      await one(long.slice(0, 130), { ...raw, pooling: 'last' }),
    ];
    const expected = batch.map((value, i) => (128 * value + a[i]! + b[i]!) / 130);
    expectClose('mean over two batches', whole, expected);
  });
});

describe('of several texts', () => {
  test('each is what it is alone, in few batches', async () => {
    const texts = [story, 'The sky is blue.', long.slice(0, 150), noise, capital, 'x'];
    const alone = [];
    for (const text of texts) alone.push(await one(text));
    const before = model.counters.submits;
    const { embeddings, promptTokens } = await model.embed(texts);
    const submits = model.counters.submits - before;
    const counts = texts.map((text) =>
      typeof text === 'string' ? model.tokenize(text).length : text.length,
    );
    expect(promptTokens).toEqual(counts);
    // 128 tokens a batch, and three texts at a time.
    expect(submits).toBeLessThan(texts.length);
    for (const [i, found] of embeddings.entries()) {
      expect(lengthOf(found)).toBeCloseTo(1, 6);
      expectClose(`text ${i} in shared batches`, found, alone[i]!);
    }
  });

  test('none', async () => {
    expect(await model.embed([])).toEqual({ embeddings: [], promptTokens: [] });
  });

  test('conversations keep their place, but for half of them', async () => {
    await model.truncate(0);
    const cached = async (ids: number[]) =>
      (await model.generate(ids, { temperature: 0, maxTokens: 1 }).report()).usage.cachedTokens;
    const [a, b, c] = [noise, long.slice(200, 240), long.slice(300, 360)];
    for (const ids of [a, b, c]) await cached(ids);
    await model.embed(['one', 'two', 'three', 'four']);
    expect(await cached(c)).toBe(c.length - 1);
    expect(await cached(b)).toBe(b.length - 1);
    expect(await cached(a)).toBe(0);
  });
});

test.each<[string, unknown[], object, string]>([
  ['an empty list of tokens', [[]], {}, 'invalid_argument'],
  ['a token outside the vocabulary', [[1e6]], {}, 'invalid_argument'],
  ['what is no text', [true], {}, 'invalid_argument'],
  ['more dimensions than there are', ['x'], { dimensions: 1e5 }, 'invalid_argument'],
  ['no dimensions', ['x'], { dimensions: 0 }, 'invalid_argument'],
  ['another pooling', ['x'], { pooling: 'first' }, 'invalid_argument'],
  ['too many texts', Array<string>(4097).fill('x'), {}, 'invalid_argument'],
  ['a text that fills the context', ['x', Array<number>(1e5).fill(5)], {}, 'context_overflow'],
])('%s is refused', async (_, input, options, code) => {
  await expect(model.embed(input as string[], options)).rejects.toMatchObject({ code });
});

test('a text that is too long is cut where that is asked for', async () => {
  const small = await loadBytes('nano-f16.gguf', nanoF16(), {
    ...{ kvType: 'f32', contextLength: 48, perLayerEmbeddings: 'source' },
  });
  try {
    const { embeddings, promptTokens } = await small.embed([long, story], { truncate: true });
    expect(promptTokens).toEqual([48, Math.min(story.length, 48)]);
    expectClose('a text that was cut', embeddings[0]!, await one(long.slice(0, 48)));
    expectClose('rows from the source', embeddings[1]!, await one(story.slice(0, 48)));
  } finally {
    await small.close();
  }
});

test('aborting ends it', async () => {
  const stop = new AbortController();
  const running = model.embed(Array<number[]>(50).fill(long), { signal: stop.signal });
  setTimeout(() => stop.abort(), 0);
  await expect(running).rejects.toMatchObject({ code: 'cancelled' });
  await expect(model.embed('x', { signal: stop.signal })).rejects.toMatchObject({
    code: 'cancelled',
  });
  expect(lengthOf(await one('x'))).toBeCloseTo(1, 6);
});
