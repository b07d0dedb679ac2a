// What a request asks for, checked, in the model's own terms.

import type {
  AudioPart,
  ChatOptions,
  GenerateOptions,
  ImagePart,
  JsonSchema,
  Message,
  RawOptions,
  Tool,
} from '../types.js';
import { Fields, isShallow } from './fields.js';
import { LIMITS } from './limits.js';

const COMMON = [
  ...['model', 'frequency_penalty', 'logit_bias', 'logprobs', 'max_tokens', 'n'],
  ...['presence_penalty', 'seed', 'stop', 'stream', 'stream_options', 'temperature', 'top_p'],
  ...['top_k', 'min_p', 'repeat_penalty'],
  // Whose request it is changes nothing.
  'user',
];
const CHAT = new Set([
  ...COMMON,
  ...['messages', 'top_logprobs', 'max_completion_tokens', 'tools', 'tool_choice'],
  ...['parallel_tool_calls', 'reasoning_effort', 'response_format', 'modalities', 'audio'],
  ...['functions', 'function_call', 'web_search_options', 'store', 'verbosity'],
  // Hints for a service, labels of what it stores: without them the answer is the same.
  ...['metadata', 'prediction', 'prompt_cache_key', 'prompt_cache_retention'],
  ...['safety_identifier', 'service_tier'],
]);
const COMPLETION = new Set([...COMMON, 'prompt', 'best_of', 'echo', 'suffix']);

/** What OpenAI writes where nothing is said: 16 tokens of a plain completion. */
const COMPLETION_TOKENS = 16;
const NONE = { min: 1, max: 1, whole: true };

interface Asked {
  stream: boolean;
  includeUsage: boolean;
}

export interface AskedChat extends Asked {
  messages: Message[];
  options: ChatOptions;
  /** Alternatives to show with each token; undefined: no log probabilities at all. */
  topLogprobs: number | undefined;
  oneCall: boolean;
  /** Whether the reply must not call. */
  noCalls: boolean;
}

export interface AskedCompletion extends Asked {
  prompt: string | number[];
  options: RawOptions;
  topLogprobs: number | undefined;
}

function readStream(fields: Fields): Asked {
  const stream = fields.boolean('stream') ?? false;
  const streamOptions = fields.object('stream_options');
  if (streamOptions && !stream) {
    throw fields.invalid('stream_options', "absent unless 'stream' is true");
  }
  // Which model answers was decided before.
  fields.string('model', LIMITS.name);
  return { stream, includeUsage: streamOptions?.boolean('include_usage') ?? false };
}

/** The texts that end a reply; one, or a list. */
export function readStops(fields: Fields): string[] | undefined {
  const value = fields.get('stop');
  const list = typeof value === 'string' ? [value] : fields.list('stop', LIMITS.stops);
  const good = (stop: unknown): stop is string =>
    typeof stop === 'string' && stop.length <= LIMITS.stopText;
  if (list && !list.every(good)) {
    throw fields.invalid('stop', `texts of at most ${LIMITS.stopText} characters`);
  }
  return list;
}

function readBias(fields: Fields): Record<number, number> | undefined {
  const value = fields.object('logit_bias') && (fields.get('logit_bias') as object);
  if (!value) return undefined;
  const entries = Object.entries(value);
  // The engine knows which ids there are.
  const good = entries.every(
    ([id, bias]) => /^\d{1,9}$/.test(id) && typeof bias === 'number' && Math.abs(bias) <= 100,
  );
  if (!good || entries.length > LIMITS.biases) {
    const most = LIMITS.biases;
    throw fields.invalid('logit_bias', `at most ${most} token ids with numbers from -100 to 100`);
  }
  return Object.fromEntries(entries);
}

/** A seed of the engine's; OpenAI's negative ones are seeds like others, Ollama's -1 is none. */
function readSeed(fields: Fields): number | undefined {
  const most = Number.MAX_SAFE_INTEGER;
  const seed = fields.number('seed', { min: -most, max: most, whole: true });
  return seed !== undefined && seed < 0 ? seed + 2 ** 53 : seed;
}

function readSampling(fields: Fields): GenerateOptions {
  const penalty = { min: -2, max: 2 };
  return {
    temperature: fields.number('temperature', { min: 0, max: 2 }),
    topP: fields.number('top_p', { min: 0, max: 1 }),
    topK: fields.number('top_k', { min: 0, max: 1e6, whole: true }),
    minP: fields.number('min_p', { min: 0, max: 1 }),
    repeatPenalty: fields.number('repeat_penalty', { min: 0.01, max: 100 }),
    presencePenalty: fields.number('presence_penalty', penalty),
    frequencyPenalty: fields.number('frequency_penalty', penalty),
    logitBias: readBias(fields),
    seed: readSeed(fields),
    stop: readStops(fields),
  };
}

function refuseMore(fields: Fields, key: string): void {
  if (fields.has(key) && fields.get(key) !== 1) {
    fields.number(key, { min: 1, max: 128, whole: true });
    throw fields.unsupported(key, 'one reply is written a request');
  }
  fields.number(key, NONE);
}

/** What could be asked of OpenAI's own service and cannot be honoured here, by name. */
function refuseForeign(fields: Fields): void {
  refuseMore(fields, 'n');
  for (const key of ['functions', 'function_call']) {
    if (fields.has(key)) throw fields.unsupported(key, "use 'tools'");
  }
  for (const key of ['audio', 'web_search_options']) {
    if (fields.has(key)) throw fields.unsupported(key, 'replies are text, made from the request');
  }
  const modalities = fields.list('modalities', 8);
  if (modalities?.some((each) => each !== 'text')) {
    throw fields.unsupported('modalities', "only 'text' is written");
  }
  if (fields.boolean('store')) throw fields.unsupported('store', 'nothing is kept');
  const verbosity = fields.oneOf('verbosity', ['low', 'medium', 'high']);
  if (verbosity && verbosity !== 'medium') {
    throw fields.unsupported('verbosity', "say it in a message, or leave it at 'medium'");
  }
}

/** A member that is a JSON schema; the engine knows which of its keywords it can follow. */
export function readSchema(fields: Fields, key: string): JsonSchema {
  if (!fields.object(key)) throw fields.invalid(key, 'a JSON schema');
  const schema = fields.get(key) as JsonSchema;
  const { schemaDepth, schemaText } = LIMITS;
  if (!isShallow(schema, schemaDepth)) {
    throw fields.invalid(key, `at most ${schemaDepth} objects deep`);
  }
  if (JSON.stringify(schema).length > schemaText) {
    throw fields.invalid(key, `at most ${schemaText} characters of JSON`);
  }
  return schema;
}

/** Every schema is followed to the letter, whether `strict` or not. */
function readFormat(fields: Fields): GenerateOptions['format'] {
  const format = fields.object('response_format');
  if (!format) return undefined;
  const types = ['text', 'json_object', 'json_schema'] as const;
  const type = format.oneOf('type', types);
  if (!type) throw format.invalid('type', `one of ${types.join(', ')}`);
  if (type === 'text') return undefined;
  if (type === 'json_object') return 'json';
  const described = format.object('json_schema');
  if (!described) throw format.invalid('json_schema', 'an object with a name and a schema');
  if (!described.string('name', LIMITS.name)) throw described.invalid('name', 'a text');
  described.string('description', LIMITS.text);
  described.boolean('strict');
  return readSchema(described, 'schema');
}

const ROLES = ['system', 'developer', 'user', 'assistant', 'tool'] as const;
const IMAGE = /^(image_url|input_image)$/;
const MEDIA = /^(image|audio|video|video_url|input_video|file)$/;
/** How much of a picture the model sees, in tokens. */
const DETAIL = { low: 70, auto: undefined, high: 1120 } as const;
const DETAILS = Object.keys(DETAIL) as (keyof typeof DETAIL)[];

/** Counts texts against what one request may hold. */
class TextBudget {
  private left: number = LIMITS.text;
  private media: number = LIMITS.media;

  takeMedia(address: string, fields: Fields, key: string): string {
    this.media -= address.length;
    if (this.media >= 0) return address;
    throw fields.invalid(key, `shorter: a request holds ${LIMITS.media} characters of pictures`);
  }

  take(text: string, fields: Fields, key: string): string {
    this.left -= text.length;
    if (this.left < 0)
      throw fields.invalid(key, `shorter: a request holds ${LIMITS.text} characters`);
    return text;
  }
}

/** A part of the type `image_url`, whose address is an object's member, or `input_image`, where it is a text. */
function readImage(part: Fields, budget: TextBudget): ImagePart {
  const flat = typeof part.get('image_url') === 'string';
  const holder = flat ? part : part.object('image_url');
  const key = flat ? 'image_url' : 'url';
  const url = holder?.string(key, LIMITS.media);
  if (!holder || url === undefined) throw part.invalid('image_url', 'an object with a url');
  if (!/^data:/i.test(url)) {
    throw holder.unsupported(key, "nothing is fetched: give the picture's bytes as a data: URL");
  }
  const maxTokens = DETAIL[holder.oneOf('detail', DETAILS) ?? 'auto'];
  const image = budget.takeMedia(url, holder, key);
  return { type: 'image', image, ...(maxTokens && { maxTokens }) };
}

/** A part of the type `input_audio`: a WAV file in base64. */
function readAudio(part: Fields, budget: TextBudget): AudioPart {
  const audio = part.object('input_audio');
  const data = audio?.string('data', LIMITS.media);
  if (!audio || data === undefined) throw part.invalid('input_audio', 'an object with data');
  const format = audio.string('format', LIMITS.name) ?? 'wav';
  if (format !== 'wav') throw audio.unsupported('format', "give the sound as 'wav'");
  return {
    type: 'audio',
    audio: `data:audio/wav;base64,${budget.takeMedia(data, audio, 'data')}`,
  };
}

function readContent(message: Fields, budget: TextBudget): Message['content'] | undefined {
  const content = message.get('content');
  if (content === undefined || typeof content === 'string') {
    return content && budget.take(content, message, 'content');
  }
  return message.objects('content', LIMITS.parts)!.map((part) => {
    const type = part.string('type', LIMITS.name);
    if (type !== undefined && IMAGE.test(type)) return readImage(part, budget);
    if (type === 'input_audio') return readAudio(part, budget);
    if (type !== undefined && MEDIA.test(type)) {
      throw part.unsupported(
        'type',
        `'${type}' cannot be read yet; the model takes text, pictures and sound`,
      );
    }
    if (type !== 'text') throw part.invalid('type', "'text'");
    const text = part.string('text', LIMITS.text);
    if (text === undefined) throw part.invalid('text', 'a text');
    return { type, text: budget.take(text, part, 'text') };
  });
}

/** In OpenAI's own shape: the engine reads it, the arguments' JSON included. */
function readCalls(message: Fields, budget: TextBudget) {
  return message.objects('tool_calls', LIMITS.parts)?.map((call) => {
    if (call.oneOf('type', ['function', 'custom']) === 'custom') {
      throw call.unsupported('type', "tools are of the type 'function'");
    }
    const called = call.object('function');
    const name = called?.string('name', LIMITS.name);
    if (!called || !name) throw call.invalid('function', 'an object with a name');
    const json = called.string('arguments', LIMITS.text) ?? '';
    return {
      id: call.string('id', LIMITS.name),
      function: { name, arguments: budget.take(json, called, 'arguments') },
    };
  });
}

function readMessage(message: Fields, budget: TextBudget): Message {
  const role = message.oneOf('role', ROLES);
  if (!role) throw message.invalid('role', `one of ${ROLES.join(', ')}`);
  for (const key of ['audio', 'function_call']) {
    if (message.has(key)) throw message.unsupported(key, 'messages are text and tool calls');
  }
  const content = readContent(message, budget);
  const calls = readCalls(message, budget);
  if (calls && role !== 'assistant') throw message.invalid('tool_calls', "an assistant's");
  if (content === undefined && role !== 'assistant') {
    throw message.invalid('content', 'a text or a list of parts');
  }
  const callId = message.string('tool_call_id', LIMITS.name);
  if (role === 'tool' && callId === undefined) {
    throw message.invalid('tool_call_id', "a call's id");
  }
  const thought = ['reasoning', 'reasoning_content', 'thinking']
    .map((key) => message.string(key, LIMITS.text))
    .find((text) => text !== undefined);
  return {
    role,
    content: content ?? '',
    ...(thought !== undefined && { thinking: budget.take(thought, message, 'reasoning') }),
    ...(calls && { tool_calls: calls }),
    ...(callId !== undefined && { tool_call_id: callId }),
  };
}

export function readMessages(fields: Fields): Message[] {
  const messages = fields.objects('messages', LIMITS.messages);
  if (!messages || messages.length === 0) {
    throw fields.invalid('messages', 'a list of at least one message');
  }
  const budget = new TextBudget();
  return messages.map((message) => readMessage(message, budget));
}

/** The tools of a request, in the shape that OpenAI and Ollama share. */
export function readTools(fields: Fields): Tool[] | undefined {
  const list = fields.objects('tools', LIMITS.tools);
  if (!list || list.length === 0) return undefined;
  if (!isShallow(fields.get('tools'), LIMITS.depth)) {
    throw fields.invalid('tools', `at most ${LIMITS.depth} objects deep`);
  }
  const tools = list.map((tool): Tool => {
    const type = tool.string('type', LIMITS.name) ?? 'function';
    if (type !== 'function') throw tool.unsupported('type', "tools are of the type 'function'");
    const declared = tool.object('function');
    const name = declared?.string('name', LIMITS.name);
    if (!declared || !name) throw tool.invalid('function', 'an object with a name');
    const description = declared.string('description', LIMITS.toolText);
    declared.object('parameters');
    const parameters = declared.get('parameters') as Record<string, unknown> | undefined;
    return {
      type,
      function: { name, ...(description && { description }), ...(parameters && { parameters }) },
    };
  });
  if (JSON.stringify(tools).length > LIMITS.toolText) {
    throw fields.invalid('tools', `at most ${LIMITS.toolText} characters of JSON`);
  }
  return tools;
}

/** The tools that the model is told of, and whether it must call one. */
function readChosenTools(fields: Fields): Pick<ChatOptions, 'tools' | 'toolChoice'> {
  const tools = readTools(fields);
  const choice = fields.get('tool_choice');
  if (choice === undefined || choice === 'auto') return { tools };
  if (choice === 'none') return {};
  if (choice !== 'required' && typeof choice !== 'object') {
    throw fields.invalid('tool_choice', "'auto', 'none', 'required' or an object");
  }
  if (!tools) throw fields.invalid('tool_choice', "absent unless there are 'tools'");
  if (choice === 'required') return { tools, toolChoice: choice };
  const named = fields.object('tool_choice')!;
  const type = named.string('type', LIMITS.name);
  if (type !== 'function') {
    throw named.unsupported('type', "there is 'function', which names the one to call");
  }
  const called = named.object('function');
  const name = called?.string('name', LIMITS.name);
  if (!called || !name) throw named.invalid('function', 'an object with a name');
  if (!tools.some((tool) => tool.function.name === name)) {
    throw called.invalid('name', 'the name of one of the tools');
  }
  return { tools, toolChoice: { name } };
}

function readMaxTokens(fields: Fields): number | undefined {
  const limits = { min: 1, max: 1e9, whole: true };
  const old = fields.number('max_tokens', limits);
  const current = fields.number('max_completion_tokens', limits);
  if (old !== undefined && current !== undefined) {
    throw fields.invalid('max_tokens', "absent where there is 'max_completion_tokens'");
  }
  return current ?? old;
}

/** Alternatives to show with each token, as `logprobs` and `top_logprobs` say; undefined: no log probabilities at all. */
export function readTopLogprobs(fields: Fields): number | undefined {
  const top = fields.number('top_logprobs', { min: 0, max: 20, whole: true });
  if (fields.boolean('logprobs')) return top ?? 0;
  if (top !== undefined) throw fields.invalid('top_logprobs', "absent unless 'logprobs' is true");
  return undefined;
}

/** The engine's option for it: at least one, for with none it reports no tokens. */
export const reportedLogprobs = (top: number | undefined) =>
  top === undefined ? undefined : Math.max(1, top);

const withoutAbsent = <T extends object>(object: T): T =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;

/** A request to `chat.completions.create`. Throws `invalid_argument` or `unsupported`, and names the member. */
export function readChat(value: unknown): AskedChat {
  const fields = Fields.of(value);
  fields.only(CHAT);
  refuseForeign(fields);
  const effort = fields.oneOf('reasoning_effort', [
    ...(['none', 'minimal', 'low', 'medium', 'high', 'xhigh'] as const),
  ]);
  const topLogprobs = readTopLogprobs(fields);
  return {
    ...readStream(fields),
    messages: readMessages(fields),
    topLogprobs,
    oneCall: fields.boolean('parallel_tool_calls') === false,
    noCalls: fields.get('tool_choice') === 'none',
    options: withoutAbsent<ChatOptions>({
      ...readSampling(fields),
      maxTokens: readMaxTokens(fields),
      ...readChosenTools(fields),
      format: readFormat(fields),
      think: effort !== undefined && effort !== 'none' && effort !== 'minimal',
      logprobs: reportedLogprobs(topLogprobs),
    }),
  };
}

/** A prompt as token ids; not an empty one. */
export const isTokenIds = (value: unknown): value is number[] =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.length <= LIMITS.promptTokens &&
  value.every((id) => Number.isSafeInteger(id) && id >= 0 && id < 2 ** 31);

function readPrompt(fields: Fields): string | number[] {
  let value = fields.get('prompt');
  if (isTokenIds(value)) return value;
  if (Array.isArray(value)) {
    if (value.length > 1 && (typeof value[0] === 'string' || Array.isArray(value[0]))) {
      throw fields.unsupported('prompt', 'one prompt is continued a request');
    }
    value = value[0] as unknown;
  }
  if (isTokenIds(value)) return value;
  if (typeof value !== 'string') throw fields.invalid('prompt', 'a text or a list of token ids');
  if (value.length > LIMITS.text) {
    throw fields.invalid('prompt', `at most ${LIMITS.text} characters long`);
  }
  return withoutBos(value);
}

/** A prompt that was written for other programs may begin with what the engine puts before it. */
export const withoutBos = (prompt: string): string => prompt.replace(/^<bos>/, '');

/** A request to `completions.create`; throws as {@link readChat} does. */
export function readCompletion(value: unknown): AskedCompletion {
  const fields = Fields.of(value);
  fields.only(COMPLETION);
  refuseMore(fields, 'n');
  refuseMore(fields, 'best_of');
  if (fields.boolean('echo')) throw fields.unsupported('echo', 'put the prompt before the text');
  if (fields.string('suffix', LIMITS.text)) {
    throw fields.unsupported('suffix', 'the model writes on from a prompt');
  }
  const topLogprobs = fields.number('logprobs', { min: 0, max: 5, whole: true });
  return {
    ...readStream(fields),
    prompt: readPrompt(fields),
    topLogprobs,
    options: withoutAbsent<RawOptions>({
      ...readSampling(fields),
      special: 'parse',
      maxTokens: readMaxTokens(fields) ?? COMPLETION_TOKENS,
      logprobs: reportedLogprobs(topLogprobs),
    }),
  };
}
