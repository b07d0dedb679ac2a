// The server's routes, and what is before and after all of them.

import { Hono } from 'hono';
import { routePath } from 'hono/route';
import type { OllamaStore } from 'lapidary/node';
import { HttpError, refusal, type Ctx, type Env } from './answer.js';
import { guard, type GuardOptions } from './guard.js';
import type { ModelKeeper } from './keeper.js';
import type { Log } from './log.js';
import type { Metrics } from './metrics.js';
import { addOllamaChanges, type Changes } from './ollama-changes.js';
import { addOllama } from './ollama-routes.js';
import { addOpenAI } from './openai-routes.js';
import { addPage } from './page.js';

export interface Services {
  store: OllamaStore;
  keeper: ModelKeeper;
  metrics: Metrics;
  log: Log;
  /** What clients may do to the store; undefined: nothing. */
  changes: Changes | undefined;
  /** Aborted when the server ends. */
  stopping: AbortSignal;
}

/** Counts a request, and says it, when its answer has ended. */
function watch(c: Ctx, { metrics, log }: Services): void {
  const started = performance.now();
  const { method, path } = c.req;
  const { outgoing } = c.env;
  outgoing.once('close', () => {
    const status = outgoing.statusCode;
    metrics.countRequest(method, routeOf(c), status);
    const ms = Math.round(performance.now() - started);
    const gone = outgoing.writableFinished ? undefined : 'client gone';
    log('request', { method, path: path.slice(0, 256), status, ms, note: gone });
  });
}

/** The route, not the path: there are only so many of those. */
function routeOf(c: Ctx): string {
  const path = routePath(c);
  return path === '*' || path === '/*' ? 'other' : path;
}

/** Refuses every other method of the paths that have routes, and what has no route under the interfaces' roofs. */
function addRefusals(app: Hono<Env>): void {
  const methods = new Map<string, Set<string>>();
  for (const { path, method } of app.routes) {
    if (method !== 'ALL') methods.set(path, (methods.get(path) ?? new Set()).add(method));
  }
  for (const [path, allowed] of methods) {
    // Hono answers HEAD where there is GET.
    if (allowed.has('GET')) allowed.add('HEAD');
    const allow = [...allowed].join(', ');
    app.all(path, (c) =>
      refusal(c, new HttpError(405, `only ${allow} is answered here`, null, { allow })),
    );
  }
  const nothing = (c: Ctx) => refusal(c, new HttpError(404, 'there is nothing here', 'not_found'));
  for (const roof of ['/v1', '/v1/*', '/api', '/api/*']) app.all(roof, nothing);
}

export function makeApp(services: Services, options: GuardOptions): Hono<Env> {
  const app = new Hono<Env>();
  app.onError((error, c) => {
    const answer = refusal(c, error);
    const gone = c.env.outgoing.destroyed || services.stopping.aborted;
    if (answer.status >= 500 && !gone) {
      services.log('failure', { path: c.req.path.slice(0, 256), message: error.message });
    }
    return answer;
  });
  app.use(async (c, next) => {
    watch(c, services);
    await next();
  });
  app.use(guard(options));
  const { keeper } = services;
  app.get('/metrics', (c) => {
    const { waiting, running, loaded } = keeper;
    const text = services.metrics.text({ waiting, running, models: loaded ? 1 : 0 });
    return c.text(text, 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
  });
  addOpenAI(app, services);
  addOllama(app, services);
  addOllamaChanges(app, services);
  addRefusals(app);
  addPage(app, services.store);
  app.all('*', (c) =>
    refusal(
      c,
      new HttpError(405, 'only GET and HEAD are answered here', null, { allow: 'GET, HEAD' }),
    ),
  );
  return app;
}
