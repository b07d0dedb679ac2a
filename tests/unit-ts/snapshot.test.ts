// Snapshots as bytes: whole they open, and with any byte changed, lost or added they do not. No GPU, no engine.

import { expect, test } from 'vitest';
import {
  frameSnapshot,
  modelIdentity,
  openSnapshot,
  sealSnapshot,
} from '../../packages/lapidary/src/snapshot.ts';
import { memorySource } from '../support/fixtures.ts';

const HEADER = '{"version":1,"model":"ü","tokens":3}';
async function small(): Promise<Uint8Array<ArrayBuffer>> {
  const { bytes, at } = frameSnapshot(HEADER, 96);
  bytes.set(
    Array.from({ length: 96 }, (_, i) => i),
    at,
  );
  await sealSnapshot(bytes);
  return bytes;
}
const refused = {
  code: expect.stringMatching(/^(integrity_error|invalid_format|truncated)$/) as string,
};

test('what is written is read', async () => {
  const { header, payload } = await openSnapshot(await small());
  expect(header).toBe(HEADER);
  expect(Array.from(payload)).toEqual(Array.from({ length: 96 }, (_, i) => i));
  // Also where the bytes are a part of others.
  const all = new Uint8Array(500);
  const whole = await small();
  all.set(whole, 7);
  expect((await openSnapshot(all.subarray(7, 7 + whole.length))).header).toBe(HEADER);
});

test('every change of one byte is refused', async () => {
  const whole = await small();
  for (let at = 0; at < whole.length; at++) {
    for (let change = 1; change < 256; change++) {
      const damaged = whole.slice();
      damaged[at]! ^= change;
      await expect(openSnapshot(damaged), `byte ${at} ^ ${change}`).rejects.toMatchObject(refused);
    }
  }
});

test('every part, and more than all, is refused', async () => {
  const whole = await small();
  for (let length = 0; length < whole.length; length++) {
    await expect(openSnapshot(whole.slice(0, length))).rejects.toMatchObject(refused);
  }
  const longer = new Uint8Array(whole.length + 1);
  longer.set(whole);
  await expect(openSnapshot(longer)).rejects.toMatchObject(refused);
});

test('sizes that no memory could hold are refused before anything is made of them', async () => {
  const whole = await small();
  const view = new DataView(whole.buffer);
  for (const [headerBytes, payloadBytes] of [
    [0xffffffff, 0n],
    [0, 0xffffffffffffffffn],
    [1 << 20, BigInt(Number.MAX_SAFE_INTEGER)],
  ] as const) {
    view.setUint32(8, headerBytes, true);
    view.setBigUint64(12, payloadBytes, true);
    await expect(openSnapshot(whole)).rejects.toMatchObject({ code: 'truncated' });
  }
});

test('a model is called by its digest, else by its size and pieces of it', async () => {
  const { signal } = new AbortController();
  const file = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7) % 251);
  const name = (bytes: Uint8Array, digest?: string) =>
    modelIdentity(memorySource('model', bytes), digest, signal);
  expect(await name(file, 'sha256:00')).toBe('sha256:00');
  const found = await name(file);
  expect(found).toMatch(/^sampled:300000:[0-9a-f]{64}$/);
  expect(await name(file.slice())).toBe(found);
  for (const at of [0, 4700 * 30, 299_999]) {
    const other = file.slice();
    other[at]! ^= 1;
    expect(await name(other)).not.toBe(found);
  }
  expect(await name(file.subarray(0, 100))).toMatch(/^sampled:100:/);
});
