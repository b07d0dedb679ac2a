// Fine-tuning: a LoRA adapter trained on the model that is loaded, with no server.

import { plainBytes, type DataInput } from './data.js';
import type { Engine } from './engine.js';
import { EventStream } from './event-stream.js';
import { throwIfAborted, type ByteSource } from './source/source.js';

/** A matrix of every layer, or the head, that an adapter can change. */
export type FinetuneTarget =
  | 'q'
  | 'k'
  | 'v'
  | 'o'
  | 'gate'
  | 'up'
  | 'down'
  | 'per_layer_gate'
  | 'per_layer_projection'
  | 'head';

/** All optional; what is not given is the default in brackets. */
export interface FinetuneSettings {
  /** Of the adapter's matrices [16]. */
  rank?: number | undefined;
  /** The adapter's scale is alpha / rank [2 rank]. */
  alpha?: number | undefined;
  /** The scale is alpha / sqrt(rank) instead [false]. */
  rsLora?: boolean | undefined;
  /** Of the adapter's inputs [0]. */
  dropout?: number | undefined;
  /** [q, k, v, o, gate, up, down] */
  targets?: FinetuneTarget[] | undefined;
  /** Numbers of layers [all]. */
  layers?: number[] | undefined;
  /** [2e-4] */
  learningRate?: number | undefined;
  beta1?: number | undefined;
  beta2?: number | undefined;
  epsilon?: number | undefined;
  /** Decoupled [0.01]. */
  weightDecay?: number | undefined;
  /** Largest global norm of the gradients; 0 is any [1]. */
  clip?: number | undefined;
  /** Of the learning rate, after the warm-up [cosine]. */
  schedule?: 'constant' | 'linear' | 'cosine' | 'cosine-restarts' | undefined;
  /** Part of all steps [0.03]. */
  warmup?: number | undefined;
  /** Cycles of cosine-restarts [1]. */
  restarts?: number | undefined;
  /** [3] */
  epochs?: number | undefined;
  /** Instead of epochs. */
  steps?: number | undefined;
  /** Rows of a micro-batch [1]. */
  batch?: number | undefined;
  /** Micro-batches of a step [1]. */
  accumulation?: number | undefined;
  /** Several examples in a row; they do not see each other [true]. */
  pack?: boolean | undefined;
  /** Make activations again on the way back rather than keep them: less memory, equal bits [true]. */
  checkpointing?: boolean | undefined;
  /** Equal seeds give equal runs on one machine [42]. */
  seed?: number | undefined;
  /** Tokens of an example, and of a row [512, or the context if that is shorter]. */
  maxLength?: number | undefined;
  /** What to do with examples that are longer [cut]. */
  longExamples?: 'cut' | 'split' | 'drop' | undefined;
  /** A line that is no example ends the run, or is reported and skipped [fail]. */
  badLines?: 'fail' | 'skip' | undefined;
  /** Which of a conversation's answers to learn [all]. */
  supervise?: 'all' | 'last' | undefined;
  /** Part of the data to keep aside and evaluate [0]. */
  evalFraction?: number | undefined;
  /** The same as a count of lines. */
  evalCount?: number | undefined;
  /** Steps between evaluations [an epoch]. */
  evalEvery?: number | undefined;
}

export interface FinetuneOptions extends FinetuneSettings {
  /** Go on from what {@link FinetuneOptions.onCheckpoint} was given: the same data and settings, bit for bit. */
  checkpoint?: ByteSource | undefined;
  /** Called with everything that the run can go on from, and awaited: every `checkpointEvery` steps, and at its end. */
  onCheckpoint?: ((file: Uint8Array) => Promise<void> | void) | undefined;
  /** [100] */
  checkpointEvery?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** What the data turned out to be, and what is going to happen. */
export interface FinetuneReady {
  examples: number;
  evalExamples: number;
  /** Tokens of all examples, and those among them that are learnt. */
  positions: number;
  supervised: number;
  /** Lines by their shape: "messages", "prompt/completion", … */
  shapes: Record<string, number>;
  badLines: number;
  /** The first of the bad lines. */
  problems: { line: number; message: string }[];
  /** Examples that were too long. */
  cut: number;
  split: number;
  dropped: number;
  /** Done already, before the checkpoint. */
  step: number;
  steps: number;
  /** Numbers that are trained. */
  parameters: number;
  /** Memory that training takes beside the model. */
  gpuBytes: number;
}

/** One step of the optimizer. */
export interface FinetuneStep {
  step: number;
  steps: number;
  epoch: number;
  /** The mean over the step's supervised tokens, before the step. */
  loss: number;
  /** Before clipping. */
  gradientNorm: number;
  learningRate: number;
  tokensPerSecond: number;
  secondsLeft: number;
  gpuBytes: number;
  /** Of the examples kept aside, after the step, where it was measured. */
  evalLoss?: number;
}

/** Rows of a micro-batch, their tokens, and the memory that training on them takes beside the model, estimated. */
export interface FinetuneSize {
  maxLength: number;
  batch: number;
  bytes: number;
}

/** What {@link Model.finetuneProbe} found. */
export interface FinetuneProbe extends FinetuneSize {
  /** Whether the GPU had room for what was asked for; tried by allocating it. */
  fits: boolean;
  /** Numbers that are trained. */
  parameters: number;
  /** The longest row that fits, up to the model's context: a batch of 1. */
  longest: FinetuneSize;
  /** The most rows of the length asked for; absent where not even one fits. */
  largest?: FinetuneSize;
}

/** A trained adapter in PEFT's files. */
export interface TrainedAdapter {
  /** adapter_model.safetensors */
  model: Uint8Array;
  /** adapter_config.json */
  config: string;
}

/** How a run ended, with the adapter. */
export interface FinetuneReport {
  reason: 'done' | 'cancelled';
  step: number;
  steps: number;
  bestEvalLoss?: number;
  /** As it was at the lowest evaluation loss, or at the end where nothing was evaluated. */
  adapter: TrainedAdapter;
}

/** What happens while an adapter is trained, in order; `done` is the last. */
export type FinetuneEvent =
  | ({ type: 'ready' } & FinetuneReady)
  | ({ type: 'step' } & FinetuneStep)
  | ({ type: 'done' } & FinetuneReport);

/**
 * What {@link Model.finetune} gives: iterate it for the events, or ask for `report()`. Cancelling it ends the run
 * between two micro-batches, with a last checkpoint and the adapter as far as it got.
 */
export class Finetune extends EventStream<FinetuneEvent, FinetuneReport> {}

/** @internal What a run needs of its model. */
export interface FinetuneHost {
  engine: Engine;
  handle: number;
  /** Runs work when no other request has the GPU. */
  enqueue<T>(work: () => Promise<T>): Promise<T>;
  contextLength: number;
}

const CHECKPOINT_EVERY = 100;
const USUAL_LENGTH = 512;
const BEST = 4;

interface Ran {
  step: number;
  steps: number;
  done: boolean;
  cancelled: boolean;
  bestEvalLoss?: number;
}

/** Opens a run for `work`, and closes it. */
async function withRun<T>(
  host: FinetuneHost,
  settings: FinetuneSettings,
  work: (run: number) => Promise<T>,
): Promise<T> {
  const { engine, handle } = host;
  const maxLength = settings.maxLength ?? Math.min(USUAL_LENGTH, host.contextLength);
  const json = JSON.stringify({ ...settings, maxLength });
  const { run } = await host.enqueue(() =>
    Promise.resolve(engine.callSyncJson<{ run: number }>('lap_finetune_open', handle, json)),
  );
  try {
    return await work(run);
  } finally {
    engine.callVoid('lap_finetune_close', run);
  }
}

/** @internal */
export function probeFinetune(
  host: FinetuneHost,
  settings: FinetuneSettings,
): Promise<FinetuneProbe> {
  return withRun(host, settings, (run) =>
    host.enqueue(() => host.engine.callJson<FinetuneProbe>('lap_finetune_probe', [run])),
  );
}

/** @internal */
export function startFinetune(
  host: FinetuneHost,
  data: DataInput,
  options: FinetuneOptions,
): Finetune {
  const { checkpoint, onCheckpoint, checkpointEvery, signal: ended, ...settings } = options;
  const { engine } = host;

  async function prepare(run: number, signal: AbortSignal): Promise<FinetuneReady> {
    for await (const piece of plainBytes(data, { signal }))
      engine.callSync('lap_finetune_push', run, piece);
    throwIfAborted(signal);
    const source = checkpoint ? engine.addSource(checkpoint, signal) : 0;
    try {
      return await engine.callJson<FinetuneReady>('lap_finetune_prepare', [run, source]);
    } finally {
      if (source !== 0) engine.removeSource(source);
    }
  }

  const bytesOf = async (name: string, args: number[]): Promise<Uint8Array> =>
    host.enqueue(() => engine.call(name, args).done);

  async function adapterOf(run: number): Promise<TrainedAdapter> {
    const model = await bytesOf('lap_finetune_adapter', [run, BEST]);
    const config = await bytesOf('lap_finetune_adapter', [run, BEST | 1]);
    return { model, config: new TextDecoder().decode(config) };
  }

  async function train(
    run: number,
    emit: (event: FinetuneEvent) => void,
    signal: AbortSignal,
  ): Promise<FinetuneReport> {
    const ready = await host.enqueue(() => prepare(run, signal));
    emit({ type: 'ready', ...ready });
    const every = checkpointEvery ?? CHECKPOINT_EVERY;
    let kept = ready.step;
    const keep = async (step: number) => {
      if (!onCheckpoint || kept === step) return;
      await onCheckpoint(await bytesOf('lap_finetune_checkpoint', [run]));
      kept = step;
    };
    // A step at a time: what else is asked of the model comes in between.
    let ran: Ran;
    do {
      ran = await host.enqueue(() =>
        engine.callJson<Ran>('lap_finetune_run', [run, 1], {
          signal,
          onEvent: (event) => emit({ type: 'step', ...(event as FinetuneStep) }),
        }),
      );
      if (ran.step % every === 0 || ran.done || ran.cancelled) await keep(ran.step);
    } while (!ran.done && !ran.cancelled);
    const { step, steps, bestEvalLoss } = ran;
    const reason = ran.done ? 'done' : 'cancelled';
    const adapter = await adapterOf(run);
    return { reason, step, steps, ...(bestEvalLoss !== undefined && { bestEvalLoss }), adapter };
  }

  const start = (emit: (event: FinetuneEvent) => void, signal: AbortSignal) =>
    withRun(host, settings, (run) => train(run, emit, signal));
  return new Finetune(start, ended, (report) => ({ type: 'done', ...report }));
}
