// Requests as no client would make them.

import { request, type IncomingHttpHeaders } from 'node:http';
import { connect, type Socket } from 'node:net';

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
  const whole = body !== undefined && headers?.['transfer-encoding'] === undefined;
  const length = whole ? { 'content-length': String(Buffer.byteLength(body)) } : {};
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
