// The server's routes in this process, over a model that the test brings, and requests as no client would make them.

import { request, type IncomingHttpHeaders, type Server } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
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

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export interface Sent {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Uint8Array;
}

/** One request to 127.0.0.1, and all of its answer. */
export function send(port: number, path: string, { method, headers, body }: Sent = {}) {
  // Node sends no length with the body of a DELETE.
  const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
  const options = { host: '127.0.0.1', port, path, headers: { ...length, ...headers } };
  return new Promise<Answer>((resolve, reject) => {
    const sent = request({ ...options, method: method ?? 'GET' }, (response) => {
      const parts: Buffer[] = [];
      response.on('error', reject).on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => {
        const status = response.statusCode ?? 0;
        resolve({ status, headers: response.headers, body: Buffer.concat(parts) });
      });
    });
    sent.on('error', reject).end(body);
  });
}

/** A POST of JSON. */
export const post = (port: number, path: string, body: unknown, more: Sent = {}) =>
  send(port, path, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...more,
    headers: { 'content-type': 'application/json', ...more.headers },
  });

/** A connection that has sent `text` and reads nothing until it is told to. */
export async function connected(port: number, text: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1').pause();
  socket.on('error', () => {}); // being cut off is what is waited for
  await new Promise((resolve) => socket.once('connect', resolve));
  if (text) socket.write(text, 'latin1');
  return socket;
}

/** The answer to bytes as they are: clients tidy up what they send. */
export function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(text, 'latin1'));
    let answer = '';
    socket.setEncoding('latin1').on('data', (part: string) => (answer += part));
    socket.on('close', () => resolve(answer)).on('error', reject);
  });
}
