// Opens the download cache of a page or worker.

import { ModelCache } from './cache.js';
import { browserEnvironment } from './environment.js';
import type { CacheOptions } from './types.js';

/**
 * The cache of this page's origin, in its origin private file system. Rejects with `unsupported` where there is none:
 * outside secure contexts, in private windows of some browsers, in Node (which has Ollama's store instead), and with
 * `invalid_argument` for options out of their bounds.
 */
export async function openCache(options: CacheOptions = {}): Promise<ModelCache> {
  return new ModelCache(await browserEnvironment(), options);
}
