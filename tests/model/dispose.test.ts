// Models loaded, asked and disposed of 50 times: nothing of them stays, on the GPU or in the heap. The same in a page, a
// few times, is in tests/browser/dispose.test.ts.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { findGpu } from 'lapidary/node';
import { expect, test } from 'vitest';
import { countedGpu } from '../browser/counted-gpu.js';
import { loadBytes, readFixture } from '../support/fixtures.ts';

const ROUNDS = 50;
const WARM = 10;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes that are alive in the heap, and in the memories that it holds. */
async function heap(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

test('load, chat, dispose, 50 times', async () => {
  const { gpu, buffers, close } = await countedGpu((await findGpu())!);
  const bytes = readFixture('gemma4/tiny-dense.gguf');
  const messages = [{ role: 'user' as const, content: 'Hello' }];
  let before = 0;
  for (let round = 0; round < ROUNDS; round++) {
    if (round === WARM) before = await heap();
    const model = await loadBytes('tiny', bytes, { gpu, contextLength: 256 });
    expect(model.counters.bufferBytes).toBeGreaterThan(500_000);
    expect(buffers.alive).toBeGreaterThan(10);
    const { tokens } = await model.chat(messages, { maxTokens: 8, seed: round }).report();
    expect(tokens).toHaveLength(8);
    await model.close();
    // What the engine gave back itself, and what its device took along.
    expect(model.counters.bufferBytes).toBe(0);
    expect(buffers.alive).toBe(0);
  }
  expect(buffers.made).toBeGreaterThan(50 * ROUNDS);
  const growth = (await heap()) / before - 1;
  expect(growth).toBeLessThan(0.05);
  close();
});
