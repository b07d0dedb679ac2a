// The lock under which a store's manifests change, so that no blob is deleted that a new manifest is about to name.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { diskError } from './disk.js';
import { lock, type Lock } from './lock.js';
import { partialFolder } from './partial.js';

export async function storeLock(store: string, signal?: AbortSignal): Promise<Lock> {
  const folder = partialFolder(store);
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw diskError(folder, error);
  });
  return lock(join(folder, 'manifests.lock'), { signal });
}
