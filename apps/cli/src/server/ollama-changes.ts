// Ollama's interface where it changes the store: /api/pull and /api/delete.

import type { Hono } from 'hono';
import {
  LapidaryError,
  isLoopback,
  pullModel,
  removeModel,
  type PullOptions,
  type PullProgress,
} from 'lapidary/node';
import { Fields, LIMITS } from 'lapidary/openai';
import {
  HttpError,
  bodyOf,
  readJson,
  requireName,
  sendLines,
  type Ctx,
  type Env,
} from './answer.js';
import type { Services } from './app.js';
import { isForeign } from './guard.js';

/** What clients may do to the store. */
export interface Changes {
  /** Folders that change, in Ollama's layout: models are pulled to the first, deleted from the first that has them. */
  stores: string[];
  /** Registries that may be asked in plain http where a request wants that, "host:port". */
  insecure: string[];
  /** Whether those of this machine may be asked. */
  loopback: boolean;
}

type Line = Record<string, unknown>;

/** Pulls at a time. Those of one model share a download, but each holds its place. */
const MAX_PULLS = 8;

/** Throws unless this request may change the store. */
function check(c: Ctx, { changes }: Services): Changes {
  if (isForeign(c)) {
    const how = 'pages of other sites may not pull or delete models';
    throw new HttpError(403, how, 'origin_not_allowed');
  }
  if (changes) return changes;
  const how = 'this server neither pulls nor deletes models: it was not started with --pull';
  throw new HttpError(403, how, 'changes_not_allowed');
}

/** Throws for a registry that only who is on this machine may have asked. */
function checkHost(host: string, { loopback, insecure }: Changes): void {
  const own = isLoopback(host.replace(/:\d*$/, ''));
  if (!own || loopback || insecure.includes(host)) return;
  const how = `${host} is asked only if it is named by --insecure-registry`;
  throw new HttpError(403, how, 'registry_not_allowed');
}

async function readAsked(c: Ctx) {
  const fields = Fields.of(await readJson(c));
  const name = fields.string('model', LIMITS.name) ?? fields.string('name', LIMITS.name);
  return { name: requireName(name, 'model'), fields };
}

/** Progress in Ollama's words. */
function lineOf({ phase, layer, loaded, total, retry, waiting }: PullProgress): Line {
  if (phase === 'verify') return { status: 'verifying sha256 digest' };
  if (phase === 'write') return { status: 'writing manifest' };
  const more = { ...(retry && { retry }), ...(waiting && { waiting }) };
  if (!layer) return { status: 'pulling manifest', ...more };
  const { digest } = layer;
  return {
    ...{ status: `pulling ${digest.slice(7, 19)}`, digest, total, completed: loaded },
    ...more,
  };
}

/**
 * A pull's progress as it comes; a reader that is slow gets the latest. Ends with "success", or throws as the pull does.
 * Leaving the loop stops the pull.
 */
async function* progressOf(name: string, options: PullOptions): AsyncGenerator<Line, void, void> {
  const controller = new AbortController();
  const signal = AbortSignal.any([controller.signal, ...(options.signal ? [options.signal] : [])]);
  let latest: Line[] = [];
  let wake = () => {};
  const add = (line: Line) => {
    // Lines about the same thing stand for each other.
    if (latest.at(-1)?.status === line.status) latest.pop();
    latest.push(line);
    wake();
  };
  let ended = false;
  const pulling = pullModel(name, {
    ...options,
    signal,
    onProgress: (progress) => add(lineOf(progress)),
  }).finally(() => {
    ended = true;
    wake();
  });
  // It is told below, or nobody is there any more to hear it.
  pulling.catch(() => {});
  let last: unknown;
  try {
    for (;;) {
      const waited = new Promise<void>((resolve) => (wake = resolve));
      const lines = latest;
      latest = [];
      for (const line of lines) {
        if (line.status === 'verifying sha256 digest' && last === line.status) continue;
        last = line.status;
        yield line;
      }
      if (ended && latest.length === 0) break;
      if (latest.length === 0) await waited;
    }
    await pulling;
    yield { status: 'success' };
  } finally {
    controller.abort();
  }
}

export function addOllamaChanges(app: Hono<Env>, services: Services): void {
  const { keeper, log, stopping, store } = services;
  let pulls = 0;

  async function* pull(name: string, options: PullOptions): AsyncGenerator<Line, void, void> {
    if (pulls >= MAX_PULLS) {
      throw new LapidaryError('busy', `${MAX_PULLS} models are being pulled; ask again later`);
    }
    pulls++;
    try {
      yield* progressOf(name, options);
      log('pulled', { model: name });
    } finally {
      pulls--;
    }
  }

  app.post('/api/pull', async (c) => {
    const changes = check(c, services);
    const { name, fields } = await readAsked(c);
    checkHost(store.parseName(name).host, changes);
    const stream = fields.boolean('stream') ?? true;
    const insecure = fields.boolean('insecure') ? changes.insecure : [];
    const signal = AbortSignal.any([c.req.raw.signal, stopping]);
    const lines = pull(name, { store: changes.stores[0], insecure, signal });
    if (stream) {
      const text = async function* () {
        for await (const line of lines) yield `${JSON.stringify(line)}\n`;
      };
      return sendLines(
        ...([c, 'application/x-ndjson', text()] as const),
        (error) => `${bodyOf('/api/', error).body}\n`,
      );
    }
    let last: Line = {};
    for await (const line of lines) last = line;
    return c.json(last);
  });

  app.delete('/api/delete', async (c) => {
    const { stores } = check(c, services);
    const { name } = await readAsked(c);
    const found = await store.resolve(name).catch(() => undefined);
    if (found && stores.includes(found.store) && !(await keeper.evict(found.name))) {
      throw new HttpError(409, `${found.name} is in use; ask again when its replies have ended`);
    }
    const removed = await removeModel(name, { stores });
    log('deleted', { model: removed.name });
    return c.body(null, 200);
  });
}
