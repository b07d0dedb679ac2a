// The SHA-256 of a file while it is downloaded: of what lies on disk, segment after segment, as soon as each is whole.

import { LapidaryError } from '../errors.js';
import { segmentCount, segmentLength, segmentName, type Entry } from './entry.js';
import { sha256, type Sha256 } from './sha256.js';

/** Bytes that are read at a time. */
const PIECE = 1 << 20;

const toBase64 = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes));
const fromBase64 = (text: string) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export class Verifier {
  private work: Promise<void> = Promise.resolve();

  private constructor(
    private readonly folder: FileSystemDirectoryHandle,
    private readonly entry: Entry,
    private readonly hasher: Sha256,
    /** Segments that are in the hash. */
    private hashed: number,
    /** Whether the entry's state was gone on from: it, too, lay on disk. */
    readonly resumed: boolean,
  ) {}

  /** Goes on from where the entry says that the hash has come, or from the start. */
  static async start(folder: FileSystemDirectoryHandle, entry: Entry): Promise<Verifier> {
    const { hashed, segmentBytes } = entry;
    const segments = hashed ? hashed.bytes / segmentBytes : 0;
    if (hashed && Number.isInteger(segments) && isWhole(entry, segments)) {
      try {
        const hasher = await sha256();
        hasher.load(fromBase64(hashed.state));
        return new Verifier(folder, entry, hasher, segments, true);
      } catch {
        // The state of another version of the library, or no state: all is hashed again.
      }
    }
    entry.hashed = null;
    return new Verifier(folder, entry, await sha256(), 0, false);
  }

  /** A segment has become whole. */
  advance(): void {
    this.work = this.work.then(() => this.hashOn());
    // finish() tells it; until then nobody listens.
    this.work.catch(() => {});
  }

  /** The hash of all bytes, which are there now: 64 hexadecimal digits. */
  async finish(): Promise<string> {
    this.advance();
    await this.work;
    if (this.hashed !== segmentCount(this.entry)) {
      throw new LapidaryError('internal_error', `${this.entry.url}: hashed before all was there`);
    }
    return this.hasher.digest();
  }

  private async hashOn(): Promise<void> {
    const { entry } = this;
    for (; this.hashed < segmentCount(entry) && isWhole(entry, this.hashed + 1); this.hashed++) {
      const length = segmentLength(entry, this.hashed);
      const handle = await this.folder.getFileHandle(segmentName(this.hashed));
      const file = await handle.getFile();
      for (let at = 0; at < length; at += PIECE) {
        const piece = await file.slice(at, Math.min(length, at + PIECE)).arrayBuffer();
        this.hasher.update(new Uint8Array(piece));
      }
      const bytes = (this.hashed + 1) * entry.segmentBytes;
      // Only whole segments are gone on from; the last one is followed by nothing.
      if (length === entry.segmentBytes) {
        entry.hashed = { bytes, state: toBase64(this.hasher.save()) };
      }
    }
  }
}

/** Whether the first `count` segments are all there. */
function isWhole(entry: Entry, count: number): boolean {
  for (let i = 0; i < count; i++) {
    if (entry.have[i] !== segmentLength(entry, i)) return false;
  }
  return true;
}
