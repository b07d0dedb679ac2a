// Errors that users see: one class, a stable `code`. The numbers are those of engine/base/error.h.

/** Stable error codes, by the number that crosses the wasm boundary. Checked against the engine by a unit test. */
export const ERROR_CODES = {
  1: 'invalid_argument',
  2: 'invalid_format',
  3: 'unsupported',
  4: 'not_found',
  5: 'truncated',
  6: 'io_error',
  7: 'out_of_memory',
  8: 'no_adapter',
  9: 'device_lost',
  10: 'gpu_error',
  11: 'context_overflow',
  12: 'cancelled',
  13: 'self_test_failed',
  14: 'busy',
  15: 'integrity_error',
  16: 'internal_error',
  17: 'port_in_use',
  18: 'quota_exceeded',
} as const;

export type ErrorNumber = keyof typeof ERROR_CODES;
/** The stable codes of {@link LapidaryError}. */
export type ErrorCode = (typeof ERROR_CODES)[ErrorNumber];

/** Anything that fails in Lapidary: `code` is stable, `message` says what was wrong, where, and what to do. */
export class LapidaryError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    // The name that AbortSignal users test for.
    this.name = code === 'cancelled' ? 'AbortError' : 'LapidaryError';
  }

  /** The error that a number of the engine's stands for. */
  static fromNumber(number: number, message: string): LapidaryError {
    return new LapidaryError(ERROR_CODES[number as ErrorNumber] ?? 'internal_error', message);
  }

  /** The number for the wasm side of an error raised by a host function. */
  static numberOf(error: unknown, otherwise: ErrorCode): number {
    const code = error instanceof LapidaryError ? error.code : otherwise;
    const entry = Object.entries(ERROR_CODES).find(([, name]) => name === code);
    return entry ? Number(entry[0]) : 16;
  }
}

/** The text of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
