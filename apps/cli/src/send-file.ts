// A file over HTTP, or the range of it that was asked for. Needs nothing but Node.js: `serve` sends models with it, and
// the benchmark's server.

import { open } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';

/** Bytes of one read from the disk. */
const PIECE = 1 << 20;

/** Answers with an error's status and a line of text. */
export function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

/** First and last byte of the one range that a Range header names; nothing if there is no such range in the file. */
function rangeOf(header: string, size: number): [first: number, last: number] | undefined {
  const [, from = '', to = ''] = /^bytes=(\d*)-(\d*)$/i.exec(header) ?? [];
  if (from === '' && to === '') return undefined;
  const first = from === '' ? Math.max(size - Number(to), 0) : Number(from);
  const last = from === '' || to === '' ? size - 1 : Math.min(Number(to), size - 1);
  return first <= last ? [first, last] : undefined;
}

/**
 * Answers GET or HEAD with the file at `path`, or the range of it that was asked for, and 416 where there is no such
 * range. Rejects when the file cannot be read (before anything is sent, if it cannot be opened), or the reader is gone.
 * Not by sirv: it reads `bytes=0-0` as the whole file and `bytes=-5` as the first six bytes, and a range that ends before
 * it begins, or a file that cannot be read, ends the process.
 */
export async function sendFile(
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
  headers: Record<string, string>,
): Promise<void> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    response.setHeader('accept-ranges', 'bytes');
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);

    const { range: header, 'if-range': condition } = request.headers;
    const unchanged = condition === undefined || condition === headers.etag;
    // Units other than bytes are to be ignored, as is a range of a file that has changed.
    const asked = /^bytes=/i.test(header ?? '') && unchanged ? header : undefined;
    const range = asked === undefined ? undefined : rangeOf(asked, size);
    if (asked !== undefined && !range) {
      response.setHeader('content-range', `bytes */${size}`);
      return refuse(response, 416, `there is no such range: the file has ${size} bytes`);
    }
    const [first, last] = range ?? [0, size - 1];
    if (range) response.setHeader('content-range', `bytes ${first}-${last}/${size}`);
    response.writeHead(range ? 206 : 200, { 'content-length': last - first + 1 });
    if (request.method === 'HEAD' || last < first) response.end();
    else {
      const part = { start: first, end: last, autoClose: false, highWaterMark: PIECE };
      await pipeline(file.createReadStream(part), response);
    }
  } finally {
    await file.close();
  }
}
