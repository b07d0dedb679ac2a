// Deletes a model: its manifest, then the blobs that no other manifest of the store names.

import { lstat, open, readdir, realpath, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Engine } from '../engine.js';
import { LapidaryError } from '../errors.js';
import { engineModule } from '../platform.js';
import { fileError } from '../source/file.js';
import {
  MAX_TEXT,
  manifestPath,
  ollamaFolders,
  within,
  type ModelName,
} from '../source/store-files.js';
import { ifThere } from './disk.js';
import { tryLock } from './lock.js';
import { partialPath, partialsOf, removePartial } from './partial.js';
import { storeLock } from './store-lock.js';

/** Where a model is deleted. */
export interface RemoveOptions {
  /** Folders in Ollama's layout; the first that has the model loses it. Default: those of Ollama. */
  stores?: string[] | undefined;
}

/** What was deleted. */
export interface Removed {
  /** The shortest name: "gemma4:e2b". */
  name: string;
  store: string;
  /** Bytes of the files that are gone. */
  freed: number;
  /** Digests of the layers that are gone; the others belong to other models, too. */
  layers: string[];
}

const BLOB = /^sha256-[0-9a-f]{64}$/;
/** Folders of manifests nest no deeper: host, namespace, model, tag. */
const MAX_DEPTH = 6;
/** Bytes of a blob that may be a manifest itself: newer versions of Ollama keep lists of them so. */
const MAX_INNER = 1 << 20;

/** Blobs that a text names. Read without regard to its form: what is named anywhere counts. */
const namedIn = (text: string): string[] =>
  [...text.matchAll(/sha256[:-]([0-9a-f]{64})/gi)].map(([, hex]) => `sha256-${hex!.toLowerCase()}`);

async function readAtMost(path: string, limit: number): Promise<string | undefined> {
  const file = await open(path, 'r');
  try {
    const stats = await file.stat();
    return stats.isFile() && stats.size <= limit ? await file.readFile('utf8') : undefined;
  } finally {
    await file.close();
  }
}

/** Files under a store's folders of manifests. */
async function manifestFiles(store: string): Promise<string[]> {
  const walk = async (path: string, depth: number): Promise<string[]> => {
    // A link to nowhere names nothing.
    const stats = await ifThere(stat(path));
    if (!stats?.isDirectory()) return stats ? [path] : [];
    if (depth > MAX_DEPTH) {
      throw new LapidaryError('invalid_format', `${path} lies too deep for a folder of manifests`);
    }
    const entries = await readdir(path);
    return (await Promise.all(entries.map((each) => walk(join(path, each), depth + 1)))).flat();
  };
  const folders = (await readdir(store)).filter((entry) => entry.startsWith('manifests'));
  return (await Promise.all(folders.map((folder) => walk(join(store, folder), 0)))).flat();
}

/** The blobs that `first` name, those that they name in turn, and so on. */
async function reachable(store: string, first: string[]): Promise<Set<string>> {
  const found = new Set(first);
  // A set that grows while it is walked hands out what was added, too.
  for (const blob of found) {
    const text = await ifThere(readAtMost(join(store, 'blobs', blob), MAX_INNER));
    if (text?.startsWith('{')) for (const each of namedIn(text)) found.add(each);
  }
  return found;
}

/** What a manifest's file names: the blob that it is a link to, and those in its text. */
async function namedBy(path: string): Promise<string[]> {
  const real = await ifThere(realpath(path));
  if (real === undefined) return [];
  const target = basename(real);
  const text = await readAtMost(real, MAX_TEXT);
  if (text === undefined) {
    throw new LapidaryError('invalid_format', `${path} is too long for a manifest`);
  }
  return [...(BLOB.test(target) ? [target] : []), ...namedIn(text)];
}

/** Deletes a file; its size, or undefined where there is none. */
async function removeFile(path: string): Promise<number | undefined> {
  const stats = await ifThere(lstat(path));
  if (stats) await rm(path, { force: true });
  return stats?.size;
}

/** Removes folders that have become empty, from `folder` up to `top`, which stays. */
async function removeEmpty(folder: string, top: string): Promise<void> {
  for (let path = folder; path !== top && path.startsWith(top); path = dirname(path)) {
    try {
      await rmdir(path);
    } catch {
      return; // Not empty, or a link: what is there stays.
    }
  }
}

/** Removes what unfinished pulls of a model have left, unless one is at work; the bytes that it freed. */
async function removeUnfinished(store: string, name: string): Promise<number | undefined> {
  let freed: number | undefined;
  for (const blob of await partialsOf(store, name)) {
    const held = await tryLock(partialPath(store, blob, 'lock'));
    if (!held) continue;
    try {
      const { size } = await stat(partialPath(store, blob, 'data')).catch(() => ({ size: 0 }));
      await removePartial(store, blob);
      freed = (freed ?? 0) + size;
    } finally {
      await held.release();
    }
  }
  return freed;
}

async function removeFrom(store: string, path: string): Promise<{ freed: number; gone: string[] }> {
  const top = join(store, 'manifests');
  // A folder of links could lead to other files of the same name.
  if (dirname(path) !== top) await within(top, dirname(path));
  const others = (await manifestFiles(store)).filter((each) => each !== path);
  const needed = await reachable(store, (await Promise.all(others.map(namedBy))).flat());
  const text = await readAtMost(path, MAX_TEXT);
  const own = await reachable(store, namedIn(text ?? ''));
  await rm(path);
  await removeEmpty(dirname(path), top);
  const gone: string[] = [];
  let freed = 0;
  for (const blob of own) {
    if (needed.has(blob)) continue;
    const size = await removeFile(join(store, 'blobs', blob));
    if (size === undefined) continue;
    freed += size;
    gone.push(blob.replace('-', ':'));
  }
  return { freed, gone };
}

/**
 * Deletes a model from the first store that has it, or what an unfinished pull of it has left. `not_found` where no store
 * has it; `invalid_format` and `io_error` where a manifest cannot be read, for then nobody knows which blobs others need:
 * nothing is deleted.
 */
export async function removeModel(text: string, options: RemoveOptions = {}): Promise<Removed> {
  const engine = await Engine.create(await engineModule(), undefined);
  const name = engine.callSyncJson<ModelName>('lap_ollama_name', text);
  const stores = options.stores ?? ollamaFolders();
  for (const store of stores) {
    try {
      if (!(await stat(store).catch(() => undefined))) continue;
      const unfinished = await removeUnfinished(store, name.display);
      if (!(await manifestPath(store, name))) {
        if (unfinished === undefined) continue;
        return { name: name.display, store, freed: unfinished, layers: [] };
      }
      const { release } = await storeLock(store);
      try {
        // Another program may have been faster.
        const path = await manifestPath(store, name);
        if (!path) continue;
        const { freed, gone } = await removeFrom(store, path);
        const all = freed + (unfinished ?? 0);
        return { name: name.display, store, freed: all, layers: gone };
      } finally {
        await release();
      }
    } catch (error) {
      throw error instanceof LapidaryError ? error : fileError(store, error);
    }
  }
  throw new LapidaryError(
    'not_found',
    `there is no model '${name.display}' in ${stores.join(', ')}`,
  );
}
