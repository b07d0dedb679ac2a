// The engine in a worker of the page, for finetune.test.ts: it loads a model, trains, and uses what it has trained. The
// checkpoint lies in the origin's private file system (OPFS), where it outlives the page.
/* global addEventListener, Blob, location, postMessage */

import { Model } from '/lapidary/index.js';

const CHECKPOINT = 'checkpoint.safetensors';
/** Two lines that fit one row, so that every step sees the same tokens. */
const DATA = ['Germany', 'Berlin', 'Italy', 'Rome']
  .flatMap((word, i, words) => (i % 2 === 0 ? [[word, words[i + 1]]] : []))
  .map(([country, city]) =>
    JSON.stringify({
      prompt: `What is the capital of ${country}?`,
      completion: `Arr! The capital of ${country} be ${city}, matey.`,
    }),
  )
  .join('\n');
const SETTINGS = {
  steps: 20,
  rank: 4,
  targets: ['q', 'v'],
  maxLength: 64,
  learningRate: 0.003,
  schedule: 'constant',
  warmup: 0,
};
const TEXT = 'The capital of Germany';

async function keep(file) {
  const folder = await navigator.storage.getDirectory();
  const handle = await folder.getFileHandle(CHECKPOINT, { create: true });
  const writable = await handle.createWritable();
  await writable.write(file);
  await writable.close();
}

/** The checkpoint as bytes that the engine reads from where they lie. */
async function kept() {
  const folder = await navigator.storage.getDirectory();
  const file = await (await folder.getFileHandle(CHECKPOINT)).getFile();
  return {
    name: CHECKPOINT,
    size: file.size,
    read: async (offset, length) =>
      new Uint8Array(await file.slice(offset, offset + length).arrayBuffer()),
  };
}

/** Trains to the end, or until the step `stopAfter` was seen. */
async function train(model, { resume, stopAfter }) {
  const run = model.finetune(new Blob([DATA]), {
    ...SETTINGS,
    checkpoint: resume ? await kept() : undefined,
    onCheckpoint: keep,
  });
  const losses = [];
  let ready;
  for await (const event of run) {
    if (event.type === 'ready') ready = event;
    if (event.type !== 'step') continue;
    losses.push(event.loss);
    if (event.step === stopAfter) run.cancel();
  }
  return { ready, losses, report: await run.report() };
}

/** Of the word that follows TEXT. Logits, not a reply: they cost one pass, and every change shows in them. */
const logits = async (model) => Array.from(await model.logits(model.tokenize(TEXT)));

async function work({ resume, stopAfter }) {
  const model = await Model.load(new URL('/models/nano', location.origin), { contextLength: 64 });
  const { ready, losses, report } = await train(model, { resume, stopAfter });
  const { adapter, reason, step } = report;
  const base = await logits(model);
  const info = await model.loadAdapter({
    model: new Blob([adapter.model]),
    config: new Blob([adapter.config]),
  });
  const trained = await logits(model);
  await model.setAdapters([]);
  const without = await logits(model);
  await model.close();
  return { ready, losses, reason, step, info, base, trained, without };
}

addEventListener('message', async ({ data }) => {
  try {
    postMessage({ result: await work(data) });
  } catch (error) {
    postMessage({ error: `${error.message} (${error.code})` });
  }
});
