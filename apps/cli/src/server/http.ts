// The HTTP server beneath the routes, and how long a client may take.

import { createServer, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';

/** Milliseconds. */
export interface Patience {
  /** Until a request's headers are there, from the connection's start or the request's first byte on. */
  headers: number;
  /** Until its body is there. */
  request: number;
  /** Without the client taking a byte of what waits to be sent to it. */
  stall: number;
  /** Between two looks at the first two of these. */
  check: number;
}

export const PATIENCE: Patience = { headers: 10_000, request: 60_000, stall: 60_000, check: 1000 };

type Fetch = Parameters<typeof getRequestListener>[0];

/**
 * Tells a response that its connection is closed. Node does so for the one whose turn it is; those asked for behind it
 * (pipelining) would never hear, and work on for nobody.
 */
function endWithConnection(outgoing: ServerResponse, socket: Socket): void {
  let closed = false;
  const tell = () => {
    if (closed) return;
    outgoing.destroy();
    outgoing.emit('close');
  };
  socket.setMaxListeners(0).once('close', tell);
  outgoing.once('close', () => {
    closed = true;
    socket.off('close', tell);
  });
}

/** Answers with `fetch`; closes connections whose clients take longer than `patience`. */
export function makeServer(fetch: Fetch, { headers, request, stall, check }: Patience): Server {
  // Its own Response would have the answer to HEAD, which sirv has written, written once more.
  const answer = getRequestListener(fetch, { overrideGlobalObjects: false });
  const limits = { headersTimeout: headers, requestTimeout: request };
  return createServer({ ...limits, connectionsCheckingInterval: check }, (incoming, outgoing) => {
    const { socket } = incoming;
    // A reply that is long in coming is the server's affair; one that is not taken, the client's.
    outgoing.setTimeout(stall, () => {
      if (socket.writableLength > 0) socket.destroy();
    });
    endWithConnection(outgoing, socket);
    void answer(incoming, outgoing);
  });
}
