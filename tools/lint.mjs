// Every check that needs no run of the code, each named when it fails: clang-format, clang-tidy, prettier, eslint,
// tsc, typedoc. Names as arguments choose among them; --fix rewrites what the formatters can.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { bin, must, root, run, say, seconds } from './run.mjs';

const LLVM = 22;

async function sources(...patterns) {
  // Git knows the files that count: tracked, or new and not ignored.
  const args = ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--', ...patterns];
  const names = (await must('git', args)).split('\0').filter(Boolean);
  return [...new Set(names)].filter((name) => existsSync(`${root}/${name}`));
}

async function clangFormat(fix) {
  const files = await sources(
    ...['engine', 'tests', 'bench'].flatMap((room) => [`${room}/*.h`, `${room}/*.cpp`]),
  );
  if (files.length === 0) return { code: 0, output: '' };
  const mode = fix ? ['-i'] : ['--dry-run', '-Werror'];
  return run(`clang-format-${LLVM}`, [...mode, ...files], { capture: true });
}

// Every translation unit of the engine that the native preset compiles; tests and fuzzers are held to the
// compiler's own warnings. A file that was clean before, with the same text, headers and settings, is not read again.
async function clangTidy() {
  if (!existsSync(`${root}/build/native/compile_commands.json`)) {
    await must('cmake', ['--preset', 'native']);
  }
  await must('ninja', ['-C', 'build/native', 'wgsl']); // which a file embeds
  const database = JSON.parse(readFileSync(`${root}/build/native/compile_commands.json`, 'utf8'));
  const files = database
    .map((entry) => entry.file)
    .filter(
      (file) =>
        /^\/(engine|bench)\//.test(file.slice(root.length)) && !/_(test|fuzz)\.cpp$/.test(file),
    )
    .filter((file) => existsSync(file))
    .sort();
  const shared = createHash('sha256');
  for (const name of ['.clang-tidy', 'cmake/native.cmake', ...(await sources('engine/*.h'))]) {
    shared.update(readFileSync(`${root}/${name}`));
  }
  const settings = shared.digest('hex');
  const key = (file) =>
    createHash('sha256').update(settings).update(readFileSync(file)).digest('hex');
  const record = `${root}/build/clang-tidy.json`;
  const clean = new Set(existsSync(record) ? JSON.parse(readFileSync(record, 'utf8')) : []);
  const now = [];
  const queue = [...new Set(files)];
  let code = 0;
  let output = '';
  const worker = async () => {
    for (let file = queue.shift(); file; file = queue.shift()) {
      const hash = key(file);
      if (!clean.has(hash)) {
        const args = ['-p', 'build/native', '--quiet', file];
        const result = await run(`clang-tidy-${LLVM}`, args, { capture: true });
        if (result.code !== 0) {
          code = 1;
          output += result.output.replace(/^\d+ warnings? .*\n/gm, '');
          continue;
        }
      }
      now.push(hash);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, availableParallelism()) }, worker));
  mkdirSync(`${root}/build`, { recursive: true });
  writeFileSync(record, JSON.stringify(now));
  return { code, output };
}

const prettier = (fix) =>
  run(bin('prettier'), [fix ? '--write' : '--check', '--log-level', 'warn', '.'], {
    capture: true,
  });
const eslint = (fix) => run(bin('eslint'), [...(fix ? ['--fix'] : []), '.'], { capture: true });

async function tsc() {
  const args = ['-b'];
  for (const path of ['packages/lapidary', 'bench', 'apps/cli', 'apps/web']) {
    if ((await sources(`${path}/src/*.ts`)).length > 0) args.push(path);
  }
  args.push('tsconfig.tests.json');
  return run(bin('tsc'), args, { capture: true });
}

/** What the package exports is documented, and links in the documentation lead somewhere. */
const typedoc = () => run(bin('typedoc'), ['--emit', 'none'], { capture: true });

const checks = {
  'clang-format': clangFormat,
  prettier,
  tsc,
  eslint,
  typedoc,
  'clang-tidy': clangTidy,
};
const fix = process.argv.includes('--fix');
const fixers = ['clang-format', 'eslint', 'prettier'];
const named = process.argv.slice(2).filter((word) => word !== '--fix');
for (const name of named) {
  if (!(name in checks)) {
    say(`no check is called '${name}'; there are: ${Object.keys(checks).join(', ')}`);
    process.exit(2);
  }
}

let failed = 0;
let passed = 0;
for (const name of named.length > 0 ? named : fix ? fixers : Object.keys(checks)) {
  const started = performance.now();
  const { code, output } = await checks[name](fix);
  if (code === 0) passed += 1;
  else failed += 1;
  if (output) process.stdout.write(output);
  console.log(`lint: ${name.padEnd(12)} ${code === 0 ? 'ok' : 'FAILED'} (${seconds(started)})`);
}
console.log(`lint: ${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
