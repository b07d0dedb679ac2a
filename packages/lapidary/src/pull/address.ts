// Which addresses a pull may ask, and with what.

import { isIP } from 'node:net';
import { LapidaryError } from '../errors.js';

/** Whether only this machine reaches what listens at `host`: a name, an address, or that of a URL ("[::1]"). */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[(.*)\]$/, '$1');
  return bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'));
}

export interface RegistryAddress {
  /** Where the model's name says that it is, or `registry` in its place. */
  name: string;
  host: string;
  registry?: string | URL | undefined;
  /** Plain http to a registry on another machine: to any, or to those that are named, "host:port". */
  insecure?: boolean | string[] | undefined;
}

function parseUrl(text: string | URL): URL {
  try {
    return new URL(text);
  } catch (cause) {
    const shown = String(text).slice(0, 200);
    throw new LapidaryError('invalid_argument', `'${shown}' is no address of a registry`, {
      cause,
    });
  }
}

/**
 * The origin of a registry. `invalid_argument` for what is none, and for plain http to another machine unless that is
 * allowed: whoever is on the line could send something else, or nothing.
 */
export function registryUrl({ name, host, registry, insecure }: RegistryAddress): URL {
  const scheme = /^(https?):\/\//i.exec(name)?.[1]?.toLowerCase();
  const named = parseUrl(`https://${host}`);
  // Port 80 goes unsaid in an address, not always in a name.
  const plainHost = (text: string) => parseUrl(`http://${text}`).host;
  const isAllowed = ({ host, hostname }: URL) =>
    isLoopback(hostname) ||
    (Array.isArray(insecure)
      ? insecure.some((each) => plainHost(each) === plainHost(host))
      : insecure === true);
  const plain = isAllowed(named);
  const url = parseUrl(registry ?? `${scheme ?? (plain ? 'http' : 'https')}://${host}`);
  const { protocol, pathname, search, hash, username, password } = url;
  if (!/^https?:$/.test(protocol) || pathname !== '/' || search || hash || username || password) {
    throw new LapidaryError(
      'invalid_argument',
      `'${String(registry ?? host).slice(0, 200)}' is no address of a registry: https://its.name, with a port or none`,
    );
  }
  if (protocol === 'http:' && !isAllowed(url)) {
    throw new LapidaryError(
      'invalid_argument',
      `${url.origin} is asked in plain http only if that is allowed (--insecure, insecure: true)`,
    );
  }
  return url;
}

/**
 * Where a registry sends who asks it. https to anywhere; plain http from this machine to this machine, and to the
 * registry's own host where it is asked in plain http itself. `integrity_error` for all else.
 */
export function checkTarget(registry: URL, target: string, from: URL): URL {
  let url: URL | undefined;
  try {
    url = new URL(target, from);
  } catch {
    // Refused below.
  }
  const plain =
    url?.protocol === 'http:' &&
    registry.protocol === 'http:' &&
    (url.hostname === registry.hostname ||
      (isLoopback(url.hostname) && isLoopback(registry.hostname)));
  if (!url || (url.protocol !== 'https:' && !plain) || url.username || url.password) {
    throw new LapidaryError(
      'integrity_error',
      `${registry.host} sends elsewhere, to an address that is not followed: '${target.slice(0, 200)}'`,
    );
  }
  return url;
}
