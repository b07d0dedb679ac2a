// Rows that stand in the place of tokens, as a picture's and a sound's do: logits of the models of an independent float64
// reference, then prompts of several images against the engine's own reference model, in batches of odd sizes, with what
// the cache holds, several prompts at once, and from a snapshot. tiny-dense lets an image's tokens see each other both
// ways in sliding layers (a window of 5).

import { openDevice } from 'lapidary/node';
import { beforeAll, describe, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { maxAbs, maxAbsDifference, report, row } from '../support/compare.ts';
import { memorySource, readFixture, readFloats, readJson } from '../support/fixtures.ts';
import { parseGguf, writeGguf } from '../support/gguf.ts';
import { kernelTests } from '../support/kernel-tests.ts';
import { shortOfMemory } from '../support/short-of-memory.ts';

interface Reference {
  gguf: string;
  soft: { ids: number[]; rows: { file: string } };
}
/** `first`: of its rows, among those of all prompts. */
interface Span {
  position: number;
  rows: number;
  first: number;
  audio?: boolean;
}
interface Prompt {
  ids: number[];
  spans: Span[];
}
interface Told {
  batch?: number;
  cached?: number[];
  header?: string;
}

const SOFT = 2 ** 31;
const VOCAB = 295;
const HIDDEN = 32;
const references = readJson<Record<string, Reference>>('gemma4/manifest.json');

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

let engine: Awaited<ReturnType<typeof kernelTests>>;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});

const bytesOf = (floats: Float32Array) =>
  new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
const dense = readFixture('gemma4/tiny-dense.gguf');
const rows = Float32Array.from({ length: 1200 * HIDDEN }, (_, i) => Math.sin(i * i * 0.37 + i) * 4);

/** What the operations give, one after another, and what they tell. */
async function ask(
  ops: object[],
  { file = dense, values = rows, ...options }: Record<string, unknown> = {},
  on = engine,
) {
  const source = on.addSource(memorySource('tiny.gguf', file as Uint8Array));
  const request = JSON.stringify({
    options: { kvType: 'f32', tune: false, ...options },
    ops,
  });
  const told: Told[] = [];
  const bytes = await on.call('soft_probe', [source, request, bytesOf(values as Float32Array)], {
    onEvent: (event) => told.push(event as Told),
  }).done;
  return { floats: new Float32Array(bytes.buffer), bytes, told };
}

async function expected(prompt: Prompt, file = dense): Promise<Float32Array> {
  const bytes = await engine.call('soft_reference', [file, JSON.stringify(prompt), bytesOf(rows)])
    .done;
  return new Float32Array(bytes.buffer);
}

function expectNear(what: string, found: Float32Array, wanted: Float32Array) {
  const limit = 1e-4 * maxAbs(wanted);
  const difference = maxAbsDifference(found, wanted);
  report(what, difference, limit);
  expect(difference).toBeLessThan(limit);
}

const last = (logits: Float32Array) => row(logits, VOCAB, logits.length / VOCAB - 1);
const joined = (...parts: Float32Array[]) => Float32Array.from(parts.flatMap((part) => [...part]));

/** A number: as many tokens; else an image or a sound of rows from `first` on. */
type Part = number | { first: number; rows: number; audio?: boolean };
function promptOf(...parts: Part[]): Prompt {
  const ids = [2];
  const spans: Span[] = [];
  for (const part of parts) {
    if (typeof part === 'number') {
      for (let i = 0; i < part; i++) ids.push(266 + ((ids.length * 7) % 27));
    } else {
      spans.push({ position: ids.length, ...part });
      for (let i = 0; i < part.rows; i++) ids.push(SOFT + part.first + i);
    }
  }
  return { ids, spans };
}
const image = (first: number, count: number): Part => ({ first, rows: count });
const audio = (first: number, count: number): Part => ({ first, rows: count, audio: true });
// Images longer than the window, two of them side by side, and a sound beside one.
const mixed = promptOf(4, image(0, 9), image(9, 7), 3, audio(16, 6), image(22, 12), 5);
const [first, second, third] = [5, 14, 30]; // where the images begin
const other = promptOf(1, image(40, 8), 2, image(22, 12), audio(50, 3), 4);

test.each([
  ['tiny-e', 'soft_causal', 512, false],
  ['tiny-e', 'soft_causal', 3, false],
  ['tiny-dense', 'soft_bidi', 512, false],
  ['tiny-dense', 'soft_bidi', 3, false],
  ['tiny-dense', 'soft_causal', 3, true],
  ['tiny-moe', 'soft_bidi', 512, false],
  ['tiny-moe', 'soft_bidi', 3, false],
  ['tiny-moe', 'soft_causal', 3, true],
])('%s, %s in batches of %i: every logit within 1e-4', async (name, kind, batch, sounds) => {
  const reference = references[name];
  if (!reference) throw new Error(`no reference is called ${name}`);
  const position = reference.soft.ids.indexOf(-1);
  const prompt: Prompt = {
    ids: reference.soft.ids.map((id, at) => (id < 0 ? SOFT + at : id)),
    spans: [{ position, rows: 4, first: 0, audio: sounds }],
  };
  expect(reference.soft.ids.filter((id) => id < 0)).toHaveLength(4);
  const wanted = readFloats(`gemma4/${name}.${kind}.f32`);
  const { floats } = await ask(
    [
      { op: 'all', prompt },
      { op: 'truncate', length: 0 },
      { op: 'last', prompt },
      { op: 'truncate', length: position + 2 },
      { op: 'last', prompt },
    ],
    {
      file: readFixture(`gemma4/${reference.gguf}`),
      values: readFloats(`gemma4/${reference.soft.rows.file}`),
      batchSize: batch,
    },
  );
  const end = last(wanted);
  expectNear(`${name} ${kind}, batches of ${batch}`, floats, joined(wanted, end, end));
});

describe('several images', () => {
  test.each([512, 13, 5, 1])('in batches of %i', async (batchSize) => {
    const wanted = await expected(mixed);
    const again = [first + 3, second, second + 1, third - 2, third + 11, third + 12];
    const { floats, told } = await ask(
      [
        { op: 'all', prompt: mixed },
        { op: 'last', prompt: mixed },
        ...again.flatMap((length) => [
          { op: 'truncate', length },
          { op: 'last', prompt: mixed },
        ]),
      ],
      { batchSize },
    );
    const ends = Array.from({ length: again.length + 1 }, () => last(wanted));
    expectNear(`batches of ${batchSize}`, floats, joined(wanted, ...ends));
    expect(told[0]?.batch).toBe(Math.max(batchSize, 12));
  });

  test('what the cache holds of an image counts whole or not at all', async () => {
    const variants: [Prompt, number][] = [
      [mixed, 0],
      [mixed, mixed.ids.length - 1],
      // The same image, but less of it, and more: other K and V.
      [promptOf(4, image(0, 5), 3), first],
      [promptOf(4, image(0, 9), image(9, 7), 9), first],
      [promptOf(4, image(0, 9), image(9, 7), 4), second + 7 + 3],
      [promptOf(4, image(0, 9), image(9, 3), 4), second],
      // Of a sound every row stands for itself.
      [promptOf(4, audio(16, 6), 2), first],
      [promptOf(4, audio(16, 4), 2), first + 4],
    ];
    const { floats, told } = await ask(
      variants.flatMap(([prompt]) => [
        { op: 'prefill', prompts: [prompt] },
        { op: 'last', prompt },
      ]),
      { batchSize: 5 },
    );
    const cached = told.flatMap((event) => event.cached ?? []);
    expect(cached).toEqual(variants.map(([, count]) => count));
    const wanted: Float32Array[] = [];
    for (const [prompt] of variants) wanted.push(last(await expected(prompt)));
    expectNear('prefix reuse', floats, joined(...wanted));
  });

  test.each([512, 14])('two prompts in batches of %i', async (batchSize) => {
    const prompts = [mixed, other];
    const { floats } = await ask(
      [
        { op: 'prefill', prompts },
        { op: 'last', prompt: mixed },
        { op: 'last', prompt: other },
      ],
      { batchSize, sessions: 2 },
    );
    const wanted = joined(last(await expected(mixed)), last(await expected(other)));
    expectNear(`two prompts, batches of ${batchSize}`, floats, wanted);
  });

  test('replies at once are those of each alone', async () => {
    const prompts = [mixed, other, promptOf(30)];
    const alone = await ask(
      prompts.map((prompt) => ({ op: 'runs', prompts: [prompt], tokens: 5 })),
      { batchSize: 6 },
    );
    expect(alone.floats).toHaveLength(15);
    const together = await ask([{ op: 'runs', prompts, tokens: 5 }], { batchSize: 6, sessions: 3 });
    expect(together.floats).toEqual(alone.floats);
  });

  test('an image for which there is no memory leaves the session as it was', async () => {
    let told: number | undefined;
    const scarce = await shortOfMemory((label, bytes) => {
      const refused = label === 'normed activations' && bytes > 4 * HIDDEN * 9;
      if (refused) told = bytes;
      return refused;
    });
    const own = await kernelTests(await openDevice(scarce));
    const small = promptOf(2, image(0, 9), 4);
    const out_of_memory = { fails: 'out_of_memory' };
    const { floats } = await ask(
      [
        { op: 'last', prompt: small },
        { op: 'last', prompt: mixed, ...out_of_memory },
        { op: 'last', prompt: small },
        { op: 'runs', prompts: [mixed], tokens: 2, ...out_of_memory },
        { op: 'last', prompt: small },
        { op: 'runs', prompts: [small], tokens: 2 },
      ],
      { batchSize: 5 },
      own,
    );
    expect(told).toBe(4 * HIDDEN * 12);
    const wanted = last(await expected(small));
    expectNear(
      'after one too large',
      floats.subarray(0, 3 * VOCAB),
      joined(wanted, wanted, wanted),
    );
    expect(floats).toHaveLength(3 * VOCAB + 2);
  });

  test('from a snapshot', async () => {
    const saved = await ask([{ op: 'prefill', prompts: [mixed] }, { op: 'save' }]);
    const header = saved.told.find((event) => event.header !== undefined)?.header;
    const restored = (payload: Uint8Array) =>
      ask([
        { op: 'restore', header, source: engine.addSource(memorySource('saved', payload)) },
        { op: 'prefill', prompts: [mixed] },
        { op: 'last', prompt: mixed },
      ]);
    const { floats, told } = await restored(saved.bytes);
    expect(told.find((event) => event.cached)?.cached).toEqual([mixed.ids.length - 1]);
    expectNear('from a snapshot', floats, last(await expected(mixed)));
    const damaged = saved.bytes.slice();
    new DataView(damaged.buffer).setUint32(4, VOCAB, true);
    await expect(restored(damaged)).rejects.toMatchObject({ code: 'invalid_argument' });
  });

  test('as large as they come, past the end of the ring', async () => {
    const tiny = parseGguf(dense);
    tiny.metadata.set('gemma4.context_length', { type: 'u32', value: 2048 });
    const file = writeGguf(tiny);
    const large = promptOf(200, image(0, 1120), 20, image(1120, 60), 10);
    const { floats, told } = await ask(
      [
        { op: 'prefill', prompts: [large] },
        { op: 'last', prompt: large },
      ],
      { file, batchSize: 64 },
    );
    expect(told.at(-1)?.batch).toBe(1120);
    expectNear('an image of 1,120 tokens', floats, last(await expected(large, file)));
    await expect(
      ask([{ op: 'last', prompt: promptOf(image(0, 1149), 1) }], { file }),
    ).rejects.toMatchObject({ code: 'invalid_argument' });
  });
});

test('soft tokens without rows, at the end of a prompt, and in disorder are refused', async () => {
  const wrong: Prompt[] = [
    { ids: [2, SOFT, SOFT + 1, 5], spans: [{ position: 1, rows: 1, first: 0 }] },
    { ids: [2, SOFT, SOFT + 1], spans: [{ position: 1, rows: 2, first: 0 }] },
    { ids: [2, SOFT, 5], spans: [{ position: 1, rows: 2, first: 0 }] },
    {
      ids: [2, SOFT, SOFT + 1, 5],
      spans: [
        { position: 2, rows: 1, first: 0 },
        { position: 1, rows: 1, first: 1 },
      ],
    },
  ];
  for (const prompt of wrong) {
    await expect(ask([{ op: 'last', prompt }])).rejects.toMatchObject({
      code: 'invalid_argument',
    });
  }
});
