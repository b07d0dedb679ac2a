// A whole benchmark: the gate, then every measurement.

import {
  LapidaryError,
  Model,
  findGpu,
  inspect,
  type FileHeader,
  type LoadOptions,
  type LoadProgress,
} from 'lapidary';
import { readBandwidth } from './bandwidth.js';
import { checkLogits, checkNano, checkTogether } from './gate.js';
import { digest, weightBytesPerToken } from './header.js';
import { NANO, knownAnswers } from './known.js';
import {
  concurrent,
  decode,
  DRAWN,
  firstToken,
  noRoom,
  perToken,
  perTokenRoom,
  prefill,
  profile,
  Prompts,
  together,
  TOGETHER_TOKENS,
} from './measure.js';
import { measured } from './stats.js';
import { syntheticAdapter } from './synthesize/adapter.js';
import type {
  BenchOptions,
  BenchReport,
  Decode,
  GateReport,
  LoadReport,
  Measured,
  Subject,
} from './types.js';

const PHASES: LoadProgress['phase'][] = ['header', 'selftest', 'upload', 'compile'];

/** Room for nano's known answers. */
const NANO_CONTEXT = 1024;

interface Identity {
  header: FileHeader;
  digest: string;
}
async function identify(subject: Subject): Promise<Identity> {
  const source = await subject.open();
  try {
    const header = await inspect(source);
    return { header, digest: await digest(source, header) };
  } finally {
    await source.close?.();
  }
}

interface TimedLoad {
  model: Model;
  milliseconds: number;
  phases: Map<LoadProgress['phase'], number>;
}
/** Loads a model and times it: phases follow one another, and each ends with its last event. */
async function timedLoad(
  subject: Subject,
  options: LoadOptions,
  openDrafter: BenchOptions['drafter'],
): Promise<TimedLoad> {
  const source = await subject.open();
  const drafter = await openDrafter?.();
  const ends = new Map<LoadProgress['phase'], number>();
  const started = performance.now();
  const model = await Model.load(source, {
    ...options,
    ...(drafter && { drafter }),
    onProgress: ({ phase }) => ends.set(phase, performance.now()),
  });
  const milliseconds = performance.now() - started;
  const phases = new Map<LoadProgress['phase'], number>();
  let from = started;
  for (const phase of PHASES) {
    const end = ends.get(phase);
    if (end === undefined) continue;
    phases.set(phase, end - from);
    from = end;
  }
  return { model, milliseconds, phases };
}

function loadReport(loads: Omit<TimedLoad, 'model'>[], fileBytes: number): LoadReport {
  const phases: Partial<Record<LoadProgress['phase'], Measured>> = {};
  for (const phase of PHASES) {
    phases[phase] = measured(loads.map((load) => load.phases.get(phase) ?? 0));
  }
  const speed = (times: number[]) =>
    measured(times.map((time) => (fileBytes * 1000) / Math.max(time, 1e-3)));
  return {
    fileBytes,
    milliseconds: measured(loads.map(({ milliseconds }) => milliseconds)),
    phases,
    bytesPerSecond: speed(loads.map(({ milliseconds }) => milliseconds)),
    uploadBytesPerSecond: speed(loads.map((load) => load.phases.get('upload') ?? 0)),
  };
}

/**
 * Checks the engine on `nano`, measures it on `subject`. Rejects with `self_test_failed` where an answer is wrong (no
 * speed is known then), with `cancelled` when `signal` says so, else as `Model.load` and `Model.generate` do.
 */
export async function bench(
  subject: Subject,
  nano: Subject,
  options: BenchOptions,
): Promise<BenchReport> {
  const { signal, variant, kvType, batchSize, tune, repeats, concurrency = [] } = options;
  const most = Math.max(0, ...concurrency);
  const sessions = most > 0 ? Math.max(most, options.sessions ?? 1) : options.sessions;
  const { decodeTokens, contexts, prefills, perLayerEmbeddings, gpuMemory } = options;
  const say = (text: string) => {
    if (signal?.aborted) throw new LapidaryError('cancelled', 'cancelled');
    options.onProgress?.(text);
  };
  const load: LoadOptions = {
    ...(signal && { signal }),
    ...(variant && { variant }),
    ...(kvType && { kvType }),
    ...(batchSize !== undefined && { batchSize }),
    ...(sessions !== undefined && { sessions }),
    ...(perLayerEmbeddings && { perLayerEmbeddings }),
    ...(gpuMemory !== undefined && { gpuMemory }),
    ...(tune !== undefined && { tune }),
    ...(options.draftTokens !== undefined && { draftTokens: options.draftTokens }),
  };

  say(`reading the header of ${subject.name}`);
  const identity = await identify(subject);
  const { header } = identity;

  const gate: GateReport = { checked: 'nano only', nano: { prompts: 0, tokens: 0 } };
  const nanoAnswers = options.nanoAnswers ?? NANO;
  const isNano = (await identify(nano)).digest === identity.digest;
  if (!isNano) {
    say('gate: nano');
    const checker = await Model.load(await nano.open(), { ...load, contextLength: NANO_CONTEXT });
    try {
      gate.nano = await checkNano(checker, nanoAnswers, signal);
    } finally {
      await checker.close();
    }
  }

  const longest = Math.max(
    ...contexts.map((context) => context + perTokenRoom(decodeTokens)),
    ...[...prefills, options.firstTokenPrompt].map((length) => length + 1),
  );
  const loadOptions = {
    ...load,
    contextLength: isNano ? Math.max(longest, NANO_CONTEXT) : longest,
  };
  const loads: Omit<TimedLoad, 'model'>[] = [];
  const cold: number[] = [];
  let model: Model | undefined;
  try {
    let prompts: Prompts | undefined;
    const count = options.loads ?? repeats;
    for (let i = 0; i < count; i++) {
      await model?.close();
      say(`loading ${subject.name} (${i + 1} of ${count})`);
      const { model: loaded, ...times } = await timedLoad(subject, loadOptions, options.drafter);
      model = loaded;
      loads.push(times);
      prompts ??= new Prompts(model.info.vocab);
      if (!noRoom(model, options.firstTokenPrompt, 1)) {
        cold.push(await firstToken(model, prompts, options.firstTokenPrompt, signal));
      }
    }
    if (!model || !prompts) throw new LapidaryError('invalid_argument', 'nothing was to be loaded');
    if (isNano) {
      say('gate: nano');
      gate.nano = await checkNano(model, nanoAnswers, signal);
    }
    const known = knownAnswers(identity.digest, options.knownAnswers);
    if (known) {
      say('gate: logits');
      gate.checked = 'nano and logits';
      gate.logits = await checkLogits(model, known);
    }

    if (most > 1) {
      say(`gate: ${most} replies at once`);
      gate.together = await checkTogether(model, prompts, most, signal);
    }

    let adapter: BenchReport['adapter'];
    if (options.loraRank !== undefined) {
      say(`an adapter of rank ${options.loraRank}`);
      const file = syntheticAdapter(header, options.loraRank);
      const started = performance.now();
      const loaded = await model.loadAdapter(file);
      adapter = { ...loaded, milliseconds: performance.now() - started };
    }

    say('bandwidth of the GPU’s memory');
    const bandwidth = await readBandwidth(await findGpu(), repeats, model.device.software);
    const weights = weightBytesPerToken(header);
    const report: BenchReport = {
      schema: 1,
      date: new Date().toISOString(),
      host: hostName(),
      device: model.device,
      model: {
        name: subject.name,
        fileBytes: header.fileSize,
        digest: identity.digest,
        weightBytesPerToken: weights,
        info: model.info,
      },
      ...(adapter && { adapter }),
      options: asked(options),
      gate,
      bandwidth,
      load: loadReport(loads, header.fileSize),
      firstToken: { skipped: noRoom(model, options.firstTokenPrompt, 1) ?? '' },
      prefill: [],
      decode: [],
      drawn: { skipped: noRoom(model, Math.min(...contexts), decodeTokens) ?? '' },
      perToken: { skipped: '' },
      memory: { gpu: model.info.gpuBytes, bufferBytes: 0, bufferBytesPeak: 0, wasmHeap: 0 },
    };

    for (const promptTokens of prefills) {
      const skipped = noRoom(model, promptTokens, 1);
      if (skipped) {
        report.prefill.push({ promptTokens, skipped });
        continue;
      }
      say(`prefill of ${promptTokens} tokens`);
      report.prefill.push(await prefill(model, prompts, promptTokens, { repeats, signal }));
    }
    if (model.info.sessions > 1) {
      say(`prompts of ${model.info.sessions} sessions`);
      const skipped = noRoom(model, TOGETHER_TOKENS, 1);
      report.together = skipped ? { skipped } : await together(model, prompts, { repeats, signal });
    }
    if (cold.length > 0) {
      say('first token');
      const warm: number[] = [];
      for (let i = 0; i < repeats; i++) {
        warm.push(await firstToken(model, prompts, options.firstTokenPrompt, signal));
      }
      const promptTokens = options.firstTokenPrompt;
      report.firstToken = { promptTokens, cold: measured(cold), warm: measured(warm) };
    }
    for (const context of contexts) {
      const skipped = noRoom(model, context, decodeTokens);
      if (skipped) {
        report.decode.push({ context, skipped });
        continue;
      }
      say(`decode at ${context} tokens`);
      const times = await decode(model, prompts, context, decodeTokens, { repeats, signal });
      const bytes = weights * times.tokensPerSecond.median;
      const shareOfPeak = bytes / bandwidth.bytesPerSecond.median;
      report.decode.push({ ...times, shareOfPeak } satisfies Decode);
    }
    const shortest = Math.min(...contexts);
    if (!noRoom(model, shortest, decodeTokens)) {
      say('decode, tokens drawn');
      const repeated = { repeats, signal };
      const times = await decode(model, prompts, shortest, decodeTokens, repeated, DRAWN);
      const bytes = weights * times.tokensPerSecond.median;
      report.drawn = { ...times, shareOfPeak: bytes / bandwidth.bytesPerSecond.median };
    }
    for (const replies of concurrency) {
      const skipped = noRoom(model, shortest, decodeTokens);
      say(`${replies} replies at once`);
      (report.concurrent ??= []).push(
        skipped
          ? { replies, skipped }
          : await concurrent(model, prompts, replies, shortest, decodeTokens, { repeats, signal }),
      );
    }
    const full = noRoom(model, shortest, perTokenRoom(decodeTokens));
    if (full) report.perToken = { skipped: full };
    else {
      say('counts');
      report.perToken = await perToken(model, prompts, shortest, decodeTokens, signal);
    }
    if (options.profile) {
      say('profile');
      const tokens = Math.min(32, decodeTokens);
      const length = Math.min(512, ...prefills);
      report.profile = await profile(
        model,
        prompts,
        { context: shortest, tokens, length: Math.max(length, 2) },
        signal,
      ).catch((error: unknown) => {
        if (error instanceof LapidaryError && error.code === 'unsupported') {
          return { skipped: error.message };
        }
        throw error;
      });
    }
    const { bufferBytes, bufferBytesPeak, heapBytes } = model.counters;
    report.memory = {
      gpu: model.info.gpuBytes,
      bufferBytes,
      bufferBytesPeak,
      wasmHeap: heapBytes,
    };
    return report;
  } finally {
    await model?.close();
  }
}

function asked(options: BenchOptions): BenchReport['options'] {
  const { signal, onProgress, knownAnswers, nanoAnswers, ...rest } = options;
  void [signal, onProgress, knownAnswers, nanoAnswers];
  return rest;
}

function hostName(): string {
  const { process } = globalThis as { process?: { version?: string; platform?: string } };
  return process?.version
    ? `Node.js ${process.version} on ${process.platform ?? 'an unknown system'}`
    : navigator.userAgent;
}
