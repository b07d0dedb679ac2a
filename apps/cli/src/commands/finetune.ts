// `finetune`: trains an adapter on a file of examples, with checkpoints to go on from.

import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
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
import { StatusLine } from '../status.js';

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
  const status = new StatusLine();
  let evalLoss: number | undefined;
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
      status.show(() => progress(event, evalLoss), event.step === event.steps);
    }
    return await run.report();
  } finally {
    process.off('SIGINT', stop);
    if (!json) status.keep();
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
  const model = await load(name, { ...flags, drafter: false });
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
  const model = await load(name, { ...flags, drafter: false });
  let checkpoint: FileSource | undefined;
  // Not before the run is ready, for what is refused leaves nothing behind, and once: a run that is stopped at once may
  // have its checkpoint first.
  let folder: Promise<unknown> | undefined;
  const makeFolder = () => (folder ??= mkdir(out, { recursive: true }));
  try {
    if (!flags.restart && existsSync(path)) checkpoint = await FileSource.open(path);
    const options: FinetuneOptions = {
      ...settings,
      checkpoint,
      onCheckpoint: async (file) => {
        await makeFolder();
        await replace(path, file);
      },
      checkpointEvery: flags.checkpointEvery,
    };
    const report = await follow(model.finetune(input, options), flags.json === true, makeFolder);
    const { adapter, ...ended } = report;
    // The configuration last: with it the folder is an adapter.
    await replace(join(out, 'adapter_model.safetensors'), adapter.model);
    await replace(join(out, 'adapter_config.json'), adapter.config);
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
