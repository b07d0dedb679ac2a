// Files that are written beside their place and then renamed: what was there stays whole until the new file is.

import { rename, rm, writeFile } from 'node:fs/promises';
import { LapidaryError } from 'lapidary/node';

/** Where the new file is in the making. */
export const freshPath = (path: string) => `${path}.new`;

/**
 * Writes `content`, or what it yields, to `path`. On an error (`io_error`, or that of `content`) nothing has changed and
 * nothing is left.
 */
export async function replace(
  path: string,
  content: Uint8Array | string | AsyncIterable<Uint8Array>,
): Promise<void> {
  const fresh = freshPath(path);
  try {
    await writeFile(fresh, content);
    await rename(fresh, path);
  } catch (error) {
    await rm(fresh, { force: true });
    if (error instanceof LapidaryError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new LapidaryError('io_error', `${path} cannot be written: ${message}`, { cause: error });
  }
}
