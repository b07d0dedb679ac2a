// Fine-tuning data as plain bytes: every kind of input, gzip or not, bounded, and with errors of our own.

import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { BlobSource, plainBytes, type DataInput, type DataOptions } from 'lapidary/node';
import { expect, test, vi } from 'vitest';

// Digits that do not shrink much, so that gzip's end is far from its beginning.
const TEXT =
  `{"text": "Grüße 🚀 ${randomBytes(100).toString('hex')}"}\n`.repeat(3) +
  randomBytes(30_000).toString('hex');
const PLAIN = new TextEncoder().encode(TEXT);
const GZIP = new Uint8Array(gzipSync(PLAIN));
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

async function read(input: DataInput, options?: DataOptions): Promise<string> {
  const decoder = new TextDecoder();
  let text = '';
  for await (const chunk of plainBytes(input, options))
    text += decoder.decode(chunk, { stream: true });
  return text + decoder.decode();
}

/** Pieces of `size` bytes, and what became of the stream. */
function stream(bytes: Uint8Array, size: number) {
  const state = { given: 0, cancelled: false };
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (state.given >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(state.given, (state.given += size)));
    },
    cancel: () => void (state.cancelled = true),
  });
  return { body, state };
}

test('every kind of input, plain and gzip', async () => {
  for (const bytes of [PLAIN, GZIP]) {
    expect(await read(bytes)).toBe(TEXT);
    expect(await read(new Blob([bytes]))).toBe(TEXT);
    expect(await read(new BlobSource(new Blob([bytes])))).toBe(TEXT);
    for (const size of [7, 100_000]) expect(await read(stream(bytes, size).body)).toBe(TEXT);
  }
  expect(await read(stream(new Uint8Array(gzipSync('x')), 1).body)).toBe('x');
  for (const bytes of ['', 'x', '\u001f']) {
    expect(await read(new TextEncoder().encode(bytes))).toBe(bytes);
  }
});

test('no more than was agreed, however small the gzip is', async () => {
  const bomb = new Uint8Array(gzipSync(new Uint8Array(128 << 20)));
  expect(bomb.length).toBeLessThan(200_000);
  const { body, state } = stream(bomb, 1000);
  await expect(read(body, { maxBytes: 1 << 20 })).rejects.toEqual(code('unsupported'));
  await vi.waitFor(() => expect(state.cancelled).toBe(true));
  expect(state.given).toBeLessThan(bomb.length / 2);
  await expect(read(PLAIN, { maxBytes: PLAIN.length - 1 })).rejects.toEqual(code('unsupported'));
  expect(await read(GZIP, { maxBytes: PLAIN.length })).toBe(TEXT);
});

test('damage, errors of the source, and aborting', async () => {
  await expect(read(GZIP.slice(0, -9))).rejects.toEqual(code('invalid_format'));
  const broken = GZIP.slice();
  broken[broken.length - 6] = (broken[broken.length - 6] ?? 0) ^ 0xff;
  await expect(read(broken)).rejects.toEqual(code('invalid_format'));
  for (const bytes of [PLAIN, GZIP]) {
    const failing = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          if (controller.desiredSize === 1) controller.enqueue(bytes.slice(0, 50));
          else controller.error(new Error('the disk is gone'));
        },
      },
      { highWaterMark: 2 },
    );
    await expect(read(failing)).rejects.toThrow('the disk is gone');
    await expect(read(bytes, { signal: AbortSignal.abort() })).rejects.toEqual(code('cancelled'));
    const abort = new AbortController();
    const { body, state } = stream(bytes, 100);
    await expect(async () => {
      for await (const chunk of plainBytes(body, { signal: abort.signal })) {
        expect(chunk.length).toBeGreaterThan(0);
        abort.abort();
      }
    }).rejects.toEqual(code('cancelled'));
    await vi.waitFor(() => expect(state.cancelled).toBe(true));
  }
});

test('leaving early ends the stream', async () => {
  for (const bytes of [PLAIN, GZIP]) {
    const { body, state } = stream(bytes, 20);
    for await (const chunk of plainBytes(body)) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    await vi.waitFor(() => expect(state.cancelled).toBe(true));
  }
});
