// A web server of one file that misbehaves when told to, and counts what it sends.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Bytes that are sent at a time. */
const PIECE = 16 << 10;

export class FileServer {
  /** Bytes of bodies that were handed to the network. */
  sent = 0;
  requests: { range: string | undefined; ifRange: string | undefined }[] = [];
  etag: string | null = '"1"';
  modified: string | null = null;
  /** What it does with ranges: `whole` and `chunked` (of no stated length) send the file instead. */
  kind: 'ranges' | 'whole' | 'chunked' = 'ranges';
  /** Once it has sent so many bytes, all connections break, as often as `breaks` says. */
  breakAfter = Infinity;
  breaks = 1;
  /** Once it has sent so many bytes, it sends nothing more on the connections that there are, once. */
  stallAfter = Infinity;
  /** Called once it has sent so many bytes, once. */
  reached: { bytes: number; then: () => void } | undefined;
  /** The byte that is sent wrong, once. */
  corrupt: number | undefined;
  /** Milliseconds between two pieces. */
  pace = 0;
  private readonly server = createServer(
    (request, response) => void this.answer(request, response),
  );

  constructor(public data: Uint8Array) {}

  /** The file's address, once the server listens: on the port of before when it was closed. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(this.port, '127.0.0.1', resolve));
    this.port = (this.server.address() as AddressInfo).port;
    return `http://localhost:${this.port}/models/file.gguf`;
  }
  private port = 0;

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.server.closeAllConnections();
      this.server.close(() => resolve());
    });
  }

  /** The file on the server becomes another. */
  replace(data: Uint8Array, etag: string): void {
    this.data = data;
    this.etag = etag;
  }

  /** Counts anew. */
  reset(): void {
    this.sent = 0;
    this.requests = [];
  }

  /** Bytes of all ranges that were asked for, whether they were sent or not. */
  get asked(): number {
    let sum = 0;
    for (const { range } of this.requests) {
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
      sum += Math.min(Number(last), this.data.length - 1) - Number(first) + 1;
    }
    return sum;
  }

  /** Answers one request; for servers that have this file among others. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { range, 'if-range': ifRange } = request.headers;
    this.requests.push({ range, ifRange: ifRange as string | undefined });
    if (this.etag !== null) response.setHeader('ETag', this.etag);
    if (this.modified !== null) response.setHeader('Last-Modified', this.modified);
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Expose-Headers', 'Content-Range, ETag');
    const { data } = this;
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    const changed = ifRange !== undefined && ifRange !== this.etag && ifRange !== this.modified;
    if (from === undefined || this.kind !== 'ranges' || changed) {
      if (this.kind !== 'chunked') response.setHeader('Content-Length', data.length);
      response.writeHead(200);
      return this.send(response, 0, data.length);
    }
    const first = Number(from);
    const end = Math.min(Number(to) + 1, data.length);
    if (first >= end) {
      response.writeHead(416, { 'Content-Range': `bytes */${data.length}` }).end();
      return;
    }
    response.writeHead(206, {
      'Content-Range': `bytes ${first}-${end - 1}/${data.length}`,
      'Content-Length': end - first,
    });
    return this.send(response, first, end);
  }

  private async send(response: ServerResponse, first: number, end: number): Promise<void> {
    const { data } = this;
    for (let at = first; at < end; at += PIECE) {
      let piece = data.subarray(at, Math.min(end, at + PIECE));
      if (this.corrupt !== undefined && this.corrupt >= at && this.corrupt < at + piece.length) {
        piece = new Uint8Array(piece); // a Buffer's slice() would be a part of it
        piece[this.corrupt - at]! ^= 1;
        this.corrupt = undefined;
      }
      if (this.sent >= this.breakAfter && this.breaks > 0) {
        this.breaks--;
        this.server.closeAllConnections();
        response.destroy();
        return;
      }
      if (this.sent >= this.stallAfter) {
        this.stallAfter = Infinity;
        return; // neither ended nor broken
      }
      if (response.destroyed) return;
      await new Promise<void>((resolve) => {
        const done = () => {
          response.off('close', done);
          resolve();
        };
        response.on('close', done);
        response.write(piece, done);
      });
      if (response.destroyed) return;
      this.sent += piece.length;
      if (this.reached && this.sent >= this.reached.bytes) {
        this.reached.then();
        this.reached = undefined;
      }
      if (this.pace) await new Promise((resolve) => setTimeout(resolve, this.pace));
    }
    response.end();
  }
}
