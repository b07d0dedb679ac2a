// Models larger than a budget of GPU memory: layers come from the source for every submission, and every logit is what
// it is with all layers on the GPU. Nano and random models of the other families' features, two replies at once,
// adapters, a source that fails in the middle, what is refused.

import { inspect, LapidaryError, Model, type ByteSource, type LoadOptions } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { adapterSource, randomAdapter } from '../support/adapters.ts';
import { loadBytes, memorySource, nanoF16, promptNamed, readFixture } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { sharedGpu } from '../support/shared-gpu.ts';

let shared: Awaited<ReturnType<typeof sharedGpu>>;
beforeAll(async () => {
  shared = await sharedGpu();
});
afterAll(() => shared?.close());

/** Reads of `inner` that are counted, and fail when they are told to. */
class TestSource implements ByteSource {
  readonly name = 'a test';
  readonly size: number;
  bytes = 0;
  /** Reads from here on that work. */
  left = Infinity;

  constructor(private readonly inner: ByteSource) {
    this.size = inner.size;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    if (this.left-- <= 0) return Promise.reject(new LapidaryError('io_error', 'the file is gone'));
    this.bytes += length;
    return this.inner.read(offset, length);
  }
}

const base: LoadOptions = {
  ...{ kvType: 'f32', batchSize: 16, contextLength: 128, sessions: 2 },
  perLayerEmbeddings: 'gpu',
};
const load = (file: Uint8Array, options: LoadOptions = {}) =>
  loadBytes('a model', file, { ...base, gpu: shared.gpu, ...options });

/** Everything that runs layers: batches, single tokens, all positions, hidden states, replies alone and at once. */
async function everything(model: Model, ids: number[]): Promise<Record<string, unknown>> {
  const reply = async (prompt: number[]) => {
    const said: number[] = [];
    const options = { temperature: 0, ignoreEos: true, maxTokens: 4, logprobs: 3 };
    for await (const event of model.generate(prompt, options)) {
      if (event.type === 'token')
        said.push(event.id, ...(event.top ?? []).map(({ logprob }) => logprob));
    }
    expect(said).toHaveLength(4 * 4);
    return said;
  };
  await model.truncate(0);
  const batch = await model.logits(ids);
  await model.truncate(0);
  await model.logits(ids.slice(0, -2));
  await model.logits(ids.slice(0, -1));
  const token = await model.logits(ids);
  const all = await model.logits(ids, { all: true });
  const { embeddings } = await model.embed(ids.slice(0, 9));
  const alone = await reply(ids);
  await model.truncate(0);
  const together = await Promise.all([reply(ids.slice(1)), reply(ids.slice(0, 7))]);
  const sampled = await model.generate(ids, { seed: 5, maxTokens: 4, ignoreEos: true }).report();
  return { batch, token, all, embeddings, alone, together, sampled: sampled.tokens };
}

const tokens = Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 200);
const FILES: [string, () => Uint8Array, number[]][] = [
  ['nano', nanoF16, promptNamed('long').ids.slice(0, 20)],
  ['tiny-dense', () => readFixture('gemma4/tiny-dense.gguf'), tokens],
];

test.each(FILES)('%s is what it is with all layers on the GPU', async (_, read, ids) => {
  const file = read();
  const whole = await load(file);
  const { memory, layers } = whole.info;
  expect(memory).toMatchObject({ fit: 'fits', residentLayers: layers });
  expect(memory.total).toBe(Object.values(memory.needs).reduce((sum, each) => sum + each, 0));
  const wanted = await everything(whole, ids).finally(() => whole.close());
  // All layers streamed, and as few as possible.
  for (const budget of [memory.least, memory.total - 1]) {
    const model = await load(file, { gpuMemory: budget });
    try {
      const { memory: plan } = model.info;
      expect(plan).toMatchObject({ fit: 'streamed', budget });
      expect(plan.planned).toBeLessThanOrEqual(budget);
      if (budget === memory.least) expect(plan.residentLayers).toBe(0);
      else expect(plan.residentLayers).toBeGreaterThan(0);
      // What is there, before anything is asked for that needs more.
      expect(model.counters.bufferBytesPeak).toBeLessThanOrEqual(budget);
      expect(await everything(model, ids)).toEqual(wanted);
    } finally {
      await model.close();
    }
  }
});

// 8 experts, of which a token uses 2.
test('a mixture with slots for some experts is what it is with all on the GPU', async () => {
  const file = readFixture('gemma4/tiny-moe.gguf');
  const options = { temperature: 0, ignoreEos: true, maxTokens: 4 };
  const whole = await load(file);
  const { memory, layers } = whole.info;
  const wanted = await everything(whole, tokens);
  const { experts: none } = await whole.generate(tokens, options).report();
  expect(none).toBeUndefined();
  await whole.close();
  const slots: number[] = [];
  // As few as a token needs, and as many as there is room for.
  for (const gpuMemory of [memory.least, memory.total - 1]) {
    const source = new TestSource(memorySource('tiny-moe', file));
    const model = await Model.load(source, { ...base, gpu: shared.gpu, gpuMemory });
    try {
      const { memory: plan } = model.info;
      expect(plan).toMatchObject({ fit: 'streamed', residentLayers: layers });
      slots.push(plan.expertSlots!);
      expect(model.counters.bufferBytesPeak).toBeLessThanOrEqual(gpuMemory);
      // Kernels know how many there are: software GPUs take long to compile all of them again.
      const full = gpuMemory === memory.least;
      if (full) expect(await everything(model, tokens)).toEqual(wanted);
      await model.truncate(0);
      expect(await model.logits(tokens)).toEqual(wanted.batch);
      await model.truncate(0);
      // The last two by themselves, as for `wanted`.
      await model.logits(tokens.slice(0, -2));
      await model.logits(tokens.slice(0, -1));
      expect(await model.logits(tokens)).toEqual(wanted.token);
      await model.truncate(0);
      const { experts } = await model.generate(tokens, options).report();
      expect(experts!.misses).toBeGreaterThan(0);
      // Of 4 layers: 3 tokens of 2 experts each alone, and two batches of at most 8.
      const needed = experts!.hits + experts!.misses;
      expect(needed).toBeGreaterThanOrEqual(layers * (3 * 2 + 2 * 2));
      expect(needed).toBeLessThanOrEqual(layers * (3 * 2 + 2 * 8));

      await model.truncate(0);
      source.left = 5;
      await expect(model.logits(tokens)).rejects.toMatchObject({
        code: 'io_error',
        message: expect.stringMatching(/tensor 'blk\.\d+\..*exps.*': the file is gone/) as string,
      });
      source.left = Infinity;
      await model.truncate(0);
      expect(await model.logits(tokens)).toEqual(wanted.batch);
    } finally {
      await model.close();
    }
  }
  expect(slots[0]).toBe(2);
  expect(slots[1]).toBeGreaterThan(2);
  expect(slots[1]).toBeLessThan(8);
});

describe('nano with every layer streamed', () => {
  const file = nanoF16();
  const source = new TestSource(memorySource('nano', file));
  const ids = promptNamed('long').ids.slice(0, 20);
  const options = { temperature: 0, ignoreEos: true, maxTokens: 6 };
  let model: Model;
  let least: number;
  beforeAll(async () => {
    least = (await inspect(source, base)).memory!.least;
    model = await Model.load(source, { ...base, gpu: shared.gpu, gpuMemory: least });
  });
  afterAll(() => model?.close());

  test('a header tells what it takes, with no GPU', async () => {
    // Of the forms of kernels, which depend on the GPU, only the room for quantised activations is not known.
    const { memory } = await inspect(source, { ...base, gpuMemory: least });
    expect(memory).toEqual(model.info.memory);
    const more = await inspect(source, { ...base, contextLength: 256 });
    expect(more.memory!.needs.kv).toBeGreaterThan(memory!.needs.kv);
    expect(more.memory).toMatchObject({ fit: 'fits', needs: { dense: memory!.needs.dense } });
    expect(more.memory).not.toHaveProperty('budget');
  });

  test('a budget that is too small, or none', async () => {
    const refused = load(file, { gpuMemory: least - 1 });
    await expect(refused).rejects.toMatchObject({
      code: 'out_of_memory',
      message: expect.stringMatching(
        new RegExp(`needs ${least} bytes .* ${least - 1} are allowed: \\d+ for tables`),
      ) as string,
    });
    for (const gpuMemory of [0, -1, 0.5, 1e300])
      await expect(load(file, { gpuMemory })).rejects.toMatchObject({ code: 'invalid_argument' });
  });

  test('a layer is read once for a batch', async () => {
    await model.truncate(0);
    const { tensors } = await inspect(source);
    const layers = tensors.filter(({ name, shape }) => name.startsWith('blk.') && shape.length > 1);
    const bytes = layers.reduce((sum, each) => sum + each.bytes, 0);
    const before = source.bytes;
    await model.logits(ids.slice(0, 16));
    expect(source.bytes - before).toBe(bytes);
  });

  test('a source that fails in the middle of a reply, and works again', async () => {
    await model.truncate(0);
    const wanted = await model.generate(ids, options).report();
    await model.truncate(0);
    const reply = model.generate(ids, options);
    let texts = 0;
    const reading = (async () => {
      for await (const event of reply) {
        if (event.type !== 'text') continue;
        // In the middle of a layer.
        if (++texts === 2) source.left = 3;
      }
    })();
    await expect(reading).rejects.toMatchObject({
      code: 'io_error',
      message: expect.stringMatching(/tensor 'blk\.\d+\..*': the file is gone/) as string,
    });
    expect(texts).toBe(2);
    for (const request of [() => model.logits(ids), () => model.embed(ids)])
      await expect(request()).rejects.toMatchObject({ code: 'io_error' });
    source.left = Infinity;
    const { tokens: again } = await model.generate(ids, options).report();
    expect(again).toEqual(wanted.tokens);
  });

  test('adapters change it as they change the model on the GPU', async () => {
    const adapter = randomAdapter(parseGguf(file), { seed: 3, rank: 3 });
    const whole = await load(file);
    const said: unknown[] = [];
    for (const each of [whole, model]) {
      const { id } = await each.loadAdapter(adapterSource(adapter));
      said.push(await everything(each, ids));
      await each.removeAdapter(id);
      await each.truncate(0);
      said.push(await each.logits(ids));
    }
    await whole.close();
    expect(said.slice(2)).toEqual(said.slice(0, 2));
  });

  test('it cannot be fine-tuned', async () => {
    const data = new Blob(['{"prompt": "hello", "completion": "world"}\n']);
    await expect(model.finetune(data).report()).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('streamed') as string,
    });
    expect(await model.logits(ids)).toHaveLength(model.info.vocab);
  });
});
