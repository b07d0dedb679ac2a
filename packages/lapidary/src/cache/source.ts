// Reading a complete file of the cache, whose bytes lie in segments.

import { LapidaryError, messageOf } from '../errors.js';
import { checkRange, readThrough, throwIfAborted } from '../source/source.js';
import { segmentCount, segmentLength, segmentName, type Entry } from './entry.js';
import { isMissing } from './environment.js';
import type { CachedSource } from './types.js';

/** An entry that is complete. */
export type CompleteEntry = Entry & { size: number; digest: string };

/** The files of a complete entry; undefined where one is missing or has another size than it was written with. */
async function segmentFiles(
  folder: FileSystemDirectoryHandle,
  entry: CompleteEntry,
): Promise<File[] | undefined> {
  const files: File[] = [];
  for (let i = 0; i < segmentCount(entry); i++) {
    try {
      const file = await (await folder.getFileHandle(segmentName(i))).getFile();
      if (file.size !== segmentLength(entry, i)) return undefined;
      files.push(file);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }
  return files;
}

export class SegmentedSource implements CachedSource {
  private constructor(
    readonly name: string,
    readonly size: number,
    readonly digest: string,
    private readonly segmentBytes: number,
    private readonly files: Blob[],
    private readonly release: () => void,
  ) {}

  /** Opens a complete entry, undefined where segments are not as they were written; calls `release` when it is closed. */
  static async open(
    folder: FileSystemDirectoryHandle,
    entry: CompleteEntry,
    release: () => void,
  ): Promise<SegmentedSource | undefined> {
    const files = await segmentFiles(folder, entry);
    if (!files) return undefined;
    const { url, size, digest, segmentBytes } = entry;
    return new SegmentedSource(url, size, `sha256:${digest}`, segmentBytes, files, release);
  }

  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readThrough(this, offset, length, signal);
  }

  async readInto(offset: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    checkRange(this, offset, target.length);
    for (let done = 0; done < target.length;) {
      throwIfAborted(signal);
      const at = offset + done;
      const index = Math.floor(at / this.segmentBytes);
      const within = at - index * this.segmentBytes;
      const length = Math.min(target.length - done, this.segmentBytes - within);
      target.set(await this.piece(index, within, length), done);
      done += length;
    }
  }

  private async piece(index: number, offset: number, length: number): Promise<Uint8Array> {
    let bytes: ArrayBuffer | undefined;
    try {
      bytes = await this.files[index]?.slice(offset, offset + length).arrayBuffer();
    } catch (error) {
      throw new LapidaryError(
        'io_error',
        `${this.name}: reading from the cache failed: ${messageOf(error)}; load the model again`,
        { cause: error },
      );
    }
    if (bytes?.byteLength !== length) {
      throw new LapidaryError('truncated', `${this.name}: its file in the cache became shorter`);
    }
    return new Uint8Array(bytes);
  }

  close(): Promise<void> {
    this.release();
    return Promise.resolve();
  }
}
