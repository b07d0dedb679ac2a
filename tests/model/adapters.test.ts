// LoRA adapters at run time: against another implementation's logits, and against the reference in plain loops with the
// adapters merged into its weights (W + scale B A, in doubles).

import { mergeAdapters, type Model } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  adapterGguf,
  TARGETS,
  adapterSource,
  merged,
  peftFiles,
  randomAdapter,
  type TestAdapter,
} from '../support/adapters.ts';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import {
  loadBytes,
  memorySource,
  nanoF16,
  promptNamed,
  readFixture,
  readFloats,
  readJson,
} from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { quantizeModel } from '../support/quantize.ts';
import { referenceLogits } from '../support/kernel-tests.ts';

interface Reference {
  gguf: string;
  ids: number[];
}
const references = readJson<Record<string, Reference>>('gemma4/manifest.json');
const tinyE = readFixture('gemma4/tiny-e.gguf');
const ids = references['tiny-e']?.ids ?? [];
const kvType = 'f32';
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

/**
 * All matrices but those of some layers: each set of adapters has kernels of its own, which software GPUs compile slowly.
 * Keys and values of layers from `owners` on, which use those of others, are never among them.
 */
const only =
  (layers: number[], owners: number) =>
  (name: string): boolean => {
    const [, layer, role = ''] = /^blk\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
    if (layer === undefined) return false;
    return !layers.includes(Number(layer)) || (/^attn_[kv]$/.test(role) && Number(layer) >= owners);
  };

/** By the batch and the last token's decode, and token by token. */
async function bothWays(model: Model, prompt: number[]) {
  await model.truncate(0);
  const batch = await model.logits(prompt);
  await model.truncate(0);
  await model.logits(prompt.slice(0, 1));
  let step: Float32Array = new Float32Array();
  for (let length = prompt.length - 4; length <= prompt.length; length++)
    step = await model.logits(prompt.slice(0, length));
  return { batch, step };
}

test('tiny-dense: every logit within 1e-4 of the fixture; then the base again, bit for bit', async () => {
  const reference = references['tiny-dense'];
  const values = readFloats('gemma4/tiny-dense-lora.logits.f32');
  const tokens = reference?.ids ?? [];
  const file = readFixture(`gemma4/${reference?.gguf}`);
  const model = await loadBytes('tiny-dense', file, { kvType });
  try {
    const base = await model.logits(tokens, { all: true });
    const { dispatches } = model.counters;
    await model.truncate(0);
    await model.logits(tokens);
    const plain = model.counters.dispatches - dispatches;
    const lora = readFixture('gemma4/tiny-dense-lora.gguf');
    const { id } = await model.loadAdapter(memorySource('tiny-dense-lora.gguf', lora));
    const all = await model.logits(tokens, { all: true });
    const { batch, step } = await bothWays(model, tokens);
    const last = values.subarray(values.length - model.info.vocab);
    const limit = 1e-4 * maxAbs(values);
    for (const [how, got, wanted] of [
      ['at once', all, values],
      ['the last', batch, last],
      ['token by token', step, last],
    ] as const) {
      report(`tiny-dense with its adapter, ${how}`, maxAbsDifference(got, wanted), limit);
      expect(maxAbsDifference(got, wanted)).toBeLessThan(limit);
    }
    expect(maxAbsDifference(all, base)).toBeGreaterThan(100 * limit);
    await model.setAdapters([]);
    expect(model.adapters).toMatchObject([{ id, scale: 0 }]);
    expect(await model.logits(tokens, { all: true })).toEqual(base);
    await model.removeAdapter(id);
    expect(model.adapters).toEqual([]);
    await model.truncate(0);
    const before = model.counters.dispatches;
    await model.logits(tokens);
    expect(model.counters.dispatches - before).toBe(plain);
  } finally {
    await model.close();
  }
});

describe('tiny-e, every matrix that an adapter can change', () => {
  let model: Model;
  let base: Float32Array;
  let first: TestAdapter;
  let second: TestAdapter;
  beforeAll(async () => {
    model = await loadBytes('tiny-e.gguf', tinyE, { kvType, sessions: 2 });
    base = await model.logits(ids);
    const file = parseGguf(tinyE);
    first = randomAdapter(file, { seed: 1, rank: 4, head: true, skip: only([1, 6], 4) });
    // Of another rank, and of some of the matrices only.
    const targets = ['attn_v', 'ffn_up', 'proj'];
    second = randomAdapter(file, { seed: 2, rank: 3, targets, skip: only([1], 4) });
  });
  afterAll(() => model?.close());

  async function expectMerged(what: string, ...adapters: [TestAdapter, number][]) {
    const wanted = await referenceLogits(merged(tinyE, ...adapters), ids);
    const limit = 1e-4 * maxAbs(wanted);
    const { batch, step } = await bothWays(model, ids);
    report(`tiny-e, ${what}, batch`, maxAbsDifference(batch, wanted), limit);
    report(`tiny-e, ${what}, decode`, maxAbsDifference(step, wanted), limit);
    expect(maxAbsDifference(batch, wanted)).toBeLessThan(limit);
    expect(maxAbsDifference(step, wanted)).toBeLessThan(limit);
    expect(maxAbsDifference(batch, base)).toBeGreaterThan(100 * limit);
  }

  test('two with scales, then one of them alone, then none', async () => {
    const one = await model.loadAdapter(adapterSource(first, 'first'), { scale: 0 });
    expect(one).toMatchObject({ name: 'first', rank: 4, scale: 0, rsLora: false });
    expect(one.matrices).toBe(first.matrices.length);
    await model.truncate(0);
    expect(await model.logits(ids)).toEqual(base);
    const two = await model.loadAdapter(adapterSource(second, 'second'), { scale: 0 });
    await model.setAdapters([
      { id: two.id, scale: 0.5 },
      { id: one.id, scale: -0.75 },
    ]);
    expect(model.adapters.map(({ scale }) => scale)).toEqual([-0.75, 0.5]);
    await expectMerged('two adapters', [first, -0.75], [second, 0.5]);
    await model.setAdapters([{ id: two.id }]);
    await expectMerged('the second alone', [second, 1]);

    // The same from a file that the engine merged.
    await model.truncate(0);
    const wanted = await model.logits(ids, { all: true });
    const made = await mergeAdapters(memorySource('tiny-e.gguf', tinyE), [adapterSource(second)]);
    const file = new Uint8Array(await new Response(made.stream()).arrayBuffer());
    expect(file.length).toBe(made.bytes);
    expect(made.matrices).toHaveLength(second.matrices.length);
    expect(made.report().kept).toBeCloseTo(1, 5);
    const other = await loadBytes('merged.gguf', file, { kvType });
    const got = await other.logits(ids, { all: true }).finally(() => other.close());
    const limit = 1e-4 * maxAbs(wanted);
    report('tiny-e, merged by the engine', maxAbsDifference(got, wanted), limit);
    expect(maxAbsDifference(got, wanted)).toBeLessThan(limit);

    await model.removeAdapter(two.id);
    expect(model.adapters).toMatchObject([{ id: one.id, scale: 0 }]);
    await model.truncate(0);
    expect(await model.logits(ids)).toEqual(base);
    await model.removeAdapter(one.id);
  });

  test('tokens of another set of adapters are not taken from the cache, its own are', async () => {
    const cached = async () =>
      (await model.generate(ids, { temperature: 0, maxTokens: 1 }).report()).usage.cachedTokens;
    await model.truncate(0);
    expect(await cached()).toBe(0);
    expect(await cached()).toBe(ids.length - 1);
    const { id } = await model.loadAdapter(adapterSource(second), { scale: 1 });
    expect(await cached()).toBe(0);
    expect(await cached()).toBe(ids.length - 1);
    await model.setAdapters([{ id, scale: 0.5 }]);
    expect(await cached()).toBe(0);
    await model.removeAdapter(id);
    expect(await cached()).toBe(0);
  });

  test('a rank too large for the kernels to make the change themselves', async () => {
    const large = randomAdapter(parseGguf(tinyE), {
      seed: 3,
      rank: 100,
      targets: ['attn_q', 'attn_k', 'attn_v'],
      skip: only([0], 4),
      most: 0.05,
    });
    const { id } = await model.loadAdapter(adapterSource(large));
    await expectMerged('rank 100', [large, 1]);
    await model.removeAdapter(id);
  });

  test('every kind of file gives the same logits: GGUF, PEFT in F32 and BF16, with rsLoRA, from File objects', async () => {
    const rough = structuredClone(second);
    for (const { a, b } of rough.matrices)
      for (const values of [a, b]) {
        const words = new Uint32Array(values.buffer);
        for (let i = 0; i < words.length; i++) words[i] = (words[i] ?? 0) & 0xffff0000;
      }
    const logits = async (load: Promise<{ id: number }>) => {
      const { id } = await load;
      // What the same adapter made before serves it, wherever it comes from.
      await model.truncate(0);
      const got = await model.logits(ids);
      await model.removeAdapter(id);
      return got;
    };
    const wanted = await logits(model.loadAdapter(adapterSource(rough)));
    expect(wanted).not.toEqual(base);
    for (const dtype of ['F32', 'BF16'] as const) {
      const { model: weights, config } = peftFiles(rough, { dtype });
      const files = [
        new File([config.slice()], 'adapter_config.json'),
        new File([weights.slice()], 'adapter_model.safetensors'),
      ];
      expect(await logits(model.loadAdapter(files))).toEqual(wanted);
    }
    // alpha / sqrt(rank), with an alpha that makes it the same scale.
    const rs = { ...rough, alpha: Math.sqrt(3) };
    const { model: weights, config } = peftFiles(rs, { rsLora: true });
    const source = { model: new Blob([weights.slice()]), config: new Blob([config.slice()]) };
    expect(maxAbsDifference(await logits(model.loadAdapter(source)), wanted)).toBeLessThan(1e-5);
  });

  test('what does not fit is refused by name, and changes nothing', async () => {
    const wide = structuredClone(first);
    const [matrix] = wide.matrices;
    if (!matrix) throw new Error('no matrix');
    matrix.outputs += 1;
    matrix.b = new Float32Array(matrix.outputs * matrix.rank).fill(1);
    const refused = model.loadAdapter(adapterSource(wide));
    await expect(refused).rejects.toEqual(code('invalid_format'));
    await expect(refused).rejects.toThrow(matrix.name);
    const { model: weights } = peftFiles(second);
    await expect(model.loadAdapter(new Blob([weights.slice()]))).rejects.toThrow(
      'adapter_config.json',
    );
    const cut = adapterGguf(second);
    await expect(
      model.loadAdapter(memorySource('cut.gguf', cut.subarray(0, cut.length - 40))),
    ).rejects.toEqual(code('truncated'));
    await expect(model.loadAdapter(adapterSource(second), { scale: 1e6 })).rejects.toEqual(
      code('invalid_argument'),
    );
    await expect(model.setAdapters([{ id: 99 }])).rejects.toEqual(code('invalid_argument'));
    await expect(model.removeAdapter(99)).rejects.toEqual(code('invalid_argument'));
    const many = structuredClone(second);
    many.matrices = [
      randomAdapter(parseGguf(tinyE), { seed: 4, rank: 600, targets: ['attn_q'] }).matrices[0] ??
        matrix,
    ];
    const { id } = await model.loadAdapter(adapterSource(many), { scale: 0 });
    const other = await model.loadAdapter(adapterSource(many), { scale: 0 });
    await expect(model.setAdapters([{ id }, { id: other.id }])).rejects.toThrow(/rank 1200/);
    expect(model.adapters.map(({ scale }) => scale)).toEqual([0, 0]);
    await model.removeAdapter(other.id);
    expect(model.adapters.map((adapter) => adapter.id)).toEqual([id]);
    await model.removeAdapter(id);
    await model.truncate(0);
    expect(await model.logits(ids)).toEqual(base);
  });
});

// With integer products gate and up hand signed bytes over to down, adapters or not. (nano in F16: tests/oracle.)
test('nano Q8_0: the seven projections change, in two dispatches more than the base takes', async () => {
  const file = quantizeModel(nanoF16(), 'Q8_0');
  const prompt = promptNamed('capital').ids;
  const adapter = randomAdapter(parseGguf(file), {
    seed: 5,
    rank: 9,
    targets: TARGETS.filter((name) => !['inp_gate', 'proj'].includes(name)),
    // The first layer, and the one in which the last token of a prompt comes from the batch.
    skip: only([0, 3, 4], 3),
    most: 0.02,
  });
  const wanted = await referenceLogits(merged(file, [adapter, 1]), prompt);
  const model = await loadBytes('nano-q8_0.gguf', file, { kvType, variant: { dot: 'int16' } });
  const dispatchesOfAToken = async () => {
    await model.truncate(prompt.length - 1);
    const { dispatches } = model.counters;
    await model.logits(prompt);
    return model.counters.dispatches - dispatches;
  };
  try {
    const base = await model.logits(prompt);
    const before = await dispatchesOfAToken();
    await model.loadAdapter(adapterSource(adapter));
    const { batch, step } = await bothWays(model, prompt);
    for (const [how, got] of Object.entries({ batch, step })) {
      report(`nano Q8_0 with an adapter, ${how}`, maxAbsDifference(got, wanted), 2e-3);
      expect(maxAbsDifference(got, wanted)).toBeLessThan(2e-3);
    }
    expect(maxAbsDifference(batch, base)).toBeGreaterThan(0.1);
    // Those of q, k and v of the first layer; all others make their change by themselves.
    expect(await dispatchesOfAToken()).toBe(before + 2);
  } finally {
    await model.close();
  }
});
