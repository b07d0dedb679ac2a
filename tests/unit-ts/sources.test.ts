// Byte sources: what they deliver, what they refuse, and how they take a server that misbehaves.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  BlobSource,
  FileSource,
  HttpRangeSource,
  findGpu,
  openDevice,
  type ByteSource,
} from 'lapidary/node';
import { afterEach, expect, test, vi } from 'vitest';
import { Uploader } from '../../packages/lapidary/src/gpu/upload.ts';

const DATA = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7) & 255);
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function fileSource(): Promise<FileSource> {
  const folder = await mkdtemp(join(tmpdir(), 'lapidary-'));
  cleanups.push(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'x.gguf'), DATA);
  const source = await FileSource.open(join(folder, 'x.gguf'));
  cleanups.push(() => source.close());
  return source;
}

async function listen(handler: RequestListener): Promise<string> {
  const server: Server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/x.gguf`;
}

/** Answers ranges as it should. */
const ranges: RequestListener = (request, response) => {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const end = Math.min(Number(last), DATA.length - 1);
  response.writeHead(206, { 'Content-Range': `bytes ${first}-${end}/${DATA.length}`, ETag: '"1"' });
  response.end(DATA.subarray(Number(first), end + 1));
};

async function checkReads(source: ByteSource): Promise<void> {
  expect(source.size).toBe(DATA.length);
  const pieces: [number, number][] = [
    [0, 1000],
    [0, 1],
    [999, 1],
    [123, 456],
    [1000, 0],
  ];
  const read = await Promise.all(pieces.map(([offset, length]) => source.read(offset, length)));
  pieces.forEach(([offset, length], i) =>
    expect(read[i]).toEqual(DATA.slice(offset, offset + length)),
  );
  for (const [offset, length] of [
    [999, 2],
    [1001, 0],
    [-1, 1],
    [0, NaN],
  ] as [number, number][]) {
    await expect(source.read(offset, length)).rejects.toEqual(code('truncated'));
  }
  await expect(source.read(0, 8, AbortSignal.abort())).rejects.toEqual(code('cancelled'));
}

test('a file', async () => checkReads(await fileSource()));
test('a Blob', () => checkReads(new BlobSource(new Blob([DATA]))));
test('a web address', async () => checkReads(await HttpRangeSource.open(await listen(ranges))));

test('files that cannot be opened', async () => {
  await expect(FileSource.open('/nonexistent/x.gguf')).rejects.toEqual(code('not_found'));
  await expect(FileSource.open(tmpdir())).rejects.toEqual(code('invalid_argument'));
});

test('a file that shrinks while it is read', async () => {
  const source = await fileSource();
  await writeFile(source.name, DATA.subarray(0, 10));
  await expect(source.read(0, 100)).rejects.toEqual(code('truncated'));
});

test.each([
  ['sends whole files', 200, {}, 'unsupported', /only whole files/],
  ['has no such file', 404, {}, 'not_found', /404/],
  ['wants a password', 403, {}, 'io_error', /needs permission/],
  ['has an empty file', 416, {}, 'truncated', /empty/],
  ['hides the size', 206, {}, 'unsupported', /Content-Range/],
  [
    'does not know the size',
    206,
    { 'Content-Range': 'bytes 0-0/*' },
    'unsupported',
    /Content-Range/,
  ],
] as const)('a server that %s', async (_, status, headers, expected, message) => {
  const url = await listen((_request, response) => response.writeHead(status, headers).end('x'));
  const failure = (await HttpRangeSource.open(url).catch((error: unknown) => error)) as Error;
  expect(failure).toEqual(code(expected));
  expect(failure.message).toMatch(message);
});

test('a server that fails now and then is asked again', async () => {
  let count = 0;
  const url = await listen((request, response) => {
    switch (count++ % 4) {
      case 1:
        return response.writeHead(503).end();
      case 2:
        return request.socket.destroy();
      case 3: {
        // A body that breaks off.
        response.writeHead(206, {
          'Content-Range': `bytes 5-14/${DATA.length}`,
          'Content-Length': 10,
        });
        response.write(DATA.subarray(5, 8), () => response.destroy());
        return;
      }
      default:
        return ranges(request, response);
    }
  });
  const source = await HttpRangeSource.open(url, { backOff: 1 });
  expect(await source.read(5, 10)).toEqual(DATA.slice(5, 15));
  expect(count).toBe(5);
});

test('a server that keeps failing is given up, with its address in the message', async () => {
  let count = 0;
  const url = await listen((_request, response) => {
    count++;
    response.writeHead(500).end();
  });
  const failure = (await HttpRangeSource.open(url, { backOff: 1, tries: 3 }).catch(
    (e: unknown) => e,
  )) as Error;
  expect(failure).toEqual(code('io_error'));
  expect(failure.message).toContain(url);
  expect(count).toBe(3);
});

test('a file that changes on the server between two reads', async () => {
  let tag = '"1"';
  const url = await listen((_request, response) => {
    response
      .writeHead(206, { 'Content-Range': `bytes 0-15/${DATA.length}`, ETag: tag })
      .end(DATA.subarray(0, 16));
  });
  const source = await HttpRangeSource.open(url);
  tag = '"2"';
  await expect(source.read(0, 16)).rejects.toThrow(/changed on the server/);
});

test('a server that answers another range than it was asked for', async () => {
  const url = await listen((_request, response) => {
    response.writeHead(206, { 'Content-Range': `bytes 0-999/${DATA.length}` }).end(DATA);
  });
  await expect(HttpRangeSource.open(url)).rejects.toEqual(code('unsupported'));
});

test('aborting ends a request and the wait before the next try', async () => {
  const url = await listen((_request, response) => response.writeHead(503).end());
  const controller = new AbortController();
  const opening = HttpRangeSource.open(url, { signal: controller.signal, backOff: 60_000 });
  setTimeout(() => controller.abort(), 50);
  await expect(opening).rejects.toEqual(code('cancelled'));
});

test('a body that is longer than was promised', async () => {
  const url = await listen((request, response) => {
    if (request.headers.range === 'bytes=0-15') return ranges(request, response);
    response.writeHead(206, { 'Content-Range': `bytes 5-14/${DATA.length}` });
    response.end(DATA.subarray(5, 20));
  });
  const source = await HttpRangeSource.open(url, { tries: 2, backOff: 1 });
  const target = new Uint8Array(20);
  await expect(source.readInto(5, target.subarray(0, 10))).rejects.toThrow(
    /more than the 10 bytes/,
  );
  expect(target.subarray(10)).toEqual(new Uint8Array(10));
});

test('aborting ends a body that is under way', async () => {
  const url = await listen((request, response) => {
    if (request.headers.range === 'bytes=0-15') return ranges(request, response);
    response.writeHead(206, { 'Content-Range': `bytes 5-14/${DATA.length}` });
    response.write(DATA.subarray(5, 8));
  });
  const source = await HttpRangeSource.open(url);
  const controller = new AbortController();
  const target = new Uint8Array(10);
  const reading = source.readInto(5, target, controller.signal);
  await vi.waitFor(() => expect(target.subarray(0, 3)).toEqual(DATA.slice(5, 8)));
  controller.abort();
  await expect(reading).rejects.toEqual(code('cancelled'));
});

test('a browser whose bodies are no byte streams', async () => {
  vi.stubGlobal('fetch', (_url: string, { headers }: { headers: { Range: string } }) => {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.Range) ?? [];
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let i = Number(first); i <= Number(last); i += 10) {
          controller.enqueue(DATA.slice(i, Math.min(i + 10, Number(last) + 1)));
        }
        controller.close();
      },
    });
    const range = { 'Content-Range': `bytes ${first}-${last}/${DATA.length}` };
    return Promise.resolve(new Response(body, { status: 206, headers: range }));
  });
  cleanups.push(() => vi.unstubAllGlobals());
  const source = await HttpRangeSource.open('http://localhost/x.gguf');
  expect(await source.read(3, 55)).toEqual(DATA.slice(3, 58));
});

// Uploading reads pieces of 8 MiB side by side; here three, the last one odd.
const PIECE = 8 << 20;
const LARGE = new Uint8Array(2 * PIECE + 5).map((_, i) => (i * 31) ^ (i >> 11));
type Answer = () => void;

/** A server of LARGE whose answers to pieces wait for `decide`, which is given them in the order of the file. */
async function pieces(decide: (answers: Answer[], refusals: Answer[]) => void) {
  const held: { first: number; answer: Answer; refuse: Answer }[] = [];
  let left = 0;
  const url = await listen((request, response) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const [first, end] = [Number(from), Number(to) + 1];
    response.on('close', () => (left += response.writableFinished ? 0 : 1));
    const answer = () => {
      response.writeHead(206, { 'Content-Range': `bytes ${first}-${end - 1}/${LARGE.length}` });
      response.end(LARGE.subarray(first, end));
    };
    if (end <= 16) return answer();
    held.push({ first, answer, refuse: () => response.writeHead(403).end() });
    if (held.length < 3) return;
    const sorted = held.splice(0).sort((a, b) => a.first - b.first);
    decide(
      sorted.map((each) => each.answer),
      sorted.map((each) => each.refuse),
    );
  });
  return { source: await HttpRangeSource.open(url), left: () => left };
}

async function uploading() {
  const { device } = await openDevice(await findGpu());
  cleanups.push(() => device.destroy());
  const uploader = new Uploader(device);
  const size = LARGE.length + 3;
  const target = device.createBuffer({
    size,
    usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  });
  const upload = (source: ByteSource, signal?: AbortSignal) =>
    uploader.upload(source, 0, LARGE.length, target, 0, signal);
  const uploaded = async () => {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = device.createBuffer({ size, usage });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(target, 0, staging, 0, size);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    return Buffer.from(staging.getMappedRange().slice(0, LARGE.length));
  };
  return { upload, uploaded };
}

test('pieces are asked for at once, and land where they belong in whatever order they come', async () => {
  const { source } = await pieces((answers) =>
    answers.reverse().forEach((answer, i) => setTimeout(answer, 50 * i)),
  );
  const { upload, uploaded } = await uploading();
  await upload(source);
  expect((await uploaded()).equals(LARGE)).toBe(true);
});

test('a piece that fails ends the others, and the next upload goes well', async () => {
  let fails = true;
  const { source, left } = await pieces((answers, refusals) => {
    if (!fails) return answers.forEach((answer) => answer());
    fails = false;
    refusals[1]?.();
  });
  const { upload, uploaded } = await uploading();
  await expect(upload(source)).rejects.toThrow(/403/);
  await vi.waitFor(() => expect(left()).toBe(2));
  await upload(source);
  expect((await uploaded()).equals(LARGE)).toBe(true);
});

test('aborting ends all pieces', async () => {
  const controller = new AbortController();
  const { source, left } = await pieces(() => controller.abort());
  const { upload } = await uploading();
  await expect(upload(source, controller.signal)).rejects.toEqual(code('cancelled'));
  await vi.waitFor(() => expect(left()).toBe(3));
});

test('a connection on which nothing comes any more is given up and made anew', async () => {
  let count = 0;
  const url = await listen((request, response) => {
    if (count++ !== 1) return ranges(request, response);
    response.writeHead(206, { 'Content-Range': `bytes 5-14/${DATA.length}`, 'Content-Length': 10 });
    response.write(DATA.subarray(5, 8)); // and nothing more
  });
  const source = await HttpRangeSource.open(url, { backOff: 1, stallTimeout: 150 });
  expect(await source.read(5, 10)).toEqual(DATA.slice(5, 15));
  expect(count).toBe(3);
});

test('a server that says when to come back is not asked before', async () => {
  let count = 0;
  const url = await listen((request, response) => {
    if (count++ > 0) return ranges(request, response);
    response.writeHead(429, { 'Retry-After': '1' }).end();
  });
  const started = performance.now();
  await HttpRangeSource.open(url, { backOff: 1 });
  expect(performance.now() - started).toBeGreaterThan(950);
});
