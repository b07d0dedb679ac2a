// What outlives a lost GPU: the model loads again, and a reply goes on from its tokens in another engine.

import { loadAdapter, type AdapterLocation } from './adapters.js';
import { LapidaryError, messageOf } from './errors.js';
import { loadOn, type Loaded } from './loaded.js';
import type { LoadOptions } from './load-options.js';
import type { FoundModel } from './platform.js';
import type { AdapterInfo, ReplyEvent } from './types.js';

/** How often one request may lose the GPU and go on: what breaks a driver may do so each time. */
const MAX_LOSSES = 3;

const isLoss = (error: unknown) => error instanceof LapidaryError && error.code === 'device_lost';

/** Keeps a model loaded: where that is wanted, beyond the loss of its device. */
export class Recovery {
  readonly wanted: boolean;
  private readonly adapters = new Map<number, AdapterLocation>();
  /** Loading again, for all that lost the device. */
  private reloading: Promise<void> | undefined;

  constructor(
    /** Where the model is now. */
    public loaded: Loaded,
    private readonly found: FoundModel,
    private readonly options: LoadOptions,
    private readonly closing: AbortSignal,
  ) {
    this.wanted = options.recover ?? false;
  }

  keepAdapter(id: number, where: AdapterLocation): void {
    if (this.wanted) this.adapters.set(id, where);
  }
  forgetAdapter(id: number): void {
    this.adapters.delete(id);
  }

  /**
   * Does `work`; where it loses the device, loads the model again and has it done once more. Several may do so at once:
   * one loading serves all that were there.
   */
  async run<T>(work: () => Promise<T>): Promise<T> {
    for (let losses = 0; ; losses++) {
      await this.reloading;
      const { loaded } = this;
      try {
        return await work();
      } catch (error) {
        if (!this.wanted || !isLoss(error) || losses >= MAX_LOSSES || this.closing.aborted) {
          throw error;
        }
        if (this.loaded !== loaded) continue;
        this.reloading ??= this.reload(error as LapidaryError).finally(() => {
          this.reloading = undefined;
        });
        await this.reloading;
      }
    }
  }

  private async reload(loss: LapidaryError): Promise<void> {
    const { loaded: old, options, closing } = this;
    options.onLog?.('warning', `${loss.message}; the model loads again`);
    // It answers without its device.
    const adapters = old.engine.callSyncJson<AdapterInfo[]>('lap_adapters', old.handle);
    let fresh: Loaded | undefined;
    try {
      fresh = await loadOn(this.found, options, closing);
      for (const { id } of adapters) {
        const where = this.adapters.get(id);
        if (where === undefined) {
          throw new LapidaryError('internal_error', `nobody knows where adapter ${id} came from`);
        }
        await loadAdapter(fresh.engine, fresh.handle, where, { id, scale: 0 }, closing);
      }
      const active = adapters.map(({ id, scale }) => ({ id, scale }));
      const args = [fresh.handle, JSON.stringify(active)];
      if (active.length > 0) await fresh.engine.call('lap_adapters_set', args).done;
    } catch (error) {
      fresh?.engine.destroy();
      if (closing.aborted) throw error;
      throw new LapidaryError(
        'device_lost',
        `${loss.message}; loading the model again failed: ${messageOf(error)}`,
        { cause: error },
      );
    }
    this.loaded = fresh;
    old.engine.destroy(loss);
  }
}

type EngineEvent = ReplyEvent | { type: 'begun'; seed: number } | { type: 'kept'; id: number };

/**
 * A reply's tokens as the engine says them, beside the events that are its caller's. When it is begun again, the engine
 * tells the events of the tokens before once more: those that the caller has had are left out.
 */
export class KeptReply {
  private seed: number | undefined;
  private tokens: number[] = [];
  /** Events that the caller has had, and how many of them are still to come again. */
  private told = 0;
  private repeats = 0;
  private resumed = false;

  constructor(private readonly emit: (event: ReplyEvent) => void) {}

  /** What a request says beside what it was, to be begun or to go on. */
  get how(): object {
    const { seed, tokens } = this;
    const resume = seed === undefined ? undefined : { seed, tokens };
    return { recoverable: true, resume };
  }

  take(event: EngineEvent): void {
    switch (event.type) {
      case 'begun':
        this.repeats = this.told;
        this.resumed = this.seed !== undefined;
        this.seed = event.seed;
        this.tokens = [];
        break;
      case 'kept':
        this.tokens.push(event.id);
        break;
      case 'media':
      case 'prefill':
        // Of the reply so far: that is not the caller's prompt.
        if (!this.resumed) this.emit(event);
        break;
      default:
        if (this.repeats > 0) {
          this.repeats--;
        } else {
          this.told++;
          this.emit(event);
        }
    }
  }
}
