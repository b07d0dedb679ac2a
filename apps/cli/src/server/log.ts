// What the server says on standard error: one line an event, for people or for programs. Never what was asked or answered.

import { safe } from '../format.js';

export type LogFormat = 'text' | 'json';
export type LogFields = Record<string, string | number | undefined>;
export type Log = (event: string, fields?: LogFields) => void;

export function makeLog(format: LogFormat, write: (line: string) => void): Log {
  return (event, fields = {}) => {
    const time = new Date().toISOString();
    if (format === 'json') return write(`${JSON.stringify({ time, event, ...fields })}\n`);
    const words = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => `${key}=${safe(String(value))}`);
    write(`${[time, event, ...words].join(' ')}\n`);
  };
}
