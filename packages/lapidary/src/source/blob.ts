// Bytes of a File or Blob: what a page's file picker gives.

import { LapidaryError, messageOf } from '../errors.js';
import { checkRange, throwIfAborted, type ByteSource } from './source.js';

export class BlobSource implements ByteSource {
  readonly name: string;
  readonly size: number;

  constructor(readonly blob: Blob) {
    this.name = 'name' in blob && typeof blob.name === 'string' ? blob.name : 'blob';
    this.size = blob.size;
  }

  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    checkRange(this, offset, length);
    throwIfAborted(signal);
    try {
      return new Uint8Array(await this.blob.slice(offset, offset + length).arrayBuffer());
    } catch (error) {
      // A File that changed or vanished on disk since it was chosen.
      throw new LapidaryError(
        'io_error',
        `${this.name}: ${messageOf(error)}; choose the file again`,
        {
          cause: error,
        },
      );
    }
  }
}
