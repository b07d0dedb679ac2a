// The engine's own thread: the page stays responsive while weights stream and tokens come.

import { LapidaryError, Model, type Recording } from 'lapidary';
import type { FromWorker, ToWorker } from './protocol.js';

const say = (message: FromWorker) => postMessage(message);
let model: Model | undefined;
let stop: AbortController | undefined;

async function load({ from, keep, projector }: Extract<ToWorker, { type: 'load' }>): Promise<void> {
  await model?.close();
  model = undefined;
  const source = typeof from === 'string' ? new URL(from) : from;
  model = await Model.load(source, {
    cache: keep,
    projector,
    onProgress: (progress) => say({ type: 'progress', progress }),
  });
  const { info, device } = model;
  say({
    type: 'loaded',
    title: info.title || info.name,
    device: device.description,
    software: device.software,
    contextLength: info.contextLength,
    modalities: info.modalities,
  });
}

async function chat({ messages, options }: Extract<ToWorker, { type: 'chat' }>): Promise<void> {
  if (!model) throw new LapidaryError('invalid_argument', 'no model is loaded');
  stop = new AbortController();
  const reply = model.chat(messages, { ...options, signal: stop.signal });
  for await (const event of reply) say({ type: 'event', event });
}

/** The recording that the page makes, and what it fails of, which is told once. */
let recording: Promise<Recording> | undefined;
let told = false;

async function record(message: Extract<ToWorker, { type: 'record' | Recorded }>): Promise<void> {
  if (message.type === 'record') {
    told = false;
    if (!model) throw new LapidaryError('invalid_argument', 'no model is loaded');
    recording = model.record({ sampleRate: message.rate });
    await recording;
    return;
  }
  const opened = await recording;
  if (message.type === 'samples') await opened?.write(message.samples);
  else if (message.type === 'discard') await opened?.cancel();
  else if (opened) say({ type: 'recorded', part: await opened.end() });
}
type Recorded = 'samples' | 'recorded' | 'discard';

function work(message: Exclude<ToWorker, { type: 'stop' }>): Promise<void> {
  switch (message.type) {
    case 'load':
      return load(message);
    case 'chat':
      return chat(message);
    default:
      return record(message);
  }
}

addEventListener('message', ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === 'stop') {
    stop?.abort();
    return;
  }
  work(data).catch((error: unknown) => {
    const { code, message } =
      error instanceof LapidaryError ? error : new LapidaryError('internal_error', String(error));
    const during = data.type === 'load' || data.type === 'chat' ? data.type : 'record';
    // Given up, it ends so.
    if (during === 'record' && (told || code === 'cancelled')) return;
    told ||= during === 'record';
    say({ type: 'error', during, code, message });
  });
});
