// Mixtures of experts (26B-A4B's features in tiny-moe; tiny.test.ts has its logits as the file is): other producers'
// forms, block formats, several replies at once, hidden states, adapters, experts in several buffers.

import type { LoadOptions, Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { adapterSource, merged, randomAdapter } from '../support/adapters.ts';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { olderNames, widerExperts } from '../support/experts.ts';
import { loadBytes, readFixture, readFloats, readJson } from '../support/fixtures.ts';
import { parseGguf, writeGguf } from '../support/gguf.ts';
import { referenceLogits } from '../support/kernel-tests.ts';
import { sharedGpu } from '../support/shared-gpu.ts';
import { smallBindings } from '../support/small-bindings.ts';

interface Reference {
  ids: number[];
  logits: { file: string };
  final_norm_hidden: { file: string };
}
const reference = readJson<Record<string, Reference>>('gemma4/manifest.json')['tiny-moe']!;
const { ids } = reference;
const tinyMoe = readFixture('gemma4/tiny-moe.gguf');
const known = readFloats(`gemma4/${reference.logits.file}`);
const HIDDEN = 32;

let shared: Awaited<ReturnType<typeof sharedGpu>>;
beforeAll(async () => {
  shared = await sharedGpu();
});
afterAll(() => shared?.close());

const load = (file: Uint8Array, options: LoadOptions = {}) =>
  loadBytes('tiny-moe.gguf', file, { kvType: 'f32', gpu: shared.gpu, ...options });
async function withModel<T>(
  file: Uint8Array,
  work: (model: Model) => Promise<T>,
  options: LoadOptions = {},
): Promise<T> {
  const model = await load(file, options);
  return work(model).finally(() => model.close());
}

/** What the last of `prompt` gives: from a batch of all of it, and token by token. */
async function lastLogits(model: Model, prompt = ids) {
  await model.truncate(0);
  const batch = await model.logits(prompt);
  await model.truncate(0);
  let step: Float32Array = new Float32Array();
  for (let length = 1; length <= prompt.length; length++)
    step = await model.logits(prompt.slice(0, length));
  return { batch, step };
}
async function expectLogits(what: string, model: Model, wanted: Float32Array, most = 1e-4) {
  const { batch, step } = await lastLogits(model);
  const limit = most * maxAbs(wanted);
  report(`${what}, batch`, maxAbsDifference(batch, wanted), limit);
  report(`${what}, token by token`, maxAbsDifference(step, wanted), limit);
  expect(maxAbsDifference(batch, wanted)).toBeLessThan(limit);
  expect(maxAbsDifference(step, wanted)).toBeLessThan(limit);
}

test('gate and up apart, scales under their older name', async () => {
  const file = olderNames(tinyMoe);
  const names = parseGguf(file).tensors.map(({ name }) => name);
  expect(names).toContain('blk.0.ffn_gate_exps.weight');
  expect(names).toContain('blk.0.ffn_gate_inp.per_expert_scale');
  expect(names.filter((name) => /gate_up_exps|down_exps\.scale/.test(name))).toEqual([]);
  const last = known.subarray(known.length - known.length / ids.length);
  await withModel(file, (model) => expectLogits('split experts', model, last));
});

test('experts in block formats, also where sums are of integers', async () => {
  const file = widerExperts(tinyMoe, 64, ['Q4_1', 'IQ4_NL'], 'Q5_1');
  const wanted = await referenceLogits(file, ids);
  await withModel(file, (model) => expectLogits('experts in blocks', model, wanted));
  // Activations of two bytes, from gate and up to down handed over as such.
  const options = { variant: { dot: 'int16', subgroups: false } } as const;
  const fused = widerExperts(tinyMoe, 64, ['Q5_1'], 'MXFP4');
  const other = await referenceLogits(fused, ids);
  await withModel(
    fused,
    async (model) => {
      expect(model.info.variant).toMatchObject(options.variant);
      await expectLogits('experts in two bytes', model, other, 1e-3);
    },
    options,
  );
});

test('experts that do not fit one binding lie in several: every logit the same', async () => {
  const file = widerExperts(tinyMoe, 256, ['F32'], 'F32');
  const options = { batchSize: 32, contextLength: 64 };
  const whole = await withModel(file, lastLogits, options);
  // An adapter whose bindings are so small: of gate and up, 512 KiB, it takes four, of down two.
  const most = 200_000;
  const { gpu, made } = await smallBindings(shared.gpu, most);
  const parts = await withModel(file, lastLogits, { ...options, gpu });
  const bindings = made.flatMap(({ label, size }) => (label.startsWith('experts') ? [size] : []));
  expect(Math.max(...bindings)).toBeLessThanOrEqual(most);
  expect(bindings).toHaveLength(4 * (4 + 2));
  expect(parts).toEqual(whole);
  const wanted = await referenceLogits(file, ids);
  expect(maxAbsDifference(parts.batch, wanted)).toBeLessThan(1e-4 * maxAbs(wanted));
  expect(maxAbsDifference(parts.step, wanted)).toBeLessThan(1e-4 * maxAbs(wanted));
});

describe('tiny-moe', () => {
  let model: Model;
  beforeAll(async () => {
    model = await load(tinyMoe, { sessions: 3 });
  });
  afterAll(() => model?.close());

  test('hidden states are those of the reference', async () => {
    const states = readFloats(`gemma4/${reference.final_norm_hidden.file}`);
    for (const tokens of [1, 7, ids.length]) {
      const { embeddings } = await model.embed(ids.slice(0, tokens), {
        ...{ pooling: 'last', normalize: false },
      });
      const wanted = states.subarray((tokens - 1) * HIDDEN, tokens * HIDDEN);
      const limit = 1e-4 * maxAbs(wanted);
      report(`hidden state ${tokens}`, maxAbsDifference(embeddings[0]!, wanted), limit);
      expect(maxAbsDifference(embeddings[0]!, wanted)).toBeLessThan(limit);
    }
  });

  /** The tokens of a reply and the log probabilities of the likeliest at each. */
  async function reply(prompt: number[]): Promise<number[]> {
    const said: number[] = [];
    const options = { temperature: 0, ignoreEos: true, maxTokens: 8, logprobs: 5 };
    for await (const event of model.generate(prompt, options)) {
      if (event.type === 'token')
        said.push(event.id, event.logprob, ...(event.top ?? []).map(({ logprob }) => logprob));
    }
    return said;
  }
  /** Of three replies at once, each with experts of its own, from each alone. */
  async function differenceAtOnce(): Promise<number> {
    const prompts = [ids, ids.slice(0, 9), ids.slice(3).reverse()];
    const alone: number[][] = [];
    for (const prompt of prompts) {
      await model.truncate(0);
      alone.push(await reply(prompt));
    }
    await model.truncate(0);
    const before = model.counters.submits;
    const together = await Promise.all(prompts.map(reply));
    expect(model.counters.submits - before).toBeLessThan(2 * 8 + 3);
    expect(together.flat()).toHaveLength(3 * 8 * 7);
    return maxAbsDifference(together.flat(), alone.flat());
  }

  test('replies at once are what they are alone', async () => {
    const difference = await differenceAtOnce();
    report('log probabilities of replies at once', difference, 1e-4);
    expect(difference).toBeLessThan(1e-4);
  });

  test('adapters of attention and of the dense network', async () => {
    const adapter = randomAdapter(parseGguf(tinyMoe), {
      ...{ seed: 3, rank: 3 },
      // Software GPUs compile slowly; the other layers have the same kernels.
      skip: (name) => !/^blk\.[01]/.test(name),
    });
    expect(new Set(adapter.matrices.map(({ name }) => name.replace(/^blk\.\d+\./, '')))).toEqual(
      new Set(['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down']),
    );
    await model.truncate(0);
    const base = await model.logits(ids);
    const { id } = await model.loadAdapter(adapterSource(adapter));
    const wanted = await referenceLogits(merged(tinyMoe, [adapter, 1]), ids);
    await expectLogits('tiny-moe with an adapter', model, wanted);
    expect(maxAbsDifference(base, wanted)).toBeGreaterThan(1e-2 * maxAbs(wanted));
    const difference = await differenceAtOnce();
    report('the same of replies at once', difference, 1e-4);
    expect(difference).toBeLessThan(1e-4);
    await model.removeAdapter(id);
    await model.truncate(0);
    expect(await model.logits(ids)).toEqual(base);
  });

  test('adapters of experts and of routers, and fine-tuning, are refused', async () => {
    for (const target of ['ffn_down_exps', 'ffn_gate_up_exps', 'ffn_gate_inp']) {
      const adapter = randomAdapter(parseGguf(tinyMoe), { seed: 4, rank: 2, targets: [target] });
      await expect(model.loadAdapter(adapterSource(adapter))).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining(`blk.0.${target}.weight`) as string,
      });
    }
    const data = new Blob(['{"prompt": "hello", "completion": "world"}\n']);
    await expect(model.finetune(data).report()).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('experts') as string,
    });
    expect(await model.logits(ids)).toHaveLength(model.info.vocab);
  });
});

test('a damaged mixture is refused', async () => {
  for (const [key, value] of [
    ['gemma4.expert_count', 4_000_000_000],
    ['gemma4.expert_count', 16],
    ['gemma4.expert_count', 0],
    ['gemma4.expert_used_count', 9],
    ['gemma4.expert_used_count', 0],
    ['gemma4.expert_feed_forward_length', 0],
    ['gemma4.expert_feed_forward_length', 12],
  ] as const) {
    const parsed = parseGguf(tinyMoe);
    parsed.metadata.set(key, { type: 'u32', value });
    await expect(withModel(writeGguf(parsed), () => Promise.resolve())).rejects.toMatchObject({
      code: 'invalid_format',
    });
  }
});
