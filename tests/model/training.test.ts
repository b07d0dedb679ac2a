// The trainer on the GPU against the double-precision oracle (which PyTorch's fixtures and finite differences confirm):
// losses and every LoRA gradient of whole models, and what must not change them.
import { openDevice } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import type { Engine } from 'lapidary/node';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, nanoF16, readFixture } from '../support/fixtures.ts';
import { kernelTests } from '../support/kernel-tests.ts';

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

interface Request {
  rank: number;
  head: boolean;
  seed: number;
  lengths: number[];
  batches: number;
  oracle: boolean;
  headRows: number;
  headChunk: number;
  checkpointing: boolean;
}
type ProbeEvent =
  | { loss: number; matrices: { name: string; count: number }[]; bytes: number }
  | { expected: number };

let engine: Engine;
beforeAll(async () => {
  engine = await kernelTests(await openDevice(gpu));
});
afterAll(() => {
  engine.destroy();
});

async function gradients(file: Uint8Array, options: Partial<Request>) {
  const request: Request = {
    rank: 2,
    head: true,
    seed: 7,
    lengths: [11, 8, 17],
    batches: 1,
    oracle: false,
    headRows: 64,
    headChunk: 64,
    checkpointing: true,
    ...options,
  };
  let loss = NaN;
  let expected = NaN;
  let matrices: { name: string; count: number }[] = [];
  const bytes = await engine.call(
    'training_probe',
    [engine.addSource(memorySource('model.gguf', file)), file, JSON.stringify(request)],
    {
      onEvent(message) {
        const event = message as ProbeEvent;
        if ('loss' in event) ({ loss, matrices } = event);
        else expected = event.expected;
      },
    },
  ).done;
  const values = new Float32Array(bytes.slice().buffer);
  const total = matrices.reduce((sum, { count }) => sum + count, 0);
  return {
    loss,
    expected,
    matrices,
    found: values.subarray(0, total),
    oracle: values.subarray(total),
  };
}

function compare(name: string, run: Awaited<ReturnType<typeof gradients>>) {
  expect(run.oracle.length).toBe(run.found.length);
  const lossError = Math.abs(run.loss - run.expected) / run.expected;
  report(`${name}: loss`, lossError, 1e-5);
  expect(lossError).toBeLessThan(1e-5);
  let at = 0;
  let worst = 0;
  for (const { name: matrix, count } of run.matrices) {
    const expected = run.oracle.subarray(at, at + count);
    const error = maxAbsDifference(run.found.subarray(at, at + count), expected) / maxAbs(expected);
    expect(error, matrix).toBeLessThan(1e-3);
    worst = Math.max(worst, error);
    at += count;
  }
  report(`${name}: worst gradient of ${run.matrices.length} matrices`, worst, 1e-3);
}

const tiny = (name: string) => readFixture(`gemma4/${name}.gguf`);

// Shared K and V, both kinds of attention, per-layer embeddings; V from K and heads by layer.
test.each(['tiny-e', 'tiny-dense'])('%s has the gradients of the oracle', async (name) => {
  compare(name, await gradients(tiny(name), { oracle: true }));
});

test('nano has the gradients of the oracle', async () => {
  // Quantised it would be compared with itself: the oracle reads the same file.
  compare('nano', await gradients(nanoF16(), { oracle: true, lengths: [12, 9], head: false }));
});

test('activations made again give equal bits', async () => {
  const kept = await gradients(tiny('tiny-e'), { checkpointing: false });
  const again = await gradients(tiny('tiny-e'), { checkpointing: true });
  expect(again.found).toEqual(kept.found);
  expect(again.loss).toBe(kept.loss);
});

const difference = (a: Float32Array, b: Float32Array) => maxAbsDifference(a, b) / maxAbs(b);

test('examples in one batch or in several, and the head in blocks, are the same', async () => {
  const whole = await gradients(tiny('tiny-e'), {});
  const apart = await gradients(tiny('tiny-e'), { batches: 3 });
  expect(difference(apart.found, whole.found)).toBeLessThan(1e-5);
  expect(Math.abs(apart.loss - whole.loss) / whole.loss).toBeLessThan(1e-6);
  const lengths = [40, 20];
  const one = await gradients(tiny('tiny-dense'), { lengths });
  const blocks = await gradients(tiny('tiny-dense'), { lengths, headRows: 32, headChunk: 128 });
  expect(difference(blocks.found, one.found)).toBeLessThan(1e-5);
  report('accumulated against packed', difference(apart.found, whole.found), 1e-5);
});
