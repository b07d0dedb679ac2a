// The forms that a real GPU may be given and a software one is not by itself: subgroups, and integer products of
// quantised activations; with caches of both types. Each of them is on in one model and off in another. Token by token,
// so that every matvec runs. The tiers run this on two software Vulkans: on llvmpipe (f16, subgroups of 8) nano's Q4_K_M
// against llama.cpp on the same weights in f32; on SwiftShader (no f16, subgroups of 4), which takes a minute for
// nano's kernels, two layers of it in Q8_0 against the reference model.

import { Model, type KernelVariant, type LoadOptions } from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { argmax, maxAbsDifference, report } from '../support/compare.ts';
import {
  loadBytes,
  models,
  nanoF16,
  promptNamed,
  readJson,
  type Top20,
} from '../support/fixtures.ts';
import { referenceLogits } from '../support/kernel-tests.ts';
import { quantizeModel } from '../support/quantize.ts';
import { sharedGpu } from '../support/shared-gpu.ts';
import { twoLayers } from '../support/two-layers.ts';

const onSwiftShader = process.env.LAPIDARY_TEST_DRIVER === 'swiftshader';
const PROMPTS = onSwiftShader ? ['capital'] : ['capital', 'add'];
/** Of a prompt. */
const TOKENS = onSwiftShader ? 5 : 24;
const promptOf = (name: string) => promptNamed(name).ids.slice(0, TOKENS);

/** The best tokens after a prompt's beginning, best first, and their logits. */
interface Known {
  prompt: number[];
  ids: number[];
  logits: number[];
}

function knownOfNano(): Known[] {
  const { top } = readJson<{ top: Top20[] }>('nano/top20_dequant-f32-q4_k_m.json.gz');
  return PROMPTS.flatMap((prompt) => {
    const listed = top.find(({ name }) => name === prompt)?.top ?? [];
    return listed
      .filter(({ pos }) => pos < TOKENS)
      .map(({ pos, ...best }) => ({ ...best, prompt: promptOf(prompt).slice(0, pos + 1) }));
  });
}

async function knownOf(file: Uint8Array): Promise<Known[]> {
  const known: Known[] = [];
  for (const ids of PROMPTS.map(promptOf)) {
    for (let tokens = 1; tokens <= ids.length; tokens++) {
      const prompt = ids.slice(0, tokens);
      const logits = await referenceLogits(file, prompt);
      const order = [...logits.keys()].sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0));
      known.push({ prompt, ids: order, logits: order.map((id) => logits[id] ?? NaN) });
    }
  }
  return known;
}

let shared: Awaited<ReturnType<typeof sharedGpu>>;
let known: Known[];
let load: (options: LoadOptions) => Promise<Model>;
beforeAll(async () => {
  shared = await sharedGpu();
  if (onSwiftShader) {
    const file = quantizeModel(twoLayers(nanoF16()), 'Q8_0');
    known = await knownOf(file);
    load = (options) => loadBytes('two-layers.gguf', file, options);
  } else {
    known = knownOfNano();
    load = (options) => Model.load('nano', { ...options, stores: [models] });
  }
});
afterAll(() => shared.close());

describe.each<{ variant: KernelVariant; kvType: 'f16' | 'f32'; tolerance: number }>([
  { variant: { subgroups: true, dot: 'f32' }, kvType: 'f16', tolerance: 2e-2 },
  // 2^-15 of the largest of 16 activations: less than what the f16 cache or the order of sums does.
  { variant: { subgroups: false, dot: 'int16' }, kvType: 'f32', tolerance: 2e-2 },
  // 2^-8 of it.
  { variant: { subgroups: false, dot: 'int8' }, kvType: 'f32', tolerance: 0.4 },
])('$variant with a cache of $kvType', ({ variant, kvType, tolerance }) => {
  test(`decodes to logits within ${tolerance} of the reference`, async () => {
    const model = await load({ kvType, variant, gpu: shared.gpu });
    try {
      expect(model.info.variant).toMatchObject(variant);
      expect(known.length).toBe(PROMPTS.reduce((sum, name) => sum + promptOf(name).length, 0));
      let worst = 0;
      for (const expected of known) {
        const found = await model.logits(expected.prompt);
        const [first = 0, second = 0] = expected.logits;
        if (first - second > 2 * tolerance) expect(argmax(found)).toBe(expected.ids[0]);
        const difference = maxAbsDifference(
          expected.ids.map((id) => found[id] ?? NaN),
          expected.logits,
        );
        if (!(difference <= worst)) worst = difference;
      }
      const what = `${JSON.stringify(variant)}, ${kvType}, ${known.length} positions`;
      report(what, worst, tolerance);
      expect(worst).toBeLessThan(tolerance);
    } finally {
      await model.close();
    }
  }, 900_000);
});

test('subgroup matrices are refused where the GPU has none, and never a form of decoding', async () => {
  const wished = (variant: object) => Model.load('nano', { stores: [models], variant });
  await expect(wished({ prefill: 'matrix' })).rejects.toMatchObject({ code: 'unsupported' });
  await expect(wished({ dot: 'matrix' })).rejects.toMatchObject({ code: 'invalid_argument' });
});
