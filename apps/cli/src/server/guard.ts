// Who may ask: the host that a request names, the page that it comes from, the token that it bears.

import { createHash, timingSafeEqual } from 'node:crypto';
import { hostname, networkInterfaces } from 'node:os';
import { isIPv6 } from 'node:net';
import type { MiddlewareHandler } from 'hono';
import { HttpError, refusal, type Ctx, type Env } from './answer.js';

export interface GuardOptions {
  /** Every value that a Host header may have. */
  hosts: () => ReadonlySet<string>;
  /** Pages of other servers that may ask, "https://example.org". */
  origins: ReadonlySet<string>;
  token: string | undefined;
}

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

const bracketed = (host: string) => (isIPv6(host) ? `[${host}]` : host);

/** What a Host header may say to a server that listens at `host`: exact names, with and without the port. */
export function allowedHosts(host: string, port: number, more: string[]): Set<string> {
  const everywhere = host === '0.0.0.0' || host === '::';
  const own = everywhere
    ? Object.values(networkInterfaces()).flatMap(
        (each) => each?.map(({ address }) => address) ?? [],
      )
    : [host];
  const names = [
    ...LOOPBACK,
    ...own.map((each) => bracketed(each.replace(/%.*$/, ''))),
    ...(everywhere ? [hostname()] : []),
    ...more,
  ].map((name) => name.toLowerCase());
  // Port 80 goes unsaid.
  return new Set(names.flatMap((name) => [name, `${name}:${port}`]));
}

/** Of equal length whatever was sent, so that comparing them takes equal time. */
const digest = (text: string) => createHash('sha256').update(text).digest();

function setCors(c: Ctx, origin: string): void {
  c.header('access-control-allow-origin', origin);
  c.header('vary', 'Origin');
}

/** What a browser asks before a page's request to another server. */
function preflight(c: Ctx): Response {
  c.header('access-control-allow-methods', 'GET, HEAD, POST');
  const wanted = c.req.header('access-control-request-headers') ?? '';
  if (/^[\w\s,-]{1,1024}$/.test(wanted)) c.header('access-control-allow-headers', wanted);
  c.header('access-control-max-age', '600');
  if (c.req.header('access-control-request-private-network') === 'true') {
    c.header('access-control-allow-private-network', 'true');
  }
  return c.body(null, 204);
}

/** The one host that a request names; empty where it names none or several. */
function hostOf(c: Ctx): string {
  const { host = [] } = c.env.incoming.headersDistinct;
  return host.length === 1 ? host[0]!.toLowerCase() : '';
}

/** Whether a page of another site asks. */
export function isForeign(c: Ctx): boolean {
  const origin = c.req.header('origin');
  return origin !== undefined && origin.toLowerCase() !== `http://${hostOf(c)}`;
}

export function guard({ hosts, origins, token }: GuardOptions): MiddlewareHandler<Env> {
  const expected = token === undefined ? undefined : digest(`Bearer ${token}`);
  return async (c, next) => {
    // Another site's page can make a browser ask here under that site's name; its own name gives it away.
    if (!hosts().has(hostOf(c))) {
      const how = 'this server does not answer to that host; it can be allowed with --allow-host';
      return refusal(c, new HttpError(403, how, 'host_not_allowed'));
    }
    const origin = c.req.header('origin');
    const foreign = origin !== undefined && isForeign(c);
    if (foreign && !origins.has(origin)) {
      const how = 'pages of other sites may not ask here; a site can be allowed with --origin';
      return refusal(c, new HttpError(403, how, 'origin_not_allowed'));
    }
    if (foreign) {
      setCors(c, origin);
      if (c.req.method === 'OPTIONS') return preflight(c);
    }
    const given = c.req.header('authorization') ?? '';
    if (expected && !timingSafeEqual(digest(given.replace(/^bearer /i, 'Bearer ')), expected)) {
      const how = "the token is wrong or missing: 'Authorization: Bearer TOKEN'";
      const headers = { 'www-authenticate': 'Bearer' };
      return refusal(c, new HttpError(401, how, 'invalid_api_key', headers));
    }
    await next();
  };
}
