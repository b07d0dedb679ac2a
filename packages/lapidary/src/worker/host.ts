// The worker's side: the engine and its GPU, for pages that connect.

import { LapidaryError } from '../errors.js';
import { setBase } from '../platform.js';
import { Peer } from './peer.js';
import { CONNECT, PROTOCOL, type ConnectMessage } from './protocol.js';

/** What listens for pages: a worker's global scope, or a port. */
export interface Listening {
  addEventListener(type: 'message', listener: (event: Event) => void): void;
  start?(): void;
}

const isConnect = (data: unknown): data is ConnectMessage =>
  typeof data === 'object' &&
  data !== null &&
  (data as Partial<ConnectMessage>).type === CONNECT &&
  typeof (data as Partial<ConnectMessage>).port?.postMessage === 'function';

/** Serves `api` to every page that connects. */
export function serve(scope: Listening, api: object): void {
  scope.addEventListener('message', (event) => {
    const { data } = event as MessageEvent<unknown>;
    if (!isConnect(data)) return;
    const { port, protocol, base } = data;
    const versions = {
      ready: () => {
        if (protocol === PROTOCOL) return;
        const text = `the page and its worker are of different versions of lapidary (${protocol}, ${PROTOCOL})`;
        throw new LapidaryError('unsupported', `${text}: build both anew`);
      },
    };
    if (base !== undefined) setBase(base);
    new Peer(port, { ...versions, ...api }, true);
  });
  scope.start?.();
}
