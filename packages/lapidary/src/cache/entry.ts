// What the cache knows of one file: `entry.json` beside its segments. Written whole or not at all, and last: it never
// says that bytes are there which are not.

import { isMissing } from './environment.js';

export const ENTRY = 'entry.json';
/** When the file was last opened; of its own, so that a complete entry is never written again. */
const USED = 'used';

export interface Entry {
  version: 1;
  url: string;
  /** Bytes; null until a server that sends only whole files has sent it all. */
  size: number | null;
  /** By which a changed file on the server is known. */
  etag: string | null;
  modified: string | null;
  /** Bytes of every segment but the last. */
  segmentBytes: number;
  /** Bytes that are safe on disk, by segment; what is missing at the end is 0. */
  have: number[];
  /** The hash over the first `bytes`, to be gone on with: base64. */
  hashed: { bytes: number; state: string } | null;
  /** SHA-256 of all bytes, 64 hexadecimal digits; set once all are there, and that makes the entry complete. */
  digest: string | null;
  /** Milliseconds since 1970. */
  created: number;
}

/** Room that is kept while a download runs, for the entry that tells of what came until the storage was full. */
const RESERVE = 'reserve';
const RESERVE_BYTES = 64 << 10;

export const DIGEST = /^[0-9a-f]{64}$/;
export const SEGMENT_BYTES = { least: 64 << 10, most: 1 << 30 };
/** 2 TiB in segments of the usual size. */
export const MAX_SEGMENTS = 65_536;
/** Characters of what an entry holds. */
export const MAX_URL = 8192;
export const MAX_ETAG = 1024;
export const MAX_DATE = 256;
const MAX_TEXT = 1 << 20;
const TOO_LONG = '?';

export const segmentName = (index: number) => `${index}.bin`;

/** Bytes that segment `index` has when it is complete, or has room for where the size is not known. */
export function segmentLength({ size, segmentBytes }: Entry, index: number): number {
  if (size === null) return segmentBytes;
  return Math.max(0, Math.min(segmentBytes, size - index * segmentBytes));
}

export const segmentCount = ({ size, segmentBytes, have }: Entry) =>
  size === null ? have.length : Math.ceil(size / segmentBytes);

export const bytesOf = (have: readonly number[]) => have.reduce((sum, bytes) => sum + bytes, 0);

const isCount = (value: unknown, most = Number.MAX_SAFE_INTEGER): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= most;
const isText = (value: unknown, most: number): value is string =>
  typeof value === 'string' && value.length <= most;
const isNullOr = (value: unknown, is: (value: unknown) => boolean) => value === null || is(value);

/** An entry as it was written; undefined for anything else. */
function parseEntry(text: string): Entry | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const entry = value as Record<keyof Entry, unknown>;
  const { hashed, have, segmentBytes } = entry;
  const ok =
    entry.version === 1 &&
    isText(entry.url, MAX_URL) &&
    isNullOr(entry.size, (size) => isCount(size) && size > 0) &&
    isNullOr(entry.etag, (tag) => isText(tag, MAX_ETAG)) &&
    isNullOr(entry.modified, (date) => isText(date, MAX_DATE)) &&
    isCount(segmentBytes, SEGMENT_BYTES.most) &&
    segmentBytes >= SEGMENT_BYTES.least &&
    Array.isArray(have) &&
    have.length <= MAX_SEGMENTS &&
    have.every((bytes) => isCount(bytes, segmentBytes)) &&
    isNullOr(entry.digest, (digest) => isText(digest, 64) && DIGEST.test(digest)) &&
    isCount(entry.created) &&
    isNullOr(hashed, (value) => {
      const { bytes, state } = value as { bytes: unknown; state: unknown };
      return isCount(bytes) && isText(state, 4096);
    });
  if (!ok) return undefined;
  const parsed = value as Entry;
  if (parsed.size !== null && segmentCount(parsed) > MAX_SEGMENTS) return undefined;
  if (parsed.size !== null && parsed.have.length > segmentCount(parsed)) return undefined;
  // What is complete says so of every byte.
  if (parsed.digest !== null && bytesOf(parsed.have) !== parsed.size) return undefined;
  return parsed;
}

async function readText(folder: FileSystemDirectoryHandle, name: string) {
  try {
    const file = await (await folder.getFileHandle(name)).getFile();
    return file.size <= MAX_TEXT ? await file.text() : TOO_LONG;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Replaces a small file; a reader finds the old one or the new one, whole. */
async function writeText(folder: FileSystemDirectoryHandle, name: string, text: string) {
  const file = await folder.getFileHandle(name, { create: true });
  const stream = await file.createWritable();
  await stream.write(text);
  await stream.close();
}

/** `missing` where there is none, `unreadable` where there is one that cannot be understood. */
export async function readEntry(
  folder: FileSystemDirectoryHandle,
): Promise<Entry | 'missing' | 'unreadable'> {
  const text = await readText(folder, ENTRY);
  // Created but never written: the page was closed in between.
  if (text === undefined || text === '') return 'missing';
  return parseEntry(text) ?? 'unreadable';
}

export const writeEntry = (folder: FileSystemDirectoryHandle, entry: Entry) =>
  writeText(folder, ENTRY, JSON.stringify(entry));

/** Milliseconds since 1970 of the last opening; undefined where none is noted. */
export async function readUsed(folder: FileSystemDirectoryHandle): Promise<number | undefined> {
  const time = Number((await readText(folder, USED)) || NaN);
  return isCount(time) ? time : undefined;
}

export const writeUsed = (folder: FileSystemDirectoryHandle, time: number) =>
  writeText(folder, USED, String(time));

export const writeReserve = (folder: FileSystemDirectoryHandle) =>
  writeText(folder, RESERVE, ' '.repeat(RESERVE_BYTES));

export async function dropReserve(folder: FileSystemDirectoryHandle): Promise<void> {
  try {
    await folder.removeEntry(RESERVE);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** Bytes that a file of the folder has; 0 where there is none. */
export async function fileSize(folder: FileSystemDirectoryHandle, name: string): Promise<number> {
  try {
    return (await (await folder.getFileHandle(name)).getFile()).size;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}
