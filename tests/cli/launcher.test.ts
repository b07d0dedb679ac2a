// The launcher, ./lapidary, from set-up to the answer, as it stands at the top of the README.

import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { QUESTION, root, start } from './harness.ts';

/** Runs ./lapidary, set-up and build included; milliseconds from its start to its end. */
async function launch(...args: string[]) {
  const began = performance.now();
  const ended = await start(join(root, 'lapidary'), args, { LAPIDARY_SKIP_BUILD: '' }).ended;
  return { ...ended, ms: performance.now() - began };
}
const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

// The tests' own build leaves no stamp: the first start looks at everything again.
beforeAll(async () => {
  const first = await launch('--version');
  expect(first.stderr.replaceAll(/^lapidary: .*\n/gm, '')).toBe('');
  expect(first.code).toBe(0);
});

test('the second start builds nothing, says nothing and is there at once', async () => {
  const { stdout, stderr, code, ms } = await launch('--version');
  console.log(`./lapidary --version: ${seconds(ms)}`);
  expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  // Generous: what is measured here is a shared machine. A build takes longer.
  expect(ms).toBeLessThan(15_000);
});

test("the README's first command answers", async () => {
  const { stdout, stderr, code, ms } = await launch('run', 'nano', QUESTION);
  console.log(`./lapidary run nano "${QUESTION}": ${seconds(ms)} in all\n${stdout}${stderr}`);
  expect(stdout).toMatch(/\bParis\b/);
  expect(stderr).toMatch(/tokens\/s, first token after/);
  expect(stderr).not.toMatch(/^lapidary: /m);
  expect(code).toBe(0);
  expect(ms).toBeLessThan(120_000);
});
