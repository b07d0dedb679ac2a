// Which model is in the GPU's memory: one at a time, loaded when it is first asked for, unloaded when nobody has asked
// for a while. Requests get it in the order in which they came; one for another model waits until those before it are
// done, and those after it wait for it.

import { LapidaryError, type Model } from 'lapidary/node';

/** A model of the store. */
export interface Wanted {
  /** "nano:latest" */
  name: string;
  /** Of its weights: another digest under the same name is another model. */
  digest: string;
  /** Bytes in the store. */
  size: number;
}

export interface Needs {
  /** Tokens that prompt and reply need together; absent: whatever the model has. */
  contextLength?: number | undefined;
  /** Milliseconds that the model stays after its last reply; 0: none, Infinity: for ever. Absent: as it is. */
  keepAliveMs?: number | undefined;
  signal: AbortSignal;
}

export interface Lease {
  model: Model;
  /** Milliseconds that loading took for this request; 0 where the model was there. */
  loadMs: number;
  /** Gives it back; `error` is how the work failed. To be called once. */
  release: (error?: unknown) => void;
}

export interface LoadedModel {
  wanted: Wanted;
  model: Model;
  /** When it goes if nobody asks for it; undefined while it works. */
  expires: Date | undefined;
}

export type LoadModel = (
  name: string,
  contextLength: number | undefined,
  signal: AbortSignal,
) => Promise<Model>;

interface Resident {
  wanted: Wanted;
  model: Model;
  leases: number;
  keepAliveMs: number;
  expires: number;
  timer: NodeJS.Timeout | undefined;
  /** It goes as soon as nothing needs it. */
  ending: boolean;
  /** Called when it has gone. */
  gone: (() => void)[];
  /** Nothing new may start on it. */
  broken: boolean;
}

interface Waiter {
  wanted: Wanted;
  needs: Needs;
  resolve: (lease: Lease) => void;
  reject: (error: unknown) => void;
}

/** Requests that may wait or work at a time; more are refused with `busy`. As Ollama's. */
const MAX_REQUESTS = 512;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** After these a model is not to be trusted with another reply. */
const BREAKING = new Set(['device_lost', 'gpu_error', 'internal_error']);

const givenUp = () => new LapidaryError('cancelled', 'the request was given up');

export class ModelKeeper {
  private readonly waiters: Waiter[] = [];
  private resident: Resident | undefined;
  private pumping = false;
  private closed = false;

  constructor(
    private readonly load: LoadModel,
    private readonly keepAliveMs: number,
    private readonly onChange: (event: 'loaded' | 'unloaded', name: string, ms: number) => void,
  ) {}

  /** The model, when it is this request's turn. Rejects as loading does, with `busy`, and with `cancelled`. */
  acquire(wanted: Wanted, needs: Needs): Promise<Lease> {
    return new Promise<Lease>((resolve, reject) => {
      if (this.closed || needs.signal.aborted) return reject(givenUp());
      if (this.waiters.length + (this.resident?.leases ?? 0) >= MAX_REQUESTS) {
        const message = `${MAX_REQUESTS} requests wait already; ask again later`;
        return reject(new LapidaryError('busy', message));
      }
      const waiter: Waiter = { wanted, needs, resolve, reject };
      this.waiters.push(waiter);
      needs.signal.addEventListener(
        'abort',
        () => {
          const at = this.waiters.indexOf(waiter);
          if (at < 0) return;
          this.waiters.splice(at, 1);
          reject(givenUp());
          void this.pump();
        },
        { once: true },
      );
      void this.pump();
    });
  }

  /** Sets how long the model stays if it is this one; 0 unloads it when its replies have ended. */
  keep(name: string, keepAliveMs: number): void {
    const { resident } = this;
    if (resident?.wanted.name !== name) return;
    resident.keepAliveMs = keepAliveMs;
    if (resident.leases === 0) this.rest(resident);
  }

  /** Unloads a model, whatever the case of its name; false, and nothing, while requests work with it or wait for it. */
  async evict(name: string): Promise<boolean> {
    const isIt = ({ wanted }: { wanted: Wanted }) =>
      wanted.name.toLowerCase() === name.toLowerCase();
    const { resident } = this;
    if (this.waiters.some(isIt)) return false;
    if (!resident || !isIt(resident)) return true;
    if (resident.leases > 0) return false;
    const gone = new Promise<void>((resolve) => resident.gone.push(resolve));
    resident.ending = true;
    void this.pump();
    await gone;
    return true;
  }

  get waiting(): number {
    return this.waiters.length + (this.resident?.leases ?? 0) - this.running;
  }

  /** Of those that have the model, it works for as many as it has sessions; the others it lets wait. */
  get running(): number {
    if (!this.resident) return 0;
    const { leases, model } = this.resident;
    return Math.min(leases, model.info.sessions);
  }

  get loaded(): LoadedModel | undefined {
    if (!this.resident) return undefined;
    const { wanted, model, leases, expires } = this.resident;
    // Date has no infinity; Ollama gives a time some centuries ahead.
    const day = Number.isFinite(expires) ? new Date(expires) : new Date('2318-01-01');
    return { wanted, model, expires: leases > 0 ? undefined : day };
  }

  /** Refuses who waits, stops replies, and frees the model. */
  async close(): Promise<void> {
    this.closed = true;
    for (const { reject } of this.waiters.splice(0)) reject(givenUp());
    const { resident } = this;
    if (!resident) return;
    clearTimeout(resident.timer);
    await resident.model.close();
  }

  private serves({ model, wanted, broken }: Resident, waiter: Waiter): boolean {
    const { contextLength, modelContextLength } = model.info;
    const need = Math.min(waiter.needs.contextLength ?? 0, modelContextLength);
    const same = wanted.name === waiter.wanted.name && wanted.digest === waiter.wanted.digest;
    return same && !broken && contextLength >= need;
  }

  /** Hands the model out as far as it can; loads and unloads in between. */
  private async pump(): Promise<void> {
    if (this.pumping) return;
    this.pumping = true;
    try {
      while (!this.closed) {
        const { resident } = this;
        const [waiter] = this.waiters;
        if (resident && resident.leases === 0 && resident.ending) await this.unload(resident);
        else if (!waiter) return;
        else if (resident && this.serves(resident, waiter)) this.hand(resident, waiter, 0);
        else if (!resident) await this.loadFor(waiter);
        else if (resident.leases > 0) return;
        else await this.unload(resident);
      }
    } finally {
      this.pumping = false;
    }
  }

  private async loadFor(waiter: Waiter): Promise<void> {
    const { wanted, needs } = waiter;
    const started = performance.now();
    try {
      const model = await this.load(wanted.name, needs.contextLength, needs.signal);
      if (this.closed) return await model.close();
      const loadMs = performance.now() - started;
      this.resident = {
        ...{ wanted, model, leases: 0, keepAliveMs: this.keepAliveMs, expires: Infinity },
        ...{ timer: undefined, ending: false, broken: false, gone: [] },
      };
      this.onChange('loaded', wanted.name, loadMs);
      // It may have been given up at the last moment.
      if (this.waiters[0] === waiter) this.hand(this.resident, waiter, loadMs);
      else this.rest(this.resident);
    } catch (error) {
      const at = this.waiters.indexOf(waiter);
      if (at >= 0) this.waiters.splice(at, 1);
      waiter.reject(error);
    }
  }

  private hand(resident: Resident, waiter: Waiter, loadMs: number): void {
    this.waiters.shift();
    clearTimeout(resident.timer);
    resident.leases++;
    resident.keepAliveMs = waiter.needs.keepAliveMs ?? resident.keepAliveMs;
    const release = (error?: unknown) => {
      resident.leases--;
      if (error instanceof LapidaryError && BREAKING.has(error.code)) {
        resident.broken = resident.ending = true;
      }
      if (resident.leases === 0) this.rest(resident);
      void this.pump();
    };
    waiter.resolve({ model: resident.model, loadMs, release });
  }

  /** Nothing needs the model: its time begins to run out. */
  private rest(resident: Resident): void {
    clearTimeout(resident.timer);
    const { keepAliveMs } = resident;
    resident.expires = Date.now() + keepAliveMs;
    if (keepAliveMs <= 0 || resident.broken) {
      resident.ending = true;
      void this.pump();
    } else if (keepAliveMs <= MAX_TIMER_MS) {
      resident.timer = setTimeout(() => {
        resident.ending = resident.leases === 0;
        void this.pump();
      }, keepAliveMs);
      resident.timer.unref();
    }
  }

  private async unload(resident: Resident): Promise<void> {
    clearTimeout(resident.timer);
    const started = performance.now();
    // A device that is lost may say so once more.
    await resident.model.close().catch(() => {});
    this.resident = undefined;
    for (const tell of resident.gone) tell();
    this.onChange('unloaded', resident.wanted.name, performance.now() - started);
  }
}
