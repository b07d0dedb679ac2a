// `bench`: checks that the engine is right, then measures it; `--synthesize` writes a model to measure.

import { readFile, writeFile } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import {
  DEFAULTS,
  bench as measure,
  table,
  type LogitAnswers,
  type Subject,
} from '@lapidary/bench';
import { synthesize } from '@lapidary/bench/synthesize';
import {
  FileSource,
  HttpRangeSource,
  LapidaryError,
  OllamaStore,
  isPath,
  type KvType,
} from 'lapidary/node';
import { EXIT } from '../exit.js';
import { bytes, duration } from '../format.js';
import { storeOptions, type StoreFlags } from '../stores.js';

export interface BenchFlags extends StoreFlags {
  contexts?: number[];
  prefills?: number[];
  repeats?: number;
  loads?: number;
  decodeTokens?: number;
  firstToken?: number;
  profile?: boolean;
  variantDot?: 'f32' | 'int16' | 'int8';
  variantPrefill?: 'f32' | 'int16' | 'int8' | 'matrix';
  variantSubgroups?: 'on' | 'off';
  kvType?: KvType;
  batchSize?: number;
  sessions?: number;
  concurrency?: number[];
  loraRank?: number;
  perLayerEmbeddings?: 'gpu' | 'source' | 'auto';
  drafter?: string;
  draftTokens?: number;
  gpuMemory?: number;
  tune?: boolean;
  knownAnswers?: string;
  synthesize?: string;
  seed?: number;
  json?: boolean;
  out?: string;
}

async function subject(name: string, flags: StoreFlags): Promise<Subject> {
  if (/^https?:/i.test(name)) return { name, open: () => HttpRangeSource.open(name) };
  const path = isPath(name)
    ? name
    : await (await OllamaStore.open(storeOptions(flags))).weights(name);
  return { name, open: () => FileSource.open(path) };
}

/** Known answers from a file that a user names; what is not in it shows when it is used. */
async function readAnswers(path: string): Promise<LogitAnswers> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new LapidaryError('not_found', `there are no known answers in ${path}`, { cause: error });
  }
  let value: Partial<LogitAnswers>;
  try {
    value = JSON.parse(text) as Partial<LogitAnswers>;
  } catch (error) {
    throw new LapidaryError('invalid_format', `${path} is no JSON`, { cause: error });
  }
  const { digest, ids, rows, samples } = value;
  if (!digest || !Array.isArray(ids) || !Array.isArray(rows) || !Array.isArray(samples)) {
    throw new LapidaryError('invalid_format', `${path} holds no known answers of a model`);
  }
  return value as LogitAnswers;
}

export async function bench(name: string | undefined, flags: BenchFlags): Promise<number> {
  const interrupt = new AbortController();
  const onInterrupt = () => interrupt.abort();
  process.once('SIGINT', onInterrupt);
  const { signal } = interrupt;
  const say = (text: string) => process.stderr.write(`${text}\n`);
  try {
    if (flags.synthesize) {
      if (!name) throw new LapidaryError('invalid_argument', '--synthesize needs a file to write');
      const started = performance.now();
      const { size } = await synthesize(flags.synthesize, name, { seed: flags.seed ?? 1, signal });
      say(`wrote ${bytes(size)} to ${name} in ${duration(performance.now() - started)}`);
      return EXIT.ok;
    }
    const drafter = flags.drafter ? await subject(flags.drafter, flags) : undefined;
    const report = await measure(
      await subject(name ?? 'nano', flags),
      await subject('nano', { ...flags }),
      {
        ...DEFAULTS,
        ...(flags.contexts && { contexts: flags.contexts }),
        ...(flags.prefills && { prefills: flags.prefills }),
        ...(flags.repeats !== undefined && { repeats: flags.repeats }),
        ...(flags.loads !== undefined && { loads: flags.loads }),
        ...(flags.decodeTokens !== undefined && { decodeTokens: flags.decodeTokens }),
        ...(flags.firstToken !== undefined && { firstTokenPrompt: flags.firstToken }),
        ...((flags.variantDot ?? flags.variantPrefill ?? flags.variantSubgroups) !== undefined && {
          variant: {
            ...(flags.variantDot && { dot: flags.variantDot }),
            ...(flags.variantPrefill && { prefill: flags.variantPrefill }),
            ...(flags.variantSubgroups && { subgroups: flags.variantSubgroups === 'on' }),
          },
        }),
        ...(flags.kvType && { kvType: flags.kvType }),
        ...(flags.tune === false && { tune: false }),
        ...(flags.batchSize !== undefined && { batchSize: flags.batchSize }),
        ...(flags.sessions !== undefined && { sessions: flags.sessions }),
        ...(flags.concurrency && { concurrency: flags.concurrency }),
        ...(flags.loraRank !== undefined && { loraRank: flags.loraRank }),
        ...(flags.perLayerEmbeddings && { perLayerEmbeddings: flags.perLayerEmbeddings }),
        ...(drafter && { drafter: () => drafter.open() }),
        ...(flags.draftTokens !== undefined && { draftTokens: flags.draftTokens }),
        ...(flags.gpuMemory !== undefined && { gpuMemory: flags.gpuMemory }),
        ...(flags.knownAnswers && { knownAnswers: [await readAnswers(flags.knownAnswers)] }),
        profile: flags.profile ?? false,
        signal,
        onProgress: say,
      },
    );
    const json = `${JSON.stringify(report, null, 2)}\n`;
    if (flags.out) await writeFile(flags.out, json);
    process.stdout.write(flags.json ? json : table(report));
    return EXIT.ok;
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}
