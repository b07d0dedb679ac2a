// Paths in folders of Ollama's layout: where the folders are, and where a name's manifest lies in one. Node only.

import { readdir, realpath, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, posix, sep, win32 } from 'node:path';
import { LapidaryError } from '../errors.js';
import type { FindOptions } from '../platform.js';
import { fileError } from './file.js';

/** Which folders are searched. */
export type StoreOptions = Pick<FindOptions, 'stores' | 'fallbackStores'> & {
  /** Default process.env. */
  env?: Record<string, string | undefined>;
  /** Whose default folders are meant, as process.platform names systems; its default, too. */
  platform?: string;
  /** The user's own folder where `env` names none. Default os.homedir(). */
  home?: string;
};

/** A model's name, as the engine reads it; every part is safe in a path. */
export interface ModelName {
  host: string;
  namespace: string;
  model: string;
  tag: string;
  /** Of its manifest, below manifests/. */
  path: string;
  /** The shortest name that means the same. */
  display: string;
}

/** Bytes of a manifest or another layer of text, which is read whole. */
export const MAX_TEXT = 4 << 20;

/** Where Ollama itself keeps models: OLLAMA_MODELS, the user's folder, on Linux its service's. */
export function ollamaFolders({
  env = process.env,
  platform = process.platform,
  home,
}: StoreOptions = {}): string[] {
  // On Windows a shell may set a HOME of its own; Ollama does not look there.
  const named = platform === 'win32' ? env.USERPROFILE || env.HOME : env.HOME;
  return [
    env.OLLAMA_MODELS ?? '',
    (platform === 'win32' ? win32 : posix).join(named || (home ?? homedir()), '.ollama', 'models'),
    ...(platform === 'linux' ? ['/usr/share/ollama/.ollama/models'] : []),
  ].filter((folder) => folder !== '');
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Where a name's manifest lies in a store; names compare without regard to case. */
export async function manifestPath(store: string, name: ModelName): Promise<string | undefined> {
  const exact = join(store, 'manifests', name.path);
  if (await exists(exact)) return exact;
  let path = join(store, 'manifests');
  for (const part of [name.host, name.namespace, name.model, name.tag]) {
    const entries = await readdir(path).catch(() => []);
    const match = entries.find((entry) => entry.toLowerCase() === part.toLowerCase());
    if (match === undefined) return undefined;
    path = join(path, match);
  }
  return path;
}

/** The real path of `path`, which must lie inside `folder` once links are followed. */
export async function within(folder: string, path: string): Promise<string> {
  let base: string;
  let real: string;
  try {
    [base, real] = await Promise.all([realpath(folder), realpath(path)]);
  } catch (error) {
    throw fileError(path, error);
  }
  if (!real.startsWith(base + sep)) {
    throw new LapidaryError(
      'invalid_format',
      `${path} is a link that leads out of the store, to ${real}`,
    );
  }
  return real;
}
