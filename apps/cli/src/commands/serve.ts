// `serve`: the page and the models of this machine, for a browser on this machine.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { existsSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LapidaryError, OllamaStore } from 'lapidary/node';
import sirv from 'sirv';
import { EXIT } from '../exit.js';
import { storeOptions, type StoreFlags } from '../stores.js';

export interface ServeFlags extends StoreFlags {
  port: number;
}

const PAGE = fileURLToPath(new URL('../../../web/dist', import.meta.url));
/** Only this machine reaches it. */
const HOST = '127.0.0.1';
const BLOB = /^sha256-[0-9a-f]{64}$/;

type Handler = (request: IncomingMessage, response: ServerResponse, next: () => void) => void;

function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

/**
 * Where the weights of a model's name lie: the folder of its blobs and the blob's file name. Names and digests are
 * checked by the store; no path comes from a request.
 */
async function weightsOf(
  store: OllamaStore,
  name: string,
): Promise<{ folder: string; blob: string } | undefined> {
  try {
    const { layers } = await store.resolve(name);
    const path = layers.find(({ kind }) => kind === 'model')?.path;
    if (!path || !BLOB.test(basename(path))) return undefined;
    return { folder: dirname(path), blob: basename(path) };
  } catch (error) {
    if (error instanceof LapidaryError) return undefined;
    throw error;
  }
}

/** The page at /, and the weights of each model that `list` shows at /models/NAME, with byte ranges. */
function answer(store: OllamaStore): Handler {
  const page = sirv(PAGE, { etag: true });
  const folders = new Map<string, Handler>();
  const models = async (request: IncomingMessage, response: ServerResponse, next: () => void) => {
    const name = decodeURIComponent((request.url ?? '').slice('/models/'.length).split('?')[0]!);
    const weights = await weightsOf(store, name);
    if (!weights) return next();
    let folder = folders.get(weights.folder);
    if (!folder) {
      // Looks at the file at each request: blobs come and go.
      folder = sirv(weights.folder, { dev: true, etag: true });
      folders.set(weights.folder, folder);
    }
    request.url = `/${weights.blob}`;
    folder(request, response, next);
  };
  return (request, response, next) => {
    if (!request.url?.startsWith('/models/')) return page(request, response, next);
    models(request, response, next).catch(() => refuse(response, 400, 'this address is malformed'));
  };
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        error.code === 'EADDRINUSE'
          ? new LapidaryError(
              'port_in_use',
              `port ${port} is in use by another program: stop it, or name another with --port`,
              { cause: error },
            )
          : new LapidaryError('io_error', `port ${port}: ${error.message}`, { cause: error }),
      );
    });
    server.listen(port, HOST, resolve);
  });
}

export async function serve(flags: ServeFlags): Promise<number> {
  if (!existsSync(`${PAGE}/index.html`)) {
    throw new LapidaryError('not_found', "the page is not built: run 'npm run build'");
  }
  const store = await OllamaStore.open(storeOptions(flags));
  const handle = answer(store);
  let hosts = new Set<string>();
  const server = createServer((request, response) => {
    // Another site's page can make a browser ask here under that site's name; its own name gives it away.
    if (!hosts.has(request.headers.host ?? '')) {
      return refuse(response, 403, 'this server answers to localhost only');
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      return refuse(response, 405, 'only GET and HEAD are answered');
    }
    handle(request, response, () => refuse(response, 404, 'there is nothing here'));
  });
  await listen(server, flags.port);
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : flags.port;
  hosts = new Set([`localhost:${port}`, `${HOST}:${port}`]);
  process.stdout.write(`http://localhost:${port}/\n`);
  process.stderr.write('Open this address in a browser with WebGPU. Ctrl-C stops the server.\n');
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeAllConnections();
  await closed;
  return EXIT.ok;
}
