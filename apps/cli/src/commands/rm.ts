// `rm`: deletes a model from a store.

import { LapidaryError, OllamaStore, removeModel, type Removed } from 'lapidary/node';
import { EXIT, UsageError } from '../exit.js';
import { bytes } from '../format.js';
import { storeOptions, writableStores, type StoreFlags } from '../stores.js';

async function remove(name: string, flags: StoreFlags): Promise<Removed> {
  try {
    return await removeModel(name, { stores: writableStores(flags) });
  } catch (error) {
    if (!(error instanceof LapidaryError) || error.code !== 'not_found') throw error;
    const elsewhere = await OllamaStore.open(storeOptions(flags))
      .then((store) => store.resolve(name))
      .catch(() => undefined);
    if (!elsewhere) throw error;
    throw new UsageError(
      `${elsewhere.name} lies in ${elsewhere.store}, which is left alone; --models names another folder`,
    );
  }
}

export async function rm(name: string, flags: StoreFlags & { json?: boolean }): Promise<number> {
  const removed = await remove(name, flags);
  if (flags.json) process.stdout.write(`${JSON.stringify(removed)}\n`);
  else {
    const { store, freed } = removed;
    process.stderr.write(
      `${removed.name}: deleted from ${store}, ${bytes(freed)} are free again\n`,
    );
  }
  return EXIT.ok;
}
