// Clients of `serve` that go away in the middle of a reply: nothing more is computed for them. The server is in this
// process, so that what the GPU is asked for can be counted.

import { Model } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startApp, type AppServer } from '../support/app-server.ts';
import { connected } from '../support/http.ts';
import { models } from '../support/fixtures.ts';

let model: Model;
let app: AppServer;
/** What the GPU had been asked for when the reply was told to stop. */
let stopped: { submits: number; at: number } | undefined;
beforeAll(async () => {
  model = await Model.load('nano', { stores: [models], contextLength: 512 });
  const chat = model.chat.bind(model);
  model.chat = (messages, options) => {
    options?.signal?.addEventListener('abort', () => {
      stopped = { submits: model.counters.submits, at: performance.now() };
    });
    return chat(messages, options);
  };
  app = await startApp(model);
});
afterAll(() => app?.close());

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test.each([
  ['/v1/chat/completions', { temperature: 0 }],
  ['/api/chat', { options: { temperature: 0 } }],
])('%s: decoding stops within one token', async (path, options) => {
  for (const after of [1, 3, 6]) {
    stopped = undefined;
    const messages = [{ role: 'user', content: 'Tell me a story.' }];
    const body = JSON.stringify({ model: 'nano', messages, stream: true, ...options });
    const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    const socket = await connected(
      app.port,
      `${head}Content-Length: ${body.length}\r\n\r\n${body}`,
    );
    let lines = 0;
    let gone = 0;
    await new Promise<void>((resolve, reject) => {
      socket.on('end', () => reject(new Error(`it ended after ${lines}`)));
      socket.on('data', (part: Buffer) => {
        lines += part.toString().split('"content":').length - 1;
        if (lines <= after || gone) return;
        gone = performance.now();
        socket.destroy();
        resolve();
      });
      socket.resume();
    });
    await expect.poll(() => stopped, { timeout: 5000, interval: 5 }).toBeDefined();
    const { submits, at } = stopped!;
    // It hears of it at once.
    expect(at - gone).toBeLessThan(1000);
    await pause(150);
    // One submission is a token.
    expect(model.counters.submits - submits).toBeLessThanOrEqual(1);
    expect(lines).toBeLessThan(after + 20);
  }
});
