// The command line as a program of its own: started, fed, listened to. Importing this makes a home folder for a test
// file and removes it after the last test.

import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const main = join(root, 'apps/cli/dist/main.js');

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}
export interface Running {
  write(text: string): void;
  kill(signal: NodeJS.Signals): void;
  /** All that was printed so far. */
  printed(): string;
  /** Resolves when what was printed so far, from `start` on, matches. */
  until(pattern: RegExp, start?: number): Promise<void>;
  ended: Promise<Ended>;
}

/** The home folder of all that is started here. */
export const home = mkdtempSync(join(tmpdir(), 'lapidary-cli-'));
/** What runs: a test that failed may have left it waiting. */
const alive = new Set<ChildProcess>();
afterAll(async () => {
  for (const child of alive) child.kill('SIGKILL');
  await rm(home, { recursive: true });
});

/** No store but ours; compiled shaders are kept where every other run keeps them. */
const surroundings = () => ({
  HOME: home,
  OLLAMA_MODELS: '',
  XDG_CACHE_HOME: process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'),
});

export function start(program: string, args: string[], env: Record<string, string> = {}): Running {
  const child = spawn(program, args, {
    env: { ...process.env, ...surroundings(), ...env },
  });
  alive.add(child);
  const out = { stdout: '', stderr: '' };
  const printed = () => out.stdout + out.stderr;
  const watchers = new Set<() => void>();
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      out[name] += text;
      for (const watch of watchers) watch();
    });
  }
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code) => {
      alive.delete(child);
      resolve({ code, ...out });
    }),
  );
  child.stdin.on('error', () => {});
  return {
    ended,
    write: (text) => void child.stdin.write(text),
    kill: (signal) => void child.kill(signal),
    printed,
    until: (pattern, start = 0) =>
      new Promise((resolve, reject) => {
        const watch = () => {
          if (!pattern.test(printed().slice(start))) return;
          watchers.delete(watch);
          resolve();
        };
        watchers.add(watch);
        watch();
        void ended.then(() => reject(new Error(`it ended before ${pattern}: ${printed()}`)));
      }),
  };
}

/** `serve` on a free port of loopback, once it listens; `node`: flags of Node itself. */
export async function startServer(
  flags: string[],
  { env = {}, node = [] }: { env?: Record<string, string>; node?: string[] } = {},
): Promise<{ server: Running; port: number }> {
  const all = [...node, main, 'serve', '--port', '0', '--models', `${root}models`, ...flags];
  const server = start(process.execPath, all, env);
  await server.until(/http:\/\/localhost:\d+\//);
  return { server, port: Number(/localhost:(\d+)/.exec(server.printed())?.[1]) };
}

/** Runs to the end, with `input` on standard input. */
export function lapidary(
  args: string[],
  { input, env }: { input?: string; env?: Record<string, string> } = {},
) {
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...process.env, ...surroundings(), ...env },
  });
  const out = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => (out[name] += text));
  }
  child.stdin.on('error', () => {});
  child.stdin.end(input ?? '');
  return new Promise<Ended>((resolve) => child.on('close', (code) => resolve({ code, ...out })));
}

/** The same on a terminal of its own. */
export const onTerminal = (args: string) =>
  start('script', ['-qec', `"${process.execPath}" "${main}" ${args}`, '/dev/null']);

export const errorLine = ({ stderr }: Ended) =>
  stderr.split('\n').find((line) => line.startsWith('error:')) ?? '';
export const QUESTION = 'What is the capital of France?';
