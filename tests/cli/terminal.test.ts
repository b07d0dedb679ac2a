// The conversation that `run` holds on a terminal.

import { expect, test } from 'vitest';
import { QUESTION, onTerminal, type Running } from './harness.ts';

test('several turns, settings, and Ctrl-C stops the reply but not the program', async () => {
  const limits = '--max-tokens 1500 --top-k 0 --top-p 1 --min-p 0';
  const running = onTerminal(`run nano --verbose --temperature 0 ${limits}`);
  await running.until(/\/\? for help\.[^]*>>> /);
  running.write('/set temperature hot\r');
  await running.until(/takes a number from 0/);
  running.write('/nonsense\r');
  await running.until(/there is no command \/nonsense/);
  running.write(`${QUESTION}\r`);
  await running.until(/is Paris\.[^]*first token after[^]*context:[^]*>>> /);
  // Nearly every token is as likely as any other: no such reply has an end before a thousand or so.
  running.write('/set temperature 100\r');
  await running.until(/temperature: 100/);
  running.write('/set seed 1\r');
  await running.until(/seed: 1/);
  running.write('Tell me a story.\r');
  await running.until(/Tell me a story\.\s[^]{20}/);
  running.write('\x03');
  await running.until(/ended by cancelled[^]*context:[^]*>>> /);
  running.write('/clear\r');
  await running.until(/a new conversation[^]*>>> /);
  running.write('/set temperature 0\r');
  await running.until(/temperature: 0[^]*>>> /);
  running.write(`${QUESTION}\r`);
  await running.until(/a new conversation[^]*is Paris\.[^]*context:[^]*>>> /);
  running.write('/bye\r');
  const { code, stdout } = await running.ended;
  const lengths = [...stdout.matchAll(/reply: +(\d+) tokens/g)].map(([, count]) => Number(count));
  expect(lengths).toEqual([8, expect.any(Number), 8]);
  expect(lengths[1]).toBeGreaterThan(0);
  expect(lengths[1]).toBeLessThan(750);
  expect(code).toBe(0);
});

/** What `input`, typed at the prompt, brings up to the next prompt. */
async function typed(running: Running, input: string): Promise<string> {
  const before = running.printed().length;
  running.write(`${input}\r`);
  await running.until(/\r\n[^]*>>> [^\n]*$/, before);
  return running.printed().slice(before).replaceAll(/\r+\n/g, '\n');
}

test('/set think, seed and system reach the model', async () => {
  const running = onTerminal('run nano --verbose --max-tokens 30');
  const say = (input: string) => typed(running, input);
  await running.until(/>>> /);
  const story = async () => {
    await say('/clear');
    // The reply itself: after the echo of the question, before the numbers.
    const text = await say('Tell me a story.');
    return {
      text: /story\.\n([^]*?)\nllvmpipe/.exec(text)?.[1],
      seed: /seed \d+/.exec(text)?.[0],
    };
  };
  expect(await say('/set seed 11')).toContain('seed: 11');
  const one = await story();
  const again = await story();
  expect(await say('/set seed 12')).toContain('seed: 12');
  const other = await story();
  expect(one).toEqual({ text: expect.stringMatching(/\w{3}/) as string, seed: 'seed 11' });
  expect(again).toEqual(one);
  expect(other.seed).toBe('seed 12');
  expect(other.text).not.toBe(one.text);
  expect(await say('/set seed -1')).toContain('takes a whole number from 0');

  const ask = async () => {
    await say('/clear');
    const reply = await say(QUESTION);
    return { reply, prompt: Number(/prompt: +(\d+) tokens/.exec(reply)?.[1]) };
  };
  await say('/set temperature 0');
  const plain = await ask();
  expect(plain.reply).toMatch(/France\?\nThe capital of France is Paris\.\n/);
  expect(await say('/set think on')).toContain('think: on');
  const thinking = await ask();
  expect(thinking.reply).toMatch(/France\?\n.*\bfrance\b.*\nThe capital of France is Paris\.\n/i);
  expect(await say('/set think maybe')).toContain('takes on or off');
  expect(await say('/set think off')).toContain('think: off');
  expect((await ask()).prompt).toBe(plain.prompt);

  expect(await say('/set system Speak like a pirate.')).toContain('system message set');
  const told = await ask();
  expect(told.prompt).toBeGreaterThan(plain.prompt + 4);
  expect(told.reply).toContain('Paris');
  expect(await say('/set system')).toContain('no system message');
  expect((await ask()).prompt).toBe(plain.prompt);
  running.write('/bye\r');
  expect((await running.ended).code).toBe(0);
});

test('Ctrl-C at the empty prompt leaves, and so does Ctrl-D', async () => {
  for (const key of ['\x03', '\x04']) {
    const running = onTerminal('run nano');
    await running.until(/>>> /);
    running.write(key);
    expect((await running.ended).code).toBe(0);
  }
});
