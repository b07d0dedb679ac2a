// `pull`: a model from its registry into a store.

import { pullModel, type PullProgress } from 'lapidary/node';
import { EXIT } from '../exit.js';
import { bytes, duration, safe } from '../format.js';
import { StatusLine, progressLine } from '../status.js';
import { writableStores, type StoreFlags } from '../stores.js';

export interface PullFlags extends StoreFlags {
  registry?: string;
  insecure?: boolean;
  verify?: boolean;
  json?: boolean;
}

const JSON_EVERY_MS = 1000;
/** Speed is that of so many milliseconds. */
const SPEED_OVER_MS = 3000;

/** Bytes per second of late, from bytes that are there at a time. */
class Speed {
  private seen: { at: number; loaded: number }[] = [];
  private digest = '';

  of({ layer, loaded, phase }: PullProgress): number | undefined {
    const at = performance.now();
    const digest = `${phase} ${layer?.digest}`;
    if (digest !== this.digest) this.seen = [];
    this.digest = digest;
    this.seen.push({ at, loaded });
    while (this.seen.length > 2 && at - this.seen[1]!.at > SPEED_OVER_MS) this.seen.shift();
    const [first] = this.seen;
    return first && at - first.at > 500
      ? ((loaded - first.loaded) / (at - first.at)) * 1000
      : undefined;
  }
}

/** "5a3f7d0cb69d": as much of a digest as Ollama shows. */
const short = (digest: string) => digest.slice(7, 19);

function line(progress: PullProgress, speed: number | undefined): string {
  const { phase, layer, loaded, total, retry, waiting } = progress;
  const notes = retry
    ? `; ${safe(retry.reason)}: again in ${duration(retry.delayMs)} (try ${retry.attempt + 1} of ${retry.tries})`
    : waiting
      ? ', fetched by another program'
      : speed
        ? `, ${bytes(speed)}/s`
        : '';
  if (!layer) return `${phase}${notes}`;
  const what = phase === 'verify' ? 'verify' : safe(layer.kind);
  return `${progressLine(what, loaded, total)}  ${short(layer.digest)}${notes}`;
}

interface Shower {
  show: (progress: PullProgress) => void;
  /** `failed`: what it was about stays above the error. */
  end: (failed: boolean) => void;
}

/** Shows progress on standard error: a line for each layer that comes. */
function shower(): Shower {
  const status = new StatusLine();
  const speed = new Speed();
  let layer = '';
  return {
    end(failed) {
      if (failed && layer) status.keep();
      else status.clear();
    },
    show(progress) {
      const { phase, loaded, total, retry } = progress;
      const key = progress.layer?.digest ?? '';
      // What is shown of a layer stays above that of the next one.
      if (layer && key !== layer) status.keep();
      layer = key;
      const rate = phase === 'download' && key ? speed.of(progress) : undefined;
      const ends = retry !== undefined || (phase === 'download' && loaded === total && total > 0);
      status.show(() => line(progress, rate), ends);
    },
  };
}

/** Progress as events, each second and when something ends. */
function teller(): (progress: PullProgress) => void {
  let told = -Infinity;
  return (progress) => {
    const now = performance.now();
    const ends = progress.loaded === progress.total || progress.retry;
    if (now - told < JSON_EVERY_MS && !ends) return;
    told = now;
    process.stdout.write(`${JSON.stringify({ type: 'progress', ...progress })}\n`);
  };
}

export async function pull(name: string, flags: PullFlags): Promise<number> {
  const controller = new AbortController();
  const stop = () => controller.abort();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop);
  const shown = shower();
  const { registry, insecure, verify, json } = flags;
  try {
    const pulled = await pullModel(name, {
      store: writableStores(flags)[0],
      ...{ registry, insecure, verify },
      signal: controller.signal,
      onProgress: json ? teller() : shown.show,
    });
    shown.end(false);
    const { store, size, fetched } = pulled;
    if (json) process.stdout.write(`${JSON.stringify({ type: 'done', ...pulled })}\n`);
    else {
      const came = fetched > 0 ? `${bytes(fetched)} fetched` : 'nothing was missing';
      process.stderr.write(`${pulled.name}: ${bytes(size)} in ${store}, ${came}\n`);
    }
    return EXIT.ok;
  } catch (error) {
    if (!json) shown.end(true);
    throw error;
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, stop);
  }
}
