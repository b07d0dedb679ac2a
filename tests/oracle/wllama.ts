// llama.cpp as npm package @wllama/wllama brings it, in a page of Debian's Chromium (its wasm wants memory64 and JSPI).

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chromium, type Page } from 'playwright-core';
import { root } from '../support/fixtures.ts';

export interface Completion {
  /** Tokens of the prompt, <bos> included. */
  promptTokens: number;
  tokens: number[];
  text: string;
  /** Best minus second log probability at each step. */
  margins: number[];
}

interface RawCompletion {
  __verbose: {
    content: string;
    tokens: number[];
    tokens_evaluated: number;
    generation_settings: { logit_bias: { bias: number; token: number }[] };
    completion_probabilities?: { top_logprobs: { logprob: number }[] }[];
  };
}
interface Instance {
  loadModel(files: Blob[], options: object): Promise<void>;
  createCompletion(options: object): Promise<RawCompletion>;
  createChatCompletion(options: object): Promise<RawCompletion>;
}

/** What the page holds: the class from the start, the instance once `open` is through. */
interface OraclePage {
  Wllama: new (paths: object) => Instance;
  oracle: Instance;
}
/** One turn after another, the parts of each without anything between them, as the published template has it. */
const PARTS_TEMPLATE = `{{ bos_token }}{% for message in messages %}<|turn>{{ message.role }}
{% for part in message.content %}{{ part.text }}{% endfor %}<turn|>
{% endfor %}{{ '<|turn>model\\n' }}`;
const HTML = `<!doctype html><title>oracle</title><script type="module">
import { Wllama } from '/wllama.js'; globalThis.Wllama = Wllama;</script>`;

/** Strings that one request carries, and the step between their marks. */
const STRINGS_PER_REQUEST = 250;
const MARK = 2 ** -10;

export class Wllama {
  private constructor(
    private readonly page: Page,
    readonly close: () => Promise<void>,
  ) {}

  /**
   * Loads a GGUF file, on the CPU, with K and V in f32; and a LoRA adapter that changes it, or a projector that sees and
   * hears for it.
   */
  static async open(
    gguf: Uint8Array,
    { adapter, projector }: { adapter?: Uint8Array; projector?: Uint8Array } = {},
  ): Promise<Wllama> {
    const files: Record<string, [type: string, bytes: () => Promise<Uint8Array> | Uint8Array]> = {
      '/': ['text/html', () => new TextEncoder().encode(HTML)],
      '/model.gguf': ['application/octet-stream', () => gguf],
      ...(adapter && { '/adapter.gguf': ['application/octet-stream', () => adapter] }),
      ...(projector && { '/mmproj.gguf': ['application/octet-stream', () => projector] }),
    };
    for (const [name, path, type] of [
      ['/wllama.js', 'index.js', 'text/javascript'],
      ['/wllama.wasm', 'wasm/wllama.wasm', 'application/wasm'],
    ] as const) {
      files[name] = [type, () => readFile(`${root}node_modules/@wllama/wllama/esm/${path}`)];
    }
    const server = createServer((request, response) => {
      const [type, bytes] = files[request.url ?? ''] ?? [];
      if (!type || !bytes) {
        response.statusCode = 404;
        response.end();
        return;
      }
      response.setHeader('content-type', type);
      void Promise.resolve(bytes()).then((body) => response.end(body));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      headless: true,
      args: ['--no-sandbox'],
    });
    const close = async () => {
      await browser.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    };
    try {
      const page = await browser.newPage();
      await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`);
      const names = Object.keys(files).filter((name) => name.endsWith('.gguf'));
      await page.evaluate(
        async ({ names, template }) => {
          const host = globalThis as unknown as OraclePage;
          const files = names.map(
            async (name) => new File([await (await fetch(name)).blob()], name.slice(1)),
          );
          const oracle = new host.Wllama({ default: '/wllama.wasm' });
          await oracle.loadModel(await Promise.all(files), {
            // Files are known inside by their numbers, as the parts of a model are.
            ...(names.includes('/adapter.gguf') && {
              lora_adapters: [{ path: 'models/model-00002-of-00002.gguf', scale: 1 }],
            }),
            n_gpu_layers: 0,
            n_ctx: 1024,
            ...(names.includes('/mmproj.gguf') && { jinja: true, chat_template: template }),
            n_threads: 1,
            n_parallel: 1,
            cache_type_k: 'f32',
            cache_type_v: 'f32',
            flash_attn: false,
            warmup: false,
          });
          host.oracle = oracle;
        },
        { names, template: PARTS_TEMPLATE },
      );
      return new Wllama(page, close);
    } catch (error) {
      await close();
      throw error;
    }
  }

  private complete(options: object): Promise<RawCompletion> {
    return this.page.evaluate(
      (request) => (globalThis as unknown as OraclePage).oracle.createCompletion(request),
      { temperature: 0, verbose: true, ...options },
    );
  }

  /**
   * Token ids of texts, control tokens taken as text. This build offers no call for that, but a logit bias may be
   * given to a text and then stands, token by token, in the settings that come back; a bias of its own marks each text.
   */
  async tokenize(texts: string[]): Promise<number[][]> {
    const ids: number[][] = texts.map(() => []);
    for (let from = 0; from < texts.length; from += STRINGS_PER_REQUEST) {
      const some = texts.slice(from, from + STRINGS_PER_REQUEST);
      const { __verbose } = await this.complete({
        prompt: 'Hello',
        max_tokens: 1,
        logit_bias: some.map((text, i) => [text, (i + 1) * MARK]),
      });
      for (const { bias, token } of __verbose.generation_settings.logit_bias) {
        const found = ids[from + bias / MARK - 1];
        if (!found) throw new Error(`a bias of ${bias} came back`);
        found.push(token);
      }
    }
    return ids;
  }

  /** Continues a prompt greedily; control tokens in it count as such, and <bos> is put before it. */
  async greedy(prompt: string, maxTokens: number): Promise<Completion> {
    return completion(
      await this.complete({
        prompt,
        max_tokens: maxTokens,
        logprobs: 2,
        return_tokens: true,
        cache_prompt: false,
      }),
    );
  }

  /**
   * Answers one message of a user greedily: texts and files of pictures in their order. Sound is beyond this build: to
   * read it, llama.cpp starts threads, which fails on one thread and waits for ever on two.
   */
  async answer(content: (string | Uint8Array)[], maxTokens: number): Promise<Completion> {
    const parts = content.map((part) =>
      typeof part === 'string'
        ? { type: 'text', text: part, base64: undefined }
        : { type: 'image', text: undefined, base64: Buffer.from(part).toString('base64') },
    );
    const raw = await this.page.evaluate(
      ({ parts, maxTokens }) => {
        const { oracle } = globalThis as unknown as OraclePage;
        const content = parts.map(({ type, text, base64 }) =>
          base64 === undefined
            ? { type, text }
            : { type, data: Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer },
        );
        return oracle.createChatCompletion({
          messages: [{ role: 'user', content }],
          max_tokens: maxTokens,
          temperature: 0,
          verbose: true,
          logprobs: true,
          top_logprobs: 2,
          return_tokens: true,
          cache_prompt: false,
        });
      },
      { parts, maxTokens },
    );
    return completion(raw);
  }
}

function completion({ __verbose: result }: RawCompletion): Completion {
  return {
    promptTokens: result.tokens_evaluated,
    tokens: result.tokens,
    text: result.content,
    margins: (result.completion_probabilities ?? []).map(
      ({ top_logprobs: [best, second] }) => (best?.logprob ?? 0) - (second?.logprob ?? 0),
    ),
  };
}
