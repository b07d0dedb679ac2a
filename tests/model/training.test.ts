// The trainer on the GPU against the double-precision oracle (which PyTorch's fixtures and finite differences confirm):
// losses and every LoRA gradient of whole models, and what must not change them. And steps of the optimiser against
// PyTorch's own.
import { openDevice } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import type { Engine } from 'lapidary/node';
import { maxAbs, maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, nanoF16, readFixture, readJson } from '../support/fixtures.ts';
import { kernelTests } from '../support/kernel-tests.ts';
import { readSafetensors, writeSafetensors, type RawTensor } from '../support/safetensors.ts';

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

interface TorchRun {
  ids: number[];
  labels: number[];
  steps: { loss_before: number; grad_norm_before_clip: number }[];
  loss_after_3: number;
  lr: number;
  betas: [number, number];
  eps: number;
  grad_clip: number;
}

test('three steps from B = 0 are those of PyTorch and Adam', async () => {
  const torch = readJson<TorchRun>('nano-lora/lora.json');
  const start: RawTensor[] = [];
  const a = readSafetensors(readFixture('nano-lora/lora_A_init.safetensors.gz'));
  for (const [name, { shape, values }] of a)
    start.push({ name, shape, data: new Uint8Array(values.buffer) });
  const b = readSafetensors(readFixture('nano-lora/grad_B_at_B0.safetensors.gz'));
  for (const [name, { shape, values }] of b)
    start.push({ name, shape, data: new Uint8Array(values.byteLength) });
  const request = {
    tokens: torch.ids,
    // The label of a token is predicted by the token before it.
    targets: torch.ids.map((_, t) => Math.max(torch.labels[t + 1] ?? -100, -1) >>> 0),
    steps: torch.steps.length,
    rate: torch.lr,
    beta1: torch.betas[0],
    beta2: torch.betas[1],
    epsilon: torch.eps,
    clip: torch.grad_clip,
  };
  const seen: { loss: number; norm?: number }[] = [];
  const config = readFixture('nano-lora/adapter_config.json');
  const file = await engine.call(
    'training_steps_probe',
    [
      engine.addSource(memorySource('nano.gguf', nanoF16())),
      writeSafetensors('F32', start),
      config,
      JSON.stringify(request),
    ],
    { onEvent: (event) => void seen.push(event as (typeof seen)[0]) },
  ).done;
  const losses = [...torch.steps.map((step) => step.loss_before), torch.loss_after_3];
  const norms = torch.steps.map((step) => step.grad_norm_before_clip);
  const relative = (got: number, wanted: number) => Math.abs(got / wanted - 1);
  const lossErrors = losses.map((loss, i) => relative(seen[i]?.loss ?? NaN, loss));
  const normErrors = norms.map((norm, i) => relative(seen[i]?.norm ?? NaN, norm));
  report('PyTorch: losses of three steps', Math.max(...lossErrors), 1e-5);
  report('PyTorch: gradient norms', Math.max(...normErrors), 1e-4);
  for (const error of lossErrors) expect(error).toBeLessThan(1e-5);
  for (const error of normErrors) expect(error).toBeLessThan(1e-4);

  // Seven modules, one of each kind. Adam divides a gradient by its own size: where that is no more than rounding, the
  // step is anything up to the rate, on PyTorch's side, too. Few values may be such.
  const trained = readSafetensors(file);
  const wanted = readSafetensors(readFixture('nano-lora/part.safetensors'));
  expect(wanted.size).toBe(14);
  const near = 1e-4 * torch.steps.length * torch.lr;
  let worst = 0;
  let count = 0;
  let far = 0;
  for (const [name, { values }] of wanted) {
    const got = trained.get(name)?.values ?? new Float32Array();
    worst = Math.max(worst, maxAbsDifference(got, values));
    count += values.length;
    far += values.filter((value, i) => !(Math.abs(value - (got[i] ?? NaN)) <= near)).length;
  }
  report('PyTorch: A and B after three steps', worst, 1e-4);
  report('PyTorch: values off by more than 1e-4 of three steps', far / count, 5e-3);
  expect(worst).toBeLessThan(1e-4);
  expect(far / count).toBeLessThan(5e-3);
});
