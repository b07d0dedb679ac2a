// Nano on WebGPU against references made by other implementations (tests/fixtures/README.md).
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { Model } from '../../packages/lapidary/dist/node.js';

interface Prompt {
  name: string;
  ids: number[];
  /** Absent for `noise`, whose continuation the reference does not give. */
  greedy_ids?: number[];
  greedy_margins?: number[];
}
interface Top {
  name: string;
  top: { pos: number; ids: number[]; logits: number[] }[];
}
const fixture = (name: string) => readFileSync(`tests/fixtures/nano/${name}`);
const json = (bytes: Uint8Array) => JSON.parse(new TextDecoder().decode(bytes)) as unknown;
const prompts = json(fixture('prompts.json')) as Prompt[];

/** The largest difference to the listed logits; the best token must agree where its margin exceeds the tolerance. */
async function worstDifference(model: Model, name: string, tolerance: number): Promise<number> {
  const content = json(gunzipSync(fixture(name))) as Top[] | { top: Top[] };
  const listed = Array.isArray(content) ? content : content.top;
  let worst = 0;
  for (const { name: prompt, top } of listed) {
    const { ids } = prompts.find((p) => p.name === prompt) as Prompt;
    const logits = await model.logits(ids, { all: true });
    const vocab = logits.length / ids.length;
    for (const row of top) {
      const got = logits.subarray(row.pos * vocab, (row.pos + 1) * vocab);
      row.ids.forEach((id, i) => {
        worst = Math.max(worst, Math.abs((got[id] as number) - (row.logits[i] as number)));
      });
      if ((row.logits[0] as number) - (row.logits[1] as number) > 2 * tolerance) {
        expect(got.indexOf(Math.max(...got)), `${prompt} at ${row.pos}`).toBe(row.ids[0]);
      }
    }
  }
  return worst;
}

describe('the embedded Q4_K_M file', () => {
  test('logits equal dequantised float arithmetic, and the answer is right', async () => {
    const model = await Model.load('nano', { kvType: 'f32', stores: ['models'] });
    expect(await worstDifference(model, 'top20_dequant-f32-q4_k_m.json.gz', 2e-2)).toBeLessThan(
      2e-2,
    );
    const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];
    expect(await model.chat(question, { temperature: 0 }).text()).toContain('Paris');
    await model.close();
  }, 900_000);
});

describe('the F16 file, whose weights are exactly those of the reference', () => {
  test('logits equal HF transformers; greedy continuations equal where margins permit', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lapidary-model-'));
    const path = join(folder, 'nano-f16.gguf');
    writeFileSync(path, gunzipSync(fixture('nano-f16.gguf.gz')));
    try {
      const model = await Model.load(path, { kvType: 'f32' });
      expect(await worstDifference(model, 'top20_hf-f32.json.gz', 1e-3)).toBeLessThan(1e-3);
      let compared = 0;
      for (const prompt of prompts) {
        const { greedy_ids: expected, greedy_margins: margins } = prompt;
        if (!expected || !margins) continue;
        compared++;
        const reply = model.generate(prompt.ids, { temperature: 0, maxTokens: 64 });
        const { tokens } = await reply.report();
        const count = Math.min(tokens.length, expected.length);
        const split = tokens.findIndex((id, i) => i < count && id !== expected[i]);
        if (split >= 0) expect(margins[split], prompt.name).toBeLessThan(2e-3);
      }
      expect(compared).toBe(19);
      await model.close();
    } finally {
      rmSync(folder, { recursive: true });
    }
  }, 900_000);
});
