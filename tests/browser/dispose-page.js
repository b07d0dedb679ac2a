// Loads nano on the page's own thread, unbundled, from a Blob, chats and disposes of it, as often as it is told.
/* global location, window */

import { Model } from '/lapidary/index.js';
import { countedGpu } from './counted-gpu.js';

const { gpu, buffers } = await countedGpu(navigator.gpu);
const blob = await (await fetch(new URL('/models/nano', location.href))).blob();
const wasm = await WebAssembly.compileStreaming(fetch('/lapidary/lapidary.wasm'));
const question = [{ role: 'user', content: 'What is the capital of France?' }];
const load = (options) => Model.load(blob, { gpu, wasm, contextLength: 512, ...options });

/** Two requests at once, and one too late. */
window.first = async () => {
  const phases = new Set();
  const model = await load({ onProgress: ({ phase }) => phases.add(phase) });
  const options = { temperature: 0, maxTokens: 12 };
  const [first, second] = [model.chat(question, options), model.chat(question, options)];
  const texts = await Promise.all([first.text(), second.text()]);
  const { heapBytes } = model.counters;
  await model.close();
  const late = model.chat(question).text();
  const refused = await late.catch(({ code }) => code);
  return { texts, phases: [...phases], heapBytes, refused };
};

/** So many rounds; bytes that the engine used and left, and the buffers that are alive after all of them. */
window.rounds = async (count) => {
  const seen = { left: 0, tokens: 0, used: Infinity };
  for (let round = 0; round < count; round++) {
    const model = await load({});
    seen.used = Math.min(seen.used, model.counters.bufferBytes);
    const options = { maxTokens: 3, seed: round };
    const { tokens } = await model.chat(question, options).report();
    await model.close();
    seen.left += model.counters.bufferBytes;
    seen.tokens += tokens.length;
  }
  return { ...seen, ...buffers };
};
