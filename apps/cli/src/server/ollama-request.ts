// Requests to Ollama's interface, checked, in the model's own terms. Unknown members are ignored, as Ollama does.

import {
  LapidaryError,
  type GenerateOptions,
  type ImagePart,
  type Message,
  type Tool,
} from 'lapidary/node';
import {
  Fields,
  LIMITS,
  isShallow,
  readSchema,
  readStops,
  readTools,
  readTopLogprobs,
  reportedLogprobs,
} from 'lapidary/openai';
import { requireName } from './answer.js';

/** What chat and generate both ask for. */
export interface AskedOllama {
  name: string;
  stream: boolean;
  think: boolean;
  options: GenerateOptions;
  /** Alternatives to show with each token; undefined: no log probabilities at all. */
  topLogprobs: number | undefined;
  /** Tokens that prompt and reply may have together. */
  contextLength: number | undefined;
  keepAliveMs: number | undefined;
}
export interface AskedChat extends AskedOllama {
  /** None: the model is only to be loaded, or unloaded. */
  messages: Message[];
  tools: Tool[] | undefined;
}
export interface AskedGenerate extends AskedOllama {
  prompt: string;
  images: ImagePart[];
  system: string | undefined;
  /** Whether the prompt is given to the model as it is. */
  raw: boolean;
}

const UNITS: Record<string, number> = {
  ...{ ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 },
};

/** "5m", "1h30m", or seconds; below zero for ever. Milliseconds. */
export function parseKeepAlive(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  const text = typeof value === 'number' ? String(value) : value;
  const bad = () =>
    new LapidaryError('invalid_argument', "'keep_alive' must be seconds, or a time like 5m or -1");
  if (typeof text !== 'string' || text.length > 64) throw bad();
  const plain = /^-?\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : undefined;
  if (plain !== undefined) return plain < 0 ? Infinity : plain;
  if (!/^-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$/.test(text)) throw bad();
  if (text.startsWith('-')) return Infinity;
  const parts = text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g);
  return [...parts].reduce((sum, [, count, unit]) => sum + Number(count) * UNITS[unit!]!, 0);
}

/** Members of `options` that ask for what is done otherwise here, unless they have the value that changes nothing. */
const REFUSED: Record<string, unknown[]> = { typical_p: [0, 1], mirostat: [0], tfs_z: [0, 1] };

/** Nanoseconds, in which Ollama's times are. */
export const nanoseconds = (milliseconds: number) => Math.round(milliseconds * 1e6);

/** The member `options`. */
export function readOptions(request: Fields): {
  options: GenerateOptions;
  contextLength: number | undefined;
} {
  const fields = request.object('options') ?? Fields.of({});
  for (const [key, same] of Object.entries(REFUSED)) {
    if (fields.has(key) && !same.includes(fields.get(key))) {
      throw fields.unsupported(key, 'sample with temperature, top_k, top_p and min_p');
    }
  }
  const whole = { min: -2, max: 1e9, whole: true };
  const penalty = { min: -100, max: 100 };
  const seeds = Number.MAX_SAFE_INTEGER;
  const options = {
    temperature: fields.number('temperature', { min: 0, max: 100 }),
    topK: fields.number('top_k', whole),
    topP: fields.number('top_p', { min: 0, max: 1 }),
    minP: fields.number('min_p', { min: 0, max: 1 }),
    repeatPenalty: fields.number('repeat_penalty', { min: 0.01, max: 100 }),
    repeatLastN: fields.number('repeat_last_n', whole),
    presencePenalty: fields.number('presence_penalty', penalty),
    frequencyPenalty: fields.number('frequency_penalty', penalty),
    seed: fields.number('seed', { min: -seeds, max: seeds, whole: true }),
    // Below zero: as many as there is room for.
    maxTokens: fields.number('num_predict', whole),
    stop: readStops(fields),
  };
  const contextLength = fields.number('num_ctx', { min: 1, max: 1 << 24, whole: true });
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return { options: Object.fromEntries(given), contextLength };
}

const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/** The member `images`: files in base64. */
function readImages(fields: Fields): ImagePart[] {
  const images = fields.list('images', LIMITS.parts) ?? [];
  return images.map((image) => {
    if (typeof image !== 'string' || !BASE64.test(image))
      throw fields.invalid('images', 'a list of files in base64');
    return { type: 'image', image: new Uint8Array(Buffer.from(image, 'base64')) };
  });
}

/** The content of a message, in which pictures come first. */
export const withImages = (images: ImagePart[], text: string): Message['content'] =>
  images.length === 0 ? text : [...images, { type: 'text', text }];

function readThink(fields: Fields): boolean {
  const value = fields.get('think');
  if (value === undefined || typeof value === 'boolean') return value ?? false;
  return fields.oneOf('think', ['low', 'medium', 'high', 'max']) !== undefined;
}

function readFormat(fields: Fields): GenerateOptions['format'] {
  const format = fields.get('format');
  if (format === undefined || format === '') return undefined;
  if (format === 'json') return format;
  if (typeof format !== 'object' || Array.isArray(format)) {
    throw fields.invalid('format', "'json' or a JSON schema");
  }
  return readSchema(fields, 'format');
}

function readCommon(fields: Fields): AskedOllama {
  const format = readFormat(fields);
  const topLogprobs = readTopLogprobs(fields);
  const { options, contextLength } = readOptions(fields);
  const logprobs = reportedLogprobs(topLogprobs);
  const name = fields.string('model', LIMITS.name) ?? fields.string('name', LIMITS.name);
  return {
    name: requireName(name, 'model'),
    stream: fields.boolean('stream') ?? true,
    think: readThink(fields),
    keepAliveMs: parseKeepAlive(fields.get('keep_alive')),
    contextLength,
    topLogprobs,
    options: { ...options, ...(logprobs !== undefined && { logprobs }), ...(format && { format }) },
  };
}

function readMessage(message: Fields): Message {
  const images = readImages(message);
  const calls = message.objects('tool_calls', LIMITS.parts)?.map((call) => {
    const called = call.object('function');
    if (!called?.string('name', LIMITS.name))
      throw call.invalid('function', 'an object with a name');
    return { id: call.string('id', LIMITS.name), function: call.get('function') };
  });
  const role = message.oneOf('role', ['system', 'user', 'assistant', 'tool']);
  if (!role) throw message.invalid('role', 'system, user, assistant or tool');
  return {
    role,
    content: withImages(images, message.string('content', LIMITS.text) ?? ''),
    thinking: message.string('thinking', LIMITS.text),
    name: message.string('tool_name', LIMITS.name),
    // In Ollama's own shape: the engine reads it.
    tool_calls: calls,
    tool_call_id: message.string('tool_call_id', LIMITS.name),
  } as Message;
}

/** A request to /api/chat. Throws `invalid_argument` or `unsupported`, and names the member. */
export function readChat(value: unknown): AskedChat {
  const fields = Fields.of(value);
  if (!isShallow(fields.get('messages'), LIMITS.depth)) {
    throw fields.invalid('messages', `at most ${LIMITS.depth} objects deep`);
  }
  const messages = fields.objects('messages', LIMITS.messages) ?? [];
  return {
    ...readCommon(fields),
    messages: messages.map(readMessage),
    tools: readTools(fields),
  };
}

/** A request to /api/generate; throws as {@link readChat} does. */
export function readGenerate(value: unknown): AskedGenerate {
  const fields = Fields.of(value);
  for (const key of ['suffix', 'template']) {
    if (fields.string(key, LIMITS.text)) {
      throw fields.unsupported(key, "use 'raw' for a prompt of one's own making");
    }
  }
  if (fields.list('context', LIMITS.promptTokens)?.length) {
    throw fields.unsupported('context', 'use /api/chat, which keeps what was said as messages');
  }
  const images = readImages(fields);
  const raw = fields.boolean('raw') ?? false;
  if (raw && images.length > 0) {
    throw fields.unsupported('images', "'raw' prompts are text: leave it out, or use /api/chat");
  }
  return {
    ...readCommon(fields),
    prompt: fields.string('prompt', LIMITS.text) ?? '',
    images,
    system: fields.string('system', LIMITS.text),
    raw,
  };
}
