// What the benchmark's page and its worker say to each other.

import type { BenchOptions, BenchReport } from '@lapidary/bench';
import type { ErrorCode } from 'lapidary';

export interface BenchRequest {
  /** An address or a file. */
  model: string | File;
  /** The address of nano's file, for the gate. */
  nano: string;
  options: Omit<BenchOptions, 'signal' | 'onProgress'>;
}

export type FromBenchWorker =
  | { type: 'progress'; text: string }
  | { type: 'done'; report: BenchReport }
  | { type: 'error'; error: { code: ErrorCode; message: string } };
