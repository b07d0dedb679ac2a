// What pulling asks of a disk. Tests put one in its place that runs full.

import { open, statfs } from 'node:fs/promises';
import { LapidaryError } from '../errors.js';
import { fileError } from '../source/file.js';

/** What is used of Node's FileHandle; named here, so that the package's types need none of Node's. */
export interface DiskFile {
  /** Reads into `buffer`, as Node's FileHandle does. */
  read(
    target: Uint8Array,
    start: number,
    length: number,
    position: number,
  ): Promise<{ bytesRead: number }>;
  /** Writes from `buffer`, as Node's FileHandle does. */
  write(
    bytes: Uint8Array,
    start: number,
    length: number,
    position: number,
  ): Promise<{ bytesWritten: number }>;
  /** Resolves when what was written is on the disk. */
  datasync(): Promise<void>;
  /** Its size in bytes. */
  stat(): Promise<{ size: number }>;
  /** Closes it. */
  close(): Promise<void>;
}

/** The disk that a pull writes to; tests give others. */
export interface Disk {
  /** Bytes that may still be written in a folder; Infinity where the system does not say. */
  free(folder: string): Promise<number>;
  /** Opens a file for reading and writing at any place, made if it is not there. */
  open(path: string): Promise<DiskFile>;
}

export const realDisk: Disk = {
  async free(folder) {
    const { blocks, bavail, bsize } = await statfs(folder);
    return blocks > 0 ? bavail * bsize : Infinity;
  },
  async open(path) {
    try {
      return await open(path, 'r+');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      return open(path, 'w+');
    }
  },
};

/** A failed file operation as one of our errors: `quota_exceeded` where the disk, or the user's part of it, is full. */
export function diskError(path: string, error: unknown): LapidaryError {
  if (error instanceof LapidaryError) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new LapidaryError(
      'quota_exceeded',
      `there is no room left for ${path}; what came so far is kept: make room and pull again`,
      { cause: error },
    );
  }
  return fileError(path, error);
}

/** What `work` gives; undefined where the file that it is about is not there. */
export async function ifThere<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
