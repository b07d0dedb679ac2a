// Reading a request that anybody may have written: each member is checked where it is read, and named where it is wrong.

import { LapidaryError, type ErrorCode } from '../errors.js';

/** A request that is refused. `param` is the member at fault, "messages[2].content", as OpenAI's error bodies have it. */
export class RequestError extends LapidaryError {
  readonly param: string | undefined;

  constructor(code: ErrorCode, message: string, param?: string) {
    super(code, message);
    this.param = param;
  }
}

/** Which numbers a member may be. */
export interface NumberLimits {
  min: number;
  max: number;
  /** Whether fractions are refused. */
  whole?: boolean;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Whether a value's arrays and objects lie at most `depth` deep in each other: deeper ones overflow somebody's stack. */
export function isShallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return depth > 0 && Object.values(value).every((each) => isShallow(each, depth - 1));
}

/**
 * The members of one object of a request. Absent and null are the same: undefined. A member of another kind, or beyond
 * its limits, throws a {@link RequestError} with the code `invalid_argument`.
 */
export class Fields {
  private constructor(
    private readonly members: Record<string, unknown>,
    private readonly path: string,
  ) {}

  /** `path` is how errors call the object; empty for the request itself. */
  static of(value: unknown, path = ''): Fields {
    if (!isObject(value)) {
      throw new RequestError(
        'invalid_argument',
        `${path || 'the request'} must be an object`,
        path || undefined,
      );
    }
    return new Fields(value, path);
  }

  /** The name of a member in errors. */
  nameOf(key: string): string {
    return this.path ? `${this.path}.${key}` : key;
  }

  /** A member as it is. */
  get(key: string): unknown {
    // Own members only: nothing inherited is part of a request.
    return Object.hasOwn(this.members, key) ? (this.members[key] ?? undefined) : undefined;
  }

  /** Whether there is such a member. */
  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  /** The error for a member that is not what it must be. */
  invalid(key: string, must: string): RequestError {
    const name = this.nameOf(key);
    return new RequestError('invalid_argument', `'${name}' must be ${must}`, name);
  }

  /** The error for a member that cannot be honoured. */
  unsupported(key: string, why: string): RequestError {
    const name = this.nameOf(key);
    return new RequestError('unsupported', `'${name}' is not supported: ${why}`, name);
  }

  /** Refuses members that are not in `known`. */
  only(known: ReadonlySet<string>): void {
    const unknown = Object.keys(this.members).find((key) => !known.has(key));
    if (unknown === undefined) return;
    const name = this.nameOf(unknown.slice(0, 64));
    throw new RequestError('invalid_argument', `there is no parameter '${name}'`, name);
  }

  /** A number within its limits. */
  number(key: string, { min, max, whole = false }: NumberLimits): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    const good =
      typeof value === 'number' &&
      value >= min &&
      value <= max &&
      (!whole || Number.isSafeInteger(value));
    if (!good) throw this.invalid(key, `a ${whole ? 'whole ' : ''}number from ${min} to ${max}`);
    return value;
  }

  /** True or false. */
  boolean(key: string): boolean | undefined {
    const value = this.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.invalid(key, 'true or false');
  }

  /** `maxLength` in UTF-16 units. */
  string(key: string, maxLength: number): string | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'string') throw this.invalid(key, 'a text');
    if (value.length > maxLength) throw this.invalid(key, `at most ${maxLength} characters long`);
    return value;
  }

  /** One of these texts. */
  oneOf<const T extends string>(key: string, choices: readonly T[]): T | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw this.invalid(key, `one of ${choices.join(', ')}`);
    return found;
  }

  /** A list of anything. */
  list(key: string, maxLength: number): unknown[] | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) throw this.invalid(key, 'a list');
    if (value.length > maxLength) throw this.invalid(key, `a list of at most ${maxLength}`);
    return value as unknown[];
  }

  /** The members of an object. */
  object(key: string): Fields | undefined {
    const value = this.get(key);
    return value === undefined ? undefined : Fields.of(value, this.nameOf(key));
  }

  /** The objects of a list. */
  objects(key: string, maxLength: number): Fields[] | undefined {
    return this.list(key, maxLength)?.map((value, i) =>
      Fields.of(value, `${this.nameOf(key)}[${i}]`),
    );
  }
}
