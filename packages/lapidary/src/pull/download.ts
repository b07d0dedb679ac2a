// One blob from a registry: its missing parts, several at a time, each tried again from the byte that it reached.

import { LapidaryError } from '../errors.js';
import { retrying, Transient, type Retry } from '../source/retry.js';
import type { PartialBlob, Wanted } from './partial.js';
import type { Body, Registry } from './registry.js';

export interface Pace {
  /** Requests at a time. */
  connections: number;
  /** Tries of a request that may fail one after another without a byte more. */
  tries: number;
  /** Milliseconds before the second try; doubled for each further one, up to {@link LONGEST_BACK_OFF_MS}. */
  backOff: number;
}

export interface DownloadEvents {
  onBytes: () => void;
  onRetry: (retry: Retry) => void;
}

export const LONGEST_BACK_OFF_MS = 30_000;
/** So often what came is put on the disk for good, or less often where that takes long: bytes after it may come twice. */
const SAVE_EVERY_MS = 1000;

/** Saves now and then, until it is stopped. */
function keepSaving(partial: PartialBlob): { stop: () => void } {
  let timer: NodeJS.Timeout;
  let stopped = false;
  const later = (ms: number) => {
    if (!stopped) timer = setTimeout(() => void save(), ms);
  };
  const save = async () => {
    const started = performance.now();
    // A disk that is full says so to whoever writes, too.
    await partial.save().catch(() => {});
    later(Math.max(SAVE_EVERY_MS, 10 * (performance.now() - started)));
  };
  later(SAVE_EVERY_MS);
  return {
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

class Download {
  /** Whether the server gives ranges; what the first answer says. */
  private readonly ranged: Promise<boolean>;
  private learn!: (ranged: boolean) => void;
  /** What it did, at least once. */
  private gaveRange = false;
  private gaveWhole = false;

  constructor(
    private readonly registry: Registry,
    private readonly wanted: Wanted,
    private readonly partial: PartialBlob,
    private readonly pace: Pace,
    private readonly events: DownloadEvents,
    private readonly signal: AbortSignal,
  ) {
    this.ranged = new Promise((resolve) => (this.learn = resolve));
  }

  /** Parts from `queue` until none is left. Only the first worker asks before it is known what the server can. */
  async work(queue: number[], isFirst: boolean): Promise<void> {
    try {
      if (!isFirst && !(await this.ranged)) return;
      for (let part = queue.shift(); part !== undefined; part = queue.shift()) {
        await this.fetchPart(part);
      }
    } finally {
      if (isFirst) this.learn(false);
    }
  }

  private async fetchPart(part: number): Promise<void> {
    const { pace, signal, events, partial } = this;
    let reached = partial.missing(part)?.first;
    await retrying(`${this.registry.host}: ${this.wanted.digest}`, () => this.once(part), {
      ...pace,
      longest: LONGEST_BACK_OFF_MS,
      signal,
      onRetry: events.onRetry,
      progressed: () => {
        const before = reached;
        reached = partial.missing(part)?.first;
        return before !== reached;
      },
    });
  }

  private async once(part: number): Promise<void> {
    const range = this.partial.missing(part);
    if (!range) return;
    const body = await this.registry.blob(this.wanted.digest, range, this.signal);
    try {
      if (this.check(body, range)) {
        this.learn(true);
        await this.receive(body, range.first, range.last + 1);
      } else {
        this.gaveWhole = true;
        this.learn(false);
        await this.receive(body, 0, this.wanted.size);
      }
    } catch (error) {
      body.chunks.cancel();
      throw error;
    }
  }

  /** Whether the answer is the range; false: the whole blob. Throws where it is neither. */
  private check({ status, headers }: Body, { first, last }: { first: number; last: number }) {
    const { host } = this.registry;
    const { size, digest } = this.wanted;
    if ((headers.get('content-encoding') ?? 'identity') !== 'identity') {
      throw new LapidaryError('unsupported', `${host} sends ${digest} packed, unasked`);
    }
    const differs = (bytes: string) =>
      new LapidaryError(
        'integrity_error',
        `${digest} has ${bytes} bytes on ${host}, the manifest says ${size}`,
      );
    const length = headers.get('content-length');
    if (status === 200) {
      if (length !== null && Number(length) !== size) throw differs(length);
      // It gave ranges before: another server behind the same name, perhaps.
      if (!this.gaveWhole && this.gaveRange) throw new Transient(`${host} ignored a range`);
      return false;
    }
    const range = headers.get('content-range') ?? '';
    const [, from, to, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range) ?? [];
    if (total !== undefined && total !== '*' && Number(total) !== size) throw differs(total);
    if (Number(from) !== first || Number(to) !== last) {
      const asked = `bytes ${first}-${last} were asked for`;
      throw new Transient(`${host} answered '${range.slice(0, 100)}' where ${asked}`);
    }
    this.gaveRange = true;
    return true;
  }

  /** Writes a body that has the bytes from `first` up to `end`, no more and no fewer. */
  private async receive({ chunks }: Body, first: number, end: number): Promise<void> {
    const { host } = this.registry;
    const { digest } = this.wanted;
    let at = first;
    for (let chunk = await chunks.next(); chunk; chunk = await chunks.next()) {
      if (at + chunk.length > end) {
        throw new LapidaryError(
          'integrity_error',
          `${host} sends more of ${digest} than the ${end - first} bytes that were asked for`,
        );
      }
      await this.partial.accept(at, chunk);
      at += chunk.length;
      this.events.onBytes();
    }
    if (at < end) throw new Transient(`${host} ended ${end - at} bytes too early`);
  }
}

/**
 * Fetches what is missing of a blob. Rejects with `io_error` when tries are used up, `integrity_error` for a size that is not
 * the manifest's, `quota_exceeded` when the disk is full, `not_found`, `cancelled`; what came by then stays.
 */
export async function download(
  registry: Registry,
  wanted: Wanted,
  partial: PartialBlob,
  { pace, events, signal }: { pace: Pace; events: DownloadEvents; signal: AbortSignal },
): Promise<void> {
  const queue = Array.from({ length: partial.parts }, (_, part) => part).filter((part) =>
    partial.missing(part),
  );
  if (queue.length === 0) return;
  // The first that fails stops the others.
  const failing = new AbortController();
  const inner = AbortSignal.any([signal, failing.signal]);
  const job = new Download(registry, wanted, partial, pace, events, inner);
  const saving = keepSaving(partial);
  const workers = Array.from({ length: Math.min(pace.connections, queue.length) }, (_, i) =>
    job.work(queue, i === 0).catch((error: unknown) => {
      failing.abort();
      throw error;
    }),
  );
  try {
    const ends = await Promise.allSettled(workers);
    const failures = ends.flatMap((end) =>
      end.status === 'rejected' ? [end.reason as Error] : [],
    );
    const isOwn = (error: Error) => (error as Partial<LapidaryError>).code !== 'cancelled';
    if (failures.length > 0) throw failures.find(isOwn) ?? failures[0]!;
  } finally {
    saving.stop();
  }
}
