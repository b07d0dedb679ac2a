// Pulling from a registry that these tests run, which is at times slow, broken or hostile; and deleting.

import { mkdir, mkdtemp, readFile, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import {
  OllamaStore,
  pullModel,
  type Disk,
  type PullOptions,
  type PullProgress,
} from 'lapidary/node';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { realDisk } from '../../packages/lapidary/src/pull/disk.ts';
import {
  EMBEDDED,
  NANO,
  WEIGHTS,
  digestOf,
  manifestWith,
  nanoLayers,
  startRegistry,
  type TestRegistry,
} from '../support/registry.ts';

let folder: string;
let store: string;
let registry: TestRegistry;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapidary-pull-'));
  store = join(folder, 'models');
  registry = await startRegistry();
});
afterEach(async () => {
  await registry.close();
  await rm(folder, { recursive: true });
});

const code = (name: string) => expect.objectContaining({ code: name }) as Error;
const PART = 1 << 20;
const pull = (options: PullOptions = {}, name = 'nano') =>
  pullModel(name, {
    ...{ store, registry: registry.url, partBytes: PART, backOff: 1, tries: 3, stallMs: 5000 },
    ...options,
  });
const blobPath = (digest: string) => join(store, 'blobs', digest.replace(':', '-'));
const partials = () => readdir(join(store, 'partial')).catch(() => [] as string[]);
const files = async (root: string) =>
  (await readdir(root, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();

/** That the store holds nano as models/ does, and nothing else. */
async function expectNano(): Promise<void> {
  const found = await files(store);
  expect(found).toEqual((await files(EMBEDDED)).filter((name) => /^(blobs|manifests)/.test(name)));
  for (const name of found) {
    const [ours, theirs] = [readFile(join(store, name)), readFile(join(EMBEDDED, name))];
    expect((await ours).equals(await theirs), name).toBe(true);
  }
}

test('a model comes whole, byte for byte, in parts, and can be found', async () => {
  const seen: PullProgress[] = [];
  const pulled = await pull({ onProgress: (progress) => seen.push(progress) });
  await expectNano();
  expect(pulled).toMatchObject({ name: 'nano:latest', store, size: 6120992, fetched: 6120992 });
  expect(pulled.digest).toBe(digestOf(await readFile(join(EMBEDDED, NANO))).slice(7));
  expect(pulled.layers.map(({ kind }) => kind)).toEqual([
    ...['model', 'license', 'template', 'params', 'config'],
  ]);
  expect(registry.sent()).toBe(pulled.size);
  const parts = registry.asked.filter(({ path }) => path.endsWith(WEIGHTS.digest));
  expect(parts).toHaveLength(6);
  expect(parts.every(({ status }) => status === 206)).toBe(true);
  expect([seen[0]?.phase, seen.at(-1)?.phase]).toEqual(['manifest', 'write']);
  const last = seen.filter(({ phase, layer }) => phase === 'download' && layer?.kind === 'model');
  expect(last.at(-1)).toMatchObject({ loaded: 6120320, total: 6120320 });
  const opened = await OllamaStore.open({ env: { HOME: folder, OLLAMA_MODELS: store } });
  const found = await opened.find('nano');
  await found.source.close?.();
  expect(found.digest).toBe(WEIGHTS.digest);
});

test('what is there is not fetched again; what is there in another size, or wrong, is', async () => {
  await pull();
  const before = registry.sent();
  expect((await pull()).fetched).toBe(0);
  expect(registry.sent()).toBe(before);
  await truncate(blobPath(WEIGHTS.digest), 1000);
  expect((await pull()).fetched).toBe(WEIGHTS.size);
  await expectNano();
  // Another byte in the same size is seen only where it is looked for.
  const [license] = nanoLayers().filter(({ mediaType }) => mediaType.endsWith('license'));
  await writeFile(blobPath(license!.digest), 'x'.repeat(license!.size));
  expect((await pull()).fetched).toBe(0);
  expect((await pull({ verify: true })).fetched).toBe(license!.size);
  await expectNano();
});

test('a pull that is stopped goes on from the byte that it reached', async () => {
  registry.behaviour.pace = { bytes: 32 << 10, ms: 3 };
  const controller = new AbortController();
  const onProgress = ({ layer, loaded, total }: PullProgress) => {
    if (layer?.kind === 'model' && loaded > 0.4 * total) controller.abort();
  };
  const stopped = pull({ signal: controller.signal, onProgress });
  await expect(stopped).rejects.toEqual(code('cancelled'));
  expect(await partials()).toHaveLength(2);
  expect(await readdir(store)).not.toContain('manifests');
  registry.behaviour = {};
  const first = registry.sent();
  let began = 0;
  await pull({ onProgress: (at) => (began ||= at.layer?.kind === 'model' ? at.loaded : 0) });
  expect(began).toBeGreaterThanOrEqual(0.4 * WEIGHTS.size);
  // Nothing that was written came twice: only what was on its way when it was stopped.
  expect(registry.sent() - first).toBe(6120992 - began);
  await expectNano();
});

test.each(['garbage', '{"version":1}', 'shorter'])(
  'a damaged state is no reason to trust: %s',
  async (damage) => {
    registry.behaviour.pace = { bytes: 64 << 10, ms: 1 };
    const controller = new AbortController();
    const onProgress = ({ loaded }: PullProgress) => loaded > 2e6 && controller.abort();
    await pull({ signal: controller.signal, onProgress }).catch(() => {});
    registry.behaviour = {};
    const base = join(store, 'partial', WEIGHTS.digest.replace(':', '-'));
    if (damage === 'shorter') await truncate(`${base}.data`, 1000);
    else await writeFile(`${base}.json`, damage);
    await pull();
    await expectNano();
  },
);

test('wrong bytes are an error, and go; the next pull gets the right ones', async () => {
  const right = await readFile(blobPath(WEIGHTS.digest).replace(store, EMBEDDED));
  const wrong = Buffer.from(right);
  wrong[3_000_000]! ^= 1;
  registry.blobs.set(WEIGHTS.digest, wrong);
  const failed = pull();
  await expect(failed).rejects.toEqual(code('integrity_error'));
  await expect(failed).rejects.toThrow(/SHA-256/);
  expect(await partials()).toEqual([]);
  expect(await files(store)).toEqual([]);
  registry.blobs.set(WEIGHTS.digest, right);
  await pull();
  await expectNano();
});

test('wrong bytes of a small layer leave the large one', async () => {
  const { digest, size } = nanoLayers().at(-1)!;
  registry.blobs.set(digest, Buffer.alloc(size, ' '));
  await expect(pull()).rejects.toEqual(code('integrity_error'));
  registry.blobs.delete(digest);
  const before = registry.sent();
  await pull();
  expect(registry.sent() - before).toBeLessThan(1000);
  await expectNano();
});

test('a layer that the registry does not have', async () => {
  const gone = nanoLayers()[2]!.digest;
  registry.behaviour.before = (request, response) => {
    if (!request.url?.endsWith(gone)) return false;
    response.writeHead(404).end();
    return true;
  };
  await expect(pull()).rejects.toEqual(code('not_found'));
  expect(await readdir(store)).not.toContain('manifests');
});

test('a model that the registry does not have, and what it says about that', async () => {
  const missing = pull({}, 'someone/nothing');
  await expect(missing).rejects.toEqual(code('not_found'));
  await expect(missing).rejects.toThrow('someone/nothing:latest: it is unknown');
  expect(await readdir(folder)).toEqual([]);
});

describe('another host', () => {
  let other: TestRegistry;
  beforeEach(async () => void (other = await startRegistry()));
  afterEach(() => other.close());

  const TOKEN = 'the-token-0123456789';
  /** Wants a token that it gives itself, sends to `other` for blobs. */
  function guarded(realm = `${registry.url}/token`) {
    registry.behaviour.before = (request, response) => {
      const url = new URL(request.url ?? '', registry.url);
      if (url.pathname === '/token') {
        expect(url.searchParams.get('service')).toBe('test');
        expect(url.searchParams.get('scope')).toBe('repository:library/nano:pull');
        response.end(JSON.stringify({ token: TOKEN }));
      } else if (request.headers.authorization !== `Bearer ${TOKEN}`) {
        const challenge = `Bearer realm="${realm}",service="test",scope="repository:library/nano:pull"`;
        response.writeHead(401, { 'www-authenticate': challenge }).end();
      } else if (url.pathname.includes('/blobs/')) {
        const location = `${other.url}/cdn/${url.pathname.split('/').at(-1)}`;
        response.writeHead(307, { location }).end();
      } else return false;
      return true;
    };
  }

  test('gives the bytes, and never sees the token', async () => {
    guarded();
    await pull();
    await expectNano();
    expect(other.asked.length).toBeGreaterThan(5);
    expect(other.asked.filter(({ authorization }) => authorization !== undefined)).toEqual([]);
    const tokens = registry.asked.filter(({ path }) => path.startsWith('/token'));
    expect(tokens).toHaveLength(1);
    expect(tokens[0]!.authorization).toBeUndefined();
    // The way to a blob is asked for once, not for each of its parts.
    const detours = registry.asked.filter(({ path }) => path.endsWith(WEIGHTS.digest));
    expect(detours.length).toBeLessThan(6);
  });

  test('whose address is out of date is asked for anew', async () => {
    guarded();
    let left = 2;
    other.behaviour.before = (_, response) => {
      if (left-- !== 0) return false;
      response.writeHead(403).end();
      return true;
    };
    await pull();
    await expectNano();
    expect(other.asked.map(({ status }) => status)).toContain(403);
  });

  test.each([
    ['plain http elsewhere', 'http://192.0.2.1/x'],
    ['another scheme', 'file:///etc/passwd'],
    ['a name and a password', 'https://a:b@127.0.0.1/x'],
    ['nonsense', 'http://'],
  ])('is not followed to: %s', async (_, location) => {
    registry.behaviour.blob = (__, response) => {
      response.writeHead(302, { location }).end();
      return true;
    };
    await expect(pull()).rejects.toEqual(code('integrity_error'));
  });

  test('that sends on and on is given up', async () => {
    registry.behaviour.blob = (_, response, { path }) => {
      response.writeHead(302, { location: path }).end();
      return true;
    };
    await expect(pull()).rejects.toThrow('from place to place');
    expect(registry.asked.length).toBeLessThan(40);
  });

  test.each([
    ['no realm', 'Bearer service="x"'],
    ['no challenge', 'Basic realm="x"'],
    ['a realm that refuses', undefined],
  ])('without an account: %s', async (_, challenge) => {
    const header = challenge ?? `Bearer realm="${other.url}/token"`;
    registry.behaviour.before = (__, response) => {
      response.writeHead(401, { 'www-authenticate': header }).end();
      return true;
    };
    const closed = pull();
    await expect(closed).rejects.toEqual(code('io_error'));
    await expect(closed).rejects.toThrow('account');
    expect(registry.asked).toHaveLength(1);
  });

  test.each(['{}', '[', '{"token":"a\\nb"}', '{"token":5}', ' '.repeat(1e5)])(
    'gives what is no token: %.20s',
    async (answer) => {
      guarded(`${other.url}/token`);
      other.behaviour.before = (_, response) => (response.end(answer), true);
      await expect(pull()).rejects.toEqual(code('invalid_format'));
    },
  );
});

describe('a line that breaks', () => {
  /** Cuts each blob's answers so often, after so many bytes. */
  function cut(times: number, after: number) {
    let left = times;
    registry.behaviour.blob = ({ bytes, first, last }, response, asked) => {
      if (left-- <= 0) return false;
      const part = bytes.subarray(first, Math.min(first + after, last));
      response.writeHead(206, {
        'content-length': last - first + 1,
        'content-range': `bytes ${first}-${last}/${bytes.length}`,
      });
      response.write(part, () => {
        asked.sent += part.length;
        setTimeout(() => response.destroy(), 5);
      });
      return true;
    };
  }

  test('is taken up from the byte that it reached, as often as something comes', async () => {
    cut(12, 100_000);
    const retries: PullProgress[] = [];
    await pull({
      connections: 1,
      onProgress: (progress) => progress.retry && retries.push(progress),
    });
    await expectNano();
    // What the server sent may not all have come before the line broke.
    expect(registry.sent()).toBeLessThan(6120992 + 12 * 100_000);
    expect(retries).toHaveLength(12);
    expect(retries[0]).toMatchObject({ phase: 'download', retry: { attempt: 1, tries: 3 } });
  });

  test('or a body that ends too early without a word', async () => {
    let left = 3;
    registry.behaviour.blob = ({ bytes, first, last }, response) => {
      if (left-- <= 0) return false;
      response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}` });
      response.end(bytes.subarray(first, Math.min(first + 50_000, last)));
      return true;
    };
    const reasons: string[] = [];
    await pull({ onProgress: ({ retry }) => retry && reasons.push(retry.reason) });
    await expectNano();
    expect(reasons).toHaveLength(3);
    expect(reasons[0]).toContain('bytes too early');
  });

  test('for good is an error after its tries, and what came stays', async () => {
    cut(Infinity, 0);
    await expect(pull({ connections: 1 })).rejects.toEqual(code('io_error'));
    expect(registry.asked).toHaveLength(4);
  });

  test('is no matter of ranges: a server without them', async () => {
    registry.behaviour.noRange = true;
    let first = true;
    registry.behaviour.blob = ({ bytes }, response) => {
      if (!first) return false;
      first = false;
      response.writeHead(200, { 'content-length': bytes.length });
      response.write(bytes.subarray(0, 2_500_000), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    await pull();
    await expectNano();
    expect(registry.asked.filter(({ path }) => path.endsWith(WEIGHTS.digest))).toHaveLength(2);
  });

  test('a server without ranges that always breaks is given up', async () => {
    registry.behaviour.blob = ({ bytes }, response) => {
      response.writeHead(200, { 'content-length': bytes.length });
      response.write(bytes.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 5));
      return true;
    };
    await expect(pull()).rejects.toEqual(code('io_error'));
    expect(registry.asked.length).toBeLessThan(8);
  });

  test.each([500, 503, 429, 408])('a server that says %d for a while', async (status) => {
    let left = 2;
    registry.behaviour.before = (_, response) => {
      if (left-- <= 0) return false;
      response.writeHead(status, { 'retry-after': '0' }).end('later');
      return true;
    };
    await pull();
    await expectNano();
  });

  test('a server that falls silent is asked again', async () => {
    let left = 1;
    registry.behaviour.blob = ({ bytes, first, last }, response) => {
      if (left-- <= 0) return false;
      response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}` });
      response.write(bytes.subarray(first, first + 1000));
      return true;
    };
    const reasons: string[] = [];
    await pull({
      stallMs: 300,
      onProgress: ({ retry }) => retry && reasons.push(retry.reason),
    });
    await expectNano();
    expect(reasons.join()).toContain('nothing came');
  });

  test('a slow server is waited for', async () => {
    registry.behaviour.pace = { bytes: 128 << 10, ms: 60 };
    await pull({ stallMs: 400 });
    await expectNano();
  });

  test('nobody listens', async () => {
    await registry.close();
    const retries: string[] = [];
    const dead = pull({ onProgress: ({ retry }) => retry && retries.push(retry.reason) });
    await expect(dead).rejects.toEqual(code('io_error'));
    expect(retries[0]).toContain('ECONNREFUSED');
    registry = await startRegistry();
  });
});

describe('sizes that do not fit', () => {
  const answer =
    (headers: (size: number) => Record<string, string>, status: number, extra = 0) =>
    (
      { bytes, first, last }: { bytes: Buffer; first: number; last: number },
      response: ServerResponse,
    ) => {
      response.writeHead(status, headers(bytes.length));
      const part = status === 200 ? bytes : bytes.subarray(first, last + 1);
      response.end(Buffer.concat([part, Buffer.alloc(extra)]));
      return true;
    };

  test.each([
    [
      'a whole of another size',
      answer((size) => ({ 'content-length': `${size + 1}` }), 200, 1),
      'integrity_error',
    ],
    ['a whole that does not end', answer(() => ({}), 200, 1), 'integrity_error'],
    [
      'a range of a blob of another size',
      answer((size) => ({ 'content-range': `bytes 0-${PART - 1}/${size + 1}` }), 206),
      'integrity_error',
    ],
    [
      'a range that does not end',
      answer((size) => ({ 'content-range': `bytes 0-${PART - 1}/${size}` }), 206, 1),
      'integrity_error',
    ],
    [
      'another range',
      answer((size) => ({ 'content-range': `bytes 1-${PART}/${size}` }), 206),
      'io_error',
    ],
    ['no range at all', answer(() => ({}), 206), 'io_error'],
    ['packed', answer(() => ({ 'content-encoding': 'gzip' }), 200), 'unsupported'],
    ['beyond its end', answer(() => ({}), 416), 'truncated'],
  ])('%s', async (_, blob, expected) => {
    registry.behaviour.blob = blob;
    await expect(pull({ connections: 1 })).rejects.toEqual(code(expected));
    expect(await files(join(store, 'blobs'))).toEqual([]);
  });
});

describe('manifests that are none', () => {
  const layer = (more: object) => manifestWith({ layers: [{ ...WEIGHTS, ...more }] });
  test.each<[string, string, string]>([
    ['no JSON', '{', 'invalid_format'],
    ['huge', ' '.repeat((4 << 20) + 1), 'invalid_format'],
    ['nested', '['.repeat(1e5), 'invalid_format'],
    ['a path for a digest', layer({ digest: 'sha256:../../../../etc/passwd' }), 'invalid_format'],
    ['a path after a digest', layer({ digest: `${WEIGHTS.digest}/../x` }), 'invalid_format'],
    ['a digest in capitals', layer({ digest: WEIGHTS.digest.toUpperCase() }), 'invalid_format'],
    ['a negative size', layer({ size: -1 }), 'invalid_format'],
    ['half a byte', layer({ size: 0.5 }), 'invalid_format'],
    ['a size beyond counting', layer({ size: 1e300 }), 'invalid_format'],
    ['a size as text', layer({ size: '5' }), 'invalid_format'],
    ['more than any disk holds', layer({ size: 2 ** 53 - 1 }), 'quota_exceeded'],
    [
      'two sizes of one layer',
      manifestWith({ layers: [WEIGHTS, { ...WEIGHTS, size: 5 }] }),
      'invalid_format',
    ],
    ['no weights', manifestWith({ layers: [] }), 'unsupported'],
    ['safetensors', layer({ mediaType: 'application/vnd.ollama.image.tensor' }), 'unsupported'],
  ])('%s', async (_, manifest, expected) => {
    registry.behaviour.manifest = manifest;
    await expect(pull()).rejects.toEqual(code(expected));
    expect(registry.asked).toHaveLength(1);
    expect(await readdir(folder, { recursive: true })).not.toContain('models/manifests');
  });

  test('one that is not what the registry calls it', async () => {
    registry.behaviour.before = (_, response) => {
      response.setHeader('docker-content-digest', WEIGHTS.digest);
      response.end(manifestWith({}));
      return true;
    };
    await expect(pull()).rejects.toEqual(code('integrity_error'));
  });

  test.each(['../../x', 'a/../b', 'nano:..', '', 'x y', 'a/b/c/d', 'nano:latest/..'])(
    'the name %j never becomes an address or a path',
    async (name) => {
      await expect(pull({}, name)).rejects.toEqual(code('invalid_argument'));
      expect(registry.asked).toEqual([]);
      expect(await readdir(folder)).toEqual([]);
    },
  );
});

/** A disk that is full after so many bytes. */
function smallDisk(room: number): Disk {
  let left = room;
  return {
    free: () => Promise.resolve(Infinity),
    async open(path) {
      const file = await realDisk.open(path);
      return new Proxy(file, {
        get(target, key) {
          if (key === 'write') {
            return async (...args: [Uint8Array, number, number, number]) => {
              if ((left -= args[2]) < 0) {
                throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
              }
              return target.write(...args);
            };
          }
          const value: unknown = Reflect.get(target, key);
          return typeof value === 'function' ? (value.bind(target) as unknown) : value;
        },
      });
    },
  };
}

test('a disk that fills up: a typed error, and what came by then stays', async () => {
  const full = pull({ disk: smallDisk(3_000_000) });
  await expect(full).rejects.toEqual(code('quota_exceeded'));
  const before = registry.sent();
  let began = 0;
  await pull({ onProgress: (at) => (began ||= at.layer?.kind === 'model' ? at.loaded : 0) });
  expect(began).toBeGreaterThan(2_000_000);
  expect(registry.sent() - before).toBe(6120992 - began);
  await expectNano();
});

test('a disk without room is seen before anything is fetched', async () => {
  const disk = { ...realDisk, free: () => Promise.resolve(6_000_000) };
  const full = pull({ disk });
  await expect(full).rejects.toEqual(code('quota_exceeded'));
  await expect(full).rejects.toThrow('needs 6120992 bytes more');
  expect(registry.asked).toHaveLength(1);
});

test('several pulls of one model at once fetch it once', async () => {
  registry.behaviour.pace = { bytes: 128 << 10, ms: 2 };
  let waited = false;
  const onProgress = ({ waiting }: PullProgress) => void (waited ||= waiting === true);
  const pulled = await Promise.all([
    pull({ onProgress }),
    pull({ onProgress }),
    pull({ onProgress }),
  ]);
  expect(waited).toBe(true);
  expect(registry.sent()).toBe(6120992);
  expect(pulled.reduce((sum, { fetched }) => sum + fetched, 0)).toBe(6120992);
  await expectNano();
});

test('one that waits goes on where another was stopped', async () => {
  registry.behaviour.pace = { bytes: 64 << 10, ms: 3 };
  const controller = new AbortController();
  const first = pull({
    signal: controller.signal,
    onProgress: ({ loaded }) => loaded > 2e6 && controller.abort(),
  });
  await expect.poll(partials).toContain(`${WEIGHTS.digest.replace(':', '-')}.lock`);
  const second = pull();
  await expect(first).rejects.toEqual(code('cancelled'));
  await second;
  // What was on its way when the first was stopped came twice: a piece or two of each connection.
  expect(registry.sent()).toBeLessThan(6120992 + 16 * (64 << 10));
  await expectNano();
});

test('a lock of a program that is gone, and one of nobody, hold nobody up for long', async () => {
  const lock = join(store, 'partial', `${WEIGHTS.digest.replace(':', '-')}.lock`);
  await mkdir(dirname(lock), { recursive: true });
  // No process has this number.
  await writeFile(lock, JSON.stringify({ host: hostname(), pid: 2 ** 30, nonce: 'x' }));
  const started = performance.now();
  await pull();
  expect(performance.now() - started).toBeLessThan(10_000);
  await expectNano();
});

test('a pull whose lock another program took stops at once', async () => {
  registry.behaviour.pace = { bytes: 32 << 10, ms: 20 };
  const lock = join(store, 'partial', `${WEIGHTS.digest.replace(':', '-')}.lock`);
  const taken = pull();
  await expect.poll(partials).toContain(basename(lock));
  await writeFile(lock, 'mine now');
  await expect(taken).rejects.toEqual(code('busy'));
  // It is not this pull's to take away.
  expect(await readFile(lock, 'utf8')).toBe('mine now');
});
