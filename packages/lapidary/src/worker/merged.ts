// A merged model's file that a worker writes.

import { streamOf } from '../byte-stream.js';
import type { MergedMatrix, MergeReport } from '../merge.js';
import { throwIfAborted } from '../source/source.js';
import type { Connection } from './client.js';
import type { RemoteObject } from './peer.js';

/**
 * As the page's `MergedModel`, in a worker, which ends with the bytes or with {@link close}. The report is a promise here,
 * and stays afterwards.
 */
export class MergedModel implements AsyncIterable<Uint8Array<ArrayBuffer>> {
  /** The model's file, as its source calls it: a path, an address. */
  readonly base: string;
  /** Of the merged file. */
  readonly bytes: number;
  /** What is changed; everything else is copied. */
  readonly matrices: MergedMatrix[];
  private taken = false;
  private closed: Promise<void> | undefined;
  private last: MergeReport | undefined;

  /** @internal */
  constructor(
    private readonly connection: Connection,
    private readonly remote: RemoteObject,
    private readonly signal: AbortSignal | undefined,
  ) {
    const { base, bytes, matrices } = remote.shape.fields as Pick<
      MergedModel,
      'base' | 'bytes' | 'matrices'
    >;
    this.base = base;
    this.bytes = bytes;
    this.matrices = matrices;
  }

  /** The merged file, piece by piece; once. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
    if (this.taken || this.closed) throw new TypeError('a merged file can be read once');
    this.taken = true;
    let reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>> | undefined;
    try {
      const stream = (await this.ask('stream')) as ReadableStream<Uint8Array<ArrayBuffer>>;
      reader = stream.getReader();
      for (;;) {
        throwIfAborted(this.signal);
        const { done, value } = await reader.read();
        if (done) break;
        yield value;
      }
    } finally {
      reader?.releaseLock();
      await this.close();
    }
  }

  /** The same as a stream: for `new Response(merged.stream())`, or `pipeTo` a file of the origin's own. */
  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this[Symbol.asyncIterator](), () => this.close());
  }

  /** Of what was read so far. */
  async report(): Promise<MergeReport> {
    return this.last ?? ((await this.ask('report')) as MergeReport);
  }

  /** Ends the work; it happens by itself at the end of the bytes. The report stays. */
  close(): Promise<void> {
    return (this.closed ??= this.finish());
  }

  private async finish(): Promise<void> {
    try {
      this.last = await this.report();
      await this.ask('close');
    } finally {
      this.connection.end();
    }
  }

  private ask(method: string): Promise<unknown> {
    return this.connection.peer.call(this.remote.ref, method, []);
  }
}
