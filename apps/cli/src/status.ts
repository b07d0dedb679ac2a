// How far long work is, on stderr: on a terminal one line that is written over, elsewhere now and then a line.

import { bytes } from './format.js';

const WIDTH = 24;
const TERMINAL_EVERY_MS = 50;
const LINE_EVERY_MS = 10_000;

/** "upload   ████░░░░ 1.2 GB of 3.4 GB" */
export function progressLine(what: string, loaded: number, total: number, inBytes = true): string {
  const part = total > 0 ? Math.min(1, loaded / total) : 0;
  const bar = '█'.repeat(Math.round(part * WIDTH)).padEnd(WIDTH, '░');
  const numbers = inBytes ? `${bytes(loaded)} of ${bytes(total)}` : `${loaded} of ${total}`;
  return `${what.padEnd(8)} ${bar} ${numbers}`;
}

export class StatusLine {
  readonly terminal = process.stderr.isTTY;
  private shown = -Infinity;

  /** `text` as the line, if the last one has stood long enough, or this is the end of something. */
  show(text: () => string, ends: boolean): void {
    const now = performance.now();
    if (now - this.shown < (this.terminal ? TERMINAL_EVERY_MS : LINE_EVERY_MS) && !ends) return;
    this.shown = now;
    process.stderr.write(this.terminal ? `\r\x1b[K${text()}` : `${text()}\n`);
  }

  clear(): void {
    if (this.terminal) process.stderr.write('\r\x1b[K');
  }

  /** Leaves the line where it is; what follows goes below it. */
  keep(): void {
    if (this.terminal) process.stderr.write('\n');
  }
}
