// The integer form of prompts' products against the float form, in the same model: nano in Q4_K_M (its matrices are
// Q4_K, Q5_0, Q6_K and Q8_0), whose whole prompt but the last token's head goes through them.

import { Model, type KernelVariant } from 'lapidary/node';
import { expect, test } from 'vitest';
import { argmax, maxAbsDifference, report } from '../support/compare.ts';
import { models, promptNamed } from '../support/fixtures.ts';

const PROMPTS = ['capital', 'add'];

async function logitsWith(prefill: NonNullable<KernelVariant['prefill']>) {
  const model = await Model.load('nano', {
    stores: [models],
    kvType: 'f32',
    variant: { prefill },
  });
  try {
    expect(model.info.variant).toMatchObject({ dot: 'f32', prefill });
    const rows: Float32Array[] = [];
    for (const name of PROMPTS) {
      await model.truncate(0);
      rows.push(await model.logits(promptNamed(name).ids));
    }
    return rows;
  } finally {
    await model.close();
  }
}

test('activations in 16 bits change logits of nano by less than 2e-3', async () => {
  const tolerance = 2e-3;
  const exact = await logitsWith('f32');
  const integer = await logitsWith('int16');
  let worst = 0;
  for (const [i, found] of integer.entries()) {
    const expected = exact[i] ?? new Float32Array();
    const best = argmax(expected);
    const second = Math.max(...expected.filter((_, id) => id !== best));
    if ((expected[best] ?? NaN) - second > 2 * tolerance) expect(argmax(found)).toBe(best);
    const difference = maxAbsDifference(found, expected);
    // Equal logits would mean that both were computed in the same form.
    expect(difference).toBeGreaterThan(0);
    if (!(difference <= worst)) worst = difference;
  }
  report('nano q4_k_m, prompts in int16 and f32', worst, tolerance);
  expect(worst).toBeLessThan(tolerance);
}, 900_000);
