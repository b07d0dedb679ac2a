// The peer: wllama (llama.cpp compiled to WebAssembly, with its WebGPU backend) in the same browser, on the same file.
import { measured } from './dist/src/stats.js';

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
    const result = await page.evaluate(inPage, options);
    for (const entry of [...result.prefill, ...result.decode]) {
      if (!entry.skipped) entry.tokensPerSecond = measured(entry.tokensPerSecond);
    }
    return result;
  } catch (error) {
    return { name: 'wllama', skipped: String(error?.message ?? error).split('\n')[0] };
  } finally {
    await page.close();
  }
}

/** Runs in the page; `tokensPerSecond` holds each repetition's. */
async function inPage({ contexts, prefills, repeats, decodeTokens, seconds }) {
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
  const first = await run(words(sample), 8);
  tokensPerWord = first.prompt_n / sample;
  // It may fall back to the CPU, where a long prompt takes minutes: what would outlast the limit is not begun.
  let prefillMs = first.prompt_per_token_ms;
  let decodeMs = first.predicted_per_token_ms;
  const deadline = loadStarted + 1000 * seconds;
  const expected = (prompt, tokens) => prompt * prefillMs + tokens * decodeMs;
  /** Runs once to warm up and `repeats` times, as far as there is time; speedOf gives what counts of a run. */
  const repeat = async (wanted, tokens, speedOf) => {
    const speeds = [];
    let promptTokens = wanted;
    for (let i = -1; i < repeats; i++) {
      const needed = expected(wanted, tokens);
      if (performance.now() + needed > deadline) {
        if (speeds.length > 0) break;
        return {
          promptTokens,
          skipped: `would take ${Math.ceil(needed / 1000)} s each time, past the limit of ${seconds} s in all`,
        };
      }
      const timings = await run(prompt(wanted), tokens);
      promptTokens = timings.prompt_n;
      prefillMs = timings.prompt_per_token_ms;
      if (tokens > 1) decodeMs = timings.predicted_per_token_ms;
      if (i >= 0) speeds.push(speedOf(timings));
    }
    return { promptTokens, tokensPerSecond: speeds };
  };
  const result = { name: 'wllama', version: '', loadMs, prefill: [], decode: [] };
  result.version = Wllama.getLibllamaVersion?.() ?? 'unknown';
  result.f16 = adapter?.features.has('shader-f16') ?? false;
  for (const length of prefills) {
    const speed = ({ prompt_n, prompt_ms }) => (prompt_n * 1000) / prompt_ms;
    result.prefill.push(await repeat(length, 1, speed));
  }
  for (const length of contexts) {
    const speed = ({ predicted_n, predicted_ms }) => ((predicted_n - 1) * 1000) / predicted_ms;
    const { promptTokens: context, ...rest } = await repeat(length, decodeTokens, speed);
    result.decode.push({ context, tokens: decodeTokens, ...rest });
  }
  // What it says about the device it chose.
  result.log = log.filter((line) => /webgpu|offload|adapter/i.test(line)).slice(0, 12);
  await wllama.exit();
  return result;
}
