// The page: shows what the worker says, and tells it what the visitor wants.

import {
  LapidaryError,
  type ContentPart,
  type LoadProgress,
  type Message,
  type ModelCache,
  type ReplyEvent,
} from 'lapidary';
import { element } from './element.js';
import { openLibrary, showLibrary } from './library.js';
import { Listening } from './listening.js';
import type { FromWorker, ToWorker } from './protocol.js';
import { soundItem, Tray } from './tray.js';

const url = element<HTMLInputElement>('url');
const file = element<HTMLInputElement>('file');
const keep = element<HTMLInputElement>('keep');
const loadButton = element<HTMLButtonElement>('load-button');
const library = element('library');
const progressBar = element<HTMLProgressElement>('progress');
const status = element('status');
const log = element('log');
const prompt = element<HTMLTextAreaElement>('prompt');
const send = element<HTMLButtonElement>('send');
const stop = element<HTMLButtonElement>('stop');
const recordButton = element<HTMLButtonElement>('record');
const cameraButton = element<HTMLButtonElement>('camera');

const PHASES: Record<LoadProgress['phase'], string> = {
  download: 'Downloading',
  header: 'Reading the file’s header',
  selftest: 'Testing the GPU’s arithmetic',
  upload: 'Bringing the weights to the GPU',
  compile: 'Compiling kernels',
};

type State = 'unusable' | 'empty' | 'loading' | 'ready' | 'recording' | 'answering';
let state: State = 'empty';
let conversation: Message[] = [];
let answer: { text: string; node: HTMLElement; thinking: HTMLElement } | undefined;

function enter(next: State): void {
  state = next;
  document.body.dataset.state = next;
  loadButton.disabled =
    file.disabled =
    url.disabled =
    keep.disabled =
      next !== 'empty' && next !== 'ready';
  library.inert = next !== 'empty' && next !== 'ready';
  send.disabled = recordButton.disabled = cameraButton.disabled = next !== 'ready';
  prompt.disabled = next !== 'ready' && next !== 'recording';
  stop.disabled = next !== 'answering';
}

function say(text: string, error = false): void {
  status.textContent = text;
  status.toggleAttribute('data-error', error);
}

function addTurn(who: string): { node: HTMLElement; thinking: HTMLElement } {
  const turn = document.createElement('article');
  const title = document.createElement('h2');
  title.textContent = who;
  const thinking = document.createElement('div');
  thinking.className = 'thinking';
  const node = document.createElement('div');
  node.className = 'text';
  turn.append(title, thinking, node);
  log.append(turn);
  return { node, thinking };
}

function onEvent(event: ReplyEvent): void {
  if (!answer) return;
  if (event.type === 'text') {
    answer.text += event.text;
    answer.node.textContent = answer.text;
  } else if (event.type === 'thinking') {
    answer.thinking.textContent += event.text;
  } else if (event.type === 'media') {
    if (event.processed < event.total) say('Taking in pictures and sound …');
  } else if (event.type === 'done') {
    conversation.push({ role: 'assistant', content: answer.text });
    const { usage, timings, reason } = event;
    const speed = ((usage.completionTokens - 1) * 1000) / Math.max(timings.decodeMs, 1);
    say(
      `${reason === 'cancelled' ? 'Stopped. ' : ''}${usage.completionTokens} tokens, ${speed.toFixed(1)} a second, ` +
        `the first after ${(timings.firstTokenMs / 1000).toFixed(2)} s.`,
    );
    finish();
  }
}

function finish(): void {
  answer = undefined;
  enter('ready');
  prompt.focus();
}

const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
const tell = (message: ToWorker, transfer: Transferable[] = []) =>
  worker.postMessage(message, transfer);
const listening = new Listening(tell);

worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => {
  switch (data.type) {
    case 'progress':
      progressBar.value = data.progress.total > 0 ? data.progress.loaded / data.progress.total : 0;
      say(progressText(data.progress));
      break;
    case 'loaded':
      conversation = [];
      log.replaceChildren();
      progressBar.value = 1;
      say(`${data.title} on ${data.device}${data.software ? ' (software)' : ''}: ready.`);
      tray.open(data.modalities);
      longest = Math.min(LONGEST_RECORDING, Math.floor(data.contextLength / TOKENS_PER_SECOND));
      enter('ready');
      prompt.focus();
      void refresh();
      break;
    case 'event':
      onEvent(data.event);
      break;
    case 'recorded':
      listening.done(data);
      break;
    case 'error':
      if (data.during === 'record') {
        listening.fail(`${data.message} (${data.code})`);
        break;
      }
      if (data.during === 'load') {
        progressBar.value = 0;
        enter('empty');
        void refresh();
      } else {
        conversation.pop();
        finish();
      }
      say(`${data.message} (${data.code})`, true);
      break;
  }
});
worker.addEventListener('error', (event) => {
  enter('empty');
  say(`The engine’s worker failed: ${event.message}. Reload the page.`, true);
});

function progressText({ phase, retry }: LoadProgress): string {
  if (!retry) return `${PHASES[phase]} …`;
  const { attempt, tries, delayMs, reason } = retry;
  const seconds = Math.ceil(delayMs / 1000);
  return `${PHASES[phase]}: ${reason}; try ${attempt + 1} of ${tries} in ${seconds} s …`;
}

function load(from: string | File, keep: boolean, projector?: File): void {
  if (state === 'unusable') return; // the status says why
  enter('loading');
  say('Loading …');
  // The browser may ask the visitor, or answer by itself; a model that may be deleted is one all the same.
  if (keep) cache?.persist().catch(() => {});
  const kept = keep && cache !== undefined;
  tell({ type: 'load', from, keep: kept, ...(projector && { projector }) });
}

const tray = new Tray((text) => say(text, true));
let cache: ModelCache | undefined;

/** Seconds, for any model; of sound, each of which takes so many tokens of the context. */
const LONGEST_RECORDING = 40 * 60;
const TOKENS_PER_SECOND = 25;
let longest = LONGEST_RECORDING;

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

recordButton.addEventListener('click', () => {
  enter('recording');
  say('Opening the microphone …');
  import('./recorder.js')
    .then(async ({ clock, record }) => {
      const taken = await record(element('recorder'), listening, longest, () =>
        say('Recording: the model hears it while you speak.'),
      );
      if (taken) await tray.add(soundItem(taken.part, `recording, ${clock(taken.seconds)}`));
      say(taken ? 'Recorded.' : 'Discarded.');
    })
    .catch((error: unknown) => say(messageOf(error), true))
    .finally(() => {
      enter('ready');
      recordButton.focus();
    });
});
cameraButton.addEventListener('click', () => {
  cameraButton.disabled = true;
  import('./camera.js')
    .then(({ showCamera }) =>
      showCamera(
        (picture) => void tray.addFiles([picture]),
        (text) => say(text, true),
      ),
    )
    .catch((error: unknown) => say(messageOf(error), true))
    .finally(() => {
      enter(state);
      cameraButton.focus();
    });
});

/** Shows what is kept; the page works without, and says why where it must. */
async function refresh(): Promise<void> {
  if (cache) await showLibrary(cache, { load: (url) => load(url, true), remove }).catch(tellError);
}

function remove(url: string): void {
  cache?.delete(url).then(() => {
    say('Deleted.');
    return refresh();
  }, tellError);
}

function tellError(error: unknown): void {
  say(error instanceof LapidaryError ? `${error.message} (${error.code})` : String(error), true);
}

element<HTMLFormElement>('load').addEventListener('submit', (event) => {
  event.preventDefault();
  try {
    load(new URL(url.value, location.href).href, keep.checked);
  } catch {
    say('That is not an address.', true);
  }
});
file.addEventListener('change', () => {
  const chosen = [...(file.files ?? [])];
  const projector =
    chosen.length > 1 ? chosen.find(({ name }) => /mmproj|projector/i.test(name)) : undefined;
  const [model, ...more] = chosen.filter((each) => each !== projector);
  if (more.length > 0) say('Choose one model, and beside it at most its projector (mmproj).', true);
  else if (model) load(model, false, projector);
});
element<HTMLFormElement>('chat').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if ((text === '' && tray.empty) || state !== 'ready') return;
  prompt.value = '';
  const items = tray.take();
  const turn = addTurn('You').node;
  turn.textContent = text;
  Promise.all(items.map((item) => item.show())).then((shown) => turn.prepend(...shown), tellError);
  answer = { text: '', ...addTurn('Model') };
  const parts: ContentPart[] = items.map(({ part }) => part);
  if (text !== '') parts.push({ type: 'text', text });
  conversation.push({ role: 'user', content: items.length > 0 ? parts : text });
  enter('answering');
  tell({ type: 'chat', messages: conversation, options: {} });
});
prompt.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    prompt.form?.requestSubmit();
  }
});
stop.addEventListener('click', () => tell({ type: 'stop' }));

enter('empty');
// What this machine serves itself need not lie on its disk twice.
keep.checked = !/^(localhost|127\.0\.0\.1|\[::1\])$/.test(location.hostname);
openLibrary().then((opened) => {
  cache = opened;
  keep.parentElement!.hidden = !opened;
  return refresh();
}, tellError);
if (!('gpu' in navigator) || !navigator.gpu) {
  enter('unusable');
  say(
    isSecureContext
      ? 'This browser has no WebGPU, which the model needs. Use a current Chrome, Edge, Safari 26 or Firefox.'
      : 'WebGPU is there only over https or on localhost: open this page so.',
    true,
  );
}
