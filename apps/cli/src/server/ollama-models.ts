// What Ollama's interface says about models: /api/tags, /api/ps, /api/show, /api/version.

import { readFile, stat } from 'node:fs/promises';
import type { Hono } from 'hono';
import {
  FileSource,
  inspect,
  type MetadataValue,
  type ModelFiles,
  type OllamaStore,
  type StoredModel,
} from 'lapidary/node';
import { Fields, LIMITS } from 'lapidary/openai';
import { readJson, requireName, type Env } from './answer.js';
import type { Services } from './app.js';
import { findStored } from './served.js';

/** The version of Ollama whose interface this is: clients look at it before they use tools or thinking. */
const OLLAMA_VERSION = '0.12.6';
/** Bytes of a licence, a template, parameters. */
const MAX_TEXT = 1 << 20;

const detailsOf = (model: StoredModel | undefined) => ({
  parent_model: '',
  format: 'gguf',
  family: model?.family ?? '',
  families: model?.family ? [model.family] : [],
  parameter_size: model?.parameters ?? '',
  quantization_level: model?.fileType ?? '',
});

async function textOf({ layers }: ModelFiles, kind: string): Promise<string> {
  const texts = layers.filter((layer) => layer.kind === kind).map(({ path }) => path);
  const read = async (path: string) => {
    try {
      return (await stat(path)).size > MAX_TEXT ? '' : await readFile(path, 'utf8');
    } catch {
      return ''; // A missing licence is no reason not to show the rest.
    }
  };
  return (await Promise.all(texts.map(read))).join('\n\n');
}

/** "temperature   1", a line for each, as in a Modelfile. */
function parameterLines(json: string): string {
  let params: unknown;
  try {
    params = JSON.parse(json || '{}');
  } catch {
    return '';
  }
  const lines = Object.entries(params as Record<string, unknown>).flatMap(([key, value]) =>
    (Array.isArray(value) ? (value as unknown[]) : [value]).map(
      (each) => `${key.padEnd(30)} ${JSON.stringify(each)}`,
    ),
  );
  return lines.join('\n');
}

/** Long lists are left out, as Ollama does. */
const shown = (value: MetadataValue) => (typeof value === 'object' ? null : value);

async function metadataOf({ layers }: ModelFiles): Promise<Record<string, unknown>> {
  const weights = layers.find(({ kind }) => kind === 'model');
  if (!weights) return {};
  const source = await FileSource.open(weights.path);
  try {
    const { metadata } = await inspect(source);
    return Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, shown(value)]));
  } finally {
    await source.close();
  }
}

async function describe(store: OllamaStore, asked: string) {
  const files = await store.resolve(asked);
  const [model, license, template, params, system, info] = await Promise.all([
    findStored(store, files.name),
    textOf(files, 'license'),
    textOf(files, 'template'),
    textOf(files, 'params'),
    textOf(files, 'system'),
    metadataOf(files),
  ]);
  const sees =
    'gemma4.vision.block_count' in info || files.layers.some(({ kind }) => kind === 'projector');
  return {
    modelfile: `FROM ${files.name}\n`,
    license,
    template,
    system,
    parameters: parameterLines(params),
    details: detailsOf(model),
    model_info: info,
    capabilities: ['completion', 'tools', 'thinking', ...(sees ? ['vision'] : [])],
    modified_at: (model?.modified ?? new Date(0)).toISOString(),
  };
}

export function addOllamaModels(app: Hono<Env>, { store, keeper }: Services): void {
  app.get('/api/version', (c) => c.json({ version: OLLAMA_VERSION }));
  app.get('/api/tags', async (c) => {
    const { models } = await store.list();
    const entries = models
      .filter(({ problem }) => problem === undefined)
      .map((model) => ({
        name: model.name,
        model: model.name,
        modified_at: model.modified.toISOString(),
        size: model.size,
        digest: model.digest,
        details: detailsOf(model),
      }));
    return c.json({ models: entries });
  });
  app.get('/api/ps', async (c) => {
    const { loaded } = keeper;
    if (!loaded) return c.json({ models: [] });
    const { wanted, model, expires } = loaded;
    const stored = await findStored(store, wanted.name);
    const { weights, kv, scratch } = model.info.gpuBytes;
    const entry = {
      name: wanted.name,
      model: wanted.name,
      size: weights + kv + scratch,
      size_vram: weights + kv + scratch,
      digest: stored?.digest ?? '',
      details: detailsOf(stored),
      // A model at work stays: as if its last reply ended now.
      expires_at: (expires ?? new Date()).toISOString(),
      context_length: model.info.contextLength,
    };
    return c.json({ models: [entry] });
  });
  app.post('/api/show', async (c) => {
    const fields = Fields.of(await readJson(c));
    const name = fields.string('model', LIMITS.name) ?? fields.string('name', LIMITS.name);
    return c.json(await describe(store, requireName(name, 'model')));
  });
}
