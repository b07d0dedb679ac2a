// embeddings.create: texts as vectors, in OpenAI's shape.

import { LapidaryError } from '../errors.js';
import { Fields } from './fields.js';
import { LIMITS } from './limits.js';
import type { OpenAIModel } from './model.js';
import { isTokenIds } from './request.js';
import type { EmbeddingParams, EmbeddingResponse, RequestOptions } from './types.js';

const MEMBERS = new Set(['input', 'model', 'encoding_format', 'dimensions', 'user']);
/** UTF-16 units, or bytes, that one call of fromCharCode takes. */
const PIECE = 0x8000;

/** The inputs of a request, of which none is empty, within what one may hold. */
function readInputs(fields: Fields): (string | number[])[] {
  const value = fields.get('input');
  const list: unknown[] =
    typeof value === 'string' || isTokenIds(value)
      ? [value]
      : (fields.list('input', LIMITS.embeddings) ?? []);
  const good = (each: unknown): each is string | number[] =>
    typeof each === 'string' ? each !== '' : isTokenIds(each);
  if (list.length === 0 || !list.every(good)) {
    throw fields.invalid(
      'input',
      'a text, a list of token ids, or a list of such; none of them empty',
    );
  }
  const length = list.reduce((sum, { length }) => sum + length, 0);
  if (length > LIMITS.text) {
    throw fields.invalid('input', `shorter: a request holds ${LIMITS.text} characters`);
  }
  return list;
}

/** Base64 of little-endian f32. */
function base64(floats: Float32Array): string {
  const view = new DataView(new ArrayBuffer(floats.length * 4));
  floats.forEach((value, i) => view.setFloat32(4 * i, value, true));
  const bytes = new Uint8Array(view.buffer);
  let text = '';
  for (let at = 0; at < bytes.length; at += PIECE) {
    text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  }
  return btoa(text);
}

/** Checks the request and embeds its texts; the vectors have length 1. */
export async function createEmbeddings(
  model: OpenAIModel,
  params: EmbeddingParams,
  { signal }: RequestOptions,
): Promise<EmbeddingResponse> {
  const fields = Fields.of(params);
  fields.only(MEMBERS);
  fields.string('model', LIMITS.name);
  const format = fields.oneOf('encoding_format', ['float', 'base64']) ?? 'float';
  const dimensions = fields.number('dimensions', { min: 1, max: 1 << 20, whole: true });
  const inputs = readInputs(fields);
  if (!model.embed) throw new LapidaryError('unsupported', 'this model gives no embeddings');
  const { embeddings, promptTokens } = await model.embed(inputs, {
    ...(dimensions !== undefined && { dimensions }),
    ...(signal && { signal }),
  });
  const tokens = promptTokens.reduce((sum, count) => sum + count, 0);
  return {
    object: 'list',
    data: embeddings.map((floats, index) => ({
      object: 'embedding',
      index,
      embedding: format === 'base64' ? base64(floats) : Array.from(floats),
    })),
    model: model.info.name,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
}
