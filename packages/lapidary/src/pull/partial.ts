// A blob in the making: its bytes so far in STORE/partial/BLOB.data, and in BLOB.json how far each of its parts has come.
// What the second file says is on the disk before it says so; after a crash the next pull goes on from there.

import { createHash } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { LapidaryError } from '../errors.js';
import { diskError, type Disk, type DiskFile } from './disk.js';

/** Names of blobs in the making, of which paths are made. */
const BLOB = /^sha256-[0-9a-f]{64}$/;
const MAX_STATE = 16 << 20;
const MAX_PARTS = 1 << 20;
/** Bytes that are hashed at a time. */
const HASHED_AT_ONCE = 1 << 20;

export interface Wanted {
  digest: string;
  /** Bytes. */
  size: number;
  /** File name in the store's blobs/. */
  blob: string;
}

interface State {
  version: 1;
  /** The model that it was pulled for. */
  model: string;
  size: number;
  /** Bytes of each part but the last. */
  partBytes: number;
  /** Bytes of each part that are there, from its beginning. */
  done: number[];
}

/** Where unfinished blobs are: outside of blobs/, which Ollama clears of what it does not know. */
export const partialFolder = (store: string) => join(store, 'partial');

export function partialPath(store: string, blob: string, suffix: 'data' | 'json' | 'lock'): string {
  if (!BLOB.test(blob)) throw new LapidaryError('internal_error', `'${blob}' is no blob's name`);
  return join(partialFolder(store), `${blob}.${suffix}`);
}

function checked(text: string): State | undefined {
  let value: Partial<State> | null;
  try {
    value = JSON.parse(text) as Partial<State> | null;
  } catch {
    return undefined;
  }
  const { version, model, size, partBytes, done } = value ?? {};
  const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (version !== 1 || typeof model !== 'string' || !isCount(size) || !isCount(partBytes)) {
    return undefined;
  }
  if (partBytes === 0 || !Array.isArray(done) || done.length !== Math.ceil(size / partBytes)) {
    return undefined;
  }
  const fits = done.every(
    (each, part) => isCount(each) && each <= Math.min(partBytes, size - part * partBytes),
  );
  return fits ? { version, model, size, partBytes, done } : undefined;
}

/** What a blob's state says; undefined where there is none, or one that makes no sense. */
async function readState(store: string, blob: string): Promise<State | undefined> {
  try {
    const file = await open(partialPath(store, blob, 'json'), 'r');
    try {
      if ((await file.stat()).size > MAX_STATE) return undefined;
      return checked(await file.readFile('utf8'));
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw diskError(partialPath(store, blob, 'json'), error);
  }
}

const sum = (counts: number[]) => counts.reduce((total, each) => total + each, 0);

/** Bytes of a blob that an unfinished pull has left. */
export async function partialBytes(store: string, { blob, size }: Wanted): Promise<number> {
  const state = await readState(store, blob);
  return state?.size === size ? sum(state.done) : 0;
}

/** Unfinished blobs that were pulled for a model. */
export async function partialsOf(store: string, model: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(partialFolder(store));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw diskError(partialFolder(store), error);
  }
  const blobs = names.filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -5));
  const found: string[] = [];
  for (const blob of blobs.filter((each) => BLOB.test(each))) {
    const state = await readState(store, blob);
    if (state?.model.toLowerCase() === model.toLowerCase()) found.push(blob);
  }
  return found;
}

export async function removePartial(store: string, blob: string): Promise<void> {
  // The state first: bytes without one are not trusted.
  for (const suffix of ['json', 'data'] as const) {
    await rm(partialPath(store, blob, suffix), { force: true });
  }
}

/** Only for the holder of the blob's lock. */
export class PartialBlob {
  private saving: Promise<void> | undefined;
  private hashed = 0;
  private readonly hash = createHash('sha256');
  private hashing: Promise<void> | undefined;

  private constructor(
    private readonly store: string,
    private readonly wanted: Wanted,
    private readonly file: DiskFile,
    private readonly state: State,
  ) {}

  /** Opens what an earlier pull has left of a blob, or begins with nothing. */
  static async open(
    store: string,
    wanted: Wanted,
    { model, partBytes, disk }: { model: string; partBytes: number; disk: Disk },
  ): Promise<PartialBlob> {
    const path = partialPath(store, wanted.blob, 'data');
    const { size } = wanted;
    try {
      await mkdir(partialFolder(store), { recursive: true });
      const left = await readState(store, wanted.blob);
      const grain = Math.max(partBytes, Math.ceil(size / MAX_PARTS));
      const fresh = { version: 1 as const, model, size, partBytes: grain, done: [] };
      const state: State =
        left?.size === size
          ? { ...left, model }
          : { ...fresh, done: new Array<number>(Math.ceil(size / grain)).fill(0) };
      const file = await disk.open(path);
      const there = (await file.stat()).size;
      // Bytes that the file does not have are not there, whatever the state says.
      state.done = state.done.map((done, part) =>
        Math.max(0, Math.min(done, there - part * state.partBytes)),
      );
      return new PartialBlob(store, wanted, file, state);
    } catch (error) {
      throw diskError(path, error);
    }
  }

  get parts(): number {
    return this.state.done.length;
  }

  /** Bytes that are there. */
  get loaded(): number {
    return sum(this.state.done);
  }

  /** The bytes of a part that are missing, from `first` to `last`; undefined when it is whole. */
  missing(part: number): { first: number; last: number } | undefined {
    const { partBytes, size, done } = this.state;
    const end = Math.min(size, (part + 1) * partBytes);
    const first = part * partBytes + done[part]!;
    return first < end ? { first, last: end - 1 } : undefined;
  }

  /**
   * Writes what came for `offset`. Bytes that are there already are passed over, never written again: they may be hashed.
   * A part is to be written by one caller at a time.
   */
  async accept(offset: number, bytes: Uint8Array): Promise<void> {
    const { partBytes, done } = this.state;
    for (let at = 0; at < bytes.length;) {
      const part = Math.floor((offset + at) / partBytes);
      const end = Math.min(bytes.length, (part + 1) * partBytes - offset);
      const edge = part * partBytes + done[part]! - offset;
      if (edge < at) throw new LapidaryError('internal_error', 'bytes came out of order');
      if (edge < end) {
        await this.writeAll(bytes.subarray(edge, end), offset + edge);
        done[part]! += end - edge;
      }
      at = end;
    }
    this.advanceHash();
  }

  /** Puts the bytes and then the state on the disk. */
  save(): Promise<void> {
    this.saving ??= this.saveNow().finally(() => (this.saving = undefined));
    return this.saving;
  }

  /** SHA-256 of all bytes, as they are on the disk, in hexadecimal. To be called once, when all are there. */
  async digest(onHashed: (bytes: number) => void, signal: AbortSignal): Promise<string> {
    await this.hashing;
    while (this.hashed < this.state.size) {
      signal.throwIfAborted();
      await this.hashSome();
      onHashed(this.hashed);
    }
    return this.hash.digest('hex');
  }

  /** Closes the file and gives it the name of the blob. */
  async finish(path: string): Promise<void> {
    try {
      try {
        await this.file.datasync();
      } finally {
        await this.close();
      }
      await rename(partialPath(this.store, this.wanted.blob, 'data'), path);
      await removePartial(this.store, this.wanted.blob);
    } catch (error) {
      throw diskError(path, error);
    }
  }

  /** Closes the file and removes it. */
  async discard(): Promise<void> {
    await this.close();
    await removePartial(this.store, this.wanted.blob);
  }

  async close(): Promise<void> {
    await this.saving?.catch(() => {});
    await this.hashing;
    await this.file.close();
  }

  private get path(): string {
    return partialPath(this.store, this.wanted.blob, 'data');
  }

  private async writeAll(bytes: Uint8Array, offset: number): Promise<void> {
    try {
      for (let at = 0; at < bytes.length;) {
        const { bytesWritten } = await this.file.write(bytes, at, bytes.length - at, offset + at);
        at += bytesWritten;
      }
    } catch (error) {
      throw diskError(this.path, error);
    }
  }

  private async saveNow(): Promise<void> {
    const path = partialPath(this.store, this.wanted.blob, 'json');
    // What is written from now on is not said yet.
    const text = JSON.stringify(this.state);
    try {
      await this.file.datasync();
      const file = await open(`${path}.new`, 'w');
      try {
        await file.writeFile(text);
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(`${path}.new`, path);
    } catch (error) {
      throw diskError(path, error);
    }
  }

  /** Bytes from the beginning without a gap. */
  private get contiguous(): number {
    const { partBytes, size, done } = this.state;
    const part = done.findIndex((each, i) => each < Math.min(partBytes, size - i * partBytes));
    return part < 0 ? size : part * partBytes + done[part]!;
  }

  /** Hashes what has come, while more comes. */
  private advanceHash(): void {
    this.hashing ??= (async () => {
      while (this.hashed < this.contiguous) await this.hashSome();
    })()
      // It fails once more, and is heard, when the digest is asked for.
      .catch(() => {})
      .finally(() => (this.hashing = undefined));
  }

  private async hashSome(): Promise<void> {
    const length = Math.min(HASHED_AT_ONCE, this.contiguous - this.hashed);
    const bytes = new Uint8Array(length);
    try {
      const { bytesRead } = await this.file.read(bytes, 0, length, this.hashed);
      if (bytesRead === 0) {
        throw new LapidaryError('truncated', `${this.path} became shorter while it was read`);
      }
      this.hash.update(bytes.subarray(0, bytesRead));
      this.hashed += bytesRead;
    } catch (error) {
      throw diskError(this.path, error);
    }
  }
}

/** Reads a file through and compares its SHA-256 with a digest. */
export async function matches(path: string, digest: string, signal: AbortSignal): Promise<boolean> {
  const hash = createHash('sha256');
  const file = await open(path, 'r');
  try {
    for await (const chunk of file.createReadStream({ autoClose: false, signal })) {
      hash.update(chunk as Buffer);
    }
  } finally {
    await file.close();
  }
  return `sha256:${hash.digest('hex')}` === digest.replace('-', ':');
}
