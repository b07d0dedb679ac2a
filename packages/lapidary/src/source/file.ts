// Bytes of a file on disk. Node only.

import { open, type FileHandle } from 'node:fs/promises';
import { LapidaryError, messageOf } from '../errors.js';
import { checkRange, readThrough, throwIfAborted, type ByteSource } from './source.js';

export class FileSource implements ByteSource {
  private constructor(
    readonly name: string,
    readonly size: number,
    private readonly file: FileHandle,
  ) {}

  /** Opens `path`; `not_found` when there is none, `io_error` when it cannot be read. */
  static async open(path: string): Promise<FileSource> {
    let file: FileHandle;
    try {
      file = await open(path, 'r');
    } catch (error) {
      throw fileError(path, error);
    }
    try {
      const stats = await file.stat();
      if (!stats.isFile()) throw new LapidaryError('invalid_argument', `${path} is not a file`);
      return new FileSource(path, stats.size, file);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readThrough(this, offset, length, signal);
  }

  async readInto(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    checkRange(this, offset, target.length);
    for (let done = 0; done < target.length;) {
      throwIfAborted(signal);
      let bytesRead: number;
      try {
        ({ bytesRead } = await this.file.read(target, done, target.length - done, offset + done));
      } catch (error) {
        throw fileError(this.name, error);
      }
      if (bytesRead === 0) {
        throw new LapidaryError('truncated', `${this.name} became shorter while it was being read`);
      }
      done += bytesRead;
    }
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.file.close();
  }
}

/** A failed file operation as one of our errors. */
export function fileError(path: string, error: unknown): LapidaryError {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new LapidaryError('not_found', `there is no file ${path}`, { cause: error });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new LapidaryError('io_error', `${path}: permission denied`, { cause: error });
  }
  return new LapidaryError('io_error', `${path}: ${messageOf(error)}`, { cause: error });
}
