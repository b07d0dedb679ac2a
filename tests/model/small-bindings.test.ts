// GPUs whose buffers and bindings are small: a device with WebGPU's least limits, which it checks itself; and there
// bindings so small that every matrix of a tiny model lies in several buffers, with the answers of one binding each.

import type { LoadOptions, Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';
import { sharedGpu } from '../support/shared-gpu.ts';
import { smallBindings } from '../support/small-bindings.ts';

const options: LoadOptions = { kvType: 'f16', batchSize: 8, contextLength: 128, sessions: 2 };
const nano = nanoF16();
const ids = promptNamed('long').ids.slice(0, 20);

let shared: Awaited<ReturnType<typeof sharedGpu>>;
beforeAll(async () => {
  shared = await sharedGpu();
});
afterAll(() => shared?.close());

async function withModel<T>(
  file: Uint8Array,
  work: (model: Model) => Promise<T>,
  more: LoadOptions = {},
): Promise<T> {
  const model = await loadBytes('a model', file, { gpu: shared.gpu, ...options, ...more });
  return work(model).finally(() => model.close());
}

/** Logits of a batch and of a token after it, a hidden state after all layers, what replies at once find likely. */
async function answers(model: Model, prompt: number[]): Promise<Float32Array[]> {
  await model.truncate(0);
  const batch = await model.logits(prompt);
  await model.truncate(0);
  await model.logits(prompt.slice(0, -1));
  const token = await model.logits(prompt);
  const { embeddings } = await model.embed(prompt, { pooling: 'last' });
  await model.truncate(0);
  const reply = async (from: number) => {
    const said: number[] = [];
    const asked = { temperature: 0, ignoreEos: true, maxTokens: 3, logprobs: 4 };
    for await (const event of model.generate(prompt.slice(from), asked))
      if (event.type === 'token') said.push(...event.top.map(({ logprob }) => logprob));
    return Float32Array.from(said);
  };
  return [batch, token, embeddings[0]!, ...(await Promise.all([reply(0), reply(5)]))];
}

function expectSame(what: string, got: Float32Array[], wanted: Float32Array[]): void {
  expect(got).toHaveLength(wanted.length);
  got.forEach((values, i) => {
    expect(values).toHaveLength(wanted[i]!.length);
    const limit = 1e-5 * maxAbs(wanted[i]!);
    report(`${what} ${i}`, maxAbsDifference(values, wanted[i]!), limit);
    expect(maxAbsDifference(values, wanted[i]!)).toBeLessThanOrEqual(limit);
  });
}

test("nano on WebGPU's least limits", async () => {
  const adapter = await shared.gpu.requestAdapter();
  const { limits } = await adapter!.requestDevice({});
  expect(limits.maxBufferSize).toBe(256 << 20);
  expect(limits.maxStorageBufferBindingSize).toBe(128 << 20);
  expect(limits.maxStorageBuffersPerShaderStage).toBe(8);
  const { ids: asked, greedy_ids: known } = promptNamed('capital');
  const { tokens } = await withModel(nano, (model) =>
    model.generate(asked, { temperature: 0, maxTokens: known!.length }).report(),
  );
  expect(tokens).toEqual(known);
});

test('nano with its larger matrices in several buffers, all on the GPU and streamed', async () => {
  const wanted = await withModel(nano, (model) => answers(model, ids));
  const { gpu, made } = await smallBindings(shared.gpu, 131_072);
  const least = await withModel(
    nano,
    async (model) => {
      expectSame('split', await answers(model, ids), wanted);
      const data = new Blob(['{"prompt": "hello", "completion": "world"}\n']);
      await expect(model.finetune(data).report()).rejects.toMatchObject({ code: 'unsupported' });
      return model.info.memory.least;
    },
    { gpu },
  );
  const weights = made.filter(({ label }) => /^(attention|feed|per-layer)/.test(label));
  expect(Math.max(...weights.map(({ size }) => size))).toBeLessThanOrEqual(131_072);
  for (const label of ['attention q, k, v', 'feed-forward gate, up', 'feed-forward down'])
    expect(weights.filter((each) => each.label === label).length).toBeGreaterThan(6);
  const streamed = await withModel(nano, (model) => answers(model, ids), {
    ...{ gpu, gpuMemory: least },
  });
  expectSame('split and streamed', streamed, wanted);
});
