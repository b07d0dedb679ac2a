// The packed package's types, checked as a strict user's compiler checks them: every declaration file, with no types of
// this repository's around.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Project, root } from './harness.js';

const PROGRAM = `
import 'lapidary/worker-host';
import { createLapidary } from 'lapidary/ai-sdk';
import { LapidaryError, Model, type ErrorCode, type LoadOptions, type ReplyEvent } from 'lapidary';
import { createOpenAI } from 'lapidary/openai';
import { createFakeModel, fakeWorker } from 'lapidary/testing';
import { Model as WorkerModel, type LoadOptions as WorkerLoadOptions } from 'lapidary/worker';

export async function use(): Promise<ErrorCode | string> {
  const options: LoadOptions = { contextLength: 10 };
  const near: Model = await Model.load('x', options);
  const fake: Model = createFakeModel({ replies: ['x', { text: 'y', error: 'busy' }] });
  const asked: WorkerLoadOptions = { worker: fakeWorker(fake) };
  const far: WorkerModel = await WorkerModel.load('x', asked);
  const ids: number[] = near.tokenize('x');
  const farIds: number[] = await far.tokenize('x');
  // @ts-expect-error it is a promise there; that this line is needed shows that mistakes are seen
  const wrong: number[] = far.tokenize('x');
  const events: ReplyEvent[] = [];
  for await (const event of far.chat([{ role: 'user', content: 'x' }])) events.push(event);
  const { adapter } = await far.finetune(new Blob([])).report();
  const scales: number[] = (await far.adapters).map(({ scale }) => scale);
  createOpenAI(far);
  createOpenAI(near);
  createLapidary({ near, far, fake });
  try {
    return [ids, farIds, wrong, scales, adapter.config, far.info.name].join();
  } catch (error) {
    return error instanceof LapidaryError ? error.code : 'other';
  }
}
`;

let project: Project;
beforeAll(async () => {
  project = await Project.create(['@ai-sdk/provider']);
  project.write('program.ts', PROGRAM);
});
afterAll(() => project?.remove());

async function complaints(compilerOptions: object, name: string): Promise<string> {
  const config = {
    compilerOptions: {
      noEmit: true,
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      target: 'es2022',
      lib: ['es2023', 'dom', 'dom.iterable', 'dom.asynciterable'],
      types: [],
      ...compilerOptions,
    },
    files: ['program.ts'],
  };
  project.write(name, JSON.stringify(config));
  const args = [`${root}node_modules/typescript/bin/tsc`, '-p', name];
  return promisify(execFile)(process.execPath, args, { cwd: project.folder }).then(
    () => '',
    (error: Error & { stdout?: string }) => error.stdout || error.message,
  );
}

test.concurrent.each([
  ['bundler', { module: 'esnext', moduleResolution: 'bundler' }],
  ['nodenext', { module: 'nodenext', moduleResolution: 'nodenext' }],
])('%s', async (name, options) => {
  expect(await complaints(options, `${name}.json`)).toBe('');
});
