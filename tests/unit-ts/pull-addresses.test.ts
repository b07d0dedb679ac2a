// What pulling makes of a registry's address, of those that it sends to, and of its challenges.

import { LapidaryError } from 'lapidary/node';
import { describe, expect, test } from 'vitest';
import { checkTarget, registryUrl } from '../../packages/lapidary/src/pull/address.ts';
import { parseChallenge } from '../../packages/lapidary/src/pull/registry.ts';

const code = (name: string) => expect.objectContaining({ code: name }) as Error;

describe('addresses', () => {
  const url = (name: string, host: string, more = {}) =>
    registryUrl({ name, host, ...more }).origin;
  test('of registries', () => {
    expect(url('nano', 'registry.ollama.ai')).toBe('https://registry.ollama.ai');
    expect(url('http://localhost:5000/a/b', 'localhost:5000')).toBe('http://localhost:5000');
    expect(url('localhost:5000/a/b', 'localhost:5000')).toBe('http://localhost:5000');
    expect(url('https://localhost:5000/a/b', 'localhost:5000')).toBe('https://localhost:5000');
    expect(url('lan/a/b', 'lan:5000', { insecure: true })).toBe('http://lan:5000');
    const some = { insecure: ['lan:80', 'lan:5000'] };
    expect(url('lan/a/b', 'lan', some)).toBe('http://lan');
    expect(url('lan:5000/a/b', 'lan:5000', some)).toBe('http://lan:5000');
    expect(url('lan:5001/a/b', 'lan:5001', some)).toBe('https://lan:5001');
    expect(url('nano', 'x', { registry: 'http://[::1]:5000' })).toBe('http://[::1]:5000');
    for (const [name, more] of [
      ['http://lan/a/b', {}],
      ['nano', { registry: 'http://192.0.2.1' }],
      ['nano', { registry: 'http://localhost.evil.example' }],
      ['nano', { registry: 'ftp://localhost' }],
      ['nano', { registry: 'https://a/path' }],
      ['nano', { registry: 'https://user:password@a' }],
      ['nano', { registry: 'nonsense' }],
    ] as const) {
      expect(() => url(name, 'lan', more), JSON.stringify(more)).toThrow(code('invalid_argument'));
    }
  });

  test('that a registry may send to', () => {
    const to = (from: string, target: string) => {
      try {
        return checkTarget(new URL(from), target, new URL(from)).href;
      } catch (error) {
        return (error as LapidaryError).code;
      }
    };
    expect(to('https://r', 'https://cdn/x')).toBe('https://cdn/x');
    expect(to('https://r', '/x')).toBe('https://r/x');
    expect(to('http://127.0.0.1:1', 'http://localhost:2/x')).toBe('http://localhost:2/x');
    expect(to('http://lan', 'http://lan:2/x')).toBe('http://lan:2/x');
    for (const [from, target] of [
      ['https://r', 'http://cdn/x'],
      ['https://r', 'http://127.0.0.1/x'],
      ['https://127.0.0.1', 'http://127.0.0.1/x'],
      ['http://lan', 'http://127.0.0.1/x'],
      ['http://127.0.0.1', 'http://lan/x'],
      ['https://r', 'javascript:x'],
    ] as const) {
      expect(to(from, target), `${from} ${target}`).toBe('integrity_error');
    }
  });

  test('challenges', () => {
    expect(parseChallenge('Bearer realm="https://a/t",service="s" , scope="x:y:z,pull"')).toEqual({
      ...{ realm: 'https://a/t', service: 's', scope: 'x:y:z,pull' },
    });
    expect(parseChallenge('bearer realm=https://a/t')).toEqual({ realm: 'https://a/t' });
    for (const text of [null, '', 'Basic realm="x"']) expect(parseChallenge(text)).toBeUndefined();
  });
});
