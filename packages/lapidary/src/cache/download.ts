// One file's way into the cache: parallel ranges into segments, from where the last visit came to, with a journal of
// what is there.

import { LapidaryError } from '../errors.js';
import { eachChunk } from '../source/response.js';
import { Transient, retrying, type Retry } from '../source/retry.js';
import {
  MAX_SEGMENTS,
  bytesOf,
  dropReserve,
  fileSize,
  readEntry,
  segmentCount,
  segmentLength,
  segmentName,
  writeEntry,
  writeReserve,
  type Entry,
} from './entry.js';
import { quotaError, storageError, type Storage } from './environment.js';
import { Changed, Remote, dismiss, type Answer } from './remote.js';
import { Splitter, openSegment } from './segment.js';
import type { CompleteEntry } from './source.js';
import type { CacheOptions, DownloadProgress } from './types.js';
import { Verifier } from './verify.js';

export interface DownloadJob {
  folder: FileSystemDirectoryHandle;
  /** Removes all that is in the folder; rejects with `busy` while somebody reads it. */
  empty(): Promise<void>;
  storage: Storage;
  url: string;
  /** 64 hexadecimal digits. */
  digest: string | undefined;
  size: number | undefined;
  headers: Record<string, string> | undefined;
  /** Whether the address is the page's own origin's, where a request may have any header. */
  sameOrigin: boolean;
  signal: AbortSignal | undefined;
  onProgress: (progress: DownloadProgress) => void;
}

/** Milliseconds between two entries in the journal, and between two reports. */
const SAVE_EVERY = 1000;
const REPORT_EVERY = 100;
/** Most milliseconds between two tries. */
const LONGEST_WAIT = 60_000;
/** How often a download begins anew because the file has changed. */
const MOST_CHANGES = 2;

/** Downloads what is missing; resolves once all bytes are there, safe and verified. */
export async function download(
  job: DownloadJob,
  options: Required<CacheOptions>,
): Promise<CompleteEntry> {
  let entry = await resumable(job);
  for (let changes = 0; ; changes++) {
    try {
      return await new Download(job, options, entry).run();
    } catch (error) {
      if (!(error instanceof Changed)) throw storageError(job.url, error);
      if (changes === MOST_CHANGES) {
        const text = `${job.url}: the file keeps changing on the server (${error.message})`;
        throw new LapidaryError('io_error', text, { cause: error });
      }
      entry = undefined;
    }
  }
}

/** What an earlier visit left that can be gone on with. */
async function resumable({ folder, digest, size }: DownloadJob): Promise<Entry | undefined> {
  const entry = await readEntry(folder);
  // Without a tag, a date or a digest nothing would tell that the file is another now.
  const usable =
    typeof entry === 'object' &&
    entry.size !== null &&
    (size === undefined || size === entry.size) &&
    (entry.etag !== null || entry.modified !== null || digest !== undefined);
  if (!usable) return undefined;
  const have: number[] = [];
  for (let i = 0; i < segmentCount(entry); i++) {
    const noted = entry.have[i] ?? 0;
    have.push(noted && Math.min(noted, await fileSize(folder, segmentName(i))));
  }
  return { ...entry, have, digest: null };
}

class Download {
  /** One that fails ends the other connections. */
  private readonly ending = new AbortController();
  private readonly signal: AbortSignal;
  private readonly remote: Remote;
  /** Bytes that have come, by segment; not all of them are safe yet. */
  private come: number[] = [];
  private verifier!: Verifier;
  private first: Answer | undefined;
  private saving: Promise<void> | undefined;
  private savedAt = 0;
  private reportedAt = 0;
  private retry: Retry | undefined;

  constructor(
    private readonly job: DownloadJob,
    private readonly options: Required<CacheOptions>,
    private entry: Entry | undefined,
  ) {
    const ending = this.ending.signal;
    this.signal = job.signal ? AbortSignal.any([job.signal, ending]) : ending;
    const { url, headers, sameOrigin } = job;
    const { signal } = this;
    const { stallTimeout } = options;
    this.remote = new Remote(url, { headers, sameOrigin, stallTimeout, signal });
  }

  async run(): Promise<CompleteEntry> {
    try {
      const entry = (this.entry ??= await this.begin());
      const whole = this.first?.response.status === 200;
      await this.checkRoom(entry);
      if (!whole)
        this.come = Array.from({ length: segmentCount(entry) }, (_, i) => entry.have[i] ?? 0);
      entry.have = [...this.come];
      this.verifier = await Verifier.start(this.job.folder, entry);
      // The first entry lies there before the first byte, so that no byte lies there that nothing tells of.
      await this.save();
      await writeReserve(this.job.folder);
      this.report(true);
      await (whole ? this.receiveWhole(entry) : this.receiveRanges(entry));
      return await this.complete(entry);
    } catch (error) {
      this.ending.abort();
      if (this.savedAt > 0 && !(error instanceof Changed)) await this.saveLast();
      throw error;
    } finally {
      if (this.first) await dismiss(this.first);
    }
  }

  /** Asks for the first segment, and learns what the file is. */
  private async begin(): Promise<Entry> {
    const { url, size: expected } = this.job;
    const { segmentBytes } = this.options;
    this.first = await this.retrying(() => this.remote.ask(0, segmentBytes - 1));
    const { response } = this.first;
    const state = this.remote.describe(response, segmentBytes);
    const { size } = state;
    if (expected !== undefined && size !== null && size !== expected) {
      throw new LapidaryError(
        'integrity_error',
        `${url} has ${size} bytes on the server where ${expected} were expected`,
      );
    }
    if (size === 0) throw new LapidaryError('truncated', `${url}: the file is empty`);
    const entry: Entry = {
      version: 1,
      url,
      ...state,
      segmentBytes,
      have: [],
      hashed: null,
      digest: null,
      created: Date.now(),
    };
    this.checkCount(entry);
    // What lay there and cannot be gone on with; not before the server has answered.
    await this.job.empty();
    return entry;
  }

  private checkCount(entry: Entry): void {
    if (!(segmentCount(entry) <= MAX_SEGMENTS)) {
      throw new LapidaryError('unsupported', `${entry.url} is too large for this cache`);
    }
  }

  private async checkRoom(entry: Entry): Promise<void> {
    const { quota, usage } = await this.job.storage.estimate();
    if (entry.size === null || quota === undefined || usage === undefined) return;
    const missing = entry.size - bytesOf(entry.have);
    if (missing > quota - usage) {
      throw quotaError(
        entry.url,
        `${missing} bytes are to come, but the browser grants this site only ${Math.max(0, quota - usage)} more`,
      );
    }
  }

  private async receiveRanges(entry: Entry): Promise<void> {
    const missing = [...this.come.keys()]
      .filter((i) => this.come[i] !== segmentLength(entry, i))
      .values();
    let failure: { error: unknown } | undefined;
    const connection = async () => {
      try {
        for (const index of missing) await this.receiveSegment(entry, index);
      } catch (error) {
        failure ??= { error };
        this.ending.abort();
      }
    };
    await Promise.all(Array.from({ length: this.options.connections }, connection));
    if (failure) throw failure.error;
  }

  private async receiveSegment(entry: Entry, index: number): Promise<void> {
    const start = index * entry.segmentBytes;
    const length = segmentLength(entry, index);
    let position = entry.have[index] ?? 0;
    const writer = await openSegment(this.job.folder, segmentName(index), position);
    let before = position;
    const progressed = () => {
      const further = position > before;
      before = position;
      return further;
    };
    try {
      await this.retrying(async () => {
        if (position === length) return;
        const offset = start + position;
        const first = index === 0 ? this.first : undefined;
        if (first) this.first = undefined;
        const answer = first ?? (await this.remote.ask(offset, start + length - 1, entry));
        try {
          this.remote.check(answer.response, offset, length - position, entry);
          await eachChunk(answer.response.body, answer.watch, async (chunk) => {
            if (chunk.length > length - position)
              throw new Transient('more came than was promised');
            await writer.write(chunk);
            position += chunk.length;
            entry.have[index] = writer.committed;
            await this.received(index, position);
          });
        } finally {
          await dismiss(answer);
        }
        if (position < length) throw new Transient('less came than was promised');
      }, progressed);
    } finally {
      try {
        await writer.close();
      } finally {
        entry.have[index] = writer.committed;
      }
    }
    this.verifier.advance();
  }

  /** From a server that knows no ranges: all of it, and from the beginning when it breaks off. */
  private async receiveWhole(entry: Entry): Promise<void> {
    const { size } = entry;
    await this.retrying(async () => {
      const answer = this.first ?? (await this.remote.askWhole());
      this.first = undefined;
      if (this.come.length > 0) await this.job.empty();
      entry.have = [];
      entry.hashed = null;
      this.come = [];
      this.verifier = await Verifier.start(this.job.folder, entry);
      let total = 0;
      const writer = new Splitter(this.job.folder, entry, () => this.verifier.advance());
      try {
        await eachChunk(answer.response.body, answer.watch, async (chunk) => {
          total += chunk.length;
          if (size !== null && total > size) throw new Transient('more came than was promised');
          await writer.write(chunk);
          this.checkCount(entry);
          await this.received(0, total);
        });
      } finally {
        await writer.close();
        await dismiss(answer);
      }
      if (size !== null && total < size) throw new Transient('less came than was promised');
      if (total === 0) throw new LapidaryError('truncated', `${entry.url}: the file is empty`);
      entry.size = total;
    });
    const { size: expected } = this.job;
    if (expected !== undefined && entry.size !== expected) {
      await this.refuse(`${entry.size} bytes came where ${expected} were expected`);
    }
  }

  /** The last step: what is complete is verified, and only then says so. */
  private async complete(entry: Entry): Promise<CompleteEntry> {
    const { digest: expected, folder } = this.job;
    let digest = await this.verifier.finish();
    if (expected !== undefined && digest !== expected && this.verifier.resumed) {
      // Bytes are not dropped for a state of the hash that was damaged.
      entry.hashed = null;
      digest = await (await Verifier.start(folder, entry)).finish();
    }
    if (expected !== undefined && digest !== expected) {
      await this.refuse(`its SHA-256 is ${digest} where ${expected} was expected`);
    }
    await this.saving;
    entry.hashed = null;
    entry.digest = digest;
    await dropReserve(folder);
    await writeEntry(folder, entry);
    this.report(true);
    return entry as CompleteEntry;
  }

  /** Drops what came: which of the bytes are wrong cannot be known. */
  private async refuse(reason: string): Promise<never> {
    await this.saving;
    this.entry = undefined;
    await this.job.empty();
    throw new LapidaryError(
      'integrity_error',
      `${this.job.url}: ${reason}. Nothing of it was kept; download it again, and if that fails alike, the file on ` +
        'the server is not the one that was expected.',
    );
  }

  private async received(index: number, bytes: number): Promise<void> {
    this.come[index] = bytes;
    this.retry = undefined;
    this.report(false);
    if (performance.now() - this.savedAt >= SAVE_EVERY) await this.save();
  }

  /** Writes the journal; while it is being written, what more came waits for the next time. */
  private async save(): Promise<void> {
    if (!this.entry) return;
    const { entry } = this;
    this.savedAt = performance.now();
    const before = this.saving;
    this.saving = (async () => {
      await before?.catch(() => {}); // told to whom it belonged
      await writeEntry(this.job.folder, entry);
    })();
    await this.saving;
  }

  /** What has come until a failure, on a full disk too; if this fails as well, the entry of a second ago still holds. */
  private async saveLast(): Promise<void> {
    try {
      await dropReserve(this.job.folder);
      await this.save();
    } catch {
      // The failure before is the one to tell.
    }
  }

  private report(now: boolean): void {
    const time = performance.now();
    if (!now && time - this.reportedAt < REPORT_EVERY) return;
    this.reportedAt = time;
    this.job.onProgress({
      phase: 'download',
      loaded: bytesOf(this.come),
      total: this.entry?.size ?? 0,
      ...(this.retry && { retry: this.retry }),
    });
  }

  private retrying<T>(work: () => Promise<T>, progressed?: () => boolean): Promise<T> {
    const { tries, backOff } = this.options;
    return retrying(this.job.url, work, {
      tries,
      backOff,
      longest: LONGEST_WAIT,
      progressed,
      signal: this.signal,
      onRetry: (state) => {
        this.retry = state;
        this.report(true);
      },
    });
  }
}
