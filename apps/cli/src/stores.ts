// Which model folders the command line reads, and which it changes.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ollamaFolders } from 'lapidary/node';

/** The store that comes with the project. */
const OWN = fileURLToPath(new URL('../../../models', import.meta.url));

export interface StoreFlags {
  models?: string;
}

/** `--models DIR` is searched before the user's own stores, the embedded one after them. */
export function storeOptions(flags: StoreFlags): { stores: string[]; fallbackStores: string[] } {
  return {
    stores: flags.models ? [flags.models] : [],
    fallbackStores: existsSync(OWN) ? [OWN] : [],
  };
}

/** Where models are pulled to (the first) and deleted from: `--models DIR` alone, else the user's own; never the embedded. */
export function writableStores(flags: StoreFlags): string[] {
  return flags.models ? [flags.models] : ollamaFolders();
}
