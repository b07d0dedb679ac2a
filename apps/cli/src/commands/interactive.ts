// The conversation of `run` on a terminal.

import { createInterface, type Interface } from 'node:readline';
import { LapidaryError, type Message, type Model } from 'lapidary/node';
import { applyAdapter } from '../adapters.js';
import { EXIT, report as showError } from '../exit.js';
import { givenMedia, isPathOfMedia, namedMedia, withMedia } from '../media.js';
import { chatOptions, show, summary, type RunFlags } from './run.js';

const HELP = `  /clear                 begin a new conversation
  /set think on|off      let the model think before it answers
  /set temperature N     0 is greedy
  /set seed N            the same seed gives the same answers
  /set system TEXT       what the model is told before everything else
  /adapter               list the LoRA adapters
  /adapter PATH[:SCALE]  load one and switch it on
  /adapter scale ID N    change its scale; 0 switches it off
  /adapter off           switch all of them off
  /adapter remove ID     free its memory
  /bye                   leave (Ctrl-D does, too)
A path of a picture or a WAV file among the words is what lies there.
Ctrl-C stops an answer; at the prompt it clears the line, and leaves when that is empty.
`;

/** Applies `/set …`; the text says what happened. */
export function applySetting(text: string, flags: RunFlags): string {
  const [, name = '', value = ''] = /^(\S*)\s*(.*)$/s.exec(text) ?? [];
  switch (name) {
    case 'think':
      if (value !== 'on' && value !== 'off') return '/set think takes on or off';
      flags.think = value === 'on';
      return `think: ${value}`;
    case 'temperature':
    case 'seed': {
      const number = Number(value);
      const fine =
        value !== '' &&
        number >= 0 &&
        (name === 'temperature' ? number <= 100 : Number.isSafeInteger(number));
      if (!fine) return `/set ${name} takes a ${name === 'seed' ? 'whole ' : ''}number from 0`;
      flags[name] = number;
      return `${name}: ${number}`;
    }
    case 'system':
      flags.system = value;
      return value === '' ? 'no system message' : 'system message set';
    default:
      return 'what can be set: think, temperature, seed, system (/? says how)';
  }
}

/** The next line; undefined at the end of input or for Ctrl-C on an empty line. */
function ask(terminal: Interface): Promise<string | undefined> {
  return new Promise((resolve) => {
    const finish = (answer: string | undefined) => {
      terminal.off('SIGINT', interrupted).off('close', closed).off('line', finish);
      resolve(answer);
    };
    const closed = () => finish(undefined);
    const interrupted = () => {
      if (terminal.line === '') return finish(undefined);
      // Clears the line, as a shell does.
      terminal.write(null, { ctrl: true, name: 'e' });
      terminal.write(null, { ctrl: true, name: 'u' });
    };
    terminal.on('SIGINT', interrupted).on('close', closed).on('line', finish);
    terminal.prompt();
  });
}

/** Holds a conversation until /bye, Ctrl-D, or Ctrl-C at an empty prompt; gives the exit code. */
export async function converse(model: Model, flags: RunFlags): Promise<number> {
  const terminal = createInterface({
    input: process.stdin,
    output: process.stderr,
    prompt: '>>> ',
    historySize: 1000,
  });
  const say = (text: string) => process.stderr.write(`${text}\n`);
  say(
    `${model.info.name} on ${model.device.description}${model.device.software ? ' (software)' : ''}. /? for help.`,
  );
  let conversation: Message[] = [];
  for (;;) {
    const input = (await ask(terminal))?.trim();
    if (input === undefined || input === '/bye' || input === '/exit') break;
    if (input === '') continue;
    if (input === '/?' || input === '/help') say(HELP.trimEnd());
    else if (input === '/clear') {
      conversation = [];
      say('a new conversation');
    } else if (input === '/set' || input.startsWith('/set '))
      say(applySetting(input.slice(4).trim(), flags));
    else if (input === '/adapter' || input.startsWith('/adapter ')) {
      try {
        say(await applyAdapter(model, input.slice(8).trim()));
      } catch (error) {
        showError(error, false);
      }
    } else if (input.startsWith('/') && !isPathOfMedia(input))
      say(`there is no command ${input.split(' ')[0]}; /? lists them`);
    else {
      const named = namedMedia(input, flags);
      // Those of the command line go with the first that is said.
      const media = [...(conversation.length === 0 ? givenMedia(flags) : []), ...named.media];
      if (media.length > 0) say(media.map(({ type }) => `[${type}]`).join(' '));
      const content = withMedia(media, named.text);
      const turn: Message[] = [...conversation, { role: 'user', content }];
      const system: Message[] = flags.system ? [{ role: 'system', content: flags.system }] : [];
      const reply = model.chat([...system, ...turn], chatOptions(flags));
      // readline keeps the terminal raw: Ctrl-C comes as its event, not as a signal.
      const stop = () => reply.cancel();
      terminal.on('SIGINT', stop);
      try {
        const { text, report } = await show(reply, false);
        conversation = [...turn, { role: 'assistant', content: text }];
        say(summary(model, report, flags.verbose ?? false).trimEnd());
      } catch (error) {
        showError(error, false);
        if (error instanceof LapidaryError && error.code === 'context_overflow')
          say('/clear begins anew');
      } finally {
        terminal.off('SIGINT', stop);
      }
    }
  }
  terminal.close();
  return EXIT.ok;
}
