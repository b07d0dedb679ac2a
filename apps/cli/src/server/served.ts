// A model of the store as requests see it: there as soon as it is needed.

import { LapidaryError, isPath, type OllamaStore, type StoredModel } from 'lapidary/node';
import type { EmbedOptions, EmbedReport, Model, ReplyEvent, ReplyReport } from 'lapidary/node';
import type { OpenAIModel, ReplyLike } from 'lapidary/openai';
import type { Lease, ModelKeeper, Needs, Wanted } from './keeper.js';
import type { Metrics } from './metrics.js';

/** The model that a request names; rejects with `not_found`, `invalid_argument` and as the store does. */
export async function findWanted(store: OllamaStore, text: string): Promise<Wanted> {
  const { name, layers } = await store.resolve(text);
  // Loading reads such names as a file's path or an address, which no request may name.
  if (isPath(name) || /^https?:/i.test(name)) {
    throw new LapidaryError('invalid_argument', `a model that is called '${name}' is not served`);
  }
  const digest = layers.find(({ kind }) => kind === 'model')?.digest ?? '';
  return { name, digest, size: layers.reduce((sum, { size }) => sum + size, 0) };
}

/** What the store's list says of a model, by its whole name; case does not count, as in Ollama. */
export async function findStored(
  store: OllamaStore,
  name: string,
): Promise<StoredModel | undefined> {
  const { models } = await store.list();
  return models.find((model) => model.name.toLowerCase() === name.toLowerCase());
}

/** A reply that waits for its model first. It begins by itself and ends whether or not anybody reads it. */
export class ServedReply implements ReplyLike {
  /** Milliseconds that the model took to load for it. */
  loadMs = 0;
  private readonly reply: Promise<ReplyLike>;
  private readonly ended: Promise<ReplyReport>;

  constructor(lease: Promise<Lease>, start: (model: Model) => ReplyLike, metrics: Metrics) {
    this.reply = lease.then(({ model, loadMs }) => {
      this.loadMs = loadMs;
      return start(model);
    });
    this.ended = this.finish(lease, metrics);
    // It is told to whoever iterates or asks.
    this.reply.catch(() => {});
    this.ended.catch(() => {});
  }

  report(): Promise<ReplyReport> {
    return this.ended;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReplyEvent, void, void> {
    yield* await this.reply;
  }

  private async finish(lease: Promise<Lease>, metrics: Metrics): Promise<ReplyReport> {
    const { release } = await lease;
    let failure: unknown;
    try {
      const report = await (await this.reply).report();
      metrics.countReply(report);
      return report;
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      release(failure);
    }
  }
}

/** One request's view of a model. */
export class ServedModel implements OpenAIModel {
  readonly info: { name: string };
  private model: Model | undefined;
  private held: Lease | undefined;

  constructor(
    private readonly keeper: ModelKeeper,
    private readonly metrics: Metrics,
    private readonly wanted: Wanted,
    private readonly needs: Needs,
  ) {
    this.info = { name: wanted.name };
  }

  chat(...args: Parameters<Model['chat']>): ServedReply {
    return this.served((model) => model.chat(...args));
  }

  generate(...args: Parameters<Model['generate']>): ServedReply {
    return this.served((model) => model.generate(...args));
  }

  detokenize(ids: ArrayLike<number>): string {
    if (!this.model) throw new LapidaryError('internal_error', 'no reply has begun');
    return this.model.detokenize(ids);
  }

  /** Token ids for the reply that follows, for which the model is kept. */
  async tokenize(...args: Parameters<Model['tokenize']>): Promise<number[]> {
    const lease = await this.keeper.acquire(this.wanted, this.needs);
    try {
      const ids = lease.model.tokenize(...args);
      this.held = lease;
      return ids;
    } catch (error) {
      lease.release();
      throw error;
    }
  }

  /** Embeds texts; `loadMs` are those that the model took to load for them. */
  async embed(
    input: (string | number[])[],
    options?: EmbedOptions,
  ): Promise<EmbedReport & { loadMs: number }> {
    const { model, loadMs, release } = await this.keeper.acquire(this.wanted, this.needs);
    let failure: unknown;
    try {
      const report = await model.embed(input, options);
      const promptTokens = report.promptTokens.reduce((sum, count) => sum + count, 0);
      this.metrics.countReply({ usage: { promptTokens, cachedTokens: 0, completionTokens: 0 } });
      return { ...report, loadMs };
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      release(failure);
    }
  }

  /** Waits until the model is loaded, does something at once with it, and leaves it there. */
  async use<T>(work: (model: Model) => T): Promise<T> {
    const { model, release } = await this.keeper.acquire(this.wanted, this.needs);
    try {
      return work(model);
    } finally {
      release();
    }
  }

  private served(start: (model: Model) => ReplyLike): ServedReply {
    const begin = (model: Model) => start((this.model = model));
    const lease = this.held ?? this.keeper.acquire(this.wanted, this.needs);
    this.held = undefined;
    return new ServedReply(Promise.resolve(lease), begin, this.metrics);
  }
}
