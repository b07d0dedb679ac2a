// A static server of a folder and some files elsewhere, with range requests; pages under /peer/ are cross-origin
// isolated, so that they may have threads.
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { PEER_HTML } from './peer.mjs';

const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
};
const ISOLATED = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
};

/** files: paths on disk by the paths they are served under, beside those of `folder`. */
export async function serve({ folder, files }) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    const isolated = path.startsWith('/peer/') ? ISOLATED : {};
    if (path === '/peer/') {
      response.writeHead(200, { 'content-type': 'text/html', ...isolated });
      response.end(PEER_HTML);
      return;
    }
    const file = files[path] ?? join(folder, normalize(path));
    if (!existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404);
      response.end();
      return;
    }
    const { size } = statSync(file);
    const headers = {
      'content-type': TYPES[extname(file)] ?? 'application/octet-stream',
      'accept-ranges': 'bytes',
      ...isolated,
    };
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    const start = first === undefined ? 0 : Number(first);
    const end = last ? Math.min(Number(last), size - 1) : size - 1;
    if (start > end) {
      response.writeHead(416, { 'content-range': `bytes */${size}` });
      response.end();
      return;
    }
    const part = first === undefined ? {} : { 'content-range': `bytes ${start}-${end}/${size}` };
    response.writeHead(first === undefined ? 200 : 206, {
      ...headers,
      ...part,
      'content-length': end - start + 1,
    });
    if (request.method === 'HEAD') response.end();
    else {
      const stream = createReadStream(file, { start, end, highWaterMark: 1 << 20 });
      response.on('close', () => stream.destroy());
      stream.on('error', () => response.destroy()).pipe(response);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://localhost:${server.address().port}/`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(resolve);
      }),
  };
}
