// A static server of a folder and some files elsewhere, with range requests; pages under /peer/ are cross-origin
// isolated, so that they may have threads.
import { existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { sendFile } from '../apps/cli/dist/send-file.js';
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
    const type = TYPES[extname(file)] ?? 'application/octet-stream';
    sendFile(file, request, response, { 'content-type': type, ...isolated }).catch((error) => {
      // Browsers leave what they have seen enough of.
      if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE') {
        process.stderr.write(`${file}: ${error.message}\n`);
      }
      response.destroy();
    });
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
