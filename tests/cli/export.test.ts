// `export`: a merged model's file, adapters in other formats, and what is refused without writing anything.

import {
  copyFile,
  mkdir,
  readFile,
  readdir,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { EXIT } from '../../apps/cli/src/exit.ts';
import { adapterGguf, merged, peftFiles, randomAdapter } from '../support/adapters.ts';
import { maxAbsDifference } from '../support/compare.ts';
import { readFixture } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf } from '../support/gguf.ts';
import { errorLine, home, lapidary, main, start } from './harness.ts';

const folder = join(home, 'export');
const at = (name: string) => join(folder, name);
const base = readFixture('gemma4/tiny-e.gguf');
const adapter = randomAdapter(parseGguf(base), { seed: 1, rank: 2, targets: ['ffn_up', 'proj'] });

beforeAll(async () => {
  await mkdir(at('peft'), { recursive: true });
  await writeFile(at('base.gguf'), base);
  await writeFile(at('lora.gguf'), adapterGguf(adapter, 'lora'));
  const { model, config } = peftFiles(adapter);
  await writeFile(at('peft/adapter_model.safetensors'), model);
  await writeFile(at('peft/adapter_config.json'), config);
});

const run = (...args: string[]) => lapidary(['export', ...args]);
const files = () => readdir(folder);

test('--merge: the weights with the change, everything else as it was, and a report', async () => {
  const ended = await run(
    ...[at('base.gguf'), '--adapter', `${at('lora.gguf')}:0.5`, '--adapter', at('peft')],
    ...['--merge', at('merged.gguf')],
  );
  expect(ended.stderr).toMatch(/merged\.gguf: .*; \d+ matrices changed: \d+ F32\n$/);
  expect(ended.stdout).toBe('');
  expect(ended.code).toBe(EXIT.ok);
  const got = parseGguf(await readFile(at('merged.gguf')));
  const before = parseGguf(base);
  const wanted = new Map(parseGguf(merged(base, [adapter, 1.5])).tensors.map((t) => [t.name, t]));
  expect(got.version).toBe(before.version);
  expect([...got.metadata]).toEqual([...before.metadata]);
  expect(got.tensors.map(({ name }) => name)).toEqual(before.tensors.map(({ name }) => name));
  const changed = new Set(adapter.matrices.map(({ name }) => `${name}.weight`));
  // A copy: data may be a part of a Buffer, whose slice() is none.
  const floats = (data: Uint8Array) => new Float32Array(new Uint8Array(data).buffer);
  for (const [i, { name, data, type }] of got.tensors.entries()) {
    if (!changed.has(name)) {
      expect({ name, type, data }).toEqual({
        name,
        type: before.tensors[i]!.type,
        data: before.tensors[i]!.data,
      });
      continue;
    }
    expect(maxAbsDifference(floats(data), floats(wanted.get(name)!.data))).toBeLessThan(1e-6);
  }

  // What is there stays, unless it is to be replaced; the fresh file never stays.
  const merge = [at('base.gguf'), '--adapter', at('lora.gguf'), '--merge', at('merged.gguf')];
  const again = await run(...merge);
  expect(errorLine(again)).toMatch(/merged\.gguf already: --force .*\(invalid_argument\)$/);
  expect(again.code).toBe(EXIT.error);
  const forced = await run(...merge, '--force', '--type', 'q8_0', '--json');
  expect(forced.code).toBe(EXIT.ok);
  const done = JSON.parse(forced.stdout) as { matrices: object[]; kept: number; bytes: number };
  expect(done).toMatchObject({ type: 'done', file: at('merged.gguf') });
  expect(done.matrices).toHaveLength(adapter.matrices.length);
  expect(done.matrices[0]).toMatchObject({ from: 'F32', to: 'Q8_0' });
  expect(done.kept).toBeGreaterThan(0.99);
  expect((await stat(at('merged.gguf'))).size).toBe(done.bytes);
  expect(await files()).toEqual(['base.gguf', 'lora.gguf', 'merged.gguf', 'peft']);
});

test('adapters from one format to another and back', async () => {
  const toPeft = await run('--adapter', at('lora.gguf'), '--peft', at('as-peft'));
  expect(toPeft.code).toBe(EXIT.ok);
  const toGguf = await run('--adapter', at('as-peft'), '--gguf', at('back.gguf'), '--json');
  expect(JSON.parse(toGguf.stdout)).toEqual({ type: 'done', files: [at('back.gguf')] });
  const tensors = (bytes: Uint8Array) =>
    new Map(parseGguf(bytes).tensors.map(({ name, data }) => [name, Buffer.from(data)]));
  const back = tensors(await readFile(at('back.gguf')));
  expect(back).toEqual(tensors(await readFile(at('lora.gguf'))));
  const twice = await run('--adapter', at('as-peft'), '--gguf', at('back.gguf'));
  expect(errorLine(twice)).toMatch(/--force/);
  expect(twice.code).toBe(EXIT.error);
});

test('what is refused leaves no file', async () => {
  const before = await files();
  const lora = ['--adapter', at('lora.gguf')];
  const usage = [
    [at('base.gguf'), '--merge', at('x.gguf')],
    [at('base.gguf'), ...lora],
    [...lora, '--merge', at('x.gguf')],
    [...lora, ...lora, '--gguf', at('x.gguf')],
    ['--adapter', `${at('lora.gguf')}:2`, '--gguf', at('x.gguf')],
    [at('base.gguf'), ...lora, '--merge', at('x.gguf'), '--type', 'q3_k'],
  ];
  for (const args of usage) expect([args, (await run(...args)).code]).toEqual([args, EXIT.usage]);

  const merge = (model: string, from: string, out: string, ...more: string[]) =>
    run(model, '--adapter', from, '--merge', out, ...more);
  await symlink(at('base.gguf'), at('same.gguf'));
  for (const same of ['base.gguf', 'same.gguf']) {
    const own = await merge(at('base.gguf'), at('lora.gguf'), at(same), '--force');
    expect(errorLine(own)).toMatch(/is the model itself.*\(invalid_argument\)$/);
    expect(own.code).toBe(EXIT.error);
  }
  // The name that the new file has in the making.
  await copyFile(at('base.gguf'), at('x.gguf.new'));
  const fresh = await merge(at('x.gguf.new'), at('lora.gguf'), at('x.gguf'));
  expect(errorLine(fresh)).toMatch(/is the model itself/);
  expect(await readFile(at('x.gguf.new'))).toEqual(Buffer.from(base));

  const missing = await merge(at('base.gguf'), at('none.gguf'), at('y.gguf'));
  expect(missing.code).toBe(EXIT.notFound);
  const into = await merge(at('base.gguf'), at('lora.gguf'), at('peft'), '--force');
  expect(errorLine(into)).toMatch(/is a folder \(invalid_argument\)$/);
  const nowhere = await merge(at('base.gguf'), at('lora.gguf'), at('no/y.gguf'));
  expect(errorLine(nowhere)).toMatch(/cannot be written.*\(io_error\)$/);

  const head = randomAdapter(parseGguf(base), { seed: 2, rank: 1, targets: [], head: true });
  await writeFile(at('head.gguf'), adapterGguf(head));
  const tied = await merge(at('base.gguf'), at('head.gguf'), at('y.gguf'));
  expect(errorLine(tied)).toMatch(/output head.*\(unsupported\)$/);
  const other = await merge('nano', at('lora.gguf'), at('y.gguf'));
  expect(errorLine(other)).toMatch(/of another model \(invalid_format\)$/);
  const half = (await readFile(at('lora.gguf'))).subarray(0, 3000);
  await writeFile(at('half.gguf'), half);
  expect(errorLine(await run('--adapter', at('half.gguf'), '--gguf', at('y.gguf')))).toMatch(
    /\((truncated|invalid_format)\)$/,
  );

  // An error half-way: the last matrix cannot be decoded to numbers.
  const file = parseGguf(base);
  const last = file.tensors.findLast(({ name }) => name.includes('ffn_up'))!;
  last.data = last.data.slice().fill(255);
  expect(last.type).toBe(GgmlType.F32);
  await writeFile(at('nan.gguf'), writeGguf(file));
  const nan = await merge(at('nan.gguf'), at('lora.gguf'), at('y.gguf'));
  expect(errorLine(nan)).toMatch(new RegExp(`${last.name}.*not finite \\(invalid_format\\)$`));
  expect(await files()).toEqual(
    [...before, 'half.gguf', 'head.gguf', 'nan.gguf', 'same.gguf', 'x.gguf.new'].sort(),
  );
});

test('Ctrl-C removes what was begun', async () => {
  // Long enough to be caught: a gigabyte of zeros that no adapter changes, of which the disk holds nothing.
  const file = parseGguf(base);
  const rows = 8 << 20;
  const name = 'v.unused';
  const small = writeGguf({
    ...file,
    tensors: [...file.tensors, { name, dims: [32, 1], type: 0, data: new Uint8Array(128) }],
  });
  const entry = Buffer.from(small).indexOf(name) + name.length;
  new DataView(small.buffer, small.byteOffset).setBigUint64(entry + 12, BigInt(rows), true);
  await writeFile(at('large.gguf'), small);
  await truncate(at('large.gguf'), small.length + 128 * rows);
  const out = at('large-merged.gguf');
  const child = start(process.execPath, [
    ...[main, 'export', at('large.gguf'), '--adapter', at('lora.gguf'), '--merge', out],
  ]);
  while (!(await files()).includes('large-merged.gguf.new'))
    await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill('SIGINT');
  const { code, stderr } = await child.ended;
  expect(stderr).toMatch(/error: .*\(cancelled\)\n$/);
  expect(code).toBe(EXIT.interrupted);
  expect((await files()).filter((each) => each.startsWith('large-merged'))).toEqual([]);
});
