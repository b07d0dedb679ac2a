// Files that say "mine" between programs: one at a time has a layer in the making, or changes a store's manifests. The
// holder touches its file now and then; one that was not touched for long, or whose program is gone, counts for nothing.

import { randomUUID } from 'node:crypto';
import { readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { LapidaryError } from '../errors.js';
import { pause } from '../source/retry.js';
import { throwIfAborted } from '../source/source.js';
import { diskError, ifThere } from './disk.js';

const BEAT_MS = 500;
const POLL_MS = 100;
/** Without a touch for so long it is given up; sooner where its program is seen to be gone. */
const STALE_MS = 15_000;
const GONE_MS = 1500;

export interface Lock {
  /** Aborted when another program took it, for this one seemed to be gone. */
  lost: AbortSignal;
  release: () => Promise<void>;
}

export interface LockOptions {
  signal?: AbortSignal | undefined;
  /** Called again and again while another has it. */
  onWait?: (() => void | Promise<void>) | undefined;
}

/** What this program holds. */
const held = new Set<string>();

const isErrno = (error: unknown, code: string) => (error as NodeJS.ErrnoException).code === code;
function isGone(text: string): boolean {
  let owner: { host?: unknown; pid?: unknown };
  try {
    owner = JSON.parse(text) as typeof owner;
  } catch {
    return false; // Written just now, or by something else: its age decides.
  }
  const { host, pid } = owner ?? {};
  if (host !== hostname() || typeof pid !== 'number' || !Number.isInteger(pid) || pid <= 0) {
    return false;
  }
  if (pid === process.pid) return !held.has(text);
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return isErrno(error, 'ESRCH');
  }
}

/** Takes away a lock that nobody holds any more, if it still is what was seen. */
async function clear(path: string, seen: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  // Of several that try, one gets it.
  if ((await ifThere(rename(path, aside).then(() => true))) === undefined) return;
  const text = await readFile(aside, 'utf8');
  if (text !== seen) {
    // Somebody else's, made in between: it is put back.
    await writeFile(path, text, { flag: 'wx' }).catch((error: unknown) => {
      if (!isErrno(error, 'EEXIST')) throw error;
    });
  }
  await rm(aside, { force: true });
}

/** Whether it is this program's now; clears away what is stale. */
async function attempt(path: string, mine: string): Promise<boolean> {
  try {
    await writeFile(path, mine, { flag: 'wx' });
    return true;
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
  const [stats, seen] = [await ifThere(stat(path)), await ifThere(readFile(path, 'utf8'))];
  if (stats && seen !== undefined) {
    const age = Date.now() - stats.mtimeMs;
    if (age > STALE_MS || (age > GONE_MS && isGone(seen))) await clear(path, seen);
  }
  return false;
}

const newOwner = () => JSON.stringify({ host: hostname(), pid: process.pid, nonce: randomUUID() });

/** Waits until `path` is this caller's alone. Rejects with `cancelled`, and as writing files does. */
export async function lock(path: string, { signal, onWait }: LockOptions = {}): Promise<Lock> {
  const mine = newOwner();
  held.add(mine);
  try {
    while (!(await attempt(path, mine))) {
      await onWait?.();
      await pause(POLL_MS, signal);
      throwIfAborted(signal);
    }
  } catch (error) {
    held.delete(mine);
    throw diskError(path, error);
  }
  return keep(path, mine);
}

/** The same without waiting: undefined where another has it. */
export async function tryLock(path: string): Promise<Lock | undefined> {
  const mine = newOwner();
  held.add(mine);
  try {
    // One that is stale is cleared away by the first attempt.
    if ((await attempt(path, mine)) || (await attempt(path, mine))) return keep(path, mine);
  } catch (error) {
    held.delete(mine);
    throw diskError(path, error);
  }
  held.delete(mine);
  return undefined;
}

function keep(path: string, mine: string): Lock {
  const lost = new AbortController();
  const isMine = async () => (await ifThere(readFile(path, 'utf8'))) === mine;
  const beat = async () => {
    if (await isMine()) await utimes(path, new Date(), new Date());
    else lost.abort(new LapidaryError('busy', `another program took ${path}`));
  };
  // A beat that fails is followed by others; if none comes through, another program takes the lock, which is seen.
  const timer = setInterval(() => void beat().catch(() => {}), BEAT_MS);
  timer.unref();
  return {
    lost: lost.signal,
    async release() {
      clearInterval(timer);
      held.delete(mine);
      if (await isMine().catch(() => false)) await rm(path, { force: true });
    },
  };
}
