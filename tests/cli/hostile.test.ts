// `serve` to those who mean it ill: each way to ask for what is nobody's to have, and what the answer is. Members of
// bodies are in tests/unit-ts/hostile-bodies.test.ts, clients that take their time in slow-clients.test.ts beside it.

import { Agent, request } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { post, raw, send } from '../support/http.ts';
import { root, startServer, type Running } from './harness.ts';

const FRIEND = 'https://friend.example';

let server: Running;
let port = 0;
beforeAll(async () => {
  const probe = fileURLToPath(new URL('heap-probe.mjs', import.meta.url));
  const node = ['--expose-gc', '--import', probe];
  ({ server, port } = await startServer(['--origin', FRIEND], { node }));
});
afterAll(async () => {
  server.kill('SIGTERM');
  const { code, stderr } = await server.ended;
  // Whatever came, nothing went wrong unseen.
  expect(stderr).not.toMatch(/Error|failure|Warning/);
  expect(code).toBe(0);
});

const CLOSE = 'Host: localhost\r\nConnection: close\r\n';
/** Every route that takes a body, and one request to each of the others. */
const POSTS = [
  ...['/v1/chat/completions', '/v1/completions', '/v1/embeddings'],
  ...['/api/chat', '/api/generate', '/api/embed', '/api/embeddings', '/api/show', '/api/pull'],
];
const GETS = [
  ...['/', '/models/nano', '/metrics', '/v1/models', '/v1/models/nano'],
  ...['/api/tags', '/api/ps', '/api/version'],
];
const ROUTES: [method: string, path: string][] = [
  ...POSTS.map((path): [string, string] => ['POST', path]),
  ['DELETE', '/api/delete'],
  ...GETS.map((path): [string, string] => ['GET', path]),
];

describe('names that lead elsewhere', () => {
  const NAMES = [
    ...['..', '../..', '../../package.json', './nano', '/etc/passwd', '//etc/passwd', '~/.profile'],
    ...['a/../../../../etc/passwd', 'nano/../nano', 'nano:../latest', 'nano:..', '..:latest'],
    ...['..\\..\\package.json', 'C:\\x', '%2e%2e%2fpackage.json', '..%c0%afx', '.hidden', 'a/.b'],
    ...['nano\0', 'nano\0.gguf', 'nano\n', 'na no', 'nano@sha256:..', 'x'.repeat(300), 'ｎano'],
    ...[
      'file:///etc/passwd',
      `${root}package.json`,
      'manifests/registry.ollama.ai/library/nano/..',
    ],
  ];
  const secret = /root:|workspaces|GGUF\0/;

  test.each([...POSTS, '/api/delete'])('%s', async (path) => {
    const method = path === '/api/delete' ? 'DELETE' : 'POST';
    const members = { messages: [{ role: 'user', content: 'x' }], prompt: 'x', input: 'x' };
    const own = path.startsWith('/v1/')
      ? Object.fromEntries(
          Object.entries(members).filter(([key]) => {
            const of = { messages: 'chat', prompt: 'v1/completions', input: 'embeddings' };
            return path.includes(of[key as keyof typeof of]);
          }),
        )
      : members;
    for (const key of path.startsWith('/api/') ? ['model', 'name'] : ['model']) {
      for (const name of NAMES) {
        const { status, body } = await post(port, path, { ...own, [key]: name }, { method });
        expect([name, status, body.toString()]).toEqual([
          name,
          400,
          expect.not.stringMatching(secret),
        ]);
      }
    }
  });

  test.each(['/models/', '/v1/models/', '/', '/assets/', '/api/'])('GET %s…', async (prefix) => {
    // As they are where that is an address, escaped, and with the dots escaped, too.
    for (const name of NAMES) {
      const escaped = encodeURIComponent(name);
      for (const path of [
        ...(/^[\x21-\x7e]+$/.test(name) ? [name] : []),
        ...[escaped, escaped.replaceAll('.', '%2E')],
      ]) {
        const answer = await raw(port, `GET ${prefix}${path} HTTP/1.1\r\n${CLOSE}\r\n`);
        // What the rules of addresses make of the dots may be something that is there.
        const { pathname } = new URL(`http://localhost${prefix}${path}`);
        const there = ['/', '/models/nano', '/v1/models/nano'].includes(pathname);
        const expected = there ? /^HTTP\/1.1 (200|404) / : /^HTTP\/1.1 40[04] /;
        expect([path, answer]).toEqual([path, expect.stringMatching(expected)]);
        expect(answer).not.toMatch(secret);
      }
    }
  });
});

test('names of other hosts, to every route', async () => {
  const [own, near] = [`localhost:${port}`, `127.0.0.1:${port}`];
  const hosts = [
    ...['evil.example', `evil.example:${port}`, `localhost.evil.example:${port}`],
    ...[`localhost:${port - 1}`, `0.0.0.0:${port}`, `[::]:${port}`, `127.0.0.2:${port}`],
    ...[`127.1:${port}`, `2130706433:${port}`, `0x7f000001:${port}`, `localhost.:${port}`],
    ...['xn--localhost', '169.254.169.254'],
  ];
  // No hosts at all: nothing looks at the request.
  const malformed = [
    ...[`${near}.evil.example`, `user@${own}`, `${own}:${port}`, `${own}/..`, '::1', ' ', '#'],
    ...[`${own}, evil.example`, `${own}\\@evil.example`, `${own}?`, `[::1`, `localhost:99999`],
  ];
  for (const [method, path] of ROUTES) {
    for (const host of [...hosts, ...malformed]) {
      const { status, body } = await send(port, path, { method, headers: { host } });
      const expected = hosts.includes(host) ? 403 : 400;
      expect([method, path, host, status]).toEqual([method, path, host, expected]);
      expect(body.length).toBeLessThan(250);
    }
  }
  for (const [lines, status] of [
    ['', 400],
    ['Host: localhost\r\nHost: evil.example\r\n', 403],
    ['Host: localhost\r\n', 200],
  ] as const) {
    const answer = await raw(
      port,
      `GET /api/version HTTP/1.1\r\n${lines}Connection: close\r\n\r\n`,
    );
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  }
  expect(await raw(port, 'GET /api/version HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1.1 400 /);
  // Where the line names a host of its own, the header counts.
  const absolute = `GET http://localhost:${port}/api/version HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n`;
  expect(await raw(port, absolute)).toMatch(/^HTTP\/1.1 403 /);
});

test('pages of other origins, to every route', async () => {
  const origins = [
    ...[
      'https://evil.example',
      'null',
      '',
      'file://',
      'http://localhost',
      `http://localhost:${port - 1}`,
    ],
    ...[
      `https://localhost:${port}`,
      `http://127.0.0.1:${port}.evil.example`,
      `${FRIEND}.evil.example`,
    ],
    ...[`${FRIEND}:8443`, `${FRIEND}/`, 'http://friend.example', `${FRIEND}, https://evil.example`],
    ...['*', 'https://friend.examplé', 'chrome-extension://abcdef'],
  ];
  for (const [method, path] of ROUTES) {
    for (const each of origins) {
      const origin = Buffer.from(each).toString('latin1');
      const asked = { origin, 'access-control-request-method': method };
      for (const how of [method, 'OPTIONS']) {
        const { status, headers } = await send(port, path, { method: how, headers: asked });
        expect([how, path, each, status]).toEqual([how, path, each, 403]);
        expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual(
          [],
        );
      }
    }
  }
});

describe('bodies that are none', () => {
  const json = 'application/json';
  const many = Array.from({ length: 200_000 }, (_, i) => `"${i}":0`).join();
  const deep = (open: string, close: string, depth: number) =>
    open.repeat(depth) + close.repeat(depth);
  const BODIES: Record<
    string,
    { body: string | Buffer; type?: string; more?: object; status?: number }
  > = {
    'none at all': { body: '' },
    'half of one': { body: '{"model":' },
    'no object': { body: 'null' },
    'a list': { body: '[]' },
    'a text': { body: '"model"' },
    'a number': { body: '1e999' },
    'two objects': { body: '{}{}' },
    'a zero byte': { body: '{"model":"nano"}\0' },
    'single quotes': { body: "{'model':'nano'}" },
    'UTF-16': { body: Buffer.from('{"model":"nano"}', 'utf16le') },
    'said to be UTF-16': { body: Buffer.from('{}', 'utf16le'), type: `${json}; charset=utf-16` },
    'no UTF-8': { body: Buffer.from('{"model":"\xff\xfe"}', 'latin1') },
    'an overlong dot': { body: Buffer.from('{"model":"\xc0\xae"}', 'latin1') },
    'half a pair': { body: '{"model":"\\ud800"}' },
    'lists, a million deep, not ended': { body: '['.repeat(1e6) },
    'lists, a million deep': { body: deep('[', ']', 1e6) },
    'objects, 100,000 deep': { body: deep('{"a":', '}', 1e5).replace('}', '0}') },
    'a member that is deep': { body: `{"model":${deep('[', ']', 1e6)}}` },
    'many members': { body: `{${many}}` },
    'members that are no members': {
      body: '{"__proto__":{"model":"nano"},"constructor":{"prototype":{}}}',
    },
    'another type': { body: '{}', type: 'text/plain', status: 415 },
    'a form': { body: 'model=nano', type: 'application/x-www-form-urlencoded', status: 415 },
    parts: { body: '--x', type: 'multipart/form-data; boundary=x', status: 415 },
    'nearly the type': { body: '{}', type: 'application/jsonp', status: 415 },
    packed: { body: '{}', more: { 'content-encoding': 'gzip' }, status: 415 },
    'too large': { body: ' '.repeat((20 << 20) + 1), status: 413 },
    'said to be far too large': {
      body: '',
      more: { 'content-length': '99999999999' },
      status: 413,
    },
  };

  test.each(Object.entries(BODIES))('%s', async (_, { body, type = json, more, status = 400 }) => {
    for (const path of [...POSTS, '/api/delete']) {
      const method = path === '/api/delete' ? 'DELETE' : 'POST';
      const headers = { 'content-type': type, ...more };
      const answer =
        more && 'content-length' in more
          ? await raw(
              port,
              `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nContent-Length: 99999999999\r\n\r\n`,
            )
          : await send(port, path, { method, headers, body });
      if (typeof answer === 'string') {
        expect(answer, path).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
        continue;
      }
      expect([path, answer.status]).toEqual([path, status]);
      expect(JSON.parse(answer.body.toString())).toHaveProperty('error');
    }
  });
});

test.each([
  ['garbage', '\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03', 400],
  ['no version', 'GET /\r\n\r\n', 400],
  [
    'two lengths',
    'POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}',
    400,
  ],
  [
    'a length and chunks',
    'POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    400,
  ],
  [
    'a negative length',
    'POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n',
    400,
  ],
  [
    'chunks that are none',
    'POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    400,
  ],
  ['a header in a header', 'GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rSet-Cookie: b\r\n\r\n', 400],
  ['long headers', `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ['a long address', `GET /${'x'.repeat(20_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 431],
  ['a tunnel', 'CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n', 0],
  ['TRACE', 'TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 405],
  [
    'a method of its own',
    'PROPFIND / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
    405,
  ],
])('no HTTP: %s', async (_, text, status) => {
  const answer = await raw(port, text);
  // No answer: the connection is closed.
  expect(answer).toMatch(status === 0 ? /^$/ : new RegExp(`^HTTP/1.1 ${status} `));
});

test('ranges in every form', async () => {
  const head = await send(port, '/models/nano', { method: 'HEAD' });
  const size = Number(head.headers['content-length']);
  const cases: [range: string, answer: string | number][] = [
    ['bytes=0-0', `bytes 0-0/${size}`],
    ['BYTES=1-2', `bytes 1-2/${size}`],
    [`bytes=${size - 1}-`, `bytes ${size - 1}-${size - 1}/${size}`],
    ['bytes=-1', `bytes ${size - 1}-${size - 1}/${size}`],
    [`bytes=4-${'9'.repeat(400)}`, `bytes 4-${size - 1}/${size}`],
    [`bytes=-${'9'.repeat(400)}`, `bytes 0-${size - 1}/${size}`],
    ['bytes=0018-0019', `bytes 18-19/${size}`],
    [`bytes=${'9'.repeat(400)}-`, 416],
    [`bytes=${size}-${size}`, 416],
    ...[
      'bytes=',
      'bytes=-',
      'bytes=--1',
      'bytes=5-3',
      'bytes=-0',
      'bytes=a-b',
      'bytes=1e1-2e1',
    ].map((range): [string, number] => [range, 416]),
    ...[
      'bytes=0x0-0x5',
      'bytes=0.5-2',
      'bytes=+1-2',
      'bytes=1 -2',
      'bytes=NaN-',
      'bytes=1-2-3',
    ].map((range): [string, number] => [range, 416]),
    [`bytes=${Array(500).fill('0-1').join()}`, 416],
    ['bytes=0-1,', 416],
    ['bytes', 200],
    ['=0-1', 200],
    ['seconds=0-1', 200],
    ['bytes 0-1', 200],
  ];
  for (const [range, answer] of cases) {
    const { status, headers } = await send(port, '/models/nano', {
      method: 'HEAD',
      headers: { range },
    });
    const wanted =
      answer === 416 ? [416, `bytes */${size}`] : answer === 200 ? [200, undefined] : [206, answer];
    expect([range, status, headers['content-range']]).toEqual([range, ...wanted]);
  }
  // On what has no ranges they change nothing.
  for (const path of ['/', '/api/tags', '/v1/models', '/metrics']) {
    for (const range of ['bytes=0-0', 'bytes=5-3', 'bytes=-0']) {
      expect((await send(port, path, { headers: { range } })).status, path).toBe(200);
    }
  }
});

/** Bytes that the server holds after a garbage collection: its heap, and what is outside of it. */
async function held(): Promise<number> {
  const before = server.printed().length;
  server.kill('SIGUSR2');
  await server.until(/heap \d+ \d+\n/, before);
  return Number(/heap (\d+)/.exec(server.printed().slice(before))![1]);
}

test('10,000 requests, 32 at a time: no error, and no growth in memory', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 32 });
  const show = { method: 'POST', path: '/api/show', body: '{"model":"nano"}' };
  const part = { method: 'GET', path: '/models/nano', range: 'bytes=1000-4999' };
  const get = (path: string) => ({ method: 'GET', path });
  const light = GETS.filter((path) => path !== '/models/nano').map(get);
  // Of forty, two get a range and one reads a file's header.
  const all: { method: string; path: string; body?: string; range?: string }[] = [
    ...[light, light, light, light, light].flat(),
    ...[{ method: 'HEAD', path: '/models/nano' }, get('/'), part, part, show],
  ];
  expect(all).toHaveLength(40);
  const once = ({ method, path, body, range }: (typeof all)[number]) =>
    new Promise<number>((resolve, reject) => {
      const headers = {
        ...(body && { 'content-type': 'application/json' }),
        ...(range && { range }),
      };
      const sent = request(
        { host: '127.0.0.1', port, agent, method, path, headers },
        (response) => {
          response.on('error', reject).resume();
          response.on('end', () => resolve(response.statusCode ?? 0));
        },
      );
      sent.on('error', reject).end(body);
    });
  const run = async (count: number) => {
    const statuses = new Map<number, number>();
    let left = count;
    const worker = async () => {
      while (left-- > 0) {
        const status = await once(all[left % all.length]!);
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: 32 }, worker));
    return Object.fromEntries(statuses);
  };
  try {
    const each = { 200: 4750, 206: 250 };
    // The first half makes what stays: compiled code, counters.
    expect(await run(5000)).toEqual(each);
    const before = await held();
    expect(await run(5000)).toEqual(each);
    // A tenth of a kilobyte a request would be seen.
    expect((await held()) - before).toBeLessThan(512 << 10);
  } finally {
    agent.destroy();
  }
});
