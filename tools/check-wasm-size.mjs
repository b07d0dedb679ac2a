// The engine's size is a promise to everyone who opens a page: under 1,850,000 bytes, and under 570,000 as a
// server sends it (brotli). Run alone, it checks the shipped module:
//   node tools/check-wasm-size.mjs [file.wasm]
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants } from 'node:zlib';

const MAX_BYTES = 1_850_000;
const MAX_BROTLI_BYTES = 570_000;

/** Returns whether the module keeps both limits, and a line that says so. */
export function checkWasmSize(path) {
  const bytes = readFileSync(path);
  const packed = brotliCompressSync(bytes, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: 11,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    },
  });
  const ok = bytes.length < MAX_BYTES && packed.length < MAX_BROTLI_BYTES;
  const count = (n) => n.toLocaleString('en-US');
  const sizes = `${count(bytes.length)} bytes, ${count(packed.length)} with brotli`;
  const limits = `${count(MAX_BYTES)} and ${count(MAX_BROTLI_BYTES)}`;
  return {
    ok,
    text: ok ? sizes : `the engine is too large: ${sizes}; the limits are ${limits}`,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const shipped = new URL('../packages/lapidary/dist/lapidary.wasm', import.meta.url);
  const { ok, text } = checkWasmSize(process.argv[2] ?? fileURLToPath(shipped));
  console.log(text);
  process.exitCode = ok ? 0 : 1;
}
