// The programs of docs/quick-start.md and docs/tools.md in a fresh project: those for Node run, those for pages build.
// The one with a worker runs in bundlers.test.ts.

import { build } from 'esbuild';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Project, programsOf, quickStarts, root } from './harness.js';

const programs = quickStarts();
let project: Project;
beforeAll(async () => {
  project = await Project.create(['ai']);
  for (const [name, code] of [...programs, ...programsOf('tools.md')]) project.write(name, code);
});
afterAll(() => project?.remove());

const run = (name: string) =>
  promisify(execFile)(process.execPath, [name], {
    cwd: project.folder,
    env: { ...process.env, OLLAMA_MODELS: `${root}models` },
  });

test('there are all that the documentation names', () => {
  expect([...programs.keys()]).toEqual([
    'main.js',
    'page.js',
    'node.js',
    'ai.js',
    'greeting.test.js',
  ]);
});

test('Node: a model of the store answers', async () => {
  expect((await run('node.js')).stdout).toContain('Paris');
});

test('Node: a tool is called and its result told', async () => {
  expect((await run('tools.js')).stdout).toMatch(/^It is sunny in Paris\b/);
});

test('a fake model answers without GPU and engine', async () => {
  expect((await run('greeting.test.js')).stdout).toBe('Hello there.\nHi\n');
});

test.each(['page.js', 'ai.js'])('%s builds for a page', async (name) => {
  const { warnings } = await build({
    absWorkingDir: project.folder,
    entryPoints: [name],
    bundle: true,
    format: 'esm',
    outdir: 'out',
    logLevel: 'silent',
  });
  expect(warnings).toEqual([]);
});
