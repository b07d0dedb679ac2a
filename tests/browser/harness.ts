// A static server with range requests for the built page, and Debian's Chromium on its software GPU.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { OllamaStore } from 'lapidary/node';
import { chromium, type Browser } from 'playwright-core';
import sirv from 'sirv';
import { afterAll, beforeAll } from 'vitest';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Site {
  /** "http://localhost:PORT/" */
  url: string;
  /** The Range headers of requests for the model. */
  ranges: string[];
  close(): Promise<void>;
}

/** The file of the embedded model's weights. */
export async function nanoPath(): Promise<string> {
  const store = await OllamaStore.open({
    stores: [`${root}models`],
    env: { HOME: '/nonexistent' },
  });
  return store.weights('nano');
}

/** Serves apps/web/dist, with nano's weights as /models/nano, the package as /lapidary/ and this folder as /tests/. */
export async function serve(): Promise<Site> {
  const blob = (await nanoPath()).split('/').at(-1);
  const page = sirv(`${root}apps/web/dist`);
  const models = sirv(`${root}models`);
  const library = sirv(`${root}packages/lapidary/dist`, { dev: true });
  const tests = sirv(`${root}tests/browser`, { dev: true });
  const ranges: string[] = [];
  const missing = (response: ServerResponse) => {
    response.statusCode = 404;
    response.end();
  };
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? '/';
    if (path === '/models/nano') {
      ranges.push(request.headers.range ?? 'whole');
      request.url = `/blobs/${blob}`;
      models(request, response, () => missing(response));
    } else if (path.startsWith('/lapidary/')) {
      request.url = path.slice('/lapidary'.length);
      library(request, response, () => missing(response));
    } else if (path.startsWith('/tests/')) {
      request.url = path.slice('/tests'.length);
      tests(request, response, () => missing(response));
    } else page(request, response, () => missing(response));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://localhost:${port}/`,
    ranges,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** Of Debian's Chromium. */
export const launchOptions = {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
};

export const launch = (args: string[] = []): Promise<Browser> =>
  chromium.launch({ ...launchOptions, args: [...launchOptions.args, ...args] });

/** A site and a browser for all tests of the file that calls it; there once the first of them runs. */
export function siteAndBrowser(args: string[] = []): { site: Site; browser: Browser } {
  const both = {} as { site: Site; browser: Browser };
  beforeAll(async () => {
    both.site = await serve();
    both.browser = await launch(args);
  });
  afterAll(async () => {
    await both.browser?.close();
    await both.site?.close();
  });
  return both;
}
