// The download cache: models by their address, kept in the browser's origin private file system.

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import { download, type DownloadJob } from './download.js';
import {
  DIGEST,
  MAX_URL,
  SEGMENT_BYTES,
  bytesOf,
  readEntry,
  readUsed,
  writeUsed,
} from './entry.js';
import { storageError, type CacheEnvironment } from './environment.js';
import {
  emptyFolder,
  folderName,
  folderNames,
  folderSize,
  keyOf,
  openFolder,
  removeFolder,
} from './folders.js';
import { SegmentedSource, type CompleteEntry } from './source.js';
import { Sharing } from './sharing.js';
import type {
  CacheOptions,
  CachedModel,
  CachedSource,
  DownloadOptions,
  ExpectedFile,
} from './types.js';

const DEFAULTS: Required<{ [K in keyof CacheOptions]: number }> = {
  connections: 4,
  segmentBytes: 32 << 20,
  tries: 6,
  backOff: 500,
  stallTimeout: 30_000,
};
const BOUNDS: Record<keyof CacheOptions, [number, number]> = {
  connections: [1, 16],
  segmentBytes: [SEGMENT_BYTES.least, SEGMENT_BYTES.most],
  tries: [1, 1000],
  backOff: [0, 60_000],
  stallTimeout: [1, 3_600_000],
};

/**
 * Models that were downloaded once, for the next visits of the same site, offline too. All pages and workers of an
 * origin share it. Every failure is a {@link LapidaryError} with a stable `code`. Make one with {@link openCache}.
 */
export class ModelCache {
  private readonly options: Required<{ [K in keyof CacheOptions]: number }>;
  private readonly sharing: Sharing;

  /** @internal */
  constructor(
    private readonly environment: CacheEnvironment,
    options: CacheOptions = {},
  ) {
    this.options = { ...DEFAULTS };
    for (const name of Object.keys(BOUNDS) as (keyof CacheOptions)[]) {
      const [least, most] = BOUNDS[name];
      const value = options[name] ?? DEFAULTS[name];
      if (!(Number.isInteger(value) && value >= least && value <= most)) {
        throw new LapidaryError('invalid_argument', `${name} is a number from ${least} to ${most}`);
      }
      this.options[name] = value;
    }
    this.sharing = new Sharing(environment);
  }

  /**
   * Opens the file at `url`: from the cache where it is complete, without asking the network; else it is downloaded
   * first, going on from what an earlier visit left. A download that another tab is at is waited for. Without a
   * `digest`, a file is the same as long as its address is; with one, another digest at the same address is another
   * file, and replaces the old one when it is complete.
   *
   * Rejects with `integrity_error` where the file is not the expected one (nothing of it is kept), `quota_exceeded`
   * where it has no room, `io_error` when every try has failed, `cancelled`, `not_found`, `truncated`, `unsupported`,
   * `invalid_argument`, `busy` while another page reads what is to be replaced. But for `integrity_error`, what has come stays, and the next call goes on from there.
   */
  async fetch(url: string | URL, options: DownloadOptions = {}): Promise<CachedSource> {
    const { headers, signal, onProgress } = options;
    const address = this.address(url);
    const { digest, size } = expected(options);
    throwIfAborted(signal);
    const { href } = address;
    return this.storing(href, async () => {
      const key = await keyOf(href);
      const cached = await this.openComplete(key, digest, size);
      if (cached) return cached;
      const name = folderName(key, digest);
      return this.sharing.alone(name, { signal, onProgress }, async (tell) => {
        const meanwhile = await this.openComplete(key, digest, size);
        if (meanwhile) return meanwhile;
        const { root, storage, base } = this.environment;
        const sameOrigin = base === undefined || new URL(base).origin === address.origin;
        const folder = await root.getDirectoryHandle(name, { create: true });
        const job: DownloadJob = {
          ...{ folder, storage, url: href, digest, size, headers, sameOrigin, signal },
          onProgress: tell,
          empty: async () => {
            const isEmpty = await this.sharing.ifUnread(name, () => emptyFolder(folder));
            if (!isEmpty) throw busy(href);
          },
        };
        await download(job, this.options);
        const source = await this.openComplete(key, digest, size);
        if (!source) {
          throw new LapidaryError(
            'io_error',
            `${href}: what was downloaded is gone from the cache`,
          );
        }
        if (digest !== undefined) await this.removeOthers(key, name);
        return source;
      });
    });
  }

  /** What is in the cache, whole or in part, the last used first. */
  list(): Promise<CachedModel[]> {
    return this.storing('the cache', async () => {
      const models: CachedModel[] = [];
      for (const name of await folderNames(this.environment.root)) {
        const folder = await openFolder(this.environment.root, name);
        const entry = folder && (await readEntry(folder));
        if (entry === 'missing') {
          // A deletion, or the very beginning of a download, that was cut off: nothing tells of these bytes.
          await this.sharing.ifUnused(name, () => removeFolder(this.environment.root, name));
        }
        if (!folder || typeof entry !== 'object') continue;
        models.push({
          url: entry.url,
          name: new URL(entry.url).pathname.split('/').at(-1) || entry.url,
          size: entry.size ?? undefined,
          downloaded: bytesOf(entry.have),
          complete: entry.digest !== null,
          digest: entry.digest === null ? undefined : `sha256:${entry.digest}`,
          lastUsed: new Date((await readUsed(folder)) ?? entry.created),
        });
      }
      return models.sort((a, b) => b.lastUsed.getTime() - a.lastUsed.getTime());
    });
  }

  /** Bytes that the cache takes. */
  size(): Promise<number> {
    return this.storing('the cache', async () => {
      let sum = 0;
      for (const name of await folderNames(this.environment.root)) {
        const folder = await openFolder(this.environment.root, name);
        if (folder) sum += await folderSize(folder);
      }
      return sum;
    });
  }

  /**
   * Deletes what is there of the file at `url`; false where nothing is. Rejects with `busy` while a page reads or
   * downloads it.
   */
  delete(url: string | URL): Promise<boolean> {
    const { href } = this.address(url);
    return this.storing(href, async () => {
      const names = await folderNames(this.environment.root, await keyOf(href));
      for (const name of names) await this.removeUnused(name, href);
      return names.length > 0;
    });
  }

  /** Deletes everything. Rejects with `busy` when a page reads or downloads something; all else is deleted. */
  clear(): Promise<void> {
    return this.storing('the cache', async () => {
      let failure: { error: unknown } | undefined;
      for (const name of await folderNames(this.environment.root)) {
        try {
          await this.removeUnused(name, 'a model');
        } catch (error) {
          failure ??= { error };
        }
      }
      if (failure) throw failure.error;
    });
  }

  /**
   * Asks the browser not to delete this site's data when space runs low; whether it will not. Workers can only ask
   * whether that is so: call it in a page, best when the visitor does something.
   */
  persist(): Promise<boolean> {
    const { storage } = this.environment;
    return storage.persist ? storage.persist() : storage.persisted();
  }

  private address(url: string | URL): URL {
    let address: URL | undefined;
    try {
      address = new URL(url, this.environment.base);
    } catch {
      // refused below
    }
    if (!address || !/^https?:$/.test(address.protocol) || address.href.length > MAX_URL) {
      throw new LapidaryError('invalid_argument', `'${String(url)}' is no address of the web`);
    }
    address.hash = '';
    return address;
  }

  /** The complete file at an address, if it is there and is the expected one. It cannot be deleted until it is closed. */
  private async openComplete(key: string, digest: string | undefined, size: number | undefined) {
    const { root } = this.environment;
    for (const name of await folderNames(root, key)) {
      const source = await this.sharing.reading(name, async (release) => {
        const folder = await openFolder(root, name);
        const entry = folder && (await readEntry(folder));
        if (!folder || typeof entry !== 'object' || entry.digest === null) return undefined;
        if (digest !== undefined && digest !== entry.digest) return undefined;
        if (size !== undefined && size !== entry.size) return undefined;
        const opened = await SegmentedSource.open(folder, entry as CompleteEntry, release);
        // For the list only: a full disk must not keep anybody from reading.
        if (opened) await writeUsed(folder, Date.now()).catch(() => {});
        return opened;
      });
      if (source) return source;
    }
    return undefined;
  }

  private async removeUnused(name: string, title: string): Promise<void> {
    const removed = await this.sharing.ifUnused(name, () =>
      removeFolder(this.environment.root, name),
    );
    if (!removed) throw busy(title);
  }

  /** Older files of an address, now that it has a newer one; those that are read stay. */
  private async removeOthers(key: string, kept: string): Promise<void> {
    for (const name of await folderNames(this.environment.root, key)) {
      if (name === kept) continue;
      await this.sharing.ifUnused(name, () => removeFolder(this.environment.root, name));
    }
  }

  private async storing<T>(name: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storageError(name, error);
    }
  }
}

function busy(title: string): LapidaryError {
  return new LapidaryError(
    'busy',
    `${title} is being read or downloaded; close the model, or the page that has it, and try again`,
  );
}

/** What the caller says that a file must be, checked. */
function expected({ digest, size }: ExpectedFile): ExpectedFile {
  const hex = digest?.toLowerCase().replace(/^sha256[:-]/, '');
  if (hex !== undefined && !DIGEST.test(hex)) {
    throw new LapidaryError('invalid_argument', 'a digest is a SHA-256 in 64 hexadecimal digits');
  }
  if (size !== undefined && !(Number.isSafeInteger(size) && size > 0)) {
    throw new LapidaryError('invalid_argument', 'a size is a positive number of bytes');
  }
  return { digest: hex, size };
}
