// `finetune`: trains an adapter on a file of examples, with checkpoints to go on from.

import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  FileSource,
  type Finetune,
  type FinetuneOptions,
  type FinetuneProbe,
  type FinetuneReady,
  type FinetuneReport,
  type FinetuneSettings,
  type FinetuneSize,
  type FinetuneStep,
} from 'lapidary/node';
import { EXIT, UsageError } from '../exit.js';
import { replace } from '../files.js';
import { bytes, count, table } from '../format.js';
import { load, type LoadFlags } from '../loading.js';

export interface FinetuneFlags extends LoadFlags, FinetuneSettings {
  out?: string;
  probe?: boolean;
  restart?: boolean;
  eval?: number;
  checkpointEvery?: number;
  json?: boolean;
}

const SETTINGS = [
  'epochs',
  'steps',
  'rank',
  'alpha',
  'rsLora',
  'dropout',
  'targets',
  'layers',
  'learningRate',
  'schedule',
  'warmup',
  'restarts',
  'weightDecay',
  'clip',
  'maxLength',
  'longExamples',
  'batch',
  'accumulation',
  'pack',
  'checkpointing',
  'evalEvery',
  'supervise',
  'badLines',
  'seed',
] as const;

const CHECKPOINT = 'checkpoint.safetensors';
/** Fewer steps hardly change a model. */
const FEW_STEPS = 20;
/** Where there is no terminal a line is written this often. */
const LINE_EVERY_MS = 10_000;

/** The folder is made with its first file: a run that is refused leaves none. */
async function keep(path: string, content: Uint8Array | string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await replace(path, content);
}

function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function describe(ready: FinetuneReady): string {
  const shapes = Object.entries(ready.shapes).map(([shape, lines]) => `${lines} ${shape}`);
  const lines = [
    `${ready.examples} examples (${shapes.join(', ')}), ${count(ready.positions)} tokens, ` +
      `${count(ready.supervised)} of them to learn` +
      (ready.evalExamples > 0 ? `; ${ready.evalExamples} to evaluate with` : ''),
    `${ready.steps} steps, ${count(ready.parameters)} parameters, ${bytes(ready.gpuBytes)} of GPU memory`,
  ];
  if (ready.cut + ready.split + ready.dropped > 0)
    lines.push(`too long: ${ready.cut} cut, ${ready.split} split, ${ready.dropped} dropped`);
  for (const { line, message } of ready.problems) lines.push(`line ${line} skipped: ${message}`);
  const unnamed = ready.badLines - ready.problems.length;
  if (unnamed > 0) lines.push(`${unnamed} more lines skipped`);
  if (ready.steps < FEW_STEPS)
    lines.push('few steps: more --epochs, or fewer examples a row (--max-length), make more');
  if (ready.step > 0) lines.push(`going on after step ${ready.step}`);
  return lines.join('\n');
}

function progress(step: FinetuneStep, evalLoss: number | undefined): string {
  return (
    `step ${step.step}/${step.steps}  loss ${step.loss.toFixed(4)}` +
    (evalLoss === undefined ? '' : `  eval ${evalLoss.toFixed(4)}`) +
    `  ${Math.round(step.tokensPerSecond)} tok/s  ${clock(step.secondsLeft)} left  ${bytes(step.gpuBytes)}`
  );
}

/** Shows the run; Ctrl-C ends it after the micro-batch at hand. `begin` is awaited when the run is ready to train. */
async function follow(
  run: Finetune,
  json: boolean,
  begin: () => Promise<unknown>,
): Promise<FinetuneReport> {
  const stop = () => run.cancel();
  process.once('SIGINT', stop);
  const terminal = process.stderr.isTTY;
  let evalLoss: number | undefined;
  let shown = -LINE_EVERY_MS;
  try {
    for await (const event of run) {
      if (event.type === 'ready') await begin();
      if (json && event.type !== 'done') process.stdout.write(`${JSON.stringify(event)}\n`);
      if (json || event.type === 'done') continue;
      if (event.type === 'ready') {
        process.stderr.write(`${describe(event)}\n`);
        continue;
      }
      evalLoss = event.evalLoss ?? evalLoss;
      const due = performance.now() - shown > LINE_EVERY_MS || event.step === event.steps;
      if (terminal) process.stderr.write(`\r\x1b[K${progress(event, evalLoss)}`);
      else if (due) process.stderr.write(`${progress(event, evalLoss)}\n`);
      if (due) shown = performance.now();
    }
    return await run.report();
  } finally {
    process.off('SIGINT', stop);
    if (terminal && !json) process.stderr.write('\n');
  }
}

function describeProbe(found: FinetuneProbe): string {
  const { longest, largest } = found;
  const row = (what: string, size: FinetuneSize | undefined, fits: string) => [
    what,
    String(size?.maxLength ?? found.maxLength),
    String(size?.batch ?? 0),
    size ? bytes(size.bytes) : '',
    fits,
  ];
  return (
    `${count(found.parameters)} parameters\n` +
    table([
      ['', 'max-length', 'batch', 'memory', 'fits'],
      row('asked for', found, found.fits ? 'yes' : 'no'),
      row('longest row', longest, 'yes'),
      row('largest batch', largest, largest ? 'yes' : 'no'),
    ])
  );
}

/** What would fit; nothing is read or written. Exit code 1 where what was asked for does not. */
async function probe(name: string, settings: FinetuneSettings, flags: FinetuneFlags) {
  const model = await load(name, flags);
  try {
    const found = await model.finetuneProbe(settings);
    process.stdout.write(flags.json ? `${JSON.stringify(found)}\n` : describeProbe(found));
    return found.fits ? EXIT.ok : EXIT.error;
  } finally {
    await model.close();
  }
}

export async function finetune(
  name: string,
  data: string | undefined,
  flags: FinetuneFlags,
): Promise<number> {
  const settings: Record<string, unknown> = {};
  for (const key of SETTINGS) if (flags[key] !== undefined) settings[key] = flags[key];
  if (flags.eval !== undefined) settings.evalFraction = flags.eval;
  if (flags.probe) return probe(name, settings, flags);
  if (data === undefined) throw new UsageError('finetune needs examples: a file of JSON Lines');
  if (flags.out === undefined) throw new UsageError('finetune needs --out, a folder to write to');
  return train(name, data, flags.out, settings, flags);
}

async function train(
  name: string,
  data: string,
  out: string,
  settings: FinetuneSettings,
  flags: FinetuneFlags,
): Promise<number> {
  const path = join(out, CHECKPOINT);
  const input = await FileSource.open(data);
  const model = await load(name, flags);
  let checkpoint: FileSource | undefined;
  try {
    if (!flags.restart && existsSync(path)) checkpoint = await FileSource.open(path);
    const options: FinetuneOptions = {
      ...settings,
      checkpoint,
      onCheckpoint: (file) => keep(path, file),
      checkpointEvery: flags.checkpointEvery,
    };
    const report = await follow(model.finetune(input, options), flags.json === true, () =>
      // Not before: what is refused leaves nothing behind.
      mkdir(out, { recursive: true }),
    );
    const { adapter, ...ended } = report;
    // The configuration last: with it the folder is an adapter.
    await keep(join(out, 'adapter_model.safetensors'), adapter.model);
    await keep(join(out, 'adapter_config.json'), adapter.config);
    if (flags.json) process.stdout.write(`${JSON.stringify({ type: 'done', ...ended })}\n`);
    else if (report.reason === 'done')
      process.stderr.write(`done: lapidary run ${name} --adapter ${out} "…"\n`);
    else
      process.stderr.write(
        `stopped after step ${report.step} of ${report.steps}: the same command goes on from there\n`,
      );
    return report.reason === 'done' ? EXIT.ok : EXIT.interrupted;
  } finally {
    await checkpoint?.close?.();
    await model.close();
    await input.close?.();
  }
}
