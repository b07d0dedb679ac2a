// `run`: answers one prompt, or holds a conversation.

import { fstatSync, readFileSync, statSync } from 'node:fs';
import {
  LapidaryError,
  type ChatOptions,
  type JsonSchema,
  type Message,
  type Model,
  type Reply,
  type ReplyReport,
} from 'lapidary/node';
import { EXIT, UsageError } from '../exit.js';
import { bytes, duration } from '../format.js';
import { load, type LoadFlags } from '../loading.js';
import { parseAdapter } from '../adapters.js';
import { givenMedia, withMedia, type MediaFlags } from '../media.js';
import { converse } from './interactive.js';

export interface RunFlags extends LoadFlags, MediaFlags {
  system?: string;
  think?: boolean;
  seed?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repeatPenalty?: number;
  maxTokens?: number;
  stop?: string[];
  /** `json`, or the path of a JSON schema. */
  format?: string;
  adapter?: string[];
  raw?: boolean;
  json?: boolean;
  verbose?: boolean;
}

const SAMPLING = [
  'seed',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repeatPenalty',
  'maxTokens',
  'stop',
] as const;

const HINT_AFTER_MS = 2000;

export function chatOptions(flags: RunFlags): ChatOptions {
  const options: Record<string, unknown> = {};
  for (const key of SAMPLING) if (flags[key] !== undefined) options[key] = flags[key];
  if (flags.think !== undefined) options.think = flags.think;
  return options;
}

/** Of a schema's file; the engine takes less. */
const MAX_SCHEMA_BYTES = 1 << 20;

/** `json`, or the JSON schema in a file. */
function readFormat(format: string): 'json' | JsonSchema {
  if (format === 'json') return format;
  let text: string;
  try {
    const { size } = statSync(format);
    if (size > MAX_SCHEMA_BYTES) throw new Error(`it has ${bytes(size)}`);
    text = readFileSync(format, 'utf8');
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new LapidaryError('not_found', `--format cannot read '${format}': ${why}`);
  }
  let schema: unknown;
  try {
    schema = JSON.parse(text);
  } catch {
    throw new UsageError(`--format: '${format}' is not JSON`);
  }
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) {
    throw new UsageError(`--format: '${format}' holds no JSON schema, which is an object`);
  }
  return schema as JsonSchema;
}

/** Streams a reply to stdout, thinking to stderr; Ctrl-C ends the reply. */
export async function show(
  reply: Reply,
  json: boolean,
): Promise<{ text: string; report: ReplyReport }> {
  const stop = () => reply.cancel();
  process.once('SIGINT', stop);
  let text = '';
  let thinking = false;
  try {
    for await (const event of reply) {
      if (json) {
        process.stdout.write(`${JSON.stringify(event)}\n`);
        if (event.type === 'text') text += event.text;
        continue;
      }
      if (thinking && event.type !== 'thinking') {
        process.stderr.write('\n');
        thinking = false;
      }
      if (event.type === 'text') {
        text += event.text;
        process.stdout.write(event.text);
      } else if (event.type === 'thinking') {
        thinking = true;
        process.stderr.write(event.text);
      } else if (event.type === 'tool_call') {
        process.stdout.write(`\n[calls ${event.name}(${JSON.stringify(event.arguments)})]\n`);
      }
    }
    if (!json && text !== '' && !text.endsWith('\n')) process.stdout.write('\n');
    return { text, report: await reply.report() };
  } finally {
    process.off('SIGINT', stop);
  }
}

/** What the answer ran on and how fast, in one line; with `verbose`, all the numbers. */
export function summary(model: Model, report: ReplyReport, verbose: boolean): string {
  const { usage, timings, draft } = report;
  const { description, software } = model.device;
  // The first token comes out of the prompt's own pass.
  const steps = Math.max(0, usage.completionTokens - 1);
  const speed = timings.decodeMs > 0 ? (steps * 1000) / timings.decodeMs : 0;
  const parts = [
    `${description}${software ? ' (software)' : ''}`,
    `${speed.toFixed(1)} tokens/s`,
    `first token after ${duration(timings.firstTokenMs)}`,
    ...(draft ? [`${draft.accepted} of ${draft.drafted} guesses came true`] : []),
    ...(report.reason === 'stop' ? [] : [`ended by ${report.reason}`]),
  ];
  let text = `${parts.join(', ')}\n`;
  if (verbose) {
    const prompt = usage.promptTokens - usage.cachedTokens;
    text += `prompt:  ${usage.promptTokens} tokens (${usage.cachedTokens} cached), ${prompt} in ${duration(timings.prefillMs)}\n`;
    text += `reply:   ${usage.completionTokens} tokens in ${duration(timings.decodeMs)}, seed ${report.seed}\n`;
    text += `context: ${usage.promptTokens + usage.completionTokens} of ${model.info.contextLength} tokens\n`;
    if (report.experts) {
      const { hits, misses } = report.experts;
      const rate = Math.round((100 * hits) / Math.max(1, hits + misses));
      text += `experts: ${rate} % of ${hits + misses} were on the GPU, ${misses} were read\n`;
    }
    const { gpuBytes, perLayerEmbeddings } = model.info;
    const inFile = perLayerEmbeddings === 'source' ? ', per-layer embeddings in the file' : '';
    for (const { name, scale, gpuBytes } of model.adapters) {
      text += `adapter: ${name} at ${scale}, ${bytes(gpuBytes)} on the GPU\n`;
    }
    text += `weights: ${bytes(gpuBytes.weights)} on the GPU${inFile}\n`;
    const { drafter } = model.info;
    if (drafter) text += `drafter: ${bytes(drafter.gpuBytes)} on the GPU\n`;
  }
  return text;
}

/**
 * Whether text was piped in beside a prompt. Only a pipe or a file says so: /dev/null is what programs without input
 * get, and a socket that was inherited from a parent may never end.
 */
function inputIsPiped(): boolean {
  try {
    const stats = fstatSync(0);
    return stats.isFIFO() || stats.isFile();
  } catch {
    return false; // closed
  }
}

async function readStdin(): Promise<string> {
  // A pipe that somebody forgot to close keeps us waiting: better not in silence.
  const hint = setTimeout(
    () => process.stderr.write('reading standard input until it ends\n'),
    HINT_AFTER_MS,
  );
  try {
    let text = '';
    for await (const chunk of process.stdin.setEncoding('utf8')) text += chunk as string;
    return text;
  } finally {
    clearTimeout(hint);
  }
}

/** The prompt's words and, below them, what was piped in. */
async function readPrompt(words: string[]): Promise<string> {
  const reads = words.length === 0 ? !process.stdin.isTTY : inputIsPiped();
  const piped = reads ? await readStdin() : '';
  return [words.join(' '), piped.trimEnd()].filter((part) => part !== '').join('\n\n');
}

export async function run(name: string, words: string[], flags: RunFlags): Promise<number> {
  const prompt = await readPrompt(words);
  const interactive = prompt === '' && process.stdin.isTTY;
  if (prompt === '' && !interactive) {
    throw new UsageError('there is no prompt: give one as an argument or on standard input');
  }
  const media = givenMedia(flags);
  if (flags.raw && media.length > 0) throw new UsageError('--raw takes no --image and no --audio');
  if (interactive && (flags.raw || flags.json || flags.format !== undefined)) {
    throw new UsageError('--raw, --json and --format need a prompt');
  }
  const adapters = (flags.adapter ?? []).map(parseAdapter);
  const format = flags.format === undefined ? undefined : readFormat(flags.format);
  const options = { ...chatOptions(flags), ...(format && { format }) };
  const model = await load(name, flags);
  try {
    for (const { path, scale } of adapters) await model.loadAdapter(path, { scale });
    if (interactive) return await converse(model, flags);
    const messages: Message[] = [
      ...(flags.system ? [{ role: 'system', content: flags.system } as const] : []),
      { role: 'user', content: withMedia(media, prompt) },
    ];
    const reply = flags.raw
      ? model.generate(prompt, { ...options, special: 'parse' })
      : model.chat(messages, options);
    const { report } = await show(reply, flags.json ?? false);
    process.stderr.write(summary(model, report, flags.verbose ?? false));
    return report.reason === 'cancelled' ? EXIT.interrupted : EXIT.ok;
  } finally {
    await model.close();
  }
}
