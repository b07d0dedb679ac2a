// Errors as OpenAI's service answers them: a status and a body.

import { LapidaryError, messageOf, type ErrorCode } from '../errors.js';
import { RequestError } from './fields.js';

/** An error as OpenAI's service sends it. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

/** Statuses of what the asker can mend; all others are 500. */
const STATUS: Partial<Record<ErrorCode, number>> = {
  invalid_argument: 400,
  unsupported: 400,
  context_overflow: 400,
  not_found: 404,
  busy: 503,
  cancelled: 503,
  out_of_memory: 503,
  quota_exceeded: 507,
};
/** Where OpenAI has a name of its own. */
const CODE: Partial<Record<ErrorCode, string>> = {
  context_overflow: 'context_length_exceeded',
  not_found: 'model_not_found',
  invalid_argument: 'invalid_value',
  unsupported: 'unsupported_value',
};

/** The body for a status; `code` and `param` are null where there are none. */
export function errorBody(
  status: number,
  message: string,
  code: string | null = null,
  param: string | null = null,
): ErrorBody {
  const type =
    status === 401
      ? 'authentication_error'
      : status === 403
        ? 'permission_error'
        : status < 500
          ? 'invalid_request_error'
          : 'server_error';
  return { error: { message, type, param, code } };
}

/** HTTP status and body for anything thrown. What is no LapidaryError keeps its message to itself. */
export function errorAnswer(error: unknown): { status: number; body: ErrorBody } {
  if (!(error instanceof LapidaryError)) {
    return { status: 500, body: errorBody(500, 'something went wrong', 'internal_error') };
  }
  const status = STATUS[error.code] ?? 500;
  const param = error instanceof RequestError ? (error.param ?? null) : null;
  return {
    status,
    body: errorBody(status, messageOf(error), CODE[error.code] ?? error.code, param),
  };
}
