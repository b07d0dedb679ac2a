// A registry that holds `nano`, and may be told to behave badly. It counts what it is asked for and what it sends.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const EMBEDDED = fileURLToPath(new URL('../../models', import.meta.url));
export const NANO = 'manifests/registry.ollama.ai/library/nano/latest';

export interface Asked {
  path: string;
  range: string | undefined;
  authorization: string | undefined;
  status: number;
  /** Bytes of the body that were sent. */
  sent: number;
}

export interface Blob {
  digest: string;
  bytes: Buffer;
  /** Of this request, from the range or all. */
  first: number;
  last: number;
}

export interface Behaviour {
  /** Answers in the registry's place; false lets it answer itself. */
  before?: (request: IncomingMessage, response: ServerResponse) => boolean;
  /** The same for blobs. */
  blob?: (blob: Blob, response: ServerResponse, asked: Asked) => boolean;
  /** Ranges are ignored. */
  noRange?: boolean;
  /** Bytes of a piece, and milliseconds between two of them. */
  pace?: { bytes: number; ms: number };
  manifest?: string | Buffer;
}

export const digestOf = (bytes: string | Buffer) =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export interface TestRegistry {
  port: number;
  /** "http://127.0.0.1:PORT" */
  url: string;
  asked: Asked[];
  behaviour: Behaviour;
  /** Blobs beside those of nano, by digest. */
  blobs: Map<string, Buffer>;
  /** Bytes of blobs that were sent. */
  sent: () => number;
  close: () => Promise<void>;
}

const MANIFEST = readFileSync(join(EMBEDDED, NANO));

/** Nano's manifest with other members. */
export const manifestWith = (more: object) =>
  JSON.stringify({ ...(JSON.parse(MANIFEST.toString()) as object), ...more });

export interface ListedLayer {
  mediaType: string;
  digest: string;
  size: number;
}
export const nanoLayers = () =>
  (JSON.parse(MANIFEST.toString()) as { layers: ListedLayer[] }).layers;
export const WEIGHTS = nanoLayers()[0]!;

function find(blobs: Map<string, Buffer>, digest: string): Buffer | undefined {
  const known = blobs.get(digest);
  if (known) return known;
  if (!/^sha256:[0-9a-f]{64}$/.test(digest)) return undefined;
  try {
    const bytes = readFileSync(join(EMBEDDED, 'blobs', digest.replace(':', '-')));
    blobs.set(digest, bytes);
    return bytes;
  } catch {
    return undefined;
  }
}

export async function startRegistry(behaviour: Behaviour = {}): Promise<TestRegistry> {
  const asked: Asked[] = [];
  const blobs = new Map<string, Buffer>();

  const sendBlob = async (blob: Blob, response: ServerResponse, entry: Asked) => {
    const { bytes: piece, ms } = registry.behaviour.pace ?? { bytes: 256 << 10, ms: 0 };
    for (let at = blob.first; at <= blob.last && !response.destroyed; at += piece) {
      const part = blob.bytes.subarray(at, Math.min(at + piece, blob.last + 1));
      await new Promise<void>((resolve) => response.write(part, () => resolve()));
      entry.sent += part.length;
      if (ms) await new Promise((resolve) => setTimeout(resolve, ms));
    }
    response.end();
  };

  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const { range, authorization } = request.headers;
    const path = request.url ?? '';
    const entry: Asked = { path, range, authorization, status: 0, sent: 0 };
    asked.push(entry);
    response.once('close', () => (entry.status = response.statusCode));
    response.on('error', () => {});
    const { before, noRange, manifest = MANIFEST, blob: onBlob } = registry.behaviour;
    if (before?.(request, response)) return;
    if (/^\/v2\/library\/\w+\/manifests\/latest$/.test(path)) {
      response.writeHead(200, { 'docker-content-digest': digestOf(manifest) }).end(manifest);
      return;
    }
    const bytes = find(blobs, /^\/(?:v2\/library\/\w+\/blobs|cdn)\/(.+)$/.exec(path)?.[1] ?? '');
    if (!bytes) {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end('{"errors":[{"code":"UNKNOWN","message":"it is\\nunknown"}]}');
      return;
    }
    const [, from, to] = (!noRange && /^bytes=(\d+)-(\d+)$/.exec(range ?? '')) || [];
    const first = Number(from ?? 0);
    const last = Math.min(Number(to ?? Infinity), bytes.length - 1);
    const digest = digestOf(bytes);
    const blob = { digest, bytes, first, last };
    if (onBlob?.(blob, response, entry)) return;
    response.writeHead(from === undefined ? 200 : 206, {
      'content-length': last - first + 1,
      ...(from !== undefined && { 'content-range': `bytes ${first}-${last}/${bytes.length}` }),
    });
    void sendBlob(blob, response, entry);
  };
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const registry: TestRegistry = {
    ...{ port, url: `http://127.0.0.1:${port}`, asked, behaviour, blobs },
    sent: () => asked.reduce((sum, { sent }) => sum + sent, 0),
    close: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  return registry;
}
