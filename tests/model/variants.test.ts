// The forms that a real GPU may be given and a software one is not by itself: subgroups, and integer products of
// quantised activations. Token by token, so that every matvec runs, against llama.cpp on the same weights in f32.

import { Model, type KernelVariant } from 'lapidary/node';
import { describe, expect, test } from 'vitest';
import { argmax, maxAbsDifference, report } from '../support/compare.ts';
import { models, promptNamed, readJson, type Top20 } from '../support/fixtures.ts';

const PROMPTS = ['capital', 'add'];
const TOKENS = 24;
const { top: reference } = readJson<{ top: Top20[] }>('nano/top20_dequant-f32-q4_k_m.json.gz');

describe.each<{ variant: KernelVariant; tolerance: number }>([
  { variant: { subgroups: true, dot: 'f32' }, tolerance: 2e-2 },
  // 2^-15 of the largest of 16 activations: less than what the f16 cache or the order of sums does.
  { variant: { subgroups: false, dot: 'int16' }, tolerance: 2e-2 },
  // 2^-8 of it.
  { variant: { subgroups: false, dot: 'int8' }, tolerance: 0.4 },
])('nano Q4_K_M with $variant', ({ variant, tolerance }) => {
  test(`decodes to logits within ${tolerance} of the reference`, async () => {
    const model = await Model.load('nano', { stores: [models], kvType: 'f32', variant });
    try {
      expect(model.info.variant).toMatchObject(variant);
      let worst = 0;
      let rows = 0;
      for (const name of PROMPTS) {
        const { ids } = promptNamed(name);
        const listed = reference.find((entry) => entry.name === name)?.top ?? [];
        for (let n = 1; n <= Math.min(ids.length, TOKENS); n++) {
          const found = await model.logits(ids.slice(0, n));
          const expected = listed.find(({ pos }) => pos === n - 1);
          if (!expected) continue;
          const [first = 0, second = 0] = expected.logits;
          if (first - second > 2 * tolerance) expect(argmax(found)).toBe(expected.ids[0]);
          const difference = maxAbsDifference(
            expected.ids.map((id) => found[id] ?? NaN),
            expected.logits,
          );
          if (!(difference <= worst)) worst = difference;
          rows++;
        }
      }
      expect(rows).toBeGreaterThan(20);
      report(`nano q4_k_m, ${JSON.stringify(variant)}, ${rows} positions`, worst, tolerance);
      expect(worst).toBeLessThan(tolerance);
    } finally {
      await model.close();
    }
  }, 900_000);
});

test('subgroup matrices are refused where the GPU has none, and never a form of decoding', async () => {
  const load = (variant: object) => Model.load('nano', { stores: [models], variant });
  await expect(load({ prefill: 'matrix' })).rejects.toMatchObject({ code: 'unsupported' });
  await expect(load({ dot: 'matrix' })).rejects.toMatchObject({ code: 'invalid_argument' });
});
