// How the tabs and workers of an origin share the cache: one downloads a file while the others watch, and nobody deletes
// what somebody reads.

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import type { CacheEnvironment } from './environment.js';
import type { DownloadOptions, DownloadProgress } from './types.js';

type OnProgress = (progress: DownloadProgress) => void;

const downloading = (name: string) => `lapidary-cache-download:${name}`;
const reading = (name: string) => `lapidary-cache-read:${name}`;
/** Milliseconds within which a tab has looked whether it has a file; one that reads it takes longer. */
const LOOKS = 1000;

/** A report of another tab; undefined for anything else. */
function reportOf(message: unknown, name: string): DownloadProgress | undefined {
  const { name: of, progress } = (message ?? {}) as { name?: unknown; progress?: unknown };
  return of === name ? (progress as DownloadProgress) : undefined;
}

export class Sharing {
  constructor(private readonly environment: CacheEnvironment) {}

  /**
   * Does `work` once no other tab is at the same file, and tells the others how far it is. Until then `onProgress` gets
   * what the other tab tells. A tab that ends hands over to the next.
   */
  async alone<T>(
    name: string,
    { signal, onProgress }: Pick<DownloadOptions, 'signal' | 'onProgress'>,
    work: (tell: OnProgress) => Promise<T>,
  ): Promise<T> {
    const { locks } = this.environment;
    const channel = this.environment.openChannel();
    const run = () =>
      work((progress) => {
        onProgress?.(progress);
        channel.postMessage({ name, progress });
      });
    try {
      const free = await locks.request(
        downloading(name),
        { ifAvailable: true },
        async (lock) => lock && { result: await run() },
      );
      if (free) return free.result;
      const listen = ({ data }: MessageEvent) => {
        const progress = reportOf(data, name);
        if (progress) onProgress?.(progress);
      };
      channel.addEventListener('message', listen);
      throwIfAborted(signal);
      return await locks.request(downloading(name), { ...(signal && { signal }) }, () => {
        channel.removeEventListener('message', listen);
        throwIfAborted(signal);
        return run();
      });
    } catch (error) {
      if (!(error instanceof LapidaryError)) throwIfAborted(signal);
      throw error;
    } finally {
      channel.close();
    }
  }

  /**
   * Opens what must not be deleted until it is released; where `open` gives undefined, it is released at once. Waits
   * for a deletion to end.
   */
  reading<T>(name: string, open: (release: () => void) => Promise<T | undefined>) {
    return new Promise<T | undefined>((resolve, reject) => {
      const held = this.environment.locks.request(reading(name), { mode: 'shared' }, async () => {
        let release = () => {};
        const released = new Promise<void>((done) => {
          release = done;
        });
        const opened = await open(release);
        resolve(opened);
        if (opened !== undefined) await released;
      });
      held.catch(reject);
    });
  }

  /** Does `work` unless somebody reads the file; whether it did. Who only looks whether it is there is waited for. */
  async ifUnread(name: string, work: () => Promise<void>): Promise<boolean> {
    const impatient = AbortSignal.timeout(LOOKS);
    let begun = false;
    try {
      await this.environment.locks.request(reading(name), { signal: impatient }, async () => {
        begun = true;
        await work();
      });
    } catch (error) {
      if (begun || !impatient.aborted) throw error;
    }
    return begun;
  }

  /** Does `work` unless somebody reads or downloads the file; whether it did. */
  async ifUnused(name: string, work: () => Promise<void>): Promise<boolean> {
    const only = { ifAvailable: true } as const;
    return this.environment.locks.request(downloading(name), only, (lock) =>
      lock ? this.ifUnread(name, work) : false,
    );
  }
}
