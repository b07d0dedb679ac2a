// The files of tests/fixtures (its README says what they are), unpacked and typed.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { Model, type ByteSource, type LoadOptions } from 'lapidary/node';

export const root = fileURLToPath(new URL('../..', import.meta.url));
/** The store that the repository brings, with nano in Q4_K_M. */
export const models = `${root}models`;

export function readFixture(path: string): Uint8Array {
  const bytes = readFileSync(`${root}tests/fixtures/${path}`);
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes;
}
export const readJson = <T>(path: string): T =>
  JSON.parse(new TextDecoder().decode(readFixture(path))) as T;

export function readFloats(path: string): Float32Array {
  // A copy: small files lie in a buffer that they share with others.
  return new Float32Array(Uint8Array.from(readFixture(path)).buffer);
}

export interface Prompt {
  name: string;
  text: string;
  ids: number[];
  greedy_ids?: number[];
  greedy_text?: string;
  /** Best minus second logit at each step of the greedy continuation. */
  greedy_margins?: number[];
}
export const prompts = readJson<Prompt[]>('nano/prompts.json');
export function promptNamed(wanted: string): Prompt {
  const found = prompts.find(({ name }) => name === wanted);
  if (!found) throw new Error(`no prompt is called ${wanted}`);
  return found;
}

export interface Top20 {
  name: string;
  /** The 20 largest logits after the token at `pos`, best first. */
  top: { pos: number; ids: number[]; logits: number[] }[];
}

/** A file in memory as a source of bytes. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    size: bytes.length,
    read: (offset, length) => Promise.resolve(bytes.slice(offset, offset + length)),
  };
}

export const nanoF16 = () => readFixture('nano/nano-f16.gguf.gz');

export function loadBytes(name: string, bytes: Uint8Array, options: LoadOptions = {}) {
  return Model.load(memorySource(name, bytes), options);
}
