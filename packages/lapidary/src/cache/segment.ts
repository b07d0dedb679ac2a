// Writing one segment of a file, from its beginning to its end. In dedicated workers through a synchronous handle; in
// pages, which have none, through a stream, whose bytes are there only once it is closed.

import { pause } from '../source/retry.js';
import { segmentName, type Entry } from './entry.js';
import { isHeld } from './environment.js';

export interface SegmentWriter {
  /** Bytes that are safe on disk. */
  readonly committed: number;
  /** Appends; a full disk rejects with a QuotaExceededError, and what is committed stays. */
  write(bytes: Uint8Array): Promise<void>;
  /** Commits the rest and lets go of the file. */
  close(): Promise<void>;
}

/** Only in dedicated workers, and so not in TypeScript's library for pages. */
interface SyncAccessHandle {
  getSize(): number;
  truncate(size: number): void;
  write(bytes: Uint8Array, options: { at: number }): number;
  flush(): void;
  close(): void;
}
interface SyncCapable {
  createSyncAccessHandle?(): Promise<SyncAccessHandle>;
}

/** Milliseconds after which bytes are committed: what a crash may cost. Reopening a stream copies its file. */
const COMMIT_SYNC = 1000;
const COMMIT_STREAM = 5000;
/** How long a file that another page has just let go of may stay held. */
const HELD = { tries: 20, wait: 150 };

/** Opens the segment `name` to go on from byte `at`; what it has beyond is cut off. */
export async function openSegment(
  folder: FileSystemDirectoryHandle,
  name: string,
  at: number,
): Promise<SegmentWriter> {
  const file = await folder.getFileHandle(name, { create: true });
  if (!(file as SyncCapable).createSyncAccessHandle) return new StreamWriter(file, at);
  const handle = await openSync(file as SyncCapable);
  try {
    handle.truncate(at);
    return new SyncWriter(handle, at);
  } catch (error) {
    handle.close();
    throw error;
  }
}

async function openSync(file: SyncCapable): Promise<SyncAccessHandle> {
  for (let tries = 1; ; tries++) {
    try {
      return await file.createSyncAccessHandle!();
    } catch (error) {
      if (!isHeld(error) || tries === HELD.tries) throw error;
      await pause(HELD.wait, undefined);
    }
  }
}

class SyncWriter implements SegmentWriter {
  committed: number;
  private flushed = performance.now();

  constructor(
    private readonly handle: SyncAccessHandle,
    private position: number,
  ) {
    this.committed = position;
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- it throws as the stream rejects
  async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const written = this.handle.write(bytes.subarray(done), { at: this.position });
      // Browsers differ: some throw on a full disk, some write less than they were given.
      if (!(written > 0)) throw new DOMException('nothing was written', 'QuotaExceededError');
      done += written;
      this.position += written;
    }
    if (performance.now() - this.flushed > COMMIT_SYNC) this.commit();
  }

  private commit(): void {
    this.handle.flush();
    this.committed = this.position;
    this.flushed = performance.now();
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- it throws as the stream rejects
  async close(): Promise<void> {
    try {
      this.commit();
    } finally {
      this.handle.close();
    }
  }
}

class StreamWriter implements SegmentWriter {
  committed: number;
  private stream: FileSystemWritableFileStream | undefined;
  private opened = 0;

  constructor(
    private readonly file: FileSystemFileHandle,
    private position: number,
  ) {
    this.committed = position;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.stream ??= await this.open();
    const data = bytes as Uint8Array<ArrayBuffer>;
    try {
      await this.stream.write({ type: 'write', position: this.position, data });
    } catch (error) {
      // A stream that failed once takes nothing more, and cannot be closed.
      await this.stream.abort().catch(() => {});
      this.stream = undefined;
      throw error;
    }
    this.position += bytes.length;
    if (performance.now() - this.opened > COMMIT_STREAM) await this.close();
  }

  private async open(): Promise<FileSystemWritableFileStream> {
    const stream = await this.file.createWritable({ keepExistingData: true });
    this.opened = performance.now();
    await stream.truncate(this.position);
    return stream;
  }

  async close(): Promise<void> {
    const { stream } = this;
    this.stream = undefined;
    if (!stream) return;
    await stream.close();
    this.committed = this.position;
  }
}

/** Writes a file that comes from its beginning to its end, segment after segment. */
export class Splitter {
  private writer: SegmentWriter | undefined;
  private index = 0;
  private filled = 0;

  constructor(
    private readonly folder: FileSystemDirectoryHandle,
    /** Its `have` is kept. */
    private readonly entry: Entry,
    private readonly onSegment: () => void,
  ) {}

  async write(bytes: Uint8Array): Promise<void> {
    const { segmentBytes, have } = this.entry;
    for (let rest = bytes; rest.length > 0;) {
      this.writer ??= await openSegment(this.folder, segmentName(this.index), 0);
      const part = rest.subarray(0, segmentBytes - this.filled);
      await this.writer.write(part);
      this.filled += part.length;
      have[this.index] = this.writer.committed;
      if (this.filled === segmentBytes) await this.close();
      rest = rest.subarray(part.length);
    }
  }

  /** Ends the segment that is being written. */
  async close(): Promise<void> {
    const { writer, index } = this;
    if (!writer) return;
    this.writer = undefined;
    this.index++;
    this.filled = 0;
    try {
      await writer.close();
    } finally {
      this.entry.have[index] = writer.committed;
    }
    this.onSegment();
  }
}
