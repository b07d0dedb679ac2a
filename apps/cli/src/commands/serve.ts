// `serve`: the page and the models of this machine, for a browser on this machine.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LapidaryError, OllamaStore } from 'lapidary/node';
import sirv from 'sirv';
import { EXIT } from '../exit.js';
import { refuse, sendFile } from '../send-file.js';
import { storeOptions, type StoreFlags } from '../stores.js';

export interface ServeFlags extends StoreFlags {
  port: number;
}

const PAGE = fileURLToPath(new URL('../../../web/dist', import.meta.url));
/** Only this machine reaches it. */
const HOST = '127.0.0.1';
const BLOB = /^sha256-[0-9a-f]{64}$/;

type Handler = (request: IncomingMessage, response: ServerResponse, next: () => void) => void;

/** The file of the weights of a model's name. Names and digests are checked by the store; no path comes from a request. */
async function weightsOf(store: OllamaStore, name: string): Promise<string | undefined> {
  try {
    const path = await store.weights(name);
    return BLOB.test(basename(path)) ? path : undefined;
  } catch (error) {
    if (error instanceof LapidaryError) return undefined;
    throw error;
  }
}

/** The page at /, and the weights of each model that `list` shows at /models/NAME, with byte ranges. */
function answer(store: OllamaStore): Handler {
  // Looks at the files at each request: the page may be built anew meanwhile.
  const page = sirv(PAGE, { dev: true, etag: true });
  const models = async (request: IncomingMessage, response: ServerResponse, next: () => void) => {
    let name: string;
    try {
      name = decodeURIComponent((request.url ?? '').slice('/models/'.length).split('?')[0]!);
    } catch {
      return refuse(response, 400, 'this address is malformed');
    }
    const path = await weightsOf(store, name);
    if (!path) return next();
    await sendFile(path, request, response, {
      'content-type': 'application/octet-stream',
      etag: `"${basename(path)}"`,
      // Gigabytes that lie on this disk already.
      'cache-control': 'no-store',
    });
  };
  return (request, response, next) => {
    if (!request.url?.startsWith('/models/')) {
      // The page's files are small, and sirv fails on some ranges.
      delete request.headers.range;
      return page(request, response, next);
    }
    models(request, response, next).catch(() => {
      // A reader that went away, or a file that cannot be read.
      if (response.headersSent) response.destroy();
      else refuse(response, 500, 'this file cannot be read');
    });
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
  // Port 80 goes unsaid.
  hosts = new Set(['localhost', HOST].flatMap((host) => [host, `${host}:${port}`]));
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
