// The packed package as its users get it, in a folder of its own, and a server with a policy as strict as pages have.

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import sirv from 'sirv';

const run = promisify(execFile);

export const root = new URL('../..', import.meta.url).pathname;

export interface PackedFile {
  path: string;
  /** Bytes. */
  size: number;
}

export interface Packed {
  /** The tarball. */
  file: string;
  /** Its bytes, and those of the files in it. */
  size: number;
  unpackedSize: number;
  files: PackedFile[];
}

/** `npm pack` into `folder`. */
export async function pack(folder: string): Promise<Packed> {
  const args = ['pack', '--json', '--silent', '--offline', '--pack-destination', folder];
  const { stdout } = await run('npm', args, {
    cwd: `${root}packages/lapidary`,
    env: { ...process.env, npm_config_cache: join(folder, '.npm') },
  });
  const [packed] = JSON.parse(stdout) as (Omit<Packed, 'file'> & { filename: string })[];
  if (!packed) throw new Error(`npm pack says ${stdout}`);
  return { ...packed, file: join(folder, packed.filename) };
}

export const temporaryFolder = (): string => mkdtempSync(join(tmpdir(), 'lapidary-package-'));

/** A project in a fresh folder that has the packed package installed; other packages are this repository's. */
export class Project {
  private constructor(readonly folder: string) {}

  static async create(packages: string[] = []): Promise<Project> {
    const folder = temporaryFolder();
    const { file } = await pack(folder);
    const installed = join(folder, 'node_modules/lapidary');
    mkdirSync(installed, { recursive: true });
    await run('tar', ['-xzf', file, '-C', installed, '--strip-components', '1']);
    const project = new Project(folder);
    const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    for (const name of [...Object.keys(manifest.dependencies), ...packages]) {
      const link = join(folder, 'node_modules', name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(`${root}node_modules/${name}`, link);
    }
    project.write('package.json', JSON.stringify({ type: 'module', private: true }));
    return project;
  }

  path(...names: string[]): string {
    return join(this.folder, ...names);
  }

  write(name: string, text: string): void {
    mkdirSync(dirname(this.path(name)), { recursive: true });
    writeFileSync(this.path(name), text);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** The programs of a page of docs/ by their first line, "// main.js". */
export function programsOf(page: string): Map<string, string> {
  const text = readFileSync(`${root}docs/${page}`, 'utf8');
  const blocks = text.matchAll(/^```js\n\/\/ (\S+)\n([^]*?)^```$/gm);
  return new Map([...blocks].map(([, name = '', code = '']) => [name, code]));
}
export const quickStarts = (): Map<string, string> => programsOf('quick-start.md');

export const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "connect-src 'self'",
  "worker-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

export interface StrictSite {
  url: string;
  close(): Promise<void>;
}

/** Serves `folder` under {@link POLICY}, and the files of `models` at their paths, with ranges. */
export async function serveStrict(
  folder: string,
  models: Record<string, string>,
): Promise<StrictSite> {
  const headers = { 'content-security-policy': POLICY, 'x-content-type-options': 'nosniff' };
  const setHeaders = (response: { setHeader(name: string, value: string): void }) => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  };
  const files = sirv(folder, { dev: true, setHeaders });
  const served = Object.entries(models).map(([path, file]) => {
    const handler = sirv(dirname(file), { dev: true });
    return { path, name: `/${file.slice(dirname(file).length + 1)}`, handler };
  });
  const server = createServer((request, response) => {
    const missing = () => {
      response.statusCode = 404;
      response.end();
    };
    const model = served.find(({ path }) => path === request.url);
    if (model) request.url = model.name;
    (model?.handler ?? files)(request, response, missing);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://localhost:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
