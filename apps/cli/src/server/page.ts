// The page at /, and the weights of each model that `list` shows at /models/NAME, with byte ranges.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { Hono } from 'hono';
import { LapidaryError, type OllamaStore } from 'lapidary/node';
import sirv from 'sirv';
import { refuse, sendFile } from '../send-file.js';
import type { Env } from './answer.js';

const PAGE = fileURLToPath(new URL('../../../web/dist', import.meta.url));
const BLOB = /^sha256-[0-9a-f]{64}$/;

/** Rejects with `not_found` where the page has not been built. */
export function checkPage(): void {
  if (!existsSync(`${PAGE}/index.html`)) {
    throw new LapidaryError('not_found', "the page is not built: run 'npm run build'");
  }
}

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

async function sendWeights(
  store: OllamaStore,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  let name: string;
  try {
    name = decodeURIComponent((request.url ?? '').slice('/models/'.length).split('?')[0]!);
  } catch {
    return refuse(response, 400, 'this address is malformed');
  }
  const path = await weightsOf(store, name);
  if (!path) return refuse(response, 404, 'there is nothing here');
  try {
    await sendFile(path, request, response, {
      'content-type': 'application/octet-stream',
      etag: `"${basename(path)}"`,
      // Gigabytes that lie on this disk already.
      'cache-control': 'no-store',
    });
  } catch {
    // A reader that went away, or a file that cannot be read.
    if (response.headersSent) response.destroy();
    else refuse(response, 500, 'this file cannot be read');
  }
}

export function addPage(app: Hono<Env>, store: OllamaStore): void {
  app.on(['GET', 'HEAD'], '/models/*', async (c) => {
    const { incoming, outgoing } = c.env;
    // What the checks before this one say is Hono's; the rest is written here.
    for (const [name, value] of c.res.headers) outgoing.setHeader(name, value);
    await sendWeights(store, incoming, outgoing);
    return RESPONSE_ALREADY_SENT;
  });
  // Looks at the files at each request: the page may be built anew meanwhile.
  const page = sirv(PAGE, { dev: true, etag: true });
  app.on(['GET', 'HEAD'], '*', (c) => {
    const incoming = c.env.incoming;
    const outgoing = c.env.outgoing;
    // The page's files are small, and sirv fails on some ranges.
    delete incoming.headers.range;
    page(incoming, outgoing, () => refuse(outgoing, 404, 'there is nothing here'));
    return RESPONSE_ALREADY_SENT;
  });
}
