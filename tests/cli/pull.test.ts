// `pull` and `rm` as their users meet them, killed and stopped in the middle; and npm's `ollama` pulling and deleting by `serve`.

import { cp, mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ollama } from 'ollama';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  EMBEDDED,
  NANO,
  WEIGHTS,
  digestOf,
  startRegistry,
  type TestRegistry,
} from '../support/registry.ts';
import { QUESTION, errorLine, lapidary, main, onTerminal, start, type Running } from './harness.ts';

const SIZE = 6120992;
const BLOB = WEIGHTS.digest.replace(':', '-');

let store: string;
let registry: TestRegistry;
beforeEach(async () => {
  store = await mkdtemp(join(tmpdir(), 'lapidary-store-'));
  registry = await startRegistry();
});
afterEach(async () => {
  await registry.close();
  await rm(store, { recursive: true });
});

const flags = () => ['--registry', registry.url, '--models', store];
const pulling = () => start(process.execPath, [main, 'pull', 'nano', ...flags()]);
const names = async () => (await readdir(join(store, 'blobs'))).sort();

/** Bytes that the file of state says are there. */
async function saved(): Promise<number> {
  const text = await readFile(join(store, 'partial', `${BLOB}.json`), 'utf8').catch(() => '{}');
  const { done = [] } = JSON.parse(text) as { done?: number[] };
  return done.reduce((sum, each) => sum + each, 0);
}

test('pull, list, run, rm', async () => {
  const pulled = await lapidary(['pull', 'nano', ...flags()]);
  expect(pulled.stderr).toContain(`nano:latest: 6.1 MB in ${store}, 6.1 MB fetched`);
  expect([pulled.code, pulled.stdout]).toEqual([0, '']);
  expect(await names()).toEqual((await readdir(join(EMBEDDED, 'blobs'))).sort());
  for (const path of [NANO, `blobs/${BLOB}`]) {
    const [ours, theirs] = [readFile(join(store, path)), readFile(join(EMBEDDED, path))];
    expect((await ours).equals(await theirs)).toBe(true);
  }
  const list = await lapidary(['list', '--models', store, '--json']);
  const { models } = JSON.parse(list.stdout) as { models: { name: string; store: string }[] };
  expect(models.find(({ name }) => name === 'nano:latest')?.store).toBe(store);
  const run = ['run', 'nano', QUESTION, '--temperature', '0', '--models', store];
  expect((await lapidary(run)).stdout).toBe('The capital of France is Paris.\n');

  const again = await lapidary(['pull', 'nano', '--json', ...flags()]);
  const events = again.stdout.trim().split('\n');
  expect(JSON.parse(events.at(-1)!)).toMatchObject({ type: 'done', fetched: 0, size: SIZE });
  expect(JSON.parse(events[0]!)).toMatchObject({ type: 'progress', phase: 'manifest' });

  const gone = await lapidary(['rm', 'nano', '--models', store, '--json']);
  expect(JSON.parse(gone.stdout)).toMatchObject({ name: 'nano:latest', store, freed: SIZE });
  expect(await names()).toEqual([]);
  const none = await lapidary(['rm', 'nothing', '--models', store]);
  expect([none.code, errorLine(none)]).toEqual([3, expect.stringContaining('(not_found)')]);
  // What comes with the project is not the user's to lose by a slip.
  const own = await lapidary(['rm', 'nano', '--models', store]);
  expect([own.code, errorLine(own)]).toEqual([2, expect.stringContaining('is left alone')]);
});

test('killed at 40 %, it goes on from there', async () => {
  registry.behaviour.pace = { bytes: 32 << 10, ms: 15 };
  const first = pulling();
  await expect.poll(saved, { timeout: 60_000 }).toBeGreaterThan(0.4 * SIZE);
  first.kill('SIGKILL');
  await first.ended;
  const reached = await saved();
  expect(reached).toBeLessThan(SIZE);
  registry.behaviour = {};
  const before = registry.sent();
  expect((await lapidary(['pull', 'nano', ...flags()])).code).toBe(0);
  expect(registry.sent() - before).toBe(SIZE - reached);
  expect(digestOf(await readFile(join(store, 'blobs', BLOB)))).toBe(WEIGHTS.digest);
});

test('Ctrl-C stops it; progress stands on the terminal, and the same command goes on', async () => {
  registry.behaviour.pace = { bytes: 32 << 10, ms: 15 };
  const first = onTerminal(`pull nano ${flags().join(' ')}`);
  await first.until(/model +█+░+ [3-5]\.\d MB of 6\.1 MB +5a3f7d0cb69d, .*\/s/);
  first.write('\x03');
  const { code, stdout } = await first.ended;
  expect(code).toBe(130);
  expect(stdout).toContain('(cancelled)');
  const reached = await saved();
  expect(reached).toBeGreaterThan(2.9e6);
  registry.behaviour = {};
  const before = registry.sent();
  expect((await lapidary(['pull', 'nano', ...flags()])).code).toBe(0);
  expect(registry.sent() - before).toBe(SIZE - reached);
});

test('two programs that pull the same fetch it once', async () => {
  registry.behaviour.pace = { bytes: 128 << 10, ms: 20 };
  const both = await Promise.all([pulling().ended, pulling().ended]);
  expect(both.map(({ code }) => code)).toEqual([0, 0]);
  expect(registry.sent()).toBe(SIZE);
  expect(digestOf(await readFile(join(store, 'blobs', BLOB)))).toBe(WEIGHTS.digest);
});

test('a request that fails is made again, and says so', async () => {
  let left = 1;
  registry.behaviour.before = (_, response) => {
    if (left-- <= 0) return false;
    response.writeHead(503).end();
    return true;
  };
  const { code, stderr } = await lapidary(['pull', 'nano', ...flags()]);
  expect(stderr).toMatch(/manifest; 127\.0\.0\.1:\d+ answered 503: again in .* \(try 2 of 4\)/);
  expect(code).toBe(0);
});

test('errors are a line, or JSON, with their exit code', async () => {
  const pull = (...args: string[]) => lapidary(['pull', ...args, '--models', store]);
  const missing = await pull('nothing/here', '--registry', registry.url);
  expect([missing.code, errorLine(missing)]).toEqual([3, expect.stringContaining('(not_found)')]);
  const plain = await pull('http://192.0.2.1/a/b');
  expect([plain.code, errorLine(plain)]).toEqual([1, expect.stringContaining('--insecure')]);
  registry.blobs.set(WEIGHTS.digest, Buffer.alloc(WEIGHTS.size));
  const wrong = await pull('nano', '--registry', registry.url, '--json');
  expect(wrong.code).toBe(1);
  expect(JSON.parse(wrong.stdout.trim().split('\n').at(-1)!)).toMatchObject({
    error: { code: 'integrity_error' },
  });
});

describe('serve', () => {
  let server: Running;
  let ollama: Ollama;
  let base: string;
  let model: string;

  async function serve(...more: string[]): Promise<void> {
    const args = ['serve', '--port', '0', '--models', store, '--context', '512', ...more];
    server = start(process.execPath, [main, ...args]);
    await server.until(/http:\/\/\S+:\d+\//);
    base = `http://127.0.0.1:${/http:\/\/\S+:(\d+)/.exec(server.printed())![1]}`;
    ollama = new Ollama({ host: base });
    model = `127.0.0.1:${registry.port}/library/nano`;
  }
  afterEach(async () => {
    server.kill('SIGKILL');
    await server.ended;
  });
  const there = async () => (await ollama.list()).models.map(({ name }) => name);
  const send = (path: string, method: string, headers: Record<string, string> = {}) =>
    fetch(`${base}${path}`, {
      method,
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({ model }),
    });

  test("Ollama's client pulls, whole and with progress, and deletes", async () => {
    await serve();
    registry.behaviour.pace = { bytes: 512 << 10, ms: 20 };
    const statuses: string[] = [];
    let completed = 0;
    for await (const part of await ollama.pull({ model, stream: true })) {
      if (part.status !== statuses.at(-1)) statuses.push(part.status);
      if (part.digest !== WEIGHTS.digest) continue;
      expect(part.total).toBe(WEIGHTS.size);
      expect(part.completed).toBeGreaterThanOrEqual(completed);
      completed = part.completed;
    }
    expect(completed).toBe(WEIGHTS.size);
    expect(statuses[0]).toBe('pulling manifest');
    expect(statuses[1]).toBe('pulling 5a3f7d0cb69d');
    expect(statuses.slice(-3)).toEqual([
      ...['verifying sha256 digest', 'writing manifest', 'success'],
    ]);
    expect(await there()).toContain(`${model}:latest`);
    expect(await ollama.pull({ model })).toEqual({ status: 'success' });
    expect(registry.sent()).toBe(SIZE);

    expect(await ollama.delete({ model })).toEqual({ status: 'success' });
    expect(await there()).not.toContain(`${model}:latest`);
    expect(await names()).toEqual([]);
    await expect(ollama.delete({ model })).rejects.toMatchObject({ status_code: 404 });
  });

  test('says what failed, in the stream or by its status', async () => {
    await serve();
    const missing = `127.0.0.1:${registry.port}/library/none:other`;
    await expect(ollama.pull({ model: missing })).rejects.toMatchObject({ status_code: 404 });
    const read = async () => {
      for await (const part of await ollama.pull({ model: missing, stream: true })) void part;
    };
    await expect(read()).rejects.toThrow('answered 404');
    await expect(ollama.pull({ model: '../x' })).rejects.toMatchObject({ status_code: 400 });
    // A request alone does not allow it: --insecure-registry does.
    const plain = { model: 'http://192.0.2.1/a/b', insecure: true };
    await expect(ollama.pull(plain)).rejects.toThrow('plain http');
    expect(await readdir(store)).not.toContain('blobs');
  });

  test('a client that goes away stops its pull; the next one goes on', async () => {
    await serve();
    registry.behaviour.pace = { bytes: 32 << 10, ms: 10 };
    // A client of its own: abort ends all that one has asked for.
    const other = new Ollama({ host: base });
    const read = async () => {
      for await (const { completed } of await other.pull({ model, stream: true })) {
        if (completed > 2e6) other.abort();
      }
    };
    await expect(read()).rejects.toThrow(/abort/i);
    await expect.poll(async () => readdir(join(store, 'partial'))).not.toContain(`${BLOB}.lock`);
    const reached = await saved();
    expect(reached).toBeGreaterThan(2e6);
    const before = registry.sent();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(registry.sent()).toBeLessThan(before + (256 << 10));
    registry.behaviour = {};
    const start = registry.sent();
    await ollama.pull({ model });
    expect(registry.sent() - start).toBe(SIZE - reached);
  });

  test('a model in use is not deleted; one that is only loaded is unloaded first', async () => {
    await cp(join(EMBEDDED, 'blobs'), join(store, 'blobs'), { recursive: true });
    await cp(join(EMBEDDED, 'manifests'), join(store, 'manifests'), { recursive: true });
    await serve();
    const prompt = 'Once upon a time';
    const options = { temperature: 2, top_k: 0, top_p: 1, seed: 1 };
    const nano = { model: 'nano', prompt, raw: true, options };
    const other = new Ollama({ host: base });
    const stream = await other.generate({ ...nano, stream: true });
    const read = async () => {
      for await (const { done } of stream) {
        if (done) continue;
        await expect(ollama.delete({ model: 'Nano' })).rejects.toMatchObject({ status_code: 409 });
        other.abort();
      }
    };
    await expect(read()).rejects.toThrow(/abort/i);
    // Until the server has heard of it, the model is in use.
    const status = async () => (await ollama.delete({ model: 'Nano' }).catch(() => null))?.status;
    await expect.poll(status, { timeout: 10_000 }).toBe('success');
    expect((await ollama.ps()).models).toEqual([]);
    expect(await names()).toEqual([]);
  });

  test('pages of other sites may not, nor may anybody with --no-pull', async () => {
    const origin = 'https://friend.example';
    await serve('--origin', origin);
    expect((await send('/api/pull', 'POST', { origin })).status).toBe(403);
    expect((await send('/api/delete', 'DELETE', { origin })).status).toBe(403);
    expect((await send('/api/pull', 'PUT')).status).toBe(405);
    const again = async (...more: string[]) => {
      server.kill('SIGKILL');
      await server.ended;
      await serve(...more);
    };
    await again('--no-pull');
    expect((await send('/api/pull', 'POST')).status).toBe(403);
    expect((await send('/api/delete', 'DELETE')).status).toBe(403);
    // Where others can ask, only if it is said; and then not of registries on this machine.
    const token = 'a token of these tests';
    const authorization = `Bearer ${token}`;
    const refused = async (...more: string[]) => {
      await again('--host', '0.0.0.0', '--token', token, ...more);
      const answer = await send('/api/pull', 'POST', { authorization });
      return [answer.status, await answer.text()];
    };
    expect(await refused()).toEqual([403, expect.stringContaining('--pull')]);
    expect(await refused('--pull')).toEqual([403, expect.stringContaining('--insecure-registry')]);
    expect(registry.asked).toEqual([]);
  });
});
