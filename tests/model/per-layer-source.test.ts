// The table of per-layer embeddings left in the model's source: the same answers as from the GPU, less memory there, and
// a source that fails while the model answers. A random model of E2B's features, its table in F16, with f32 keys and
// values, in batches of 64 tokens.

import {
  LapidaryError,
  Model,
  inspect,
  type ByteSource,
  type LoadOptions,
  type RawOptions,
} from 'lapidary/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { maxAbsDifference, report } from '../support/compare.ts';
import { memorySource, readFixture } from '../support/fixtures.ts';
import { GgmlType, parseGguf, writeGguf } from '../support/gguf.ts';
import { halfBits } from '../support/quantize.ts';
import { shortOfMemory } from '../support/short-of-memory.ts';

const SAME = 1e-6;
const TABLE = 'per_layer_token_embd.weight';
const VOCAB = 295;
const TOKENS = 12;
// Of the vocabulary's tokens these are the first 200 only.
const long = Array.from({ length: 200 }, (_, i) => (i * 37) % 200);
const story = long.slice(40, 60);
const options: LoadOptions = { kvType: 'f32', batchSize: 64, sessions: 2 };
const code = (name: string) => expect.objectContaining({ code: name }) as Error;

/** Reads of `inner` that are counted, and fail or hang when they are told to. */
class TestSource implements ByteSource {
  readonly name = 'a test';
  readonly size: number;
  reads = 0;
  mood: 'well' | 'failing' | 'hanging' = 'well';
  running = 0;
  closed = false;

  constructor(private readonly inner: ByteSource) {
    this.size = inner.size;
  }

  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    this.reads++;
    this.running++;
    try {
      if (this.mood === 'hanging') await hang(signal);
      if (this.mood === 'failing') throw new LapidaryError('io_error', 'the disk is on fire');
      return await this.inner.read(offset, length, signal);
    } finally {
      this.running--;
    }
  }

  /** Waits for a read to begin. */
  async reading(): Promise<void> {
    for (const until = Date.now() + 10_000; this.running === 0 && Date.now() < until;)
      await pause();
    expect(this.running).toBeGreaterThan(0);
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.inner.close?.();
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
async function hang(signal: AbortSignal | undefined): Promise<never> {
  while (!signal?.aborted) await pause();
  throw new LapidaryError('cancelled', 'given up');
}

function modelFile(): Uint8Array {
  const file = parseGguf(readFixture('gemma4/tiny-e.gguf'));
  const table = file.tensors.find(({ name }) => name === TABLE);
  if (!table) throw new Error(`no tensor ${TABLE}`);
  const values = new Float32Array(table.data.slice().buffer);
  table.type = GgmlType.F16;
  table.data = new Uint8Array(Uint16Array.from(values, halfBits).buffer);
  return writeGguf(file);
}
const file = modelFile();
const opened = () => new TestSource(memorySource('tiny-e', file));

let onGpu: Model;
let inSource: Model;
let source: TestSource;
let inSourceAtLoad: number;
beforeAll(async () => {
  source = opened();
  onGpu = await Model.load(opened(), options);
  inSource = await Model.load(source, { ...options, perLayerEmbeddings: 'source' });
  inSourceAtLoad = inSource.counters.bufferBytes;
});
afterAll(async () => {
  await onGpu?.close();
  await inSource?.close();
  expect(source.closed).toBe(true);
});

/** What both models say to the same request, from an empty cache. */
async function both<T>(ask: (model: Model) => Promise<T>): Promise<[T, T]> {
  await onGpu.truncate(0);
  await inSource.truncate(0);
  return [await ask(onGpu), await ask(inSource)];
}

test('info says where the table is, and the GPU holds that much less', async () => {
  expect(onGpu.info.perLayerEmbeddings).toBe('gpu');
  expect(inSource.info.perLayerEmbeddings).toBe('source');
  const { tensors } = await inspect(source);
  const bytes = tensors.find(({ name }) => name === TABLE)?.bytes ?? NaN;
  const saved = onGpu.info.gpuBytes.weights - inSource.info.gpuBytes.weights;
  console.log(`${saved} bytes less on the GPU for a table of ${bytes}`);
  expect(saved).toBeGreaterThanOrEqual(bytes);
  // Its rows of 56 values are padded to 64.
  expect(saved).toBeLessThan(1.2 * bytes);
});

// What comes first expects rows that nothing has read before.
test('equal tokens are read once, and a row that was read lately not again', async () => {
  const ids = [290, 291, 292];
  const prompt = [...ids, ...ids, ...ids].flatMap((id) => new Array<number>(40).fill(id));
  for (const reads of [ids.length, 0]) {
    const before = source.reads;
    await inSource.truncate(0);
    await inSource.logits(prompt);
    expect(source.reads - before).toBe(reads);
  }
});

const wild = { temperature: 2, topK: 0, ignoreEos: true };

describe('a source that fails after the load', () => {
  async function answersAgain(): Promise<void> {
    source.mood = 'well';
    expect(source.running).toBe(0);
    const [expected, got] = await both((model) => model.logits(story));
    expect(maxAbsDifference(got, expected)).toBeLessThanOrEqual(SAME);
  }

  test.each([false, true])('in a prompt (all positions: %s)', async (all) => {
    source.mood = 'failing';
    const failed = inSource.logits([...story, ...(all ? [285, 286, 287] : [280, 281, 282])], {
      all,
    });
    await expect(failed).rejects.toEqual(code('io_error'));
    await expect(failed).rejects.toThrow(/per-layer embedding of token \d+: the disk is on fire/);
    await answersAgain();
  });

  test('in the middle of a reply', async () => {
    await inSource.truncate(0);
    const reply = inSource.generate(story, { ...wild, seed: 5, maxTokens: 400 });
    let texts = 0;
    const reading = (async () => {
      for await (const event of reply) {
        if (event.type !== 'text') continue;
        texts++;
        source.mood = 'failing';
      }
    })();
    await expect(reading).rejects.toEqual(code('io_error'));
    expect(texts).toBeGreaterThan(0);
    await answersAgain();
  });

  test('a read that hangs ends with the reply it is for', async () => {
    const stop = new AbortController();
    source.mood = 'hanging';
    const reply = inSource.generate([...story, ...long], { signal: stop.signal });
    await source.reading();
    stop.abort();
    expect((await reply.report()).reason).toBe('cancelled');
    await answersAgain();
  });

  test('a prefill is ended by its own signal alone, and keeps what was run', async () => {
    const earlier = new AbortController();
    source.mood = 'hanging';
    const reply = inSource.generate([201, 202, 203], { signal: earlier.signal });
    await source.reading();
    earlier.abort();
    await reply.report();
    source.mood = 'well';
    const prompts = [story, [...long.slice(0, 60), 204, 205]].map((tokens) => ({ tokens }));
    await inSource.prefill([prompts[0]!, { tokens: long.slice(0, 60) }]);
    await inSource.truncate(0);
    source.mood = 'hanging';
    const stop = new AbortController();
    // The second of its batches has tokens whose rows were never read.
    const running = inSource.prefill(prompts, { signal: stop.signal });
    await source.reading();
    stop.abort();
    await expect(running).rejects.toEqual(code('cancelled'));
    source.mood = 'well';
    const [first] = await inSource.prefill([prompts[0]!]);
    expect(first!.cachedTokens).toBe(story.length - 1);
    await answersAgain();
  });
});

describe('the same answers', () => {
  test.each([
    ['three batches and a part', long],
    ['whole batches', long.slice(0, 128)],
    ['batches and one token', long.slice(0, 129)],
    ['one token', long.slice(0, 1)],
  ])('logits after the last token: %s', async (what, ids) => {
    const [expected, got] = await both((model) => model.logits(ids));
    report(what, maxAbsDifference(got, expected), SAME);
    expect(maxAbsDifference(got, expected)).toBeLessThanOrEqual(SAME);
  });

  test('logits of all positions', async () => {
    const [expected, got] = await both((model) => model.logits(long, { all: true }));
    report('all positions', maxAbsDifference(got, expected), SAME);
    expect(maxAbsDifference(got, expected)).toBeLessThanOrEqual(SAME);
  });

  test('of two replies at once, and when one of them is stopped while rows are read', async () => {
    const request = { temperature: 0, maxTokens: TOKENS, ignoreEos: true };
    const [expected, got] = await both(async (model) =>
      Promise.all(
        [story, long].map(async (ids) => (await model.generate(ids, request).report()).tokens),
      ),
    );
    expect(got).toEqual(expected);
    await inSource.truncate(0);
    const stop = new AbortController();
    const stopped = inSource.generate([210, 211], { ...wild, seed: 4, signal: stop.signal });
    const other = inSource.generate(story, request).report();
    let texts = 0;
    for await (const event of stopped) if (event.type === 'text' && ++texts === 3) stop.abort();
    expect((await stopped.report()).reason).toBe('cancelled');
    expect((await other).tokens).toEqual(expected[0]);
  });

  // At so high a temperature more than 256 tokens make up topP, and the host draws from all logits.
  test.each<[string, number[], RawOptions, number]>([
    ['greedy', long, { temperature: 0 }, 4],
    ['greedy, with log probabilities', story, { temperature: 0, logprobs: 3 }, 4],
    ['greedy, with penalties', story, { temperature: 0, repeatPenalty: 1.2 }, 4],
    ['drawn from the likeliest', story, { temperature: 1, topK: 40, seed: 3 }, 4],
    ['drawn by the host', story, { temperature: 50, topK: 0, topP: 0.99, seed: 3 }, 4 * VOCAB],
  ])('tokens: %s', async (_, ids, request, leastBytesRead) => {
    const asked = { ...request, maxTokens: TOKENS, ignoreEos: true };
    const [expected, got] = await both(async (model) => {
      const before = model.counters.bytesRead;
      const first = await model.generate(ids, asked).report();
      // The reply lies in the cache as if it had been a prompt.
      const next = [...ids, ...first.tokens, ...story];
      const second = await model.generate(next, asked).report();
      const read = model.counters.bytesRead - before;
      expect(read).toBeGreaterThanOrEqual(2 * TOKENS * leastBytesRead);
      return { first: first.tokens, second: second.tokens, usage: second.usage };
    });
    expect(expected.first).toHaveLength(TOKENS);
    expect(got).toEqual(expected);
  });
});

describe('where the table goes', () => {
  test('what is no place is refused', async () => {
    for (const place of ['cpu', 1, true]) {
      const wrong = { ...options, perLayerEmbeddings: place as 'gpu' };
      await expect(Model.load(opened(), wrong)).rejects.toEqual(code('invalid_argument'));
    }
  });

  /** A GPU on which an allocation fails once. */
  function failsOnce(label: string): Promise<GPU> {
    let failed = false;
    return shortOfMemory((wanted) => {
      const fails = wanted === label && !failed;
      failed ||= fails;
      return fails;
    });
  }

  // The table itself does not fit; or what is allocated after it.
  test.each(['per-layer embedding', 'key cache'])(
    'auto: no room for the %s, and the table stays in the source',
    async (label) => {
      const said: string[] = [];
      const own = opened();
      const model = await Model.load(own, {
        ...options,
        gpu: await failsOnce(label),
        onLog: (level, text) => said.push(`${level}: ${text}`),
      });
      try {
        expect(model.info.perLayerEmbeddings).toBe('source');
        expect(said).toEqual([expect.stringMatching(/^warning: .*source: .*no room for/)]);
        expect(model.info.gpuBytes).toEqual(inSource.info.gpuBytes);
        // Nothing of the first attempt is left on the GPU.
        expect(model.counters.bufferBytes).toBe(inSourceAtLoad);
        await inSource.truncate(0);
        expect(await model.logits(story)).toEqual(await inSource.logits(story));
        // Closing ends a read that hangs.
        own.mood = 'hanging';
        const waiting = model.logits([290]);
        await own.reading();
        await Promise.all([model.close(), expect(waiting).rejects.toEqual(code('cancelled'))]);
        expect(own.closed).toBe(true);
      } finally {
        await model.close();
      }
    },
  );

  test('gpu: no room is an error', async () => {
    const own = opened();
    const gpu = await failsOnce('per-layer embedding');
    const loading = Model.load(own, { ...options, gpu, perLayerEmbeddings: 'gpu' });
    await expect(loading).rejects.toEqual(code('out_of_memory'));
    expect(own.closed).toBe(true);
  });
});

test('prompts of several sessions in one batch', async () => {
  const [gpu, inFile] = await both(async (model) => {
    await model.prefill([{ tokens: story }, { tokens: long }]);
    return [await model.logits(long), await model.logits(story)];
  });
  for (const i of [0, 1]) expect(maxAbsDifference(gpu[i]!, inFile[i]!)).toBeLessThan(SAME);
});
