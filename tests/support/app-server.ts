// The server's routes in this process, over a model that the test brings.

import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { OllamaStore, type Model } from 'lapidary/node';
import { makeApp } from '../../apps/cli/src/server/app.ts';
import { allowedHosts } from '../../apps/cli/src/server/guard.ts';
import { PATIENCE, makeServer, type Patience } from '../../apps/cli/src/server/http.ts';
import { ModelKeeper } from '../../apps/cli/src/server/keeper.ts';
import { Metrics } from '../../apps/cli/src/server/metrics.ts';
import { models } from './fixtures.ts';

export interface AppServer {
  port: number;
  server: Server;
  /** Each line of the log, "event {…}". */
  log: string[];
  close(): Promise<void>;
}

/** Serves the repository's store on loopback; whatever model is asked for is `model`, which is closed at the end. */
export async function startApp(model: Model, patience: Partial<Patience> = {}): Promise<AppServer> {
  const log: string[] = [];
  const say = (event: string, more: object = {}) =>
    void log.push(`${event} ${JSON.stringify(more)}`);
  const store = await OllamaStore.open({ stores: [models], env: {} });
  const keeper = new ModelKeeper(
    () => Promise.resolve(model),
    Infinity,
    () => {},
  );
  const stopping = new AbortController();
  const services = { store, keeper, metrics: new Metrics(), log: say, changes: undefined };
  let port = 0;
  const hosts = () => allowedHosts('127.0.0.1', port, []);
  const guard = { hosts, origins: new Set<string>(), token: undefined };
  const app = makeApp({ ...services, stopping: stopping.signal }, guard);
  const server = makeServer(app.fetch, { ...PATIENCE, ...patience });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ({ port } = server.address() as AddressInfo);
  const close = async () => {
    stopping.abort();
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
    await keeper.close();
    await model.close();
  };
  return { port, server, log, close };
}
