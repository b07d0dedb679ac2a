// `serve`: the page and the models of this machine, and OpenAI's and Ollama's interfaces to them.

import type { Server } from 'node:http';
import { LapidaryError, Model, OllamaStore, isLoopback, type KvType } from 'lapidary/node';
import { EXIT, UsageError } from '../exit.js';
import { makeApp } from '../server/app.js';
import { allowedHosts } from '../server/guard.js';
import { PATIENCE, makeServer } from '../server/http.js';
import { ModelKeeper, type LoadModel } from '../server/keeper.js';
import { makeLog, type Log, type LogFormat } from '../server/log.js';
import { Metrics } from '../server/metrics.js';
import type { Changes } from '../server/ollama-changes.js';
import { parseKeepAlive } from '../server/ollama-request.js';
import { checkPage } from '../server/page.js';
import { storeOptions, writableStores, type StoreFlags } from '../stores.js';
import { streamingLine } from '../loading.js';

export interface ServeFlags extends StoreFlags {
  host: string;
  port: number;
  token?: string;
  origin?: string[];
  allowHost?: string[];
  keepAlive?: string;
  context?: number;
  kvType?: KvType;
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  /** False: no drafter, also where one is beside a model. */
  drafter?: boolean;
  gpuMemory?: number;
  /** Replies at once. */
  parallel: number;
  /** Absent: where only this machine can ask. */
  pull?: boolean;
  insecureRegistry?: string[];
  log: LogFormat;
}

/** As Ollama. */
const KEEP_ALIVE_MS = 5 * 60_000;
/** A shorter one can be guessed. */
const MIN_TOKEN = 16;
/** How long streams have to say that they end. */
const GRACE_MS = 2000;
const SWEEP_MS = 20;

function listen(server: Server, { host, port }: ServeFlags): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        error.code === 'EADDRINUSE'
          ? new LapidaryError(
              'port_in_use',
              `port ${port} is in use by another program: stop it, or name another with --port`,
              { cause: error },
            )
          : new LapidaryError('io_error', `port ${port}: ${error.message}`, { cause: error }),
      );
    });
    server.listen(port, host, resolve);
  });
}

/** The token that requests must bear, from the command line or, where others cannot see it, the environment. */
function tokenOf({ host, token = process.env.LAPIDARY_TOKEN }: ServeFlags): string | undefined {
  if (token && token.length < MIN_TOKEN) {
    throw new UsageError(`a token has at least ${MIN_TOKEN} characters`);
  }
  if (!token && !isLoopback(host)) {
    throw new UsageError(
      `whoever reaches ${host} could use this server: give it a --token, or leave --host away`,
    );
  }
  return token || undefined;
}

function originsOf({ origin = [] }: ServeFlags): Set<string> {
  for (const each of origin) {
    if (each !== 'null' && !/^[a-z][a-z0-9+.-]*:\/\/[^/?#\s*]+$/i.test(each)) {
      throw new UsageError(`'${each}' is no origin: https://example.org, without a path`);
    }
  }
  return new Set(origin);
}

/** What clients may do to the store: whoever is not on this machine, nothing, unless it is said. */
function changesOf(flags: ServeFlags): Changes | undefined {
  const local = isLoopback(flags.host);
  if (!(flags.pull ?? local)) return undefined;
  const { insecureRegistry: insecure = [] } = flags;
  return { stores: writableStores(flags), insecure, loopback: local };
}

function loader(flags: ServeFlags, log: Log): LoadModel {
  return async (name, contextLength = flags.context, signal) => {
    const model = await Model.load(name, {
      ...storeOptions(flags),
      signal,
      sessions: flags.parallel,
      recover: true,
      ...(contextLength !== undefined && { contextLength }),
      ...(flags.kvType && { kvType: flags.kvType }),
      ...(flags.perLayerEmbeddings && { perLayerEmbeddings: flags.perLayerEmbeddings }),
      ...(flags.drafter === false && { drafter: false }),
      ...(flags.gpuMemory !== undefined && { gpuMemory: flags.gpuMemory }),
      onLog: (level, text) => {
        if (level === 'warning' || level === 'error') log(level, { text });
      },
    });
    const line = streamingLine(model.info);
    if (line) log('streamed', { model: name, text: line });
    return model;
  };
}

/** Resolves with the first of the signals that end programs. */
const interrupted = () =>
  new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });

export async function serve(flags: ServeFlags): Promise<number> {
  const token = tokenOf(flags);
  const origins = originsOf(flags);
  const keepAliveMs = parseKeepAlive(flags.keepAlive) ?? KEEP_ALIVE_MS;
  checkPage();
  const log = makeLog(flags.log, (line) => process.stderr.write(line));
  const store = await OllamaStore.open(storeOptions(flags));
  const keeper = new ModelKeeper(loader(flags, log), keepAliveMs, (event, model, ms) =>
    log(event, { model, ms: Math.round(ms) }),
  );
  const stopping = new AbortController();
  const changes = changesOf(flags);
  const metrics = new Metrics();
  const services = { store, keeper, metrics, log, changes, stopping: stopping.signal };
  let hosts: ReadonlySet<string> = new Set();
  const app = makeApp(services, { hosts: () => hosts, origins, token });
  const server = makeServer(app.fetch, PATIENCE);
  await listen(server, flags);
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : flags.port;
  hosts = allowedHosts(flags.host, port, flags.allowHost ?? []);
  const shown = isLoopback(flags.host) ? 'localhost' : flags.host;
  process.stdout.write(`http://${shown.includes(':') ? `[${shown}]` : shown}:${port}/\n`);
  process.stderr.write(
    'Open this address in a browser with WebGPU, or point a client of OpenAI (…/v1) or Ollama at it. Ctrl-C stops it.\n',
  );
  await interrupted();
  log('stopping');
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // Streams say why they end; then whoever is still there is cut off.
  stopping.abort();
  // Those whose stream has ended are idle from then on.
  const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS);
  const cut = setTimeout(() => server.closeAllConnections(), GRACE_MS);
  await closed;
  clearTimeout(cut);
  clearInterval(sweep);
  await keeper.close();
  return EXIT.ok;
}
