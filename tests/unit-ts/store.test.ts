// Ollama's store on disk: the embedded one, and broken or hostile ones.

import { createHash } from 'node:crypto';
import {
  cp,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  readlink,
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

const weights = async (): Promise<string> => (await open()).weights('nano');
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

test('finds the drafter beside a model, and refuses several', async () => {
  const blob = 'a drafter';
  const digest = `sha256:${createHash('sha256').update(blob).digest('hex')}`;
  await writeFile(join(store, 'blobs', digest.replace(':', '-')), blob);
  const withDrafts = (count: number) => (text: string) => {
    const manifest = JSON.parse(text) as { layers: unknown[] };
    const mediaType = 'application/vnd.ollama.image.draft';
    for (let i = 0; i < count; i++) manifest.layers.push({ mediaType, digest, size: blob.length });
    return JSON.stringify(manifest);
  };
  await addManifest('registry.ollama.ai/library/one/latest', withDrafts(1));
  await addManifest('registry.ollama.ai/library/two/latest', withDrafts(2));
  const found = await (await open()).find('one');
  expect(found.drafter?.size).toBe(blob.length);
  await found.source.close?.();
  await found.drafter?.close?.();
  await expect((await open()).find('two')).rejects.toEqual(code('unsupported'));
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

/** A model with nano's weights and these layers, each a kind and its text. */
async function addModel(name: string, layers: Record<string, string>): Promise<void> {
  const listed = await Promise.all(
    Object.entries(layers).map(async ([kind, text]) => {
      const hash = createHash('sha256').update(text).digest('hex');
      await writeFile(join(store, 'blobs', `sha256-${hash}`), text);
      return {
        mediaType: `application/vnd.ollama.image.${kind}`,
        digest: `sha256:${hash}`,
        size: Buffer.byteLength(text),
      };
    }),
  );
  await addManifest(`registry.ollama.ai/library/${name}/latest`, (text) => {
    const manifest = JSON.parse(text) as { layers: { mediaType: string }[] };
    const model = manifest.layers.filter(({ mediaType }) => mediaType.endsWith('.model'));
    return JSON.stringify({ ...manifest, layers: [...model, ...listed] });
  });
}

test('find brings what the params, system and messages layers say', async () => {
  const params = { temperature: 0.25, num_ctx: 512, stop: ['<a>', '<b>'] };
  const messages = [
    { role: 'user', content: 'Hello, é' },
    { role: 'assistant', content: 'Hi.' },
  ];
  await addModel('full', {
    params: JSON.stringify(params),
    system: 'You are ä terse.\n',
    messages: JSON.stringify(messages),
  });
  const { source, digest, ...found } = await (await open()).find('full');
  const file = await source.read(0, source.size);
  await source.close?.();
  // Of the file itself, which an adapter may name as its base.
  expect(digest).toBe(`sha256:${createHash('sha256').update(file).digest('hex')}`);
  expect(found).toEqual({ name: 'full:latest', params, system: 'You are ä terse.\n', messages });

  await addModel('bare', {});
  const bare = await (await open()).find('bare');
  await bare.source.close?.();
  expect(bare).toMatchObject({ params: undefined, system: undefined, messages: undefined });
});

/** The files that this process has open. */
async function openFiles(): Promise<string[]> {
  const files = await readdir('/proc/self/fd');
  return Promise.all(files.map((file) => readlink(`/proc/self/fd/${file}`).catch(() => '')));
}
test.each([
  ['params', '{"temperature": ', 'is not valid JSON'],
  ['params', '[1]', 'is not a JSON object'],
  ['params', 'null', 'is not a JSON object'],
  ['messages', '[{]', 'is not valid JSON'],
  ['messages', '{"role": "user"}', 'is not a JSON array'],
])('a %s layer that says %s is refused, and leaves no file open', async (kind, text, message) => {
  await addModel('bad', { [kind]: text });
  const path = await weights();
  const found = (await open()).find('bad');
  await expect(found).rejects.toEqual(code('invalid_format'));
  await expect(found).rejects.toThrow(`bad:latest: the ${kind} layer ${message}`);
  expect(await openFiles()).not.toContain(path);
  // The same look does see a file that is open.
  const { source } = await (await open()).find('nano');
  expect(await openFiles()).toContain(path);
  await source.close?.();
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
  const opened = await open();
  await expect(opened.find('tuned')).rejects.toEqual(code('unsupported'));
  await expect(opened.weights('tuned')).rejects.toEqual(code('unsupported'));
});

test('the weights are the one model file; with two of them, none is', async () => {
  const path = await weights();
  expect(path.startsWith(join(store, 'blobs'))).toBe(true);
  expect((await readFile(path)).subarray(0, 4).toString()).toBe('GGUF');
  await addManifest('registry.ollama.ai/library/split/latest', (text) => {
    const manifest = JSON.parse(text) as { layers: { mediaType: string }[] };
    const [model] = manifest.layers.filter(({ mediaType }) => mediaType.endsWith('.model'));
    return JSON.stringify({ ...manifest, layers: [model, model] });
  });
  const opened = await open();
  const message = 'split:latest has 2 model files; one is expected';
  await expect(opened.weights('split')).rejects.toThrow(message);
  await expect(opened.find('split')).rejects.toThrow(message);
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
