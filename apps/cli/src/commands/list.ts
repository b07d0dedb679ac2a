// `list`: the models of every store.

import { OllamaStore } from 'lapidary/node';
import { EXIT } from '../exit.js';
import { bytes, safe, table } from '../format.js';
import { storeOptions, type StoreFlags } from '../stores.js';

export async function list(flags: StoreFlags & { json?: boolean }): Promise<number> {
  const store = await OllamaStore.open(storeOptions(flags));
  const { models, problems } = await store.list();
  if (flags.json) {
    process.stdout.write(
      `${JSON.stringify({ stores: store.stores, models, problems }, null, 2)}\n`,
    );
    return EXIT.ok;
  }
  const rows = models.map((model) => [
    model.name,
    bytes(model.size),
    model.problem
      ? '-'
      : [model.family, model.parameters, model.fileType].filter(Boolean).map(safe).join(' '),
    model.modified.toISOString().slice(0, 10),
    model.problem ? `cannot be loaded: ${safe(model.problem)}` : model.store,
  ]);
  process.stdout.write(table([['NAME', 'SIZE', 'MODEL', 'MODIFIED', 'STORE'], ...rows]));
  for (const problem of problems) process.stderr.write(`warning: ${problem.message}\n`);
  return EXIT.ok;
}
