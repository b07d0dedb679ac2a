// Remembers, by adapter, the cuts of kernels that loading found by timing them. A cache: what is missing or damaged is
// found anew, and a failure to read or write costs time, nothing else, so it is told to the log.

import { messageOf } from './errors.js';
import type { Cuts } from './types.js';

/** Where a text is kept under a name. */
export interface TextCache {
  /** `undefined`: nothing is kept there. */
  read(name: string): Promise<string | undefined>;
  write(name: string, text: string): Promise<void>;
}

type Log = (level: 'debug' | 'warning', text: string) => void;

/** Kernels change: cuts found for other ones do not count. */
const VERSION = 2;
const MOST_BYTES = 1 << 20;

/** The name under which an adapter's cuts are kept: letters and digits of its description. */
const nameOf = (adapter: string) =>
  `cuts-${VERSION}-${adapter.replace(/[^A-Za-z0-9]+/g, '-').slice(0, 100)}.json`;

function parsed(text: string): Cuts {
  if (text.length > MOST_BYTES) throw new RangeError(`${text.length} characters`);
  const value: unknown = JSON.parse(text);
  // The engine checks each entry.
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError('no object');
  }
  return value as Cuts;
}

/** The cuts known for an adapter. */
export async function knownCuts(cache: TextCache, adapter: string, log: Log): Promise<Cuts> {
  try {
    const text = await cache.read(nameOf(adapter));
    return text === undefined ? {} : parsed(text);
  } catch (error) {
    log('debug', `cuts of kernels for ${adapter} cannot be read: ${messageOf(error)}`);
    return {};
  }
}

/** Keeps the cuts of an adapter: those known before, and those found. */
export async function keepCuts(
  cache: TextCache,
  adapter: string,
  known: Cuts,
  found: Cuts,
  log: Log,
): Promise<void> {
  const fresh = Object.keys(found).filter((key) => String(found[key]) !== String(known[key]));
  if (fresh.length === 0) return;
  try {
    await cache.write(nameOf(adapter), JSON.stringify({ ...known, ...found }));
  } catch (error) {
    log('debug', `cuts of kernels for ${adapter} cannot be kept: ${messageOf(error)}`);
  }
}
