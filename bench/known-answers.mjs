// Writes the known answers of a model: the logits that engine/reference computes, under the file's digest.
//   node bench/known-answers.mjs MODEL.gguf OUT.json [ID ...]
// Needs `npm run build` and the native tool (ninja -C build/native reference_logits).
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { digest } from '@lapidary/bench';
import { FileSource, inspect } from 'lapidary/node';

const [model, out, ...ids] = process.argv.slice(2);
if (!model || !out) {
  console.error('usage: node bench/known-answers.mjs MODEL.gguf OUT.json [ID ...]');
  process.exit(2);
}
const source = await FileSource.open(model);
const name = await digest(source, await inspect(source));
await source.close();
const tool = fileURLToPath(new URL('../build/native/reference_logits', import.meta.url));
const { status, error } = spawnSync(tool, [model, out, name, ...ids], { stdio: 'inherit' });
if (error) console.error(`error: ${tool}: ${error.message}`);
process.exit(status ?? 1);
