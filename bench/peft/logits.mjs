// Logits of a model with and without an adapter, for check.py: node bench/peft/logits.mjs MODEL.gguf ADAPTER OUT.json
import { writeFileSync } from 'node:fs';
import { Model } from 'lapidary/node';

const TEXTS = {
  capital: 'What is the capital of France?',
  sum: 'What is 3 plus 4?',
  story: 'Tell me a story about a dragon who could not fly and a girl who could.',
  one: 'a',
};
const [path, adapter, out] = process.argv.slice(2);
const model = await Model.load(path, { kvType: 'f32' });
const after = async (ids) => {
  await model.truncate(0);
  return Array.from(await model.logits(ids));
};
const prompts = [];
for (const [name, text] of Object.entries(TEXTS)) {
  const ids = model.tokenize(text);
  prompts.push({ name, ids, base: await after(ids) });
}
await model.loadAdapter(adapter);
for (const prompt of prompts) prompt.adapted = await after(prompt.ids);
await model.close();
writeFileSync(out, JSON.stringify(prompts));
