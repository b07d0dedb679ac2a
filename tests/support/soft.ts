// What a prompt with soft tokens must give, by the engine's own parts (tests/kernels/soft_probe.cpp).

import { openDevice, type Engine } from 'lapidary/node';
import { argmax } from './compare.ts';
import { memorySource } from './fixtures.ts';
import { kernelTests } from './kernel-tests.ts';
import { CLOSE, OPEN, PLACE } from './seeing.ts';

/** Ids from here on stand for rows from elsewhere: model::kSoftToken. */
const SOFT_TOKEN = 2 ** 31;

/**
 * Token ids of a prompt in which every place of a medium is that many soft tokens, and the log probabilities of the token
 * after it. rows: theirs, f32, one medium after another; asked for with an engine that has probes.
 */
export async function softLogprobs(
  gpu: GPU,
  text: Uint8Array,
  prompt: number[],
  soft: number,
  audio: boolean,
  rows: (engine: Engine) => Promise<Float32Array>,
): Promise<{ ids: number[]; logprobs: Float32Array }> {
  const engine = await kernelTests(await openDevice(gpu));
  const spans: object[] = [];
  const ids: number[] = [];
  for (const id of prompt) {
    if (id !== PLACE) {
      ids.push(id);
      continue;
    }
    const first = soft * spans.length;
    spans.push({ position: ids.length + 1, rows: soft, first, audio });
    ids.push(OPEN, ...Array.from({ length: soft }, (_, row) => SOFT_TOKEN + first + row), CLOSE);
  }
  const bytes = new Uint8Array(Float32Array.from(await rows(engine)).buffer);
  const source = engine.addSource(memorySource('text.gguf', text));
  const request = JSON.stringify({
    options: { kvType: 'f32', batchSize: 512, tune: false },
    ops: [{ op: 'all', prompt: { ids, spans } }],
  });
  const logits = new Float32Array(
    (await engine.call('soft_probe', [source, request, bytes]).done).buffer,
  );
  engine.destroy();
  const last = logits.subarray(-logits.length / ids.length);
  const most = last[argmax(last)]!;
  const sum = last.reduce((all, logit) => all + Math.exp(logit - most), 0);
  return { ids, logprobs: last.map((logit) => logit - most - Math.log(sum)) };
}
