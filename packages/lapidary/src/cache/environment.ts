// What the cache needs of a browser, in one place: tests give it others.

import { LapidaryError, messageOf } from '../errors.js';

/** The part of StorageManager that is used; `persist` is there in pages only, not in workers. */
export interface Storage {
  estimate(): Promise<{ usage?: number; quota?: number }>;
  persisted(): Promise<boolean>;
  persist?(): Promise<boolean>;
}

export interface CacheEnvironment {
  /** Where the cache's files lie; its alone. */
  root: FileSystemDirectoryHandle;
  locks: Pick<LockManager, 'request'>;
  storage: Storage;
  /** How tabs tell each other how far they are. */
  openChannel(): BroadcastChannel;
  /** What relative addresses are relative to. */
  base: string | undefined;
}

// The number is the layout's: another one lies beside it, and neither harms the other.
const FOLDERS = ['lapidary', 'models-1'];
export const CHANNEL = 'lapidary-cache';

/** The browser's; `unsupported` where it has none, with the reason. */
export async function browserEnvironment(): Promise<CacheEnvironment> {
  const { navigator, isSecureContext, location } = globalThis;
  if (isSecureContext === false) {
    throw unsupported('storage is there only over https or on localhost');
  }
  const storage = navigator?.storage as StorageManager | undefined;
  if (!storage?.getDirectory || !navigator.locks || !('BroadcastChannel' in globalThis)) {
    throw unsupported(
      'there is no origin private file system here (Node keeps models in Ollama’s store instead)',
    );
  }
  let root: FileSystemDirectoryHandle;
  try {
    root = await storage.getDirectory();
    for (const name of FOLDERS) root = await root.getDirectoryHandle(name, { create: true });
  } catch (error) {
    // Private windows of some browsers, blocked site data.
    throw unsupported(`the browser refuses storage: ${messageOf(error)}`, error);
  }
  return {
    root,
    locks: navigator.locks,
    storage,
    openChannel: () => new BroadcastChannel(CHANNEL),
    base: location?.href,
  };
}

function unsupported(reason: string, cause?: unknown): LapidaryError {
  return new LapidaryError('unsupported', `models cannot be cached: ${reason}`, { cause });
}

const isNamed = (error: unknown, name: string) =>
  typeof error === 'object' && error !== null && 'name' in error && error.name === name;

export const isMissing = (error: unknown) => isNamed(error, 'NotFoundError');
export const isFull = (error: unknown) => isNamed(error, 'QuotaExceededError');
/** Another handle of the file is open; or was, for some browsers let go of a closed page's late. */
export const isHeld = (error: unknown) => isNamed(error, 'NoModificationAllowedError');

/** A failed operation on the cache's files as one of our errors. */
export function storageError(name: string, error: unknown): LapidaryError {
  if (error instanceof LapidaryError) return error;
  if (isFull(error)) return quotaError(name, 'the storage is full');
  if (isHeld(error)) {
    return new LapidaryError(
      'busy',
      `${name}: another page holds its file in the cache; close it`,
      {
        cause: error,
      },
    );
  }
  return new LapidaryError('io_error', `${name}: the cache's storage failed: ${messageOf(error)}`, {
    cause: error,
  });
}

export function quotaError(name: string, reason: string): LapidaryError {
  return new LapidaryError(
    'quota_exceeded',
    `${name}: ${reason}; delete models from the cache or free disk space. What has come is kept, and the download ` +
      'goes on from there.',
  );
}
