// One end of the line between a page and its worker. Either end calls the other's objects by number and method; what a
// method is called, and what it takes, is none of its business, so new methods need nothing new here.

import { LapidaryError, messageOf } from '../errors.js';
import type { ByteSource } from '../source/source.js';
import { pieces, remoteSource, remoteStream } from './stand-ins.js';
import {
  decode,
  encode,
  errorOf,
  plainError,
  type Keeper,
  type Maker,
  type ObjectShape,
  type PlainError,
  type Posted,
} from './values.js';

/** What messages go through: a MessagePort, in pages, workers and Node. */
export interface Port {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: 'message' | 'messageerror', listener: (event: Event) => void): void;
  start?(): void;
  close?(): void;
}

/** Work that emits events while it runs and ends with a report: {@link EventStream}. */
interface Stream extends AsyncIterable<{ type: string }> {
  cancel(): void;
  report(): Promise<unknown>;
}

/** How a member is used: a method called, an accessor read, a method whose result is a {@link Stream}. */
type Use = 'call' | 'get' | 'stream';

type Message =
  | { type: 'call'; id: number; use: Use; target: number; member: string; args: Posted }
  | { type: 'result'; id: number; value: Posted }
  | { type: 'failure'; id: number; error: PlainError }
  | { type: 'event'; id: number; value: Posted }
  /** So many events of a stream have arrived. */
  | { type: 'arrived'; id: number; count: number }
  | { type: 'cancel'; id: number }
  | { type: 'abort'; ref: number; reason: PlainError }
  | { type: 'release'; ref: number };

interface Pending {
  resolve(value: unknown): void;
  reject(error: unknown): void;
  emit: ((event: unknown) => void) | undefined;
  /** Numbers of what was handed over with the call. */
  lent: number[];
  /** Takes back listeners. */
  cleanUp: (() => void)[];
}

/** A stand-in for an object of the other side. */
export interface RemoteObject {
  readonly ref: number;
  readonly shape: ObjectShape;
}

/** The number of what a side offers before anything was handed over. */
export const ROOT = 0;
/** Events of one stream that may be under way: a page that is busy does not find a heap of them. */
const WINDOW = 64;

const isFunction = (value: unknown): value is (...args: unknown[]) => unknown =>
  typeof value === 'function';

/** A stream that is running for the other side. */
interface Running {
  stream: Stream;
  underWay: number;
  wake: (() => void) | undefined;
}

export class Peer {
  private readonly kept = new Map<number, unknown>();
  private readonly pending = new Map<number, Pending>();
  private readonly running = new Map<number, Running>();
  private readonly controllers = new Map<number, AbortController>();
  /** What was lent with the call that made an object lives as long as that object. */
  private readonly lentTo = new Map<number, number[]>();
  private nextRef = ROOT + 1;
  private nextCall = 1;
  private failure: LapidaryError | undefined;

  constructor(
    private readonly port: Port,
    /** What the other side finds under {@link ROOT}. */
    root?: object,
    /** Whether results are objects of this side's. */
    private readonly serves = false,
  ) {
    if (root) this.kept.set(ROOT, root);
    port.addEventListener('message', (event) => this.receive((event as MessageEvent).data));
    port.addEventListener('messageerror', () =>
      this.fail(new LapidaryError('internal_error', 'a message of the worker could not be read')),
    );
    port.start?.();
  }

  /** Calls that have not ended. */
  get open(): Promise<unknown>[] {
    return [...this.pending.values()].map(
      ({ cleanUp }) => new Promise<void>((resolve) => cleanUp.push(resolve)),
    );
  }

  call(target: number, member: string, args: unknown[]): Promise<unknown> {
    return this.ask('call', target, member, args);
  }

  get(target: number, member: string): Promise<unknown> {
    return this.ask('get', target, member, []);
  }

  /** Calls a method that gives a stream: its events, then its report. Aborting `stop` cancels it. */
  stream(
    target: number,
    member: string,
    args: unknown[],
    emit: (event: unknown) => void,
    stop: AbortSignal,
  ): Promise<unknown> {
    return this.ask('stream', target, member, args, emit, stop);
  }

  /** The other side may forget an object, and this one what was lent for it. */
  release(ref: number): void {
    this.takeBack(this.lentTo.get(ref) ?? []);
    this.lentTo.delete(ref);
    if (!this.failure) this.post({ type: 'release', ref });
  }

  /** Nothing can come any more: every call fails with `error`, now and later. */
  fail(error: LapidaryError): void {
    if (this.failure) return;
    this.failure = error;
    for (const id of [...this.pending.keys()]) this.settle(id)?.reject(error);
    for (const { stream, wake } of this.running.values()) {
      stream.cancel();
      wake?.();
    }
    this.port.close?.();
  }

  private ask(
    use: Use,
    target: number,
    member: string,
    args: unknown[],
    emit?: (event: unknown) => void,
    stop?: AbortSignal,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.failure) throw this.failure;
      const id = this.nextCall++;
      const pending: Pending = { resolve, reject, emit, lent: [], cleanUp: [] };
      this.pending.set(id, pending);
      try {
        const { posted, transfer } = encode(args, this.keeperFor(pending), this.serves);
        this.post({ type: 'call', id, use, target, member, args: posted }, transfer);
      } catch (error) {
        this.settle(id)?.reject(uncloneable(error));
        return;
      }
      if (!stop) return;
      const cancel = () => this.post({ type: 'cancel', id });
      if (stop.aborted) cancel();
      else {
        stop.addEventListener('abort', cancel);
        pending.cleanUp.push(() => stop.removeEventListener('abort', cancel));
      }
    });
  }

  /** Ends the record of a call. */
  private settle(id: number, keepLent = false): Pending | undefined {
    const pending = this.pending.get(id);
    if (!pending) return undefined;
    this.pending.delete(id);
    if (!keepLent) this.takeBack(pending.lent);
    for (const cleanUp of pending.cleanUp) cleanUp();
    return pending;
  }

  private takeBack(refs: number[]): void {
    for (const ref of refs) this.kept.delete(ref);
  }

  private keeperFor(pending?: Pending): Keeper {
    return {
      handsOver: this.serves,
      keep: (object) => {
        const ref = this.nextRef++;
        this.kept.set(ref, object);
        pending?.lent.push(ref);
        if (object instanceof AbortSignal && pending) {
          const abort = () => this.post({ type: 'abort', ref, reason: plainError(object.reason) });
          object.addEventListener('abort', abort);
          pending.cleanUp.push(() => object.removeEventListener('abort', abort));
        }
        return ref;
      },
    };
  }

  private post(message: Message, transfer: ArrayBuffer[] = []): void {
    if (!this.failure) this.port.postMessage(message, transfer);
  }

  private receive(data: unknown): void {
    if (typeof data !== 'object' || data === null) return;
    const message = data as Message;
    switch (message.type) {
      case 'call':
        void this.answer(message);
        break;
      case 'result': {
        const decoded = this.decoded(message.value, message.id);
        this.settle(message.id, decoded.keepsLent)?.resolve(decoded.value);
        break;
      }
      case 'failure':
        this.settle(message.id)?.reject(errorOf(message.error));
        break;
      case 'event':
        this.pending.get(message.id)?.emit?.(this.decoded(message.value).value);
        this.post({ type: 'arrived', id: message.id, count: 1 });
        break;
      case 'arrived': {
        const running = this.running.get(message.id);
        if (!running) break;
        running.underWay -= message.count;
        running.wake?.();
        break;
      }
      case 'cancel':
        this.running.get(message.id)?.stream.cancel();
        break;
      case 'abort':
        this.controllers.get(message.ref)?.abort(errorOf(message.reason));
        break;
      case 'release':
        this.kept.delete(message.ref);
        break;
    }
  }

  private async answer(message: Message & { type: 'call' }): Promise<void> {
    const { id } = message;
    const signals: number[] = [];
    try {
      const args = decode(message.args, this.makerFor(signals)) as unknown[];
      const result = await this.use(message, args);
      const { posted, transfer } = encode(result, this.keeperFor(), this.mayTransfer(message));
      this.post({ type: 'result', id, value: posted }, transfer);
    } catch (error) {
      this.post({ type: 'failure', id, error: plainError(uncloneable(error)) });
    } finally {
      for (const ref of signals) this.controllers.delete(ref);
    }
  }

  /** Results of the engine's are fresh memory, which nobody here looks at again; what a caller's source gives may not be. */
  private mayTransfer({ target }: { target: number }): boolean {
    return (
      this.serves || (this.kept.get(target) as Partial<ByteSource> | undefined)?.fresh === true
    );
  }

  private async use({ id, use, target, member }: Message & { type: 'call' }, args: unknown[]) {
    const object = this.kept.get(target);
    if (object === undefined) {
      throw new LapidaryError('invalid_argument', `'${member}' was asked of what is closed`);
    }
    if (isFunction(object)) return object(...args);
    if (object instanceof ReadableStream) return pieces(object, this.readers)(member);
    const holder = object as Record<string, unknown>;
    const value = member in Object.prototype ? undefined : holder[member];
    if (use === 'get') return value;
    if (!isFunction(value))
      throw new LapidaryError('unsupported', `there is no method '${member}'`);
    const result = value.apply(object, args);
    return use === 'stream' ? this.run(id, result as Stream) : result;
  }

  private readonly readers = new WeakMap<ReadableStream, ReadableStreamDefaultReader>();

  /** Sends a stream's events on, a window of them at a time, and gives its report. */
  private async run(id: number, stream: Stream): Promise<unknown> {
    const running: Running = { stream, underWay: 0, wake: undefined };
    this.running.set(id, running);
    try {
      for await (const event of stream) {
        // It is the report once more, which comes as the result.
        if (event.type === 'done') continue;
        const { posted, transfer } = encode(event, this.keeperFor(), true);
        this.post({ type: 'event', id, value: posted }, transfer);
        running.underWay++;
        while (running.underWay >= WINDOW && !this.failure) {
          await new Promise<void>((resolve) => (running.wake = resolve));
        }
      }
      return await stream.report();
    } finally {
      this.running.delete(id);
    }
  }

  private decoded(posted: Posted, call?: number): { value: unknown; keepsLent: boolean } {
    const lent = (call !== undefined && this.pending.get(call)?.lent) || [];
    let keepsLent = false;
    const maker = this.makerFor([]);
    const object = (ref: number, shape: ObjectShape): RemoteObject => {
      keepsLent = true;
      this.lentTo.set(ref, lent);
      return { ref, shape };
    };
    return { value: decode(posted, { ...maker, object }), keepsLent };
  }

  private makerFor(signals: number[]): Maker {
    const far = (ref: number, member: string, ...args: unknown[]) => this.call(ref, member, args);
    return {
      function:
        (ref) =>
        (...args) => {
          const result = far(ref, '', ...args);
          // Who calls back need not wait for the answer; who does still sees it fail.
          result.catch(() => {});
          return result;
        },
      signal: (ref, aborted) => {
        const controller = new AbortController();
        if (aborted) controller.abort();
        this.controllers.set(ref, controller);
        signals.push(ref);
        return controller.signal;
      },
      source: (ref, name, size) => remoteSource(far, ref, name, size),
      stream: (ref) => remoteStream(far, ref, () => this.release(ref)),
      object: (ref, shape): RemoteObject => ({ ref, shape }),
    };
  }
}

/** What structured cloning refuses, in our words. */
function uncloneable(error: unknown): unknown {
  const refused = error instanceof DOMException && error.name === 'DataCloneError';
  if (!refused) return error;
  const text = `something in it cannot go to or from a worker: ${messageOf(error)}`;
  return new LapidaryError('invalid_argument', text, { cause: error });
}
