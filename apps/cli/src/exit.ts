// Exit codes (docs/cli.md has them, too) and how an error is shown.

import { LapidaryError, type ErrorCode } from 'lapidary/node';

/** What the program's exit status means. */
export const EXIT = {
  ok: 0,
  error: 1,
  usage: 2,
  notFound: 3,
  noAdapter: 4,
  interrupted: 130,
} as const;

export const EXIT_HELP = `
Exit codes:
  0    done
  1    it failed while running
  2    wrong usage
  3    no such model or file
  4    no usable GPU
  130  interrupted (Ctrl-C)`;

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  not_found: EXIT.notFound,
  no_adapter: EXIT.noAdapter,
  cancelled: EXIT.interrupted,
};

/** A command that was given wrongly, in a way that the parser of options cannot see. */
export class UsageError extends LapidaryError {
  constructor(message: string) {
    super('invalid_argument', message);
  }
}

/** Shows an error as one line on stderr, or as JSON on stdout, and gives the exit code for it. */
export function report(error: unknown, json: boolean): number {
  const { code, message } =
    error instanceof LapidaryError
      ? error
      : { code: 'internal_error' as ErrorCode, message: String(error) };
  if (json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  else process.stderr.write(`error: ${message.replaceAll(/\s*\n\s*/g, ' ')} (${code})\n`);
  if (!(error instanceof LapidaryError) && process.env.LAPIDARY_DEBUG) console.error(error);
  return error instanceof UsageError ? EXIT.usage : (BY_CODE[code] ?? EXIT.error);
}
