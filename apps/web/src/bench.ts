// The benchmark's page. It measures the model that ?model=ADDRESS names, at once, or the one that is chosen. Other
// parameters: contexts, prefills (numbers with commas), repeats, loads, decodeTokens, firstToken, profile=1, dot,
// prefillDot, subgroups=on|off, kvType, perLayerEmbeddings, sessions, nano (where its file is), knownAnswers (an address
// of JSON). What comes out is shown, and put on `window.lapidaryBench`.

import { DEFAULTS, table, type BenchOptions, type BenchReport } from '@lapidary/bench';
import { LapidaryError } from 'lapidary';
import type { BenchRequest, FromBenchWorker } from './bench-protocol.js';
import { element } from './element.js';

declare global {
  interface Window {
    lapidaryBench?: { report: BenchReport } | { error: { code: string; message: string } };
  }
}

const form = element<HTMLFormElement>('load');
const url = element<HTMLInputElement>('url');
const file = element<HTMLInputElement>('file');
const start = element<HTMLButtonElement>('start');
const status = element('status');
const output = element('table');

function say(text: string, error = false): void {
  status.textContent = text;
  status.toggleAttribute('data-error', error);
}

function wholes(text: string): number[] {
  return text.split(',').map((part) => {
    const value = Number(part);
    if (!Number.isInteger(value) || value < 1) {
      throw new LapidaryError('invalid_argument', `'${part}' is no whole number from 1`);
    }
    return value;
  });
}
function oneOf<T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (!found) {
    throw new LapidaryError('invalid_argument', `${name} is one of ${choices.join(', ')}`);
  }
  return found;
}

/** What the page's address asks for. */
function options(query: URLSearchParams): BenchOptions {
  const asked: BenchOptions = { ...DEFAULTS };
  const read = <T>(name: string, use: (text: string) => T) => {
    const text = query.get(name);
    if (text !== null) use(text);
  };
  const one = (text: string) => wholes(text)[0] ?? 1;
  read('contexts', (text) => (asked.contexts = wholes(text)));
  read('prefills', (text) => (asked.prefills = wholes(text)));
  read('repeats', (text) => (asked.repeats = one(text)));
  read('loads', (text) => (asked.loads = one(text)));
  read('decodeTokens', (text) => (asked.decodeTokens = one(text)));
  read('firstToken', (text) => (asked.firstTokenPrompt = one(text)));
  read('batchSize', (text) => (asked.batchSize = one(text)));
  read('sessions', (text) => (asked.sessions = one(text)));
  read('tune', (text) => (asked.tune = text !== '0'));
  read('profile', (text) => (asked.profile = text !== '0'));
  read('kvType', (text) => (asked.kvType = oneOf('kvType', text, ['f16', 'f32', 'q8_0'] as const)));
  read('perLayerEmbeddings', (text) => {
    const places = ['gpu', 'source', 'auto'] as const;
    asked.perLayerEmbeddings = oneOf('perLayerEmbeddings', text, places);
  });
  const forms = ['f32', 'int16', 'int8'] as const;
  read('dot', (text) => {
    asked.variant = { ...asked.variant, dot: oneOf('dot', text, forms) };
  });
  read('prefillDot', (text) => {
    asked.variant = {
      ...asked.variant,
      prefill: oneOf('prefillDot', text, [...forms, 'matrix'] as const),
    };
  });
  read('subgroups', (text) => {
    const subgroups = oneOf('subgroups', text, ['on', 'off']) === 'on';
    asked.variant = { ...asked.variant, subgroups };
  });
  return asked;
}

function fail(error: unknown): void {
  const { code, message } =
    error instanceof LapidaryError ? error : new LapidaryError('internal_error', String(error));
  done({ error: { code, message } });
}
function done(result: NonNullable<Window['lapidaryBench']>): void {
  window.lapidaryBench = result;
  start.disabled = file.disabled = url.disabled = false;
  if ('error' in result) say(`${result.error.message} (${result.error.code})`, true);
  else {
    output.textContent = table(result.report);
    say('Done.');
  }
}

async function measure(model: string | File): Promise<void> {
  delete window.lapidaryBench;
  output.textContent = '';
  start.disabled = file.disabled = url.disabled = true;
  const query = new URLSearchParams(location.search);
  const request: BenchRequest = {
    model,
    nano: new URL(query.get('nano') ?? './models/nano', location.href).href,
    options: options(query),
  };
  const known = query.get('knownAnswers');
  if (known !== null) {
    const response = await fetch(known);
    if (!response.ok) {
      throw new LapidaryError('not_found', `${known}: the server answered ${response.status}`);
    }
    request.options.knownAnswers = [(await response.json()) as never];
  }
  const worker = new Worker(new URL('./bench-worker.ts', import.meta.url), { type: 'module' });
  worker.addEventListener('message', ({ data }: MessageEvent<FromBenchWorker>) => {
    if (data.type === 'progress') {
      say(`${data.text} …`);
      return;
    }
    worker.terminate();
    done(data.type === 'done' ? { report: data.report } : { error: data.error });
  });
  worker.addEventListener('error', (event) => fail(event.message));
  worker.postMessage(request);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  measure(new URL(url.value, location.href).href).catch(fail);
});
file.addEventListener('change', () => {
  const [chosen] = file.files ?? [];
  if (chosen) measure(chosen).catch(fail);
});
const asked = new URLSearchParams(location.search).get('model');
if (asked !== null) {
  url.value = asked;
  measure(new URL(asked, location.href).href).catch(fail);
}
