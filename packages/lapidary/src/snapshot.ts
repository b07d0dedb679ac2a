// Snapshots of a session as bytes: what the engine says of it and what the cache held, with a checksum over all.
//
//   8 bytes  magic         u32  bytes of the header     u64  bytes of the payload
//   header: JSON, the engine's (engine/generate/snapshot.h)       payload       SHA-256 of all before it
//
// Numbers are little-endian.

import type { Engine } from './engine.js';
import { LapidaryError } from './errors.js';
import { throwIfAborted, type ByteSource } from './source/source.js';
import { memorySource } from './source/memory.js';

/** The line's end shows whether something took the bytes for text. */
const MAGIC = new TextEncoder().encode('LAPKV1\r\n');
const PREFIX = MAGIC.length + 4 + 8;
const CHECKSUM = 32;
/** As the engine's kMaxHeaderBytes. */
const MAX_HEADER = 1 << 20;

/** What of a file without a digest tells it from others: pieces of it, spread evenly. */
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;

/** How a session is saved. */
export interface SaveOptions {
  /**
   * So many of the last tokens can be taken back after restoring: a reply's thinking, for one, which later prompts leave
   * out. Each takes space. Default 0. More than the cache still has is not saved.
   */
  rewind?: number;
  signal?: AbortSignal;
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const { subtle } = globalThis.crypto;
  if (!subtle) {
    throw new LapidaryError('unsupported', 'snapshots need a secure context: https or localhost');
  }
  return new Uint8Array(await subtle.digest('SHA-256', bytes));
}

/** Names a model's file: by its digest, or, where that is unknown, by its size and samples of its bytes. */
export async function modelIdentity(
  source: ByteSource,
  digest: string | undefined,
  signal: AbortSignal,
): Promise<string> {
  if (digest) return digest;
  const length = Math.min(SAMPLE_BYTES, source.size);
  const all = new Uint8Array(SAMPLES * SAMPLE_BYTES);
  for (let i = 0; i < SAMPLES; i++) {
    const at = Math.floor(((source.size - length) * i) / (SAMPLES - 1));
    all.set(await source.read(at, length, signal), i * SAMPLE_BYTES);
  }
  const hash = await sha256(all);
  const hex = Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return `sampled:${source.size}:${hex}`;
}

/** The bytes of a snapshot around its payload, for which `at` says where it goes. */
export function frameSnapshot(
  header: string,
  payloadBytes: number,
): { bytes: Uint8Array<ArrayBuffer>; at: number } {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(PREFIX + text.length + payloadBytes + CHECKSUM);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(MAGIC.length, text.length, true);
  view.setBigUint64(MAGIC.length + 4, BigInt(payloadBytes), true);
  bytes.set(text, PREFIX);
  return { bytes, at: PREFIX + text.length };
}

/** Writes the checksum when the payload is there. */
export async function sealSnapshot(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  const end = bytes.length - CHECKSUM;
  bytes.set(await sha256(bytes.subarray(0, end)), end);
}

/**
 * Header and payload of a snapshot that is whole. Rejects with `invalid_format` for what is none, `truncated` for a part
 * of one, `integrity_error` where a byte has changed.
 */
export async function openSnapshot(
  bytes: Uint8Array<ArrayBuffer>,
): Promise<{ header: string; payload: Uint8Array<ArrayBuffer> }> {
  if (bytes.length < MAGIC.length || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    throw new LapidaryError('invalid_format', 'these bytes are no snapshot of a session');
  }
  const cut = () => new LapidaryError('truncated', 'the snapshot has lost bytes, or has too many');
  if (bytes.length < PREFIX + CHECKSUM) throw cut();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerBytes = view.getUint32(MAGIC.length, true);
  const payloadBytes = view.getBigUint64(MAGIC.length + 4, true);
  if (
    headerBytes > MAX_HEADER ||
    BigInt(PREFIX + headerBytes + CHECKSUM) + payloadBytes !== BigInt(bytes.length)
  ) {
    throw cut();
  }
  const end = bytes.length - CHECKSUM;
  const checksum = await sha256(bytes.subarray(0, end));
  if (checksum.some((byte, i) => bytes[end + i] !== byte)) {
    throw new LapidaryError('integrity_error', 'the snapshot is damaged: its checksum is another');
  }
  const at = PREFIX + headerBytes;
  return {
    header: new TextDecoder().decode(bytes.subarray(PREFIX, at)),
    payload: bytes.subarray(at, end),
  };
}

/** @internal */
export async function saveSession(
  engine: Engine,
  handle: number,
  model: string,
  { rewind }: SaveOptions,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const begun = engine.callSyncJson<{ header: string; bytes: number }>(
    'lap_session_save',
    handle,
    JSON.stringify({ model, rewind }),
  );
  const { bytes, at } = frameSnapshot(begun.header, begun.bytes);
  for (let done = 0; done < begun.bytes;) {
    throwIfAborted(signal);
    const piece = await engine.call('lap_session_read', [handle]).done;
    if (piece.length === 0 || done + piece.length > begun.bytes) {
      throw new LapidaryError('internal_error', 'the engine saved another number of bytes');
    }
    bytes.set(piece, at + done);
    done += piece.length;
  }
  await sealSnapshot(bytes);
  return bytes;
}

/** @internal */
export async function restoreSession(
  engine: Engine,
  handle: number,
  model: string,
  snapshot: Uint8Array | Blob,
  signal: AbortSignal,
): Promise<{ tokens: number }> {
  const bytes =
    snapshot instanceof Blob
      ? new Uint8Array(await snapshot.arrayBuffer())
      : // Shared memory could change between the check and the use; digests do not take it either.
        snapshot.buffer instanceof ArrayBuffer
        ? (snapshot as Uint8Array<ArrayBuffer>)
        : snapshot.slice();
  const { header, payload } = await openSnapshot(bytes);
  throwIfAborted(signal);
  const source = engine.addSource(memorySource('the snapshot', payload), signal);
  try {
    const request = JSON.stringify({ header, model });
    return await engine.callJson('lap_session_restore', [handle, source, request], { signal });
  } finally {
    engine.removeSource(source);
  }
}
