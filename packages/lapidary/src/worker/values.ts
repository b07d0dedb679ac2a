// What is said between a page and its worker, beyond what structured cloning can carry: functions, signals, byte
// sources and streams stay where they are and are called by number; addresses and errors are made anew.

import { streamOf } from '../byte-stream.js';
import { LapidaryError, messageOf, ERROR_CODES, type ErrorCode } from '../errors.js';
import { BlobSource } from '../source/blob.js';
import type { ByteSource } from '../source/source.js';

/** Where in a value something stands that is carried beside it. */
type Path = (string | number)[];

/** An object of the other side's, as it is described when it is handed over. */
export interface ObjectShape {
  methods: string[];
  /** Read one by one, when they are asked for. */
  accessors: string[];
  /** Plain data, as it was then. */
  fields: Record<string, unknown>;
}

type Special =
  | { kind: 'function' | 'stream'; ref: number }
  | { kind: 'signal'; ref: number; aborted: boolean }
  | { kind: 'source'; ref: number; name: string; size: number }
  | { kind: 'object'; ref: number; shape: ObjectShape }
  | { kind: 'blob-source'; blob: Blob }
  | { kind: 'url'; href: string }
  | { kind: 'error'; error: PlainError };

/** A value as it is posted: what can be cloned, and what stands in its holes. */
export interface Posted {
  value: unknown;
  specials: ({ path: Path } & Special)[];
}

export interface PlainError {
  name: string;
  message: string;
  code?: ErrorCode;
  cause?: PlainError;
}

/** What the encoder needs of its side: numbers for what stays. */
export interface Keeper {
  keep(object: unknown): number;
  /** Whether objects of classes are handed over by number; else they are copied, as structured cloning does. */
  readonly handsOver: boolean;
}

/** What the decoder makes of the other side's numbers. */
export interface Maker {
  function(ref: number): (...args: unknown[]) => Promise<unknown>;
  signal(ref: number, aborted: boolean): AbortSignal;
  source(ref: number, name: string, size: number): ByteSource;
  stream(ref: number): ReadableStream;
  object(ref: number, shape: ObjectShape): object;
}

/** Objects and lists in each other: more are a cycle, or a mistake. */
const MAX_DEPTH = 64;
const MAX_CAUSES = 4;

const isSource = (value: object): value is ByteSource =>
  'read' in value &&
  typeof value.read === 'function' &&
  'size' in value &&
  typeof value.size === 'number';

const isIterable = (value: object): value is AsyncIterable<unknown> =>
  Symbol.asyncIterator in value && typeof value[Symbol.asyncIterator] === 'function';

const isPlain = (value: object) => {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
};

/** Whether it can be handed over as a snapshot: data through and through. */
function isData(value: unknown, depth = 8): boolean {
  if (typeof value !== 'object' || value === null) return typeof value !== 'function';
  if (depth === 0 || !(Array.isArray(value) || isPlain(value))) return false;
  return Object.values(value).every((each) => isData(each, depth - 1));
}

function shapeOf(object: object): ObjectShape {
  const shape: ObjectShape = { methods: [], accessors: [], fields: {} };
  for (const [name, value] of Object.entries(object)) {
    if (isData(value)) shape.fields[name] = value;
  }
  let prototype = Object.getPrototypeOf(object) as object | null;
  for (; prototype && prototype !== Object.prototype;) {
    for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
      if (name === 'constructor') continue;
      if (property.get) shape.accessors.push(name);
      else if (typeof property.value === 'function') shape.methods.push(name);
    }
    prototype = Object.getPrototypeOf(prototype) as object | null;
  }
  return shape;
}

export function plainError(error: unknown, causes = MAX_CAUSES): PlainError {
  if (!(error instanceof Error)) return { name: 'Error', message: messageOf(error) };
  return {
    name: error.name,
    message: error.message,
    ...(error instanceof LapidaryError && { code: error.code }),
    ...(error.cause !== undefined && causes > 0 && { cause: plainError(error.cause, causes - 1) }),
  };
}

const KINDS: Record<string, new (message: string, options?: ErrorOptions) => Error> = {
  TypeError,
  RangeError,
  SyntaxError,
};
const CODES = new Set<string>(Object.values(ERROR_CODES));

/** The error that {@link plainError} took apart: of the same class, with the same code. */
export function errorOf({ name, message, code, cause }: PlainError): Error {
  const options = cause && { cause: errorOf(cause) };
  if (code !== undefined) {
    return new LapidaryError(CODES.has(code) ? code : 'internal_error', message, options);
  }
  const error = new (KINDS[name] ?? Error)(message, options);
  if (error.name !== name) error.name = name;
  return error;
}

/** A value made ready for posting. With `transfers`, bytes that fill their buffer are to go with it, uncopied. */
export function encode(
  value: unknown,
  keeper: Keeper,
  transfers = false,
): { posted: Posted; transfer: ArrayBuffer[] } {
  const specials: Posted['specials'] = [];
  const transfer = new Set<ArrayBuffer>();

  const put = (path: Path, special: Special): undefined => {
    specials.push({ path, ...special });
    return undefined;
  };
  const bytes = (view: ArrayBufferView): void => {
    const { buffer, byteLength } = view;
    if (transfers && buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) {
      transfer.add(buffer);
    }
  };
  const copied = (object: object, path: Path): object =>
    Object.fromEntries(
      Object.entries(object).map(([key, each]) => [key, walk(each, [...path, key])]),
    );

  const walk = (each: unknown, path: Path): unknown => {
    if (typeof each === 'function') return put(path, { kind: 'function', ref: keeper.keep(each) });
    if (typeof each !== 'object' || each === null) return each;
    if (path.length > MAX_DEPTH) {
      throw new LapidaryError('invalid_argument', `a value is more than ${MAX_DEPTH} objects deep`);
    }
    if (ArrayBuffer.isView(each)) {
      bytes(each);
      return each;
    }
    if (Array.isArray(each)) return each.map((item, i) => walk(item, [...path, i]));
    if (each instanceof AbortSignal) {
      const { aborted } = each;
      return put(path, { kind: 'signal', ref: keeper.keep(each), aborted });
    }
    if (each instanceof URL) return put(path, { kind: 'url', href: each.href });
    if (each instanceof Error) return put(path, { kind: 'error', error: plainError(each) });
    if (each instanceof ReadableStream)
      return put(path, { kind: 'stream', ref: keeper.keep(each) });
    // What comes piece by piece; of the worker's own objects some are iterable as well.
    if (!keeper.handsOver && isIterable(each))
      return put(path, { kind: 'stream', ref: keeper.keep(streamOf(each)) });
    if (each instanceof BlobSource) return put(path, { kind: 'blob-source', blob: each.blob });
    if (isSource(each)) {
      const { name, size } = each;
      return put(path, { kind: 'source', ref: keeper.keep(each), name, size });
    }
    if (isPlain(each)) return copied(each, path);
    // The platform's own objects (a File, a module) have a tag of their own; cloning knows them, or refuses.
    if (Object.prototype.toString.call(each) !== '[object Object]') return each;
    if (!keeper.handsOver) {
      const { methods, accessors } = shapeOf(each);
      if (methods.length + accessors.length === 0) return copied(each, path);
      const what = `${path.filter((step) => typeof step === 'string').join('.')} (${each.constructor.name})`;
      throw new LapidaryError(
        'invalid_argument',
        `${what} is an object that cannot go to a worker`,
      );
    }
    return put(path, { kind: 'object', ref: keeper.keep(each), shape: shapeOf(each) });
  };

  const walked = walk(value, []);
  return { posted: { value: walked, specials }, transfer: [...transfer] };
}

function made(special: Special, maker: Maker): unknown {
  switch (special.kind) {
    case 'function':
      return maker.function(special.ref);
    case 'stream':
      return maker.stream(special.ref);
    case 'signal':
      return maker.signal(special.ref, special.aborted);
    case 'source':
      return maker.source(special.ref, special.name, special.size);
    case 'object':
      return maker.object(special.ref, special.shape);
    case 'blob-source':
      return new BlobSource(special.blob);
    case 'url':
      return new URL(special.href);
    case 'error':
      return errorOf(special.error);
  }
}

/** The value that {@link encode} was given, with stand-ins for what stayed on the other side. */
export function decode({ value, specials }: Posted, maker: Maker): unknown {
  const whole = { value };
  for (const { path, ...special } of specials) {
    const steps = ['value', ...path];
    const last = steps.pop()!;
    let at = whole as Record<string | number, unknown>;
    for (const step of steps) at = at[step] as typeof at;
    at[last] = made(special, maker);
  }
  return whole.value;
}
