// The command line as a program: what it prints where, how it ends, and how it fails.

import { cp, mkdtemp, readFile, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { adapterGguf, randomAdapter } from '../support/adapters.ts';
import { readFixture } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf, type Tensor } from '../support/gguf.ts';
import { EXIT } from '../../apps/cli/src/exit.ts';
import { QUESTION, errorLine, home, lapidary, main, root, start, type Ended } from './harness.ts';

async function blob(): Promise<string> {
  const folder = join(root, 'models/blobs');
  for (const name of await readdir(folder)) {
    if ((await stat(join(folder, name))).size > 1e6) return join(folder, name);
  }
  throw new Error('models/ has no weights');
}

test('run: the answer on stdout; GPU, speed and time to first token on stderr', async () => {
  const ended = await lapidary(['run', 'nano', ...QUESTION.split(' '), '--temperature', '0']);
  expect(ended.stdout).toBe('The capital of France is Paris.\n');
  expect(ended.stderr).toMatch(
    /llvmpipe.* \(software\), [\d.]+ tokens\/s, first token after [\d.]+ m?s/,
  );
  expect(ended.code).toBe(0);
});

test('run: the prompt from standard input, a .gguf path, JSON events', async () => {
  const ended = await lapidary(
    ['run', await blobAsGguf(), '--json', '--temperature', '0', '--max-tokens', '4'],
    {
      input: `${QUESTION}\n`,
    },
  );
  const events = ended.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; text?: string; reason?: string });
  expect(
    events
      .filter(({ type }) => type === 'text')
      .map(({ text }) => text)
      .join(''),
  ).toBe('The capital of France');
  expect(events.at(-1)).toMatchObject({
    type: 'done',
    reason: 'length',
    usage: { promptTokens: 16, completionTokens: 4 },
  });
  expect(ended.code).toBe(0);
});

const shell = (command: string) => start('bash', ['-c', command], { MAIN: main }).ended;
const answer = ({ stdout }: Ended) =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; text?: string; usage?: object })
    .map(({ type, text, usage }) => ({ type, text, usage }));

test('run: what is piped in stands below the prompt', async () => {
  const flags = '--json --temperature 0 --max-tokens 6';
  const piped = await shell(
    `printf 'of France?\\n\\n' | node "$MAIN" run nano What is "the capital" ${flags}`,
  );
  const joined = await shell(
    `node "$MAIN" run nano $'What is the capital\\n\\nof France?' ${flags}`,
  );
  expect(answer(joined).at(-1)).toMatchObject({ type: 'done', usage: { completionTokens: 6 } });
  expect(answer(piped)).toEqual(answer(joined));
});

test('run: a file as standard input stands below the prompt', async () => {
  const path = join(home, 'long.txt');
  await writeFile(path, 'one two three '.repeat(40));
  const ended = await shell(`node "$MAIN" run nano Count. --context 32 < ${path}`);
  expect(errorLine(ended)).toMatch(/\(context_overflow\)/);
});

// A model that is not there: nothing is computed, but input that is read is read before the model is looked for.
test.each([
  ['/dev/null', 'node "$MAIN" run nanu x < /dev/null'],
  ['a closed one', 'node "$MAIN" run nanu x <&-'],
  ['a folder', 'node "$MAIN" run nanu x < /'],
  // Its standard input comes from here: a socket that stays open.
  ['an idle socket', 'exec node "$MAIN" run nanu x'],
])(
  'run with a prompt does not wait for standard input: %s',
  async (_, command) => {
    const ended = await shell(command);
    expect(errorLine(ended)).toMatch(/no model 'nanu:latest'/);
    expect(ended.stderr).not.toMatch(/standard input/);
    expect(ended.code).toBe(3);
  },
  30_000,
);

test('run says that it waits for a pipe which does not end', async () => {
  const { stderr, code } = await shell('sleep 3 | node "$MAIN" run nanu x');
  expect(stderr).toMatch(/^reading standard input until it ends\n[^]*nanu:latest/m);
  expect(code).toBe(3);
});

test('run --verbose: counts, times and the seed, which there are not without it', async () => {
  const args = ['run', 'nano', QUESTION, '--seed', '7', '--max-tokens', '4'];
  const place = ['--per-layer-embeddings', 'source'];
  const { stderr } = await lapidary([...args, '--verbose', ...place]);
  const time = '[\\d.]+ m?s';
  for (const line of [
    `llvmpipe.*first token after ${time}, ended by length`,
    `prompt: +16 tokens \\(0 cached\\), 16 in ${time}`,
    `reply: +4 tokens in ${time}, seed 7`,
    `context: 20 of 2048 tokens`,
    `weights: [\\d.]+ MB on the GPU, per-layer embeddings in the file`,
  ]) {
    expect(stderr).toMatch(new RegExp(`^${line}$`, 'm'));
  }
  expect((await lapidary(args)).stderr).not.toMatch(/prompt:|reply:|context:|weights:/);
});

async function blobAsGguf(): Promise<string> {
  const path = join(home, 'nano.gguf');
  await cp(await blob(), path);
  return path;
}

test('run: the same seed twice, and a stop text', async () => {
  const args = ['run', 'nano', 'Tell me a story.', '--seed', '7', '--max-tokens', '12'];
  const [one, two] = [await lapidary(args), await lapidary(args)];
  expect(one.stdout).not.toBe('');
  expect(two.stdout).toBe(one.stdout);
  const stopped = await lapidary([
    'run',
    'nano',
    QUESTION,
    '--temperature',
    '0',
    '--stop',
    ' France',
  ]);
  expect(stopped.stdout).toBe('The capital of\n');
});

test('run --format: the answer is JSON as the schema says; what is wrong with a schema', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'lapidary-format-'));
  const file = join(folder, 'schema.json');
  const ask = async (schema: string) => {
    await writeFile(file, schema);
    return lapidary(['run', 'nano', QUESTION, '--temperature', '0', '--format', file]);
  };
  const ended = await ask('{"enum":["London","Paris"]}');
  expect([ended.stdout, ended.code]).toEqual(['"Paris"\n', 0]);
  const unsupported = await ask('{"type":"array","uniqueItems":true}');
  expect(unsupported.stderr).toContain("'uniqueItems' at #");
  expect(unsupported.code).toBe(EXIT.error);
  for (const text of ['{', '"json"', '[]']) expect((await ask(text)).code).toBe(EXIT.usage);
  const none = await lapidary(['run', 'nano', QUESTION, '--format', join(folder, 'none.json')]);
  expect(none.code).toBe(EXIT.notFound);
  await rm(folder, { recursive: true });
});

test('run: Ctrl-C ends the reply with what was written, exit 130', async () => {
  const running = start(process.execPath, [
    main,
    'run',
    'nano',
    '--raw',
    '--json',
    '--max-tokens',
    '1500',
    '--temperature',
    '2',
    '--top-k',
    '0',
    'Once',
  ]);
  await running.until(/"type":"text"/);
  running.kill('SIGINT');
  const { code, stdout } = await running.ended;
  expect(JSON.parse(stdout.trim().split('\n').at(-1) ?? '')).toMatchObject({
    type: 'done',
    reason: 'cancelled',
  });
  expect(code).toBe(130);
});

test('list and show say what is there, without a GPU', async () => {
  const env = { VK_DRIVER_FILES: '/dev/null' };
  const listed = await lapidary(['list'], { env });
  expect(listed.stdout).toMatch(/^NAME +SIZE[^]*nano:latest +6\.1 MB +gemma4 7\.8M Q4_K_M/);
  const { models } = JSON.parse((await lapidary(['list', '--json'], { env })).stdout) as {
    models: object[];
  };
  expect(models).toHaveLength(1);
  const shown = await lapidary(['show', 'nano', '--tensors'], { env });
  expect(shown.stdout).toMatch(/general\.architecture +gemma4\n/);
  expect(shown.stdout).toMatch(/token_embd\.weight +\S+ +256 × 2048/);
  const json = JSON.parse((await lapidary(['show', 'nano', '--json'], { env })).stdout) as Record<
    string,
    unknown
  >;
  expect(json).toMatchObject({
    name: 'nano:latest',
    version: 3,
    metadata: { 'gemma4.block_count': 6 },
  });
  expect(json).not.toHaveProperty('tensors');
});

test('embed: a line of JSON for each text', async () => {
  const store = ['--models', `${root}models`];
  const flags = ['--dimensions', '4', '--pooling', 'last', '--context', '512', ...store];
  const { code, stdout } = await lapidary(['embed', 'nano', 'Hello', 'World', ...flags]);
  expect(code).toBe(0);
  const vectors = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as number[]);
  expect(vectors.map((vector) => vector.length)).toEqual([4, 4]);
  for (const vector of vectors) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  const none = await lapidary(['embed', 'nano', 'Hello', '--dimensions', '4096', ...store]);
  expect([none.code, errorLine(none)]).toEqual([1, expect.stringContaining('dimensions')]);
});

test('tokenize: control tokens are text unless asked otherwise', async () => {
  const ids = async (...flags: string[]) =>
    (await lapidary(['tokenize', 'nano', '<|turn>user', '--ids', ...flags])).stdout
      .trim()
      .split(' ')
      .map(Number);
  const [plain, special, bos] = [
    await ids(),
    await ids('--specials'),
    await ids('--specials', '--bos'),
  ];
  expect(special.length).toBeLessThan(plain.length);
  expect(bos).toEqual([2, ...special]);
});

test('tokenize --json: ids with their texts', async () => {
  const text = 'Où est <turn|> "Paris"?';
  const { stdout, code } = await lapidary(['tokenize', 'nano', text, '--json', '--bos']);
  const tokens = JSON.parse(stdout) as { id: number; text: string }[];
  expect(tokens[0]).toEqual({ id: 2, text: '<bos>' });
  expect(tokens.every(({ id }) => Number.isInteger(id))).toBe(true);
  // The two bytes of a letter that is no token of its own: neither is text.
  const texts = tokens.slice(1).map(({ text }) => text);
  expect(texts.join('')).toBe(text.replace('ù', '\ufffd\ufffd'));
  expect(code).toBe(0);
});

test('docs/cli.md has the exit codes that --help has', async () => {
  const { stdout } = await lapidary(['run', '--help']);
  const help = stdout.slice(stdout.indexOf('Exit codes:')).matchAll(/^ +(\d+) +(.+)$/gm);
  const page = await readFile(join(root, 'docs/cli.md'), 'utf8');
  const rows = page.matchAll(/^\| *(\d+) *\| *(.+?) *\|/gm);
  const pairs = (found: Iterable<RegExpMatchArray>) =>
    [...found].map(([, code, meaning]) => `${code} ${meaning}`);
  const documented = pairs(rows);
  expect(documented).toEqual(pairs(help));
  expect(documented.map((row) => Number.parseInt(row))).toEqual(Object.values(EXIT));
});

test.each(['run', 'list', 'show', 'tokenize', 'serve'])(
  '%s --help has examples',
  async (command) => {
    const { stdout, code } = await lapidary([command, '--help']);
    expect(stdout).toMatch(new RegExp(`Examples:\\n  lapidary ${command}`));
    expect(code).toBe(0);
  },
);

test('a closed pipe ends it quietly', async () => {
  const running = start('bash', [
    '-c',
    `"${process.execPath}" "${main}" show nano --tensors | head -1; exit \${PIPESTATUS[0]}`,
  ]);
  const { code, stderr, stdout } = await running.ended;
  expect({ code, stderr, lines: stdout.split('\n').length }).toEqual({
    code: 0,
    stderr: '',
    lines: 2,
  });
});

interface Failure {
  name: string;
  args: () => string[] | Promise<string[]>;
  env?: Record<string, string>;
  code: number;
  line: RegExp;
}
const damaged = async (name: string, damage: (path: string) => Promise<void>) => {
  const path = join(home, name);
  await cp(await blob(), path);
  await damage(path);
  return path;
};
/** tiny-e with one tensor replaced, or left out. */
const tiny = async (name: string, tensor: string, edit: (tensor: Tensor) => Tensor[]) => {
  const file = parseGguf(readFixture('gemma4/tiny-e.gguf'));
  const tensors = file.tensors.flatMap((each) => (each.name === tensor ? edit(each) : [each]));
  const path = join(home, name);
  await writeFile(path, writeGguf({ ...file, tensors }));
  return path;
};
const Q8_1_BYTES = 36 / 32;
const failures: Failure[] = [
  {
    name: 'a missing model',
    args: () => ['run', 'nanu', 'x'],
    code: 3,
    line: /no model 'nanu:latest'; did you mean 'nano:latest'\?.*\(not_found\)/,
  },
  {
    name: 'a missing file',
    args: () => ['run', './none.gguf', 'x'],
    code: 3,
    line: /no file .*none\.gguf \(not_found\)/,
  },
  {
    name: 'a bad name',
    args: () => ['show', 'a/../b'],
    code: 1,
    line: /the namespace must begin with .*\(invalid_argument\)/,
  },
  {
    name: 'a truncated file',
    args: async () => ['run', await damaged('cut.gguf', (path) => truncate(path, 3_000_000)), 'x'],
    code: 1,
    line: /\((truncated|invalid_format)\)/,
  },
  {
    name: 'a file cut in its header',
    args: async () => ['show', await damaged('short.gguf', (path) => truncate(path, 1000))],
    code: 1,
    line: /\((truncated|invalid_format)\)/,
  },
  {
    name: 'a truncated blob of a store',
    args: async () => {
      const store = join(home, 'store');
      await cp(join(root, 'models'), store, { recursive: true });
      const folder = join(store, 'blobs');
      for (const name of await readdir(folder)) {
        if ((await stat(join(folder, name))).size > 1e6) await truncate(join(folder, name), 5000);
      }
      return ['run', 'nano', 'x', '--models', store];
    },
    code: 1,
    line: /has 5000 bytes, its manifest says 6120320; pull the model again \(truncated\)/,
  },
  {
    name: 'an unknown architecture',
    args: async () => [
      'run',
      await damaged('other.gguf', async (path) => {
        const bytes = await readFile(path);
        bytes.write('gemmaX', bytes.indexOf('gemma4', bytes.indexOf('general.architecture')));
        await writeFile(path, bytes);
      }),
      'x',
    ],
    code: 1,
    line: /gemmaX.*\(unsupported\)/,
  },
  {
    name: 'an unknown tensor type',
    args: async () => [
      'run',
      await tiny('type.gguf', 'blk.1.ffn_up.weight', (tensor) => [{ ...tensor, type: 99 }]),
      'x',
    ],
    code: 1,
    line: /blk\.1\.ffn_up\.weight.*type.*99.*\(unsupported\)/,
  },
  {
    name: 'a missing tensor',
    args: async () => ['run', await tiny('missing.gguf', 'blk.1.ffn_up.weight', () => []), 'x'],
    code: 3,
    line: /tensor blk\.1\.ffn_up\.weight \[\d+, \d+\] is missing: .*\(not_found\)/,
  },
  {
    name: 'a tensor of a wrong shape',
    args: async () => [
      'run',
      await tiny('shape.gguf', 'blk.1.ffn_up.weight', (tensor) => [
        { ...tensor, dims: [...tensor.dims].reverse() },
      ]),
      'x',
    ],
    code: 1,
    line: /blk\.1\.ffn_up\.weight has shape \[\d+, \d+\], .* ask for \[\d+, \d+\].*\(invalid_format\)/,
  },
  {
    name: 'a tensor type that weights never have',
    args: async () => [
      'run',
      await tiny('q8_1.gguf', 'blk.1.ffn_up.weight', (tensor) => [
        {
          ...tensor,
          type: GgmlType.Q8_1,
          data: new Uint8Array(tensor.dims.reduce((a, b) => a * b, 1) * Q8_1_BYTES),
        },
      ]),
      'x',
    ],
    code: 1,
    line: /blk\.1\.ffn_up\.weight \[.*\] is of type Q8_1, expected one of F32.* \(unsupported\)/,
  },
  {
    name: 'a file that is no GGUF',
    args: async () => [
      'run',
      await damaged('text.gguf', (path) => writeFile(path, 'hello, world\n'.repeat(100))),
      'x',
    ],
    code: 1,
    line: /\(invalid_format\)/,
  },
  {
    name: 'a prompt longer than the context',
    args: () => ['run', 'nano', 'one two three '.repeat(40), '--context', '32'],
    code: 1,
    line: /\(context_overflow\)/,
  },
  {
    name: 'no adapter',
    args: () => ['run', 'nano', 'x'],
    env: { VK_DRIVER_FILES: '/dev/null' },
    code: 4,
    line: /no usable GPU.*\(no_adapter\)/,
  },
  {
    name: 'no prompt',
    args: () => ['run', 'nano'],
    code: 2,
    line: /there is no prompt.*\(invalid_argument\)/,
  },
  {
    name: 'a server that is not there',
    args: () => ['run', 'http://127.0.0.1:9/x.gguf', 'x'],
    code: 1,
    line: /request failed.*\(io_error\)/,
  },
  {
    name: 'a bad option',
    args: () => ['run', 'nano', 'x', '--top-p', '2'],
    code: 2,
    line: /top-p.*from 0 to 1/,
  },
  { name: 'an unknown command', args: () => ['teach'], code: 2, line: /unknown command 'teach'/ },
];

test.each(failures)('$name: one readable line, exit $code', async ({ args, env, code, line }) => {
  const words = await args();
  const before = await readdir(home, { recursive: true });
  const ended = await lapidary(words, env ? { env } : {});
  expect(errorLine(ended)).toMatch(line);
  expect(ended.stdout).toBe('');
  expect(await readdir(home, { recursive: true })).toEqual(before);
  expect(ended.code).toBe(code);
});

test('with --json an error is JSON', async () => {
  const { stdout, stderr, code } = await lapidary(['run', 'nanu', 'x', '--json']);
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'not_found' } });
  expect(stderr).toBe('');
  expect(code).toBe(3);
});

test('run --adapter: the answer of the changed model, its scale, and what is wrong with it', async () => {
  const file = parseGguf(readFixture('nano/nano-f16.gguf.gz'));
  const sharing = (name: string) => /^blk\.[345]\.attn_[kv]\./.test(name);
  const targets = ['ffn_down'];
  const adapter = randomAdapter(file, { seed: 7, rank: 4, skip: sharing, targets, most: 1 });
  const path = join(home, 'style.gguf');
  await writeFile(path, adapterGguf(adapter, 'style'));
  const ask = (...adapters: string[]) =>
    lapidary([
      'run',
      'nano',
      QUESTION,
      ...adapters.flatMap((each) => ['--adapter', each]),
      ...'--temperature 0 --max-tokens 8 --verbose'.split(' '),
    ]);
  const changed = await ask(`${path}:50`);
  expect(changed.code, changed.stderr).toBe(0);
  expect(changed.stderr).toMatch(/adapter: style at 50, /);
  expect(changed.stdout).not.toContain('Paris');
  // Twice, and all of it taken back.
  const none = await ask(`${path}:0.5`, `${path}:-0.5`);
  expect(none.stdout).toBe('The capital of France is Paris.\n');
  const missing = await ask(join(home, 'none.gguf'));
  expect(errorLine(missing)).toMatch(/none\.gguf.*\(not_found\)/);
  expect(missing.code).toBe(EXIT.notFound);
  const wrong = await ask(`${path}:much`);
  expect(wrong.code).toBe(EXIT.usage);
});
