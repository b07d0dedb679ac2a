// Deleting models from a store: what goes, and what others need.

import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { OllamaStore, pullModel, removeModel } from 'lapidary/node';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EMBEDDED, NANO, WEIGHTS, digestOf, startRegistry } from '../support/registry.ts';

const code = (name: string) => expect.objectContaining({ code: name }) as Error;
const LIBRARY = 'manifests/registry.ollama.ai/library';
const blobOf = (digest: string) => digest.replace(':', '-');

let store: string;
beforeEach(async () => {
  store = await mkdtemp(join(tmpdir(), 'lapidary-rm-'));
  for (const name of ['blobs', 'manifests']) {
    await cp(join(EMBEDDED, name), join(store, name), { recursive: true });
  }
});
afterEach(() => rm(store, { recursive: true }));

const remove = (name: string) => removeModel(name, { stores: [join(store, 'absent'), store] });
const blobs = () => readdir(join(store, 'blobs'));
async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(join(store, path)), { recursive: true });
  await writeFile(join(store, path), text);
}
const copyTo = async (path: string) => write(path, await readFile(join(store, NANO), 'utf8'));

test('a model goes with its layers and its folders; the next one asked for is not there', async () => {
  const removed = await remove('NANO');
  expect(removed).toMatchObject({ name: 'NANO:latest', store, freed: 6120992 });
  expect(removed.layers).toContain(WEIGHTS.digest);
  expect(await blobs()).toEqual([]);
  expect(await readdir(join(store, 'manifests'))).toEqual([]);
  await expect(remove('nano')).rejects.toEqual(code('not_found'));
  const { models } = await (
    await OllamaStore.open({ env: { HOME: store, OLLAMA_MODELS: store } })
  ).list();
  expect(models).toEqual([]);
});

test('layers that another model names stay, until it goes as well', async () => {
  await copyTo('manifests/hf.co/user/repo/Q4_0');
  const all = await blobs();
  expect(await remove('nano')).toMatchObject({ freed: 0, layers: [] });
  expect(await blobs()).toEqual(all);
  expect((await remove('hf.co/user/repo:Q4_0')).freed).toBe(6120992);
  expect(await blobs()).toEqual([]);
});

// What this project does not run or know of counts as much.
test.each<[string, (named: string) => Promise<void>]>([
  [
    'a manifest of safetensors',
    (named) => write(`${LIBRARY}/mlx/latest`, `{"layers":[{"digest":"${named}"}]}`),
  ],
  ['a manifest that is none', (named) => write(`${LIBRARY}/broken/latest`, `{"${named}`)],
  ['a digest written as a file', (named) => write(`${LIBRARY}/odd/latest`, blobOf(named))],
  [
    'a list of manifests',
    (named) => write('manifests-v2/a/b/c/d', `{"manifests":[{"config":{"digest":"${named}"}}]}`),
  ],
  [
    'a link to a manifest that is a blob',
    async (named) => {
      const text = `{"layers":[{"digest":"${named}"}]}`;
      await write(`blobs/${blobOf(digestOf(text))}`, text);
      await mkdir(join(store, 'manifests-v2/a/b/c'), { recursive: true });
      await symlink(
        `../../../../blobs/${blobOf(digestOf(text))}`,
        join(store, 'manifests-v2/a/b/c/d'),
      );
    },
  ],
  [
    'a list that names a manifest that is a blob',
    async (named) => {
      const text = `{"layers":[{"digest":"${named}"}]}`;
      await write(`blobs/${blobOf(digestOf(text))}`, text);
      await write(`${LIBRARY}/list/latest`, `{"manifests":[{"digest":"${digestOf(text)}"}]}`);
    },
  ],
])('a layer is needed by: %s', async (_, add) => {
  await add(WEIGHTS.digest);
  const before = await blobs();
  const { layers } = await remove('nano');
  expect(layers).not.toContain(WEIGHTS.digest);
  expect(layers).toHaveLength(4);
  expect(await blobs()).toEqual(before.filter((name) => !layers.includes(name.replace('-', ':'))));
});

test('where a manifest cannot be read, nothing is deleted', async () => {
  const before = await blobs();
  await write(`${LIBRARY}/huge/latest`, ' '.repeat((4 << 20) + 1));
  await expect(remove('nano')).rejects.toEqual(code('invalid_format'));
  expect(await blobs()).toEqual(before);
  expect(await readFile(join(store, NANO), 'utf8')).toContain(WEIGHTS.digest);
  // It can go itself.
  expect((await remove('huge')).layers).toEqual([]);
  expect((await remove('nano')).layers).toHaveLength(5);
});

test('a hostile manifest leads to no other file', async () => {
  await write('outside', 'x');
  await write(
    `${LIBRARY}/evil/latest`,
    '{"layers":[{"digest":"sha256:../outside"},{"digest":"../outside"}]}',
  );
  expect((await remove('evil')).layers).toEqual([]);
  expect(await readFile(join(store, 'outside'), 'utf8')).toBe('x');
});

test('a folder of models that is a link out of the store is left alone', async () => {
  const elsewhere = await mkdtemp(join(tmpdir(), 'lapidary-rm-'));
  await writeFile(join(elsewhere, 'latest'), '{}');
  await symlink(elsewhere, join(store, LIBRARY, 'linked'));
  await expect(remove('linked')).rejects.toEqual(code('invalid_format'));
  expect(await readdir(elsewhere)).toEqual(['latest']);
  await rm(elsewhere, { recursive: true });
});

test.each(['../../x', 'a/../b', ''])('the name %j never becomes a path', async (name) => {
  await expect(remove(name)).rejects.toEqual(code('invalid_argument'));
});

test('what an unfinished pull has left goes with the name of its model', async () => {
  const registry = await startRegistry({ pace: { bytes: 64 << 10, ms: 2 } });
  const controller = new AbortController();
  const target = join(store, 'other');
  const stopped = pullModel('nano', {
    ...{ store: target, registry: registry.url, signal: controller.signal },
    onProgress: ({ loaded }) => loaded > 1e6 && controller.abort(),
  });
  await expect(stopped).rejects.toEqual(code('cancelled'));
  await registry.close();
  expect(await readdir(join(target, 'partial'))).toHaveLength(2);
  const removed = await removeModel('nano', { stores: [target] });
  expect(removed.freed).toBeGreaterThan(1e6);
  expect(await readdir(join(target, 'partial'))).toEqual([]);
  await expect(removeModel('nano', { stores: [target] })).rejects.toEqual(code('not_found'));
});
