// The peer: wllama (llama.cpp compiled to WebAssembly, with its WebGPU backend) in the same browser, on the same file.

/** What it runs in. */
export const PEER_HTML = `<!doctype html><title>peer</title><input type="file" id="file">
<script type="module">
import { Wllama } from './wllama.js';
globalThis.Wllama = Wllama;
</script>`;

/** Prefill and decode in tokens a second, or `{skipped}` with the reason. Nobody checks what it answers. */
export async function measurePeer(browser, url, path, options) {
  const page = await browser.newPage();
  try {
    page.on('pageerror', (error) => process.stderr.write(`peer: ${error.message}\n`));
    await page.goto(`${url}peer/`);
    await page.waitForFunction(() => 'Wllama' in globalThis, null, { timeout: 30_000 });
    process.stderr.write('peer: wllama …\n');
    await page.setInputFiles('#file', path);
    return await page.evaluate(inPage, options);
  } catch (error) {
    return { name: 'wllama', skipped: String(error?.message ?? error).split('\n')[0] };
  } finally {
    await page.close();
  }
}

/** Runs in the page. */
async function inPage({ contexts, prefills, repeats, decodeTokens }) {
  const log = [];
  const keep = (...words) => log.push(words.join(' '));
  const quiet = { debug: keep, log: keep, warn: keep, error: keep };
  const { Wllama } = globalThis;
  const wllama = new Wllama(
    { default: new URL('./wllama.wasm', globalThis.location.href).href },
    { logger: quiet },
  );
  const adapter = await globalThis.navigator.gpu?.requestAdapter();
  const [file] = globalThis.document.getElementById('file').files;
  const loadStarted = performance.now();
  const longest = Math.max(...contexts.map((n) => n + decodeTokens), ...prefills);
  await wllama.loadModel([file], {
    n_gpu_layers: 999,
    n_ctx: Math.ceil((1.25 * longest + 256) / 256) * 256,
    n_batch: 2048,
    n_ubatch: 512,
    n_parallel: 1,
    flash_attn: true,
    warmup: false,
  });
  const loadMs = performance.now() - loadStarted;
  let state = 0x9e3779b9;
  const random = (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
  // It takes text alone, so the number of a prompt's tokens is nearly the one that is wanted: it is reported.
  const words = (count) =>
    Array.from({ length: count }, () =>
      String.fromCharCode(...Array.from({ length: 3 }, () => 97 + random(26))),
    ).join(' ');
  let tokensPerWord = 1;
  const prompt = (tokens) => words(Math.max(1, Math.round(tokens / tokensPerWord)));
  const run = async (text, maxTokens) => {
    const { timings } = await wllama.createCompletion({
      prompt: text,
      max_tokens: maxTokens,
      temperature: 0,
      ignore_eos: true,
      cache_prompt: false,
    });
    if (!timings) throw new Error('wllama reported no timings');
    return timings;
  };
  const sample = 64;
  tokensPerWord = (await run(words(sample), 1)).prompt_n / sample;
  const measured = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    const middle = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
    return { median: middle, min: sorted[0], max: sorted.at(-1), values };
  };
  const result = { name: 'wllama', version: '', loadMs, prefill: [], decode: [] };
  result.version = Wllama.getLibllamaVersion?.() ?? 'unknown';
  result.f16 = adapter?.features.has('shader-f16') ?? false;
  for (const promptTokens of prefills) {
    const speeds = [];
    let tokens = 0;
    for (let i = -1; i < repeats; i++) {
      const timings = await run(prompt(promptTokens), 1);
      tokens = timings.prompt_n;
      if (i >= 0) speeds.push((timings.prompt_n * 1000) / timings.prompt_ms);
    }
    result.prefill.push({ promptTokens: tokens, tokensPerSecond: measured(speeds) });
  }
  for (const context of contexts) {
    const speeds = [];
    let tokens = 0;
    for (let i = -1; i < repeats; i++) {
      const timings = await run(prompt(context), decodeTokens);
      tokens = timings.prompt_n;
      if (i >= 0) speeds.push(((timings.predicted_n - 1) * 1000) / timings.predicted_ms);
    }
    result.decode.push({
      context: tokens,
      tokens: decodeTokens,
      tokensPerSecond: measured(speeds),
    });
  }
  // What it says about the device it chose.
  result.log = log.filter((line) => /webgpu|offload|adapter/i.test(line)).slice(0, 12);
  await wllama.exit();
  return result;
}
