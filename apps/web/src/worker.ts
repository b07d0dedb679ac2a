// The engine's own thread: the page stays responsive while weights stream and tokens come.

import { LapidaryError, Model } from 'lapidary';
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

addEventListener('message', ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === 'stop') {
    stop?.abort();
    return;
  }
  const work = data.type === 'load' ? load(data) : chat(data);
  work.catch((error: unknown) => {
    const { code, message } =
      error instanceof LapidaryError ? error : new LapidaryError('internal_error', String(error));
    say({ type: 'error', during: data.type, code, message });
  });
});
