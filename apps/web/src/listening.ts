// The page's recording in the worker, where the model hears it while it comes.

import type { AudioPart } from 'lapidary';
import type { FromWorker, ToWorker } from './protocol.js';

/** One recording at a time. */
export class Listening {
  private pending: { resolve(part: AudioPart): void; reject(error: Error): void } | undefined;
  private failure: Error | undefined;
  /** Called where it fails before its end. */
  onFailure: (() => void) | undefined;

  constructor(private readonly tell: (message: ToWorker, transfer?: Transferable[]) => void) {}

  begin(rate: number): void {
    this.failure = undefined;
    this.tell({ type: 'record', rate });
  }

  hear(samples: Float32Array<ArrayBuffer>): void {
    this.tell({ type: 'samples', samples }, [samples.buffer]);
  }

  end(): Promise<AudioPart> {
    return new Promise((resolve, reject) => {
      if (this.failure) {
        reject(this.failure);
        return;
      }
      this.pending = { resolve, reject };
      this.tell({ type: 'recorded' });
    });
  }

  cancel(): void {
    this.tell({ type: 'discard' });
  }

  /** The worker has the part. */
  done({ part }: Extract<FromWorker, { type: 'recorded' }>): void {
    this.pending?.resolve(part);
    this.pending = undefined;
  }

  /** The recording has failed there; its end says why. */
  fail(message: string): void {
    this.failure = new Error(message);
    this.pending?.reject(this.failure);
    this.pending = undefined;
    this.onFailure?.();
  }
}
