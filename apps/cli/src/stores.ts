// Which model folders the command line reads.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

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
