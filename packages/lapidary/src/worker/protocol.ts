// How a page and a worker find each other.

import type { Port } from './peer.js';

/** What a page says to a worker to be connected; a worker of one's own may have other messages beside it. */
export const CONNECT = 'lapidary/connect';
/** What both sides must speak. */
export const PROTOCOL = 1;

export interface ConnectMessage {
  type: typeof CONNECT;
  protocol: number;
  /** The page's address, by which relative ones are meant. */
  base: string | undefined;
  port: Port;
}
