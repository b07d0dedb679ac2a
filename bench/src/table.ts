// A report as text for people.

import type { KernelTime } from 'lapidary';
import type { BenchReport, Decode, Measured, PeerReport, Skipped } from './types.js';

const KERNELS = 20;

function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
const spread = ({ median, min, max, values }: Measured, unit = 1): string =>
  values.length > 1
    ? `${digits(median / unit)}  (${digits(min / unit)} to ${digits(max / unit)}, ${values.length} times)`
    : digits(median / unit);
const MIB = 2 ** 20;
const GB = 1e9;

function kernels(times: KernelTime[], per: number): string[] {
  const total = times.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const lines = times
    .slice(0, KERNELS)
    .map(
      ({ kernel, dispatches, milliseconds }) =>
        `    ${digits((1000 * milliseconds) / per).padStart(8)} µs ${digits(dispatches / per).padStart(5)} × ${((100 * milliseconds) / total).toFixed(1).padStart(5)} %  ${kernel}`,
    );
  const rest = times.length - lines.length;
  return [
    ...lines,
    ...(rest > 0 ? [`    and ${rest} more kernels`] : []),
    `    ${digits((1000 * total) / per).padStart(8)} µs in all`,
  ];
}

function columns(rows: [string, string][]): string[] {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
}

const speed = (entry: { tokensPerSecond: Measured } | Skipped): string =>
  'skipped' in entry ? `not measured: ${entry.skipped}` : spread(entry.tokensPerSecond);

const guesses = ({ draft }: Pick<Decode, 'draft'>): string =>
  draft ? `, ${draft.accepted} of ${draft.drafted} guesses came true` : '';

/** What bench/peer.mjs measured. */
export function peerTable(peer: PeerReport): string {
  if ('skipped' in peer) return `\npeer ${peer.name}: not run: ${peer.skipped}\n`;
  const rows: [string, string][] = [
    ['load, ms', digits(peer.loadMs)],
    ...peer.decode.map((entry): [string, string] => [
      `decode at ${entry.context}, tok/s`,
      speed(entry),
    ]),
    ...peer.prefill.map((entry): [string, string] => [
      `prefill of ${entry.promptTokens}, tok/s`,
      speed(entry),
    ]),
  ];
  const f16 = peer.f16 ? 'with' : 'without';
  return `\npeer ${peer.name} ${peer.version}, on an adapter ${f16} f16; its answers were not checked\n${columns(rows).join('\n')}\n`;
}

export function table(report: BenchReport): string {
  const { device, model, gate, bandwidth, load, firstToken, perToken, memory, profile } = report;
  const rows: [string, string][] = [
    ['model', `${model.name}, ${digits(model.fileBytes / MIB)} MiB (${model.info.family})`],
    ['device', `${device.description}${device.software ? ' (software)' : ''}`],
    ['host', report.host],
    ['kernels', JSON.stringify(model.info.variant)],
  ];
  const { logits } = gate;
  rows.push([
    'gate',
    `${gate.checked}: ${gate.nano.prompts} texts of nano right` +
      (logits
        ? `, ${logits.compared} logits off by ${digits(logits.error)} (at most ${logits.tolerance})`
        : ''),
  ]);
  if (report.adapter) {
    const { name, matrices, gpuBytes, milliseconds } = report.adapter;
    rows.push([
      'LoRA adapter',
      `${name}: ${matrices} matrices, ${digits(gpuBytes / MIB)} MiB, loaded in ${digits(milliseconds)} ms`,
    ]);
  }
  for (const entry of report.decode) {
    const name = `decode at ${entry.context}, tok/s`;
    if ('skipped' in entry) rows.push([name, `not measured: ${entry.skipped}`]);
    else {
      const share = `${digits(100 * entry.shareOfPeak)} % of peak bandwidth`;
      const odd = entry.repeatable ? '' : ', NOT THE SAME TOKENS EACH TIME';
      rows.push([name, `${spread(entry.tokensPerSecond)}, ${share}${odd}${guesses(entry)}`]);
      if (entry.expertHits !== undefined)
        rows.push([
          `experts on the GPU at ${entry.context}`,
          `${digits(100 * entry.expertHits)} %`,
        ]);
    }
  }
  const drawn = report.drawn;
  if ('skipped' in drawn) rows.push(['decode, tokens drawn', `not measured: ${drawn.skipped}`]);
  else
    rows.push([
      `decode at ${drawn.context}, tokens drawn, tok/s`,
      `${speed(drawn)}${guesses(drawn)}`,
    ]);
  for (const entry of report.concurrent ?? []) {
    rows.push([`${entry.replies} replies at once, tok/s of all`, speed(entry)]);
  }
  for (const entry of report.prefill) {
    const name = `prefill of ${entry.promptTokens}, tok/s`;
    rows.push([name, speed(entry)]);
  }
  const { together } = report;
  if (together && 'skipped' in together) {
    rows.push(['prompts together', `not measured: ${together.skipped}`]);
  } else if (together) {
    const name = `${together.prompts} prompts of ${together.promptTokens}`;
    rows.push([`${name} together, tok/s`, speed(together)]);
    rows.push([`${name} one by one, tok/s`, spread(together.oneByOne)]);
  }
  if ('skipped' in firstToken) rows.push(['first token', `not measured: ${firstToken.skipped}`]);
  else {
    rows.push([`first token after ${firstToken.promptTokens}, cold, ms`, spread(firstToken.cold)]);
    rows.push([`first token after ${firstToken.promptTokens}, warm, ms`, spread(firstToken.warm)]);
  }
  rows.push(['load, ms', spread(load.milliseconds)]);
  rows.push([
    '  of it',
    Object.entries(load.phases)
      .map(([phase, time]) => `${phase} ${digits(time.median)}`)
      .join(', '),
  ]);
  rows.push(['load, GB/s', spread(load.bytesPerSecond, GB)]);
  rows.push(['  upload alone, GB/s', spread(load.uploadBytesPerSecond, GB)]);
  rows.push([
    'peak bandwidth, GB/s',
    `${spread(bandwidth.bytesPerSecond, GB)}, reading ${digits(bandwidth.bufferBytes / MIB)} MiB`,
  ]);
  rows.push(['weights a token, MiB', digits(model.weightBytesPerToken / MIB)]);
  rows.push([
    'a token',
    'skipped' in perToken
      ? `not counted: ${perToken.skipped}`
      : `${digits(perToken.dispatches)} dispatches, ${digits(perToken.submits)} submits, ` +
        `${digits(perToken.bindGroups)} bind groups, ${digits(perToken.buffers)} buffers, ` +
        `${digits(perToken.writes)} writes, ${digits(perToken.bytesRead)} bytes read back`,
  ]);
  const { weights, kv, scratch } = memory.gpu;
  rows.push([
    'GPU memory, MiB',
    `${digits(memory.bufferBytes / MIB)} (peak ${digits(memory.bufferBytesPeak / MIB)}): ` +
      `weights ${digits(weights / MIB)}, KV ${digits(kv / MIB)}, scratch ${digits(scratch / MIB)}`,
  ]);
  const place = model.info.perLayerEmbeddings;
  if (place) rows.push(['per-layer embeddings', place === 'gpu' ? 'on the GPU' : 'in the source']);
  const { memory: plan, layers } = model.info;
  if (plan.expertSlots !== undefined)
    rows.push(['experts kept, of each layer', String(plan.expertSlots)]);
  else if (plan.fit === 'streamed')
    rows.push(['layers streamed', `${layers - plan.residentLayers} of ${layers}`]);
  rows.push(['wasm heap, MiB', digits(memory.wasmHeap / MIB)]);
  const lines = columns(rows);
  if (profile) {
    if ('skipped' in profile) lines.push('', `no profile: ${profile.skipped}`);
    else {
      lines.push('', `GPU time a token at ${profile.context} tokens, by kernel:`);
      lines.push(...kernels(profile.decode, profile.tokens));
      lines.push('', `GPU time of a prompt of ${profile.promptTokens} tokens, by kernel:`);
      lines.push(...kernels(profile.prefill, 1));
    }
  }
  return `${lines.join('\n')}\n`;
}
