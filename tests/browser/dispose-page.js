// Loads a model, chats and disposes of it in a page, as often as it is told.
/* global location, window */

import { Model } from '/lapidary/index.js';
import { countedGpu } from './counted-gpu.js';

const { gpu, buffers } = await countedGpu(navigator.gpu);
const blob = await (await fetch(new URL('/models/tiny', location.href))).blob();
const wasm = await WebAssembly.compileStreaming(fetch('/lapidary/lapidary.wasm'));
const messages = [{ role: 'user', content: 'Hello' }];

/** So many rounds; bytes that the engine used and left, and the buffers that are alive after all of them. */
window.rounds = async (count) => {
  const seen = { left: 0, tokens: 0, used: Infinity };
  for (let round = 0; round < count; round++) {
    const model = await Model.load(blob, { gpu, wasm, contextLength: 256 });
    const before = model.counters.bufferBytes;
    const { tokens } = await model.chat(messages, { maxTokens: 8, seed: round }).report();
    await model.close();
    seen.used = Math.min(seen.used, before);
    seen.left += model.counters.bufferBytes;
    seen.tokens += tokens.length;
  }
  return { ...seen, ...buffers };
};
