// Ollama's /api/embed, and /api/embeddings, which came before it.

import type { Hono } from 'hono';
import type { EmbedOptions } from 'lapidary/node';
import { Fields, LIMITS } from 'lapidary/openai';
import { readJson, requireName, type Ctx, type Env } from './answer.js';
import type { Services } from './app.js';
import { nanoseconds, parseKeepAlive, readOptions } from './ollama-request.js';
import { ServedModel, findWanted } from './served.js';

interface AskedEmbed {
  name: string;
  inputs: string[];
  options: EmbedOptions;
  contextLength: number | undefined;
  keepAliveMs: number | undefined;
}

/** Empty texts are left out, as Ollama does. */
function readInputs(fields: Fields, key: string): string[] {
  const value = fields.get(key);
  const list = typeof value === 'string' ? [value] : (fields.list(key, LIMITS.embeddings) ?? []);
  const good = (each: unknown): each is string => typeof each === 'string';
  if (!list.every(good)) throw fields.invalid(key, 'a text or a list of texts');
  if (list.reduce((sum, { length }) => sum + length, 0) > LIMITS.text) {
    throw fields.invalid(key, `shorter: a request holds ${LIMITS.text} characters`);
  }
  return list.filter((text) => text !== '');
}

function readCommon(fields: Fields) {
  const name = fields.string('model', LIMITS.name) ?? fields.string('name', LIMITS.name);
  return {
    name: requireName(name, 'model'),
    contextLength: readOptions(fields).contextLength,
    keepAliveMs: parseKeepAlive(fields.get('keep_alive')),
  };
}

/** A request to /api/embed: a text that is too long is cut, unless it says otherwise. */
export function readEmbed(value: unknown): AskedEmbed {
  const fields = Fields.of(value);
  // 0 is all of them.
  const dimensions = fields.number('dimensions', { min: 0, max: 1 << 20, whole: true }) ?? 0;
  return {
    ...readCommon(fields),
    inputs: readInputs(fields, 'input'),
    options: {
      truncate: fields.boolean('truncate') ?? true,
      ...(dimensions > 0 && { dimensions }),
    },
  };
}

/** A request to /api/embeddings: one text, and no length that all vectors have. */
export function readEmbeddings(value: unknown): AskedEmbed {
  const fields = Fields.of(value);
  const prompt = fields.string('prompt', LIMITS.text) ?? '';
  return {
    ...readCommon(fields),
    inputs: prompt === '' ? [] : [prompt],
    options: { truncate: true, normalize: false },
  };
}

async function embed(c: Ctx, { store, keeper, metrics, stopping }: Services, asked: AskedEmbed) {
  const started = performance.now();
  const signal = AbortSignal.any([c.req.raw.signal, stopping]);
  const wanted = await findWanted(store, asked.name);
  const { contextLength, keepAliveMs, inputs, options } = asked;
  const model = new ServedModel(keeper, metrics, wanted, { contextLength, keepAliveMs, signal });
  // Without a text the model is only loaded.
  const { embeddings, promptTokens, loadMs } = await model.embed(inputs, { ...options, signal });
  return {
    vectors: embeddings.map((floats) => Array.from(floats)),
    times: {
      total_duration: nanoseconds(performance.now() - started),
      load_duration: nanoseconds(loadMs),
      prompt_eval_count: promptTokens.reduce((sum, count) => sum + count, 0),
    },
  };
}

export function addOllamaEmbed(app: Hono<Env>, services: Services): void {
  app.post('/api/embed', async (c) => {
    const asked = readEmbed(await readJson(c));
    const { vectors, times } = await embed(c, services, asked);
    return c.json({ model: asked.name, embeddings: vectors, ...times });
  });
  app.post('/api/embeddings', async (c) => {
    const asked = readEmbeddings(await readJson(c));
    const { vectors } = await embed(c, services, asked);
    return c.json({ embedding: vectors[0] ?? [] });
  });
}
