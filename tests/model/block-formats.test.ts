// The formats that no fixture is in: nano with random blocks in some of its matrices, against the reference model on the
// same file.

import { Model } from 'lapidary/node';
import { expect, test } from 'vitest';
import { BLOCK_FORMATS, randomBlocks } from '../support/blocks.ts';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, nanoF16, promptNamed } from '../support/fixtures.ts';
import { parseGguf, writeGguf } from '../support/gguf.ts';
import { referenceLogits } from '../support/kernel-tests.ts';

// The other matrices stay what they are: software GPUs have compiled their kernels for other tests.
const FORMAT_OF: [RegExp, keyof typeof BLOCK_FORMATS][] = [
  [/^token_embd/, 'Q3_K'],
  [/^blk\.0\.attn_output/, 'IQ4_NL'],
  [/^blk\.0\.ffn_gate/, 'Q4_1'],
  [/^blk\.0\.ffn_up/, 'Q5_1'],
  [/^blk\.0\.ffn_down/, 'MXFP4'],
  [/^blk\.0\.inp_gate/, 'Q2_K'],
  [/^blk\.0\.proj\./, 'IQ4_XS'],
];

function inBlocks(file: Uint8Array): Uint8Array {
  const { version, metadata, tensors } = parseGguf(file);
  return writeGguf({
    version,
    metadata,
    tensors: tensors.map((tensor, i) => {
      const [, format] = FORMAT_OF.find(([name]) => name.test(tensor.name)) ?? [];
      const [width = 0, rows = 0] = tensor.dims;
      if (format === undefined || rows === 0) return tensor;
      const data = randomBlocks(format, width * rows, 1 / Math.sqrt(width), i);
      return { ...tensor, type: BLOCK_FORMATS[format].type, data };
    }),
  });
}

test('matrices in Q2_K, Q3_K, Q4_1, Q5_1, IQ4_NL, IQ4_XS and MXFP4', async () => {
  const file = inBlocks(nanoF16());
  const ids = promptNamed('capital').ids.slice(0, 6);
  const expected = await referenceLogits(file, ids);
  const limit = 1e-4 * maxAbs(expected);
  const model: Model = await loadBytes('blocks.gguf', file, { kvType: 'f32' });
  try {
    const atOnce = maxAbsDifference(await model.logits(ids), expected);
    report('nano with random blocks, at once', atOnce, limit);
    expect(atOnce).toBeLessThan(limit);
    await model.truncate(0);
    let last: Float32Array = new Float32Array();
    for (let length = 1; length <= ids.length; length++)
      last = await model.logits(ids.slice(0, length));
    const byToken = maxAbsDifference(last, expected);
    report('nano with random blocks, token by token', byToken, limit);
    expect(byToken).toBeLessThan(limit);
  } finally {
    await model.close();
  }
}, 120_000);
