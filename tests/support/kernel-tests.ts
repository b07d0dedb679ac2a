// kernel_tests.wasm: the engine with the reference model and the probes of tests/kernels, never shipped.

import { readFile } from 'node:fs/promises';
import { Engine, type OpenedDevice } from 'lapidary/node';
import { root } from './fixtures.ts';

export async function kernelTests(opened?: OpenedDevice): Promise<Engine> {
  const wasm = await readFile(`${root}build/wasm/kernel_tests.wasm`);
  return Engine.create(await WebAssembly.compile(wasm), opened);
}

export const idBytes = (ids: number[]) => new Uint8Array(Uint32Array.from(ids).buffer);

/** Logits after the last of `ids`, by plain loops on the CPU. */
export async function referenceLogits(file: Uint8Array, ids: number[]): Promise<Float32Array> {
  const engine = await kernelTests();
  const bytes = await engine.call('reference_logits', [file, idBytes(ids)]).done;
  return new Float32Array(bytes.buffer);
}
