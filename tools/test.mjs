// Runs every tier of tests, or those named, and ends with the sum of all:
//   npm test                    all of them
//   npm test -- model kernel    some
// A tier that finds no test fails: nothing passes by being absent.
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkWasmSize } from './check-wasm-size.mjs';
import { bin, root, run, say, seconds } from './run.mjs';

const FUZZ_SECONDS = Number(process.env.LAPIDARY_FUZZ_SECONDS ?? 8);
const results = `${root}/build/test-results`;

// A check that is one command: counted as one test.
async function one(program, args) {
  const { code } = await run(program, args);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 };
}

async function build() {
  return one(process.execPath, ['tools/build.mjs', 'wasm', 'ts', 'web', 'native']);
}

async function lint() {
  const { output } = await run(process.execPath, ['tools/lint.mjs'], { capture: true });
  process.stdout.write(output);
  const [, passed, failed] = output.match(/^lint: (\d+) passed, (\d+) failed$/m) ?? [0, 0, 1];
  return { passed: Number(passed), failed: Number(failed) };
}

function size() {
  const { ok, text } = checkWasmSize(`${root}/packages/lapidary/dist/lapidary.wasm`);
  console.log(text);
  return { passed: ok ? 1 : 0, failed: ok ? 0 : 1 };
}

const built = (suffix) => {
  const folder = `${root}/build/native`;
  return existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => name.endsWith(suffix))
        .sort()
    : [];
};

// Does `work` for every name, as many at once as there are processors, or `most`.
async function inParallel(names, work, most = Infinity) {
  const queue = [...names];
  const worker = async () => {
    for (let name = queue.shift(); name; name = queue.shift()) await work(name);
  };
  const workers = Math.max(1, Math.min(most, availableParallelism()));
  await Promise.all(Array.from({ length: workers }, worker));
}

// The native unit tests: one GoogleTest binary a room of engine/, under ASan and UBSan.
async function native() {
  const total = { passed: 0, failed: 0 };
  await inParallel(built('_test'), async (name) => {
    const report = `${results}/${name}.json`;
    rmSync(report, { force: true });
    const started = performance.now();
    const args = [`--gtest_output=json:${report}`, '--gtest_brief=1'];
    const { code, output } = await run(`build/native/${name}`, args, { capture: true });
    let passed = 0;
    let failed = 0;
    if (existsSync(report)) {
      const { tests, failures, disabled } = JSON.parse(readFileSync(report, 'utf8'));
      failed = failures + disabled;
      passed = tests - failed;
    }
    // A crash ends the binary before its report is written.
    if (code !== 0 && failed === 0) failed = 1;
    if (code !== 0) process.stdout.write(output);
    console.log(`native: ${name} ${passed} passed, ${failed} failed (${seconds(started)})`);
    total.passed += passed;
    total.failed += failed;
  });
  return total;
}

// Each fuzzer for a fixed time, from its kept corpus (tests/fuzz/NAME), on a copy: the repository stays clean. What
// makes one fail is left in build/fuzz-failures.
async function fuzz() {
  const total = { passed: 0, failed: 0 };
  const failures = `${root}/build/fuzz-failures`;
  mkdirSync(failures, { recursive: true });
  await inParallel(built('_fuzz'), async (name) => {
    const corpus = mkdtempSync(join(tmpdir(), `lapidary-${name}-`));
    const kept = `${root}/tests/fuzz/${name.replace(/_fuzz$/, '')}`;
    if (existsSync(kept)) cpSync(kept, corpus, { recursive: true });
    const { code, output } = await run(
      `${root}/build/native/${name}`,
      [
        corpus,
        `-max_total_time=${FUZZ_SECONDS}`,
        `-artifact_prefix=${failures}/${name}-`,
        '-timeout=10',
        '-rss_limit_mb=2048',
        '-print_final_stats=1',
      ],
      { capture: true },
    );
    rmSync(corpus, { recursive: true, force: true });
    const runs = output.match(/stat::number_of_executed_units:\s*(\d+)/)?.[1] ?? '0';
    const ok = code === 0 && Number(runs) > 0;
    if (ok) total.passed += 1;
    else {
      total.failed += 1;
      process.stdout.write(output.split('\n').slice(-60).join('\n'));
    }
    console.log(`fuzz: ${name} ${ok ? 'ok' : 'FAILED'}, ${runs} inputs`);
  });
  return total;
}

// A vitest project (vitest.config.ts).
const vitest = (project) => async (held) => {
  const report = `${results}/${project}.json`;
  rmSync(report, { force: true });
  const args = [
    'run',
    '--project',
    project,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ];
  const { code, output } = await run(bin('vitest'), args, { capture: held });
  if (held) process.stdout.write(`\n== ${project}\n${output}`);
  if (!existsSync(report)) return { passed: 0, failed: 1 };
  const { numPassedTests, numTotalTests } = JSON.parse(readFileSync(report, 'utf8'));
  // A skipped test is one that did not run: it counts as failed.
  const failed = numTotalTests - numPassedTests;
  return { passed: numPassedTests, failed: code !== 0 && failed === 0 ? 1 : failed };
};

const tiers = {
  build,
  lint,
  size,
  native,
  fuzz,
  unit: vitest('unit'),
  'kernel-llvmpipe': vitest('kernel-llvmpipe'),
  'kernel-swiftshader': vitest('kernel-swiftshader'),
  model: vitest('model'),
  'model-swiftshader': vitest('model-swiftshader'),
  oracle: vitest('oracle'),
  bench: vitest('bench'),
  cli: vitest('cli'),
  browser: vitest('browser'),
  package: vitest('package'),
};

// Tiers that keep little more than one core busy, for software GPUs compile on one: two of them run at a time, the
// long ones first. What each prints is held back until it ends.
const single = [
  'model',
  'kernel-llvmpipe',
  'browser',
  'kernel-swiftshader',
  'model-swiftshader',
  'package',
  'bench',
  'cli',
  'oracle',
  'unit',
];

// "kernel" names all kernel tiers, "model" both of models; what is tested is always built first.
const named = process.argv.slice(2);
const chosen = Object.keys(tiers).filter(
  (tier) =>
    named.length === 0 ||
    tier === 'build' ||
    named.some((word) => tier === word || tier.startsWith(`${word}-`)),
);
for (const word of named) {
  if (!Object.keys(tiers).some((tier) => tier === word || tier.startsWith(`${word}-`))) {
    say(`no tier is called '${word}'; there are: ${Object.keys(tiers).join(', ')}`);
    process.exit(2);
  }
}

mkdirSync(results, { recursive: true });
const rows = [];
async function runTier(tier, held) {
  if (!held) console.log(`\n== ${tier}`);
  const started = performance.now();
  let counts = await tiers[tier](held);
  if (counts.passed + counts.failed === 0) {
    console.log(`${tier}: no test was found`);
    counts = { passed: 0, failed: 1 };
  }
  rows.push({ tier, ...counts, time: seconds(started) });
  if (held) say(`${tier}: ${counts.passed} passed, ${counts.failed} failed (${seconds(started)})`);
  return counts.failed === 0;
}
let usable = true;
for (const tier of chosen.filter((name) => !single.includes(name))) {
  const good = await runTier(tier, false);
  if (tier === 'build' && !good) {
    usable = false;
    break;
  }
}
const beside = usable ? single.filter((name) => chosen.includes(name)) : [];
await inParallel(beside, (tier) => runTier(tier, beside.length > 1), 2);

console.log();
for (const { tier, passed, failed, time } of rows) {
  const columns = [
    tier.padEnd(20),
    `${passed}`.padStart(6),
    `${failed}`.padStart(6),
    time.padStart(9),
  ];
  console.log(columns.join(' ') + (failed > 0 ? '  FAILED' : ''));
}
const sum = (key) => rows.reduce((total, row) => total + row[key], 0);
console.log(`\n${sum('passed')} passed, ${sum('failed')} failed`);
process.exitCode = sum('failed') > 0 ? 1 : 0;
