// OpenAI's interface: /v1.

import type { Hono } from 'hono';
import type { StoredModel } from 'lapidary/node';
import { Fields, LIMITS, createOpenAI, type ModelEntry } from 'lapidary/openai';
import { bodyOf, readJson, requireName, sendLines, type Ctx, type Env } from './answer.js';
import type { Services } from './app.js';
import { ServedModel, findStored, findWanted } from './served.js';

const entryOf = ({ name, modified }: Pick<StoredModel, 'name' | 'modified'>): ModelEntry => ({
  id: name,
  object: 'model',
  created: Math.floor(modified.getTime() / 1000),
  owned_by: 'library',
});

/** What one request asks for, and the model that it names. */
async function asked(c: Ctx, { store, keeper, metrics, stopping }: Services) {
  const body = await readJson(c);
  const name = requireName(Fields.of(body).string('model', LIMITS.name), 'model');
  const signal = AbortSignal.any([c.req.raw.signal, stopping]);
  const wanted = await findWanted(store, name);
  const openai = createOpenAI(new ServedModel(keeper, metrics, wanted, { signal }));
  return { body, openai, signal };
}

async function* events(chunks: AsyncIterable<unknown>): AsyncGenerator<string, void, void> {
  for await (const chunk of chunks) yield `data: ${JSON.stringify(chunk)}\n\n`;
  yield 'data: [DONE]\n\n';
}

/** The whole as JSON, chunks as server-sent events. */
async function answer(c: Ctx, result: object): Promise<Response> {
  if (!(Symbol.asyncIterator in result)) return c.json(result);
  const failed = (error: unknown) => `data: ${bodyOf(c.req.path, error).body}\n\n`;
  return sendLines(c, 'text/event-stream', events(result as AsyncIterable<unknown>), failed);
}

export function addOpenAI(app: Hono<Env>, services: Services): void {
  app.get('/v1/models', async (c) => {
    const { models } = await services.store.list();
    const data = models.filter(({ problem }) => problem === undefined).map(entryOf);
    return c.json({ object: 'list', data });
  });
  app.get('/v1/models/:id{.+}', async (c) => {
    const { name } = await findWanted(services.store, c.req.param('id'));
    const found = await findStored(services.store, name);
    return c.json(entryOf(found ?? { name, modified: new Date(0) }));
  });
  app.post('/v1/chat/completions', async (c) => {
    const { body, openai, signal } = await asked(c, services);
    // The shape checks every member itself: what comes is anybody's.
    return answer(c, await openai.chat.completions.create(body as never, { signal }));
  });
  app.post('/v1/completions', async (c) => {
    const { body, openai, signal } = await asked(c, services);
    return answer(c, await openai.completions.create(body as never, { signal }));
  });
  app.post('/v1/embeddings', async (c) => {
    const { body, openai, signal } = await asked(c, services);
    return c.json(await openai.embeddings.create(body as never, { signal }));
  });
}
