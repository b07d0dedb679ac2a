// `serve`: what a browser on this machine gets, and what nobody gets.

import { request } from 'node:http';
import { OllamaStore } from 'lapidary/node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { raw as rawTo, send } from '../support/http.ts';
import { lapidary, root, startServer, type Running } from './harness.ts';

let server: Running;
let port = 0;

beforeAll(async () => {
  ({ server, port } = await startServer([]));
});
afterAll(() => server.kill('SIGKILL'));

const get = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
  send(port, path, { headers, method });

/** A request as raw bytes: clients tidy paths up. */
const raw = (line: string, host = `localhost:${port}`) =>
  rawTo(port, `${line} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);

test('serves the page', async () => {
  const { status, body, headers } = await get('/');
  expect(status).toBe(200);
  expect(body.toString()).toContain('<html');
  expect(headers['access-control-allow-origin']).toBeUndefined();
});

test('serves the weights of a model by its name, with ranges', async () => {
  const store = await OllamaStore.open({ stores: [`${root}models`], env: {} });
  const { layers } = await store.resolve('nano');
  const size = layers.find(({ kind }) => kind === 'model')?.size ?? 0;
  const head = await get('/models/nano', {}, 'HEAD');
  expect([head.status, Number(head.headers['content-length'])]).toEqual([200, size]);
  const part = await get('/models/nano:latest', { range: 'bytes=0-3' });
  expect([part.status, part.body.toString()]).toEqual([206, 'GGUF']);
  expect(part.headers['content-range']).toBe(`bytes 0-3/${size}`);
  const whole = await get('/models/nano');
  expect([whole.status, whole.body.length]).toEqual([200, size]);
  expect(whole.headers['accept-ranges']).toBe('bytes');

  for (const [range, first, last] of [
    ['bytes=0-0', 0, 0],
    ['bytes=-5', size - 5, size - 1],
    [`bytes=-${size + 1}`, 0, size - 1],
    [`bytes=${size - 2}-`, size - 2, size - 1],
    [`bytes=4-${size + 9}`, 4, size - 1],
  ] as const) {
    const { status, headers, body } = await get('/models/nano', { range });
    expect([range, status, headers['content-range']]).toEqual([
      range,
      206,
      `bytes ${first}-${last}/${size}`,
    ]);
    expect(body.equals(whole.body.subarray(first, last + 1)), range).toBe(true);
  }
  for (const range of [`bytes=${size}-`, 'bytes=5-3', 'bytes=-0', 'bytes=-', 'bytes=0-1,3-4']) {
    const { status, headers } = await get('/models/nano', { range });
    expect([range, status, headers['content-range']]).toEqual([range, 416, `bytes */${size}`]);
  }
  const ignored = async (headers: Record<string, string>) =>
    expect((await get('/models/nano', headers, 'HEAD')).status).toBe(200);
  await ignored({ range: 'items=0-3' });
  await ignored({ range: 'bytes=0-3', 'if-range': '"another file"' });
});

test('a reader that goes away, or a range that sirv fails on, does not end it', async () => {
  await new Promise<void>((resolve) => {
    const sent = request({ host: '127.0.0.1', port, path: '/models/nano' }, (response) => {
      response.once('data', () => response.destroy()).on('close', resolve);
    });
    sent.on('error', () => {}).end();
  });
  expect((await get('/', { range: 'bytes=5-3' })).status).toBe(200);
});

test.each([
  '/models/nothing-like-it',
  '/models/../../package.json',
  '/models/%2e%2e%2f%2e%2e%2fpackage.json',
  '/../package.json',
  '/..%2f..%2fpackage.json',
  '/models/',
])('has nothing at %s', async (path) => {
  expect(await raw(`GET ${path}`)).toMatch(/^HTTP\/1.1 404 /);
});

test('refuses a malformed address, other methods and other hosts', async () => {
  expect(await raw('GET /models/%ff')).toMatch(/^HTTP\/1.1 400 /);
  expect((await get('/', {}, 'POST')).status).toBe(405);
  expect(await raw('GET /', 'evil.example')).toMatch(/^HTTP\/1.1 403 /);
  expect(await raw('GET /models/nano', `evil.example:${port}`)).toMatch(/^HTTP\/1.1 403 /);
  expect(await raw('GET /', `localhost:${port - 1}`)).toMatch(/^HTTP\/1.1 403 /);
  expect(await raw('GET /', '127.0.0.1')).toMatch(/^HTTP\/1.1 200 /);
});

test('a port in use is said, and its owner goes on', async () => {
  const { code, stdout, stderr } = await lapidary(['serve', '--port', String(port)]);
  expect(stderr).toMatch(
    new RegExp(`^error: port ${port} is in use .*--port \\(port_in_use\\)\n$`),
  );
  expect([code, stdout]).toEqual([1, '']);
  expect((await get('/')).status).toBe(200);
});

test.each([
  ['--port', '70000'],
  ['--host', '0.0.0.0'],
  ['--host', '127.0.0.1.evil.example'],
  ['--token', 'guessable'],
  ['--origin', '*'],
  ['--origin', 'https://site.example/path'],
  ['--log', 'xml'],
  ['--parallel', '0'],
])('%s %s is wrong usage', async (...flags) => {
  expect((await lapidary(['serve', '--port', '0', ...flags])).code).toBe(2);
});

test('Ctrl-C ends it well', async () => {
  expect((await get('/', {}, 'HEAD')).status).toBe(200);
  server.kill('SIGINT');
  const { code, stderr } = await server.ended;
  expect(code).toBe(0);
  // Nothing went wrong unseen.
  expect(stderr).not.toMatch(/Error|failure/);
});
