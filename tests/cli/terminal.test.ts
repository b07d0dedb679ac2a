// The conversation that `run` holds on a terminal.

import { expect, test } from 'vitest';
import { QUESTION, onTerminal } from './harness.ts';

test('run on a terminal: several turns, settings, Ctrl-C stops the reply and not the program', async () => {
  const running = onTerminal('run nano --temperature 0 --max-tokens 1500');
  await running.until(/\/\? for help\.[^]*>>> /);
  running.write('/set temperature hot\r');
  await running.until(/takes a number from 0/);
  running.write('/nonsense\r');
  await running.until(/there is no command \/nonsense/);
  running.write(`${QUESTION}\r`);
  await running.until(/is Paris\.[^]*first token after[^]*>>> /);
  running.write('/set temperature 2\r');
  await running.until(/temperature: 2/);
  running.write('Tell me a story.\r');
  await running.until(/Tell me a story\.[^]*\n\S/);
  running.write('\x03');
  // Either way the program lives: the reply was stopped, or had just ended.
  await running.until(/(first token after[^]*){2}/);
  running.write('/clear\r');
  await running.until(/a new conversation/);
  running.write('/bye\r');
  expect((await running.ended).code).toBe(0);
});

test('run on a terminal: Ctrl-C at the empty prompt leaves, and so does Ctrl-D', async () => {
  for (const key of ['\x03', '\x04']) {
    const running = onTerminal('run nano');
    await running.until(/>>> /);
    running.write(key);
    expect((await running.ended).code).toBe(0);
  }
});
