// Clients that take their time: 200 of them hold up nobody, and are cut off; those that only wait, or read slowly, are
// not. The limits are shorter here than `serve` has them. And clients that go away: nothing goes on for them.

import { readdir, readlink } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { createFakeModel } from 'lapidary/testing';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startApp, type AppServer } from '../support/app-server.ts';
import { connected, post, send } from '../support/http.ts';

const SHORT = { headers: 2500, request: 3000, stall: 1000, check: 50 };
/** 12 MiB in 192 words: more than the sockets' buffers hold. */
const LONG = `${'x'.repeat((64 << 10) - 1)} `.repeat(192);

let app: AppServer;
const fake = () => createFakeModel({ delay: 1, replies: Array<string>(20).fill(LONG) });
beforeEach(async () => {
  app = await startApp(fake(), SHORT);
});
afterEach(() => app.close());

const HOST = 'Host: localhost\r\n';
const posted = (path: string, length: number) =>
  `POST ${path} HTTP/1.1\r\n${HOST}Content-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`;
const CHAT = JSON.stringify({ model: 'nano', messages: [{ role: 'user', content: 'x' }] });

/** What each kind sends at once, and what it sends a byte of now and then. */
const KINDS: Record<string, { first: string; drip?: string; count: number }> = {
  'says nothing': { first: '', count: 40 },
  'headers, byte by byte': { first: 'GET /api/tags HTTP/1.1\r\nX-A: ', drip: 'a', count: 65 },
  'a body, byte by byte': { first: posted('/api/chat', 1000), drip: ' ', count: 70 },
  'reads no weights': { first: `GET /models/nano HTTP/1.1\r\n${HOST}\r\n`, count: 20 },
  'reads no reply': { first: posted('/api/chat', CHAT.length) + CHAT, count: 5 },
};

const open = () =>
  new Promise<number>((resolve) => app.server.getConnections((_, count) => resolve(count)));

test('200 slow clients: others are answered at once, and the slow ones are cut off', async () => {
  const kinds = Object.values(KINDS);
  expect(kinds.reduce((sum, { count }) => sum + count, 0)).toBe(200);
  const sockets = await Promise.all(
    kinds.flatMap(({ first, count }) =>
      Array.from({ length: count }, () => connected(app.port, first)),
    ),
  );
  const drips = kinds.flatMap(({ drip, count }) => Array<string | undefined>(count).fill(drip));
  const dripping = setInterval(() => {
    sockets.forEach((socket, i) => drips[i] && socket.writable && socket.write(drips[i]));
  }, 100);
  await expect.poll(open, { timeout: 2400, interval: 20 }).toBe(200);

  // What all of them could begin is begun.
  await pause(300);
  const times: number[] = [];
  for (let i = 0; i < 8; i++) {
    const asked = performance.now();
    expect((await send(app.port, '/api/tags', { headers: { connection: 'close' } })).status).toBe(
      200,
    );
    times.push(performance.now() - asked);
  }
  times.sort((a, b) => a - b);
  expect(times[times.length >> 1]).toBeLessThan(300);

  await expect.poll(open, { timeout: 10_000, interval: 50 }).toBe(0);
  clearInterval(dripping);
  for (const socket of sockets) socket.destroy();
  // Whoever asks for a reply gets one, and nothing is left of theirs.
  const next = await post(app.port, '/api/chat', { ...JSON.parse(CHAT), stream: false });
  expect(next.status).toBe(200);
  const metrics = (await send(app.port, '/metrics')).body.toString();
  expect(metrics).toMatch(/^lapidary_queue_length 0$/m);
  expect(metrics).toMatch(/^lapidary_replies_running 0$/m);
  expect(app.log.filter((line) => line.startsWith('failure'))).toEqual([]);
});

test('who waits for a reply, or reads slowly but steadily, is not cut off', async () => {
  await app.close();
  const model = createFakeModel({ replies: [{ text: 'At last.', delay: 900 }] });
  app = await startApp(model, { ...SHORT, stall: 400 });
  const waiting = post(app.port, '/api/chat', { ...JSON.parse(CHAT), stream: false });

  const socket = await connected(
    app.port,
    `GET /models/nano HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`,
  );
  let read = 0;
  let ended = false;
  socket.on('end', () => (ended = true));
  const started = performance.now();
  while (!ended) {
    // What there is, up to 512 KiB, every 100 ms.
    for (let left = 512 << 10; left > 0;) {
      const part = socket.read(Math.min(left, socket.readableLength || 1)) as Buffer | null;
      if (!part) break;
      read += part.length;
      left -= part.length;
    }
    await pause(100);
    expect(performance.now() - started).toBeLessThan(20_000);
  }
  expect(performance.now() - started).toBeGreaterThan(800);
  const { headers } = await send(app.port, '/models/nano', { method: 'HEAD' });
  expect(read).toBeGreaterThan(Number(headers['content-length']));
  const { status, body } = await waiting;
  expect([status, body.toString()]).toEqual([200, expect.stringContaining('At last.')]);
});

/** Files of models that this process has open. */
async function openBlobs(): Promise<number> {
  const links = (await readdir('/proc/self/fd')).map((fd) =>
    readlink(`/proc/self/fd/${fd}`).catch(() => ''),
  );
  return (await Promise.all(links)).filter((path) => path.includes('/blobs/sha256-')).length;
}

test('who goes away while several answers are owed leaves nothing behind', async () => {
  await app.close();
  const text = 'word '.repeat(200);
  const model = createFakeModel({ delay: 50, replies: Array<string>(4).fill(text) });
  app = await startApp(model);
  const running = async () => {
    const metrics = (await send(app.port, '/metrics')).body.toString();
    const found = metrics.match(/^lapidary_(?:queue_length|replies_running) (\d+)$/gm) ?? [];
    return found.map((line) => Number(line.split(' ')[1]));
  };
  const chats = await connected(app.port, (posted('/api/chat', CHAT.length) + CHAT).repeat(4));
  await expect.poll(running, { timeout: 5000 }).toEqual([3, 1]);
  const files = await connected(app.port, `GET /models/nano HTTP/1.1\r\n${HOST}\r\n`.repeat(4));
  await expect.poll(openBlobs, { timeout: 5000 }).toBe(4);
  chats.destroy();
  files.destroy();
  // Ten seconds of reply were left, four times.
  await expect.poll(running, { timeout: 4000 }).toEqual([0, 0]);
  await expect.poll(openBlobs, { timeout: 4000 }).toBe(0);
  expect(
    app.log.filter((line) => line.startsWith('request') && line.includes('gone')),
  ).toHaveLength(8);
});
