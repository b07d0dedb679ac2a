// llama.cpp with the same GGUF LoRA on the same base, and with the file that they were merged into: the same greedy text.

import { mergeAdapters } from 'lapidary/node';
import { expect, test } from 'vitest';
import { adapterGguf, randomAdapter } from '../support/adapters.ts';
import { loadBytes, memorySource, nanoF16, promptNamed } from '../support/fixtures.ts';
import { parseGguf } from '../support/gguf.ts';
import { Wllama } from './wllama.ts';

const MAX_TOKENS = 24;
// As in llama.test.ts: what llama.cpp's own rounding may turn.
const CLOSE = 0.1;

test('the same greedy text with an adapter of every projection', async () => {
  const file = nanoF16();
  const sharing = (name: string) => /^blk\.[345]\.attn_[kv]\./.test(name);
  const adapter = adapterGguf(
    randomAdapter(parseGguf(file), { seed: 7, rank: 8, skip: sharing, most: 1 }),
  );
  const made = await mergeAdapters(memorySource('nano-f16.gguf', file), [
    memorySource('adapter.gguf', adapter),
  ]);
  const merged = new Uint8Array(await new Response(made.stream()).arrayBuffer());
  const oracle = await Wllama.open(file, { adapter });
  const oracleOfMerged = await Wllama.open(merged);
  try {
    const model = await loadBytes('nano-f16.gguf', file, { kvType: 'f32' });
    try {
      const texts = ['capital', 'story'].map((name) => promptNamed(name));
      const answer = async (ids: number[]) =>
        (await model.generate(ids, { temperature: 0, maxTokens: MAX_TOKENS }).report()).tokens;
      const plain: number[][] = [];
      for (const { ids } of texts) plain.push(await answer(ids));
      await model.loadAdapter(memorySource('adapter.gguf', adapter));
      const changed: number[][] = [];
      for (const { text, ids } of texts) {
        const ours = await answer(ids);
        changed.push(ours);
        for (const each of [oracle, oracleOfMerged]) {
          const theirs = await each.greedy(text.replace(/^<bos>/, ''), MAX_TOKENS);
          expect(theirs.promptTokens).toBe(ids.length);
          const split = ours.findIndex((id, at) => id !== theirs.tokens[at]);
          if (split < 0) {
            expect(model.detokenize(ours)).toBe(theirs.text);
            continue;
          }
          console.log(`split at ${split}, margin ${theirs.margins[split]}`);
          expect(theirs.margins[split] ?? Infinity).toBeLessThan(CLOSE);
        }
      }
      // nano is sure of its capitals; its stories are others.
      expect(changed[1]).not.toEqual(plain[1]);
    } finally {
      await model.close();
    }
  } finally {
    await oracleOfMerged.close();
    await oracle.close();
  }
}, 300_000);
