// Pictures in conversations: what reaches the model of them, against the tower's own rows in the place of tokens; what is
// kept from turn to turn; every form in which a picture comes; and pictures that are none.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import {
  Model,
  type Engine,
  type ImageInput,
  type Message,
  type ReplyEvent,
  type TokenLogprob,
} from 'lapidary/node';
import { createOpenAI } from 'lapidary/openai';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { create, globals } from 'webgpu';
import { argmax, maxAbsDifference, report } from '../support/compare.ts';
import { loadBytes, memorySource } from '../support/fixtures.ts';
import { HIDDEN, PLACE, picture, seeingText, tower } from '../support/seeing.ts';
import { softLogprobs } from '../support/soft.ts';

// 8 × 8 soft tokens of 48 pixels: with a budget of 70 a picture of that size stays as it is.
const BUDGET = 70;
const SIDE = 384;
const SOFT = 64;
const ALTERNATIVES = 20;

const gpu = create([]);
// Collected, Dawn takes the process down with it.
Object.assign(globalThis, globals, { lapidaryTestGpu: gpu });

let model: Model;
beforeAll(async () => {
  model = await loadBytes('tiny-e.gguf', seeingText(), {
    projector: memorySource('tower.gguf', tower()),
    kvType: 'f32',
    contextLength: 4096,
    sessions: 2,
  });
}, 300_000);
afterAll(() => model?.close());

const asking = (...pictures: ImageInput[]): Message[] => [
  {
    role: 'user',
    content: [
      ...pictures.map((image) => ({ type: 'image' as const, image, maxTokens: BUDGET }) as const),
      { type: 'text', text: 'hello' },
    ],
  },
];

async function answer(messages: Message[], on = model) {
  const events: ReplyEvent[] = [];
  const reply = on.chat(messages, { temperature: 0, maxTokens: 2, logprobs: ALTERNATIVES });
  for await (const event of reply) events.push(event);
  const first = events.find((event) => event.type === 'token');
  if (!first) throw new Error('no token was written');
  const { usage, tokens } = await reply.report();
  return { events, top: first.top, usage, tokens };
}
/** The same but for the order of sums, which depends on what the cache held. */
function expectAlike(a: TokenLogprob[], b: TokenLogprob[]) {
  expect(a[0]!.id).toBe(b[0]!.id);
  const values = (top: TokenLogprob[]) => top.map(({ logprob }) => logprob);
  expect(maxAbsDifference(values(a), values(b))).toBeLessThan(1e-4);
}
const looked = (events: ReplyEvent[]) =>
  events.flatMap((event) => (event.type === 'media' ? [`${event.processed}/${event.total}`] : []));

/** The tower's own rows of a picture. */
async function rowsOf(engine: Engine, { width, height, data }: ReturnType<typeof picture>) {
  const source = engine.addSource(memorySource('tower.gguf', tower()));
  const made = await engine.call('vision_probe', [source, HIDDEN, data, width, height, 0]).done;
  return new Float32Array(made.buffer);
}

test('a picture in a message is its soft tokens in the prompt', async () => {
  const shown = picture(SIDE, SIDE);
  const messages = asking(shown);
  const { tokens: prompt } = model.render(messages);
  const { ids, logprobs } = await softLogprobs(gpu, seeingText(), prompt, SOFT, false, (engine) =>
    rowsOf(engine, shown),
  );
  const found = await answer(messages);
  expect(model.info.modalities).toEqual(['text', 'image']);
  expect(looked(found.events)).toEqual(['0/1', '1/1']);
  expect(found.usage.promptTokens).toBe(ids.length);
  expect(found.tokens[0]).toBe(argmax(logprobs));
  const expected = found.top.map(({ id }) => logprobs[id]!);
  const difference = maxAbsDifference(
    found.top.map(({ logprob }) => logprob),
    expected,
  );
  report('log probabilities with a picture', difference, 1e-4);
  expect(difference).toBeLessThan(1e-4);
  // Of another picture they are others: the picture counts.
  const other = await answer(asking(picture(SIDE, SIDE, 1)));
  expect(Math.abs(other.top[0]!.logprob - found.top[0]!.logprob)).toBeGreaterThan(1e-3);
});

describe('from turn to turn', () => {
  test('a picture is looked at once, and its part of the cache goes on', async () => {
    const messages = asking(picture(SIDE, SIDE, 2));
    const first = await answer(messages);
    expect(looked(first.events)).toEqual(['0/1', '1/1']);
    const next: Message[] = [
      ...messages,
      { role: 'assistant', content: 'yes' },
      { role: 'user', content: 'and?' },
    ];
    const second = await answer(next);
    expect(looked(second.events)).toEqual([]);
    expect(second.usage.cachedTokens).toBeGreaterThan(SOFT);
    // One that begins with another picture has what stands before it, and no more.
    const other = asking(picture(SIDE, SIDE, 3));
    const before = model.render(other).tokens.indexOf(PLACE);
    const third = await answer(other);
    expect(third.usage.cachedTokens).toBe(before + 1);
  });

  test('prefill takes pictures, and two at once look at one together', async () => {
    const messages = asking(picture(SIDE, SIDE, 4));
    const [done] = await model.prefill([{ messages }]);
    expect(done!.promptTokens).toBeGreaterThan(SOFT);
    const { usage } = await answer(messages);
    expect(usage.cachedTokens).toBe(done!.promptTokens - 1);
    const same = asking(picture(SIDE, SIDE, 5));
    const [a, b] = await Promise.all([answer(same), answer(same)]);
    expect(a.tokens).toEqual(b.tokens);
  });

  test('as many tokens as asked for', async () => {
    const image = picture(300, 200);
    const counts: number[] = [];
    for (const maxTokens of [70, 140] as const) {
      const { usage } = await answer([
        { role: 'user', content: [{ type: 'image', image, maxTokens }] },
      ]);
      counts.push(usage.promptTokens);
    }
    // 6 × 10 and 9 × 14, by the rule of gemma4.md §7.1; the rest of the prompt is the same.
    expect(counts[1]! - counts[0]!).toBe(9 * 14 - 6 * 10);
    await expect(
      answer([{ role: 'user', content: [{ type: 'image', image, maxTokens: 71 as 70 }] }]),
    ).rejects.toMatchObject({ code: 'invalid_argument' });
  });
});

describe('every form of a picture', () => {
  const shown = picture(SIDE, SIDE, 6);
  let png: Uint8Array<ArrayBuffer>;
  let folder: string;
  beforeAll(async () => {
    const { width, height, data } = shown;
    const image = sharp(data, { raw: { width, height, channels: 3 } }).png();
    png = new Uint8Array(await image.toBuffer());
    folder = await mkdtemp(join(tmpdir(), 'lapidary-media-'));
    await writeFile(join(folder, 'picture.png'), png);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test('gives the same answer', async () => {
    const { tokens, top } = await answer(asking(shown));
    const rgba = new Uint8ClampedArray(SIDE * SIDE * 4);
    for (let i = 0; i < SIDE * SIDE; i++) rgba.set(shown.data.subarray(3 * i, 3 * i + 3), 4 * i);
    const forms: [string, ImageInput][] = [
      ['pixels with a fourth byte', { ...shown, data: rgba }],
      ['bytes', png],
      ['a buffer', png.buffer],
      ['a Blob', new Blob([png])],
      ['a path', join(folder, 'picture.png')],
      ['a data: URL', `data:image/png;base64,${Buffer.from(png).toString('base64')}`],
    ];
    for (const [form, image] of forms) {
      const found = await answer(asking(image));
      expect(found.tokens, form).toEqual(tokens);
      expectAlike(found.top, top);
    }
  });

  test("OpenAI's parts", async () => {
    const url = `data:image/png;base64,${Buffer.from(png).toString('base64')}`;
    const openai = createOpenAI(model);
    const ask = (image_url: { url: string; detail?: 'low' }) =>
      openai.chat.completions.create({
        messages: [
          {
            role: 'user',
            content: [
              { type: 'image_url', image_url },
              { type: 'text', text: 'a' },
            ],
          },
        ],
        max_tokens: 1,
        temperature: 0,
      });
    const low = await ask({ url, detail: 'low' });
    const { usage } = await answer(asking(png));
    expect(usage.promptTokens - low.usage.prompt_tokens).toBe(
      model.tokenize('hello').length - model.tokenize('a').length,
    );
    await expect(ask({ url: 'https://example.org/a.png' })).rejects.toMatchObject({
      code: 'unsupported',
    });
  });

  test('transparency is white, and EXIF turns a picture', async () => {
    const { width, height, data } = picture(96, 48, 7);
    const alpha = new Uint8Array(width * height * 4);
    const white = new Uint8Array(width * height * 3).fill(255);
    const clear = await sharp(alpha, { raw: { width, height, channels: 4 } })
      .png()
      .toBuffer();
    const [of, as] = [
      await answer(asking(new Uint8Array(clear))),
      await answer(asking({ width, height, data: white })),
    ];
    expectAlike(of.top, as.top);
    const raw = sharp(data, { raw: { width, height, channels: 3 } });
    const turned = await raw.clone().png().withMetadata({ orientation: 6 }).toBuffer();
    const upright = await raw.clone().rotate(90).png().toBuffer();
    const [one, two] = [
      await answer(asking(new Uint8Array(turned))),
      await answer(asking(new Uint8Array(upright))),
    ];
    expectAlike(one.top, two.top);
  });
});

/** A PNG that says it is so large, with pixels that never come. */
function hugePng(side: number): Uint8Array<ArrayBuffer> {
  const chunk = (type: string, data: Uint8Array) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const sized = Buffer.alloc(4);
    sized.writeUInt32BE(data.length);
    const check = Buffer.alloc(4);
    check.writeUInt32BE(crc(body));
    return Buffer.concat([sized, body, check]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  const pixels = chunk('IDAT', deflateSync(Buffer.alloc(1000)));
  return new Uint8Array(
    Buffer.concat([signature, chunk('IHDR', header), pixels, chunk('IEND', Buffer.alloc(0))]),
  );
}
function crc(bytes: Uint8Array): number {
  let value = ~0;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}

describe('hostile pictures', () => {
  const files = async (): Promise<[string, ImageInput, string][]> => {
    const { width, height, data } = picture(64, 64);
    const raw = sharp(data, { raw: { width, height, channels: 3 } });
    const png = new Uint8Array(await raw.clone().png().toBuffer());
    const jpeg = new Uint8Array(await raw.clone().jpeg().toBuffer());
    const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>';
    return [
      ['a truncated PNG', png.slice(0, png.length / 2), 'invalid_format'],
      ['a truncated JPEG', jpeg.slice(0, jpeg.length / 2), 'invalid_format'],
      ['20,000 × 20,000 pixels', hugePng(20_000), 'invalid_argument'],
      ['nothing', new Uint8Array(0), 'truncated'],
      ['text', new TextEncoder().encode('no picture at all'), 'invalid_format'],
      ['a drawing', new TextEncoder().encode(svg), 'invalid_format'],
      ['no such file', './no-such-picture.png', 'not_found'],
      ['a folder', '/', 'invalid_argument'],
      ['no data: URL', 'data:image/png;base64,@@@', 'io_error'],
      ['too few pixels', { width: 64, height: 64, data: data.subarray(1) }, 'invalid_argument'],
      ['no pixels', { width: 0, height: 0, data: new Uint8Array(0) }, 'invalid_argument'],
      ['fractions of pixels', { width: 0.5, height: 128, data: png }, 'invalid_argument'],
      ['NaN', { width: NaN, height: 1, data }, 'invalid_argument'],
      ['a number', 7 as unknown as ImageInput, 'invalid_argument'],
      ['null', null as unknown as ImageInput, 'invalid_argument'],
    ];
  };

  test('end in typed errors, and the model goes on', async () => {
    const before = await answer([{ role: 'user', content: 'hello' }]);
    for (const [what, image, code] of await files()) {
      const error: unknown = await answer(asking(image)).catch((thrown: unknown) => thrown);
      expect(error, what).toMatchObject({ code });
    }
    const after = await answer([{ role: 'user', content: 'hello' }]);
    expectAlike(after.top, before.top);
  });

  test('the smallest there is has its tokens, the longest are refused', async () => {
    const { usage } = await answer(asking(picture(1, 1)));
    expect(usage.promptTokens).toBeGreaterThan(SOFT);
    // This tower's positions reach 1,024 pixels.
    await expect(answer(asking(picture(1, 700)))).rejects.toMatchObject({ code: 'unsupported' });
  });

  test('a model without a tower says so', async () => {
    const blind = await loadBytes('tiny-e.gguf', seeingText());
    try {
      expect(blind.info.modalities).toEqual(['text']);
      await expect(answer(asking(picture(48, 48)), blind)).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('vision tower') as string,
      });
    } finally {
      await blind.close();
    }
    const projector = memorySource('text.gguf', seeingText());
    await expect(loadBytes('tiny-e.gguf', seeingText(), { projector })).rejects.toMatchObject({
      code: 'invalid_format',
    });
  });

  test('a reply that is stopped while its picture is read ends well', async () => {
    const controller = new AbortController();
    const reply = model.chat(asking(picture(SIDE, SIDE, 9)), { signal: controller.signal });
    controller.abort();
    expect((await reply.report()).reason).toBe('cancelled');
  });
});
