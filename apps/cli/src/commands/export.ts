// `export`: adapters merged into a model's file, and adapters in another format. Needs no GPU.

import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  LapidaryError,
  convertAdapter,
  mergeAdapters,
  type MergedModel,
  type MergeType,
} from 'lapidary/node';
import { parseAdapter } from '../adapters.js';
import { EXIT, UsageError } from '../exit.js';
import { freshPath, replace } from '../files.js';
import { bytes } from '../format.js';
import { StatusLine, progressLine } from '../status.js';
import { storeOptions, type StoreFlags } from '../stores.js';

export interface ExportFlags extends StoreFlags {
  adapter?: string[];
  merge?: string;
  gguf?: string;
  peft?: string;
  type?: MergeType;
  force?: boolean;
  json?: boolean;
}

/** Less of the change than this is worth a warning. */
const MOST = 0.9;

const identity = (path: string) =>
  stat(path, { bigint: true }).then(
    ({ dev, ino }) => `${dev}:${ino}`,
    () => undefined,
  );

/** Refuses a place that holds the model, and one that holds anything unless `force`. */
async function checkPlace(path: string, force: boolean, model?: string): Promise<void> {
  const refuse = (message: string) => new LapidaryError('invalid_argument', message);
  const own = model === undefined ? undefined : await identity(model);
  for (const each of [path, freshPath(path)]) {
    if (own !== undefined && (await identity(each)) === own)
      throw refuse(`${each} is the model itself: write to another file`);
  }
  if ((await identity(path)) === undefined) return;
  if ((await stat(path)).isDirectory()) throw refuse(`${path} is a folder`);
  if (!force) throw refuse(`there is a file ${path} already: --force replaces it`);
}

/** "30 Q4_K, 6 Q6_K, 2 Q8_0 (were Q3_K)" */
function types(merged: MergedModel): string {
  const counts = new Map<string, number>();
  for (const { from, to } of merged.matrices) {
    const how = from === to ? to : `${to} (were ${from})`;
    counts.set(how, (counts.get(how) ?? 0) + 1);
  }
  return [...counts].map(([how, count]) => `${count} ${how}`).join(', ');
}

async function merge(
  model: string,
  out: string,
  adapters: { path: string; scale: number }[],
  flags: ExportFlags,
  signal: AbortSignal,
): Promise<void> {
  const status = flags.json ? undefined : new StatusLine();
  const merged = await mergeAdapters(
    model,
    adapters.map(({ path, scale }) => ({ adapter: path, scale })),
    {
      ...storeOptions(flags),
      signal,
      ...(flags.type && { type: flags.type }),
      ...(status && {
        onProgress: ({ loaded, total }) =>
          status.show(() => progressLine('merge', loaded, total), loaded >= total),
      }),
    },
  );
  try {
    await checkPlace(out, flags.force === true, merged.base);
    await replace(out, merged);
  } finally {
    await merged.close();
    status?.clear();
  }
  const { kept, error } = merged.report();
  if (flags.json) {
    const { matrices, bytes } = merged;
    const done = { type: 'done', file: out, bytes, kept, error, matrices };
    process.stdout.write(`${JSON.stringify(done)}\n`);
    return;
  }
  process.stderr.write(
    `${out}: ${bytes(merged.bytes)}; ${merged.matrices.length} matrices changed: ${types(merged)}\n`,
  );
  if (kept < MOST) {
    process.stderr.write(
      `warning: these types have kept ${Math.round(100 * kept)} % of the adapter's change; with --type q8_0 or ` +
        'f16 more of it stays, or merge into a model that is kept more finely\n',
    );
  }
}

async function convert(
  path: string,
  { gguf, peft, force = false, json, ...flags }: ExportFlags,
  signal: AbortSignal,
): Promise<void> {
  const options = { ...storeOptions(flags), signal };
  let files: string[];
  if (gguf !== undefined) {
    files = [gguf];
    await checkPlace(gguf, force);
    await replace(gguf, await convertAdapter(path, 'gguf', options));
  } else {
    const folder = peft ?? '';
    files = ['adapter_model.safetensors', 'adapter_config.json'].map((name) => join(folder, name));
    for (const file of files) await checkPlace(file, force);
    const adapter = await convertAdapter(path, 'peft', options);
    await mkdir(folder, { recursive: true });
    // The configuration last: with it the folder is an adapter.
    await replace(files[0] ?? '', adapter.model);
    await replace(files[1] ?? '', adapter.config);
  }
  if (json) process.stdout.write(`${JSON.stringify({ type: 'done', files })}\n`);
  else process.stderr.write(`${files.join('\n')}\n`);
}

export async function exportAdapters(
  model: string | undefined,
  flags: ExportFlags,
): Promise<number> {
  const adapters = (flags.adapter ?? []).map(parseAdapter);
  const [first] = adapters;
  const targets = [flags.merge, flags.gguf, flags.peft].filter((each) => each !== undefined);
  if (!first) throw new UsageError('--adapter says what to export');
  if (targets.length !== 1)
    throw new UsageError('one of --merge, --gguf and --peft says where to, and as what');
  if (flags.merge !== undefined) {
    if (model === undefined) throw new UsageError('--merge needs a model to merge into');
  } else {
    if (model !== undefined) throw new UsageError('only --merge takes a model');
    if (flags.type) throw new UsageError('only --merge takes a --type');
    if (adapters.length > 1) throw new UsageError('one adapter is converted at a time');
    if (first.scale !== 1) throw new UsageError('only --merge takes scales');
  }
  const controller = new AbortController();
  const stop = () => controller.abort();
  process.once('SIGINT', stop);
  try {
    if (flags.merge !== undefined && model !== undefined)
      await merge(model, flags.merge, adapters, flags, controller.signal);
    else await convert(first.path, flags, controller.signal);
    return EXIT.ok;
  } finally {
    process.off('SIGINT', stop);
  }
}
