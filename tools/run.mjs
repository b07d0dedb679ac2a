// Running other programs from the tools: one line said for each step, output shown only as asked for.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');

/** Says one line about what is happening, on standard error as the launcher does. */
export function say(text) {
  process.stderr.write(`lapidary: ${text}\n`);
}

/**
 * Runs a program in the repository's root; resolves to its exit code and (where captured) its output.
 * options.capture: keep the output instead of showing it. options.env: added to the environment.
 */
export function run(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...options.env },
      // What a build prints goes to standard error: standard output belongs to the program's answer.
      stdio: options.capture ? ['ignore', 'pipe', 'pipe'] : ['ignore', 2, 2],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text) => (output += text));
    }
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code: code ?? 128, signal, output }));
  });
}

/** Runs a program and ends this one, with the program's output, if it fails. */
export async function must(program, args, options = {}) {
  const result = await run(program, args, { capture: true, ...options });
  if (result.code !== 0) {
    process.stderr.write(result.output);
    say(`failed (exit ${result.code}): ${[program, ...args].join(' ')}`);
    process.exit(1);
  }
  return result.output;
}

/** The path of a program that an npm package of this workspace brings. */
export const bin = (name) => `${root}/node_modules/.bin/${name}`;

/** Milliseconds as "1.2 s". */
export const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;
