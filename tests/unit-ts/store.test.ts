// Ollama's store on disk: the embedded one, and broken or hostile ones.

import {
  cp,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OllamaStore } from 'lapidary/node';
import { afterEach, beforeEach, expect, test } from 'vitest';

const EMBEDDED = fileURLToPath(new URL('../../models', import.meta.url));
const LIBRARY = 'manifests/registry.ollama.ai/library';
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

let home: string;
let store: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'lapidary-'));
  store = join(home, '.ollama', 'models');
  await cp(EMBEDDED, store, { recursive: true });
});
afterEach(() => rm(home, { recursive: true }));

const open = (env: Record<string, string> = {}) =>
  OllamaStore.open({ env: { HOME: home, ...env } });
const failure = (name: string) =>
  open()
    .then((opened) => opened.resolve(name))
    .then(
      () => new Error('it resolved'),
      (error: unknown) => error as Error,
    );

async function weights(): Promise<string> {
  const { layers } = await (await open()).resolve('nano');
  return layers.find(({ kind }) => kind === 'model')?.path ?? '';
}
async function addManifest(
  path: string,
  edit: (text: string) => string = (text) => text,
): Promise<void> {
  const text = await readFile(join(store, LIBRARY, 'nano/latest'), 'utf8');
  await mkdir(dirname(join(store, 'manifests', path)), { recursive: true });
  await writeFile(join(store, 'manifests', path), edit(text));
}

test('finds a model by name, whatever its case, with every layer', async () => {
  for (const name of ['nano', 'nano:latest', 'NANO:Latest', 'registry.ollama.ai/library/nano']) {
    const { layers } = await (await open()).resolve(name);
    expect(layers.map(({ kind }) => kind)).toEqual(['model', 'license', 'template', 'params']);
  }
  const found = await (await open()).find('nano');
  expect(found).toMatchObject({
    name: 'nano:latest',
    params: { temperature: 1, top_k: 64, top_p: 0.95 },
  });
  expect(found.source.size).toBe(6120320);
  await found.source.close?.();
});

test('searches its folders in order, each once', async () => {
  const opened = await OllamaStore.open({
    stores: ['/first'],
    fallbackStores: ['/last', store],
    platform: 'darwin',
    env: { HOME: home, OLLAMA_MODELS: '/second' },
  });
  expect(opened.stores).toEqual(['/first', '/second', store, '/last']);
});

const SERVICE = '/usr/share/ollama/.ollama/models';
const FOLDERS = [
  {
    who: 'a user of Linux, and the service',
    platform: 'linux',
    env: { HOME: '/home/ada', USERPROFILE: 'C:\\Users\\Ada' },
    folders: ['/home/ada/.ollama/models', SERVICE],
  },
  {
    who: 'Linux without HOME',
    platform: 'linux',
    env: { HOME: '' },
    folders: ['/home/of-system/.ollama/models', SERVICE],
  },
  {
    who: 'macOS',
    platform: 'darwin',
    env: { HOME: '/Users/ada' },
    folders: ['/Users/ada/.ollama/models'],
  },
  {
    who: 'Windows, whatever a shell calls HOME',
    platform: 'win32',
    env: { HOME: '/c/Users/Ada', USERPROFILE: 'C:\\Users\\Ada' },
    folders: ['C:\\Users\\Ada\\.ollama\\models'],
  },
  {
    who: 'Windows with HOME alone',
    platform: 'win32',
    env: { HOME: 'D:\\Ada' },
    folders: ['D:\\Ada\\.ollama\\models'],
  },
  {
    who: 'OLLAMA_MODELS, before all of these',
    platform: 'linux',
    env: { HOME: '/home/ada', OLLAMA_MODELS: '/big/models' },
    folders: ['/big/models', '/home/ada/.ollama/models', SERVICE],
  },
] as const;
test.each(FOLDERS)('default folders: $who', async ({ platform, env, folders }) => {
  const opened = await OllamaStore.open({ platform, env, home: '/home/of-system' });
  expect(opened.stores).toEqual(folders);
});

test('lists what is there, stray files left out, with what cannot be loaded', async () => {
  await addManifest('hf.co/user/repo/Q4_K_M');
  await addManifest('registry.ollama.ai/library/cloud/latest', (text) =>
    text.replace(/"layers":.*/s, '"layers":[]}'),
  );
  await addManifest('registry.ollama.ai/library/broken/latest', () => '{');
  await writeFile(join(store, LIBRARY, 'nano/.DS_Store'), 'x');
  await writeFile(join(store, LIBRARY, 'nano/no name'), 'x');
  const { models, problems } = await (await open()).list();
  expect(problems).toEqual([]);
  expect(models.map(({ name, family, problem }) => ({ name, family, problem }))).toEqual([
    {
      name: 'broken:latest',
      family: '',
      problem: expect.stringContaining('not valid JSON') as string,
    },
    { name: 'cloud:latest', family: '', problem: expect.stringContaining('cloud model') as string },
    { name: 'hf.co/user/repo:Q4_K_M', family: 'gemma4', problem: undefined },
    { name: 'nano:latest', family: 'gemma4', problem: undefined },
  ]);
});

test('a missing model: the nearest names', async () => {
  const error = await failure('nanoo');
  expect(error).toEqual(code('not_found'));
  expect(error.message).toContain("did you mean 'nano:latest'?");
  expect((await failure('something-else-entirely')).message).toContain('there are nano:latest');
});

test.each(['../../etc/passwd', 'a/../b', '', 'x y', '..'])(
  'the name %j never becomes a path',
  async (name) => {
    expect(await failure(name)).toEqual(code('invalid_argument'));
  },
);

test('a truncated blob', async () => {
  await truncate(await weights(), 1000);
  const error = await failure('nano');
  expect(error).toEqual(code('truncated'));
  expect(error.message).toMatch(/has 1000 bytes, its manifest says 6120320; pull the model again/);
});

test('a blob that is too long', async () => {
  await truncate(await weights(), 6120321);
  expect(await failure('nano')).toEqual(code('integrity_error'));
});

test('a missing blob', async () => {
  await rm(await weights());
  const error = await failure('nano');
  expect(error).toEqual(code('not_found'));
  expect(error.message).toMatch(/model file .* is missing; pull the model again/);
});

test('a blob that is a link out of the store is refused; one inside is followed', async () => {
  const path = await weights();
  await rename(path, join(home, 'elsewhere'));
  await symlink(join(home, 'elsewhere'), path);
  const error = await failure('nano');
  expect(error).toEqual(code('invalid_format'));
  expect(error.message).toContain('leads out of the store');

  await rm(path);
  await rename(join(home, 'elsewhere'), join(store, 'blobs', 'inside'));
  await symlink('inside', path);
  expect((await (await open()).resolve('nano')).layers).toHaveLength(4);
});

test('a digest that would be a path is refused', async () => {
  await addManifest('registry.ollama.ai/library/evil/latest', (text) =>
    text.replace(/sha256:5a3f[0-9a-f]+/, 'sha256:../../../../etc/passwd'),
  );
  const error = await failure('evil');
  expect(error).toEqual(code('invalid_format'));
  expect(error.message).toContain('is not a digest');
});

test('adapters are refused rather than left out', async () => {
  await addManifest('registry.ollama.ai/library/tuned/latest', (text) =>
    text.replace('image.license', 'image.adapter'),
  );
  await expect((await open()).find('tuned')).rejects.toEqual(code('unsupported'));
});

test('a folder that cannot be read is reported', async () => {
  // A loop of links fails for every user, root included.
  await rm(join(store, LIBRARY), { recursive: true });
  await symlink('library', join(store, LIBRARY));
  const { models, problems } = await (await open()).list();
  expect(models).toEqual([]);
  expect(problems).toHaveLength(1);
  expect((await failure('nano')).message).toContain(`Could not read ${store}`);
});
