// What a model's header says that a benchmark needs: which file it is, and how much of it one token reads.

import { LapidaryError, type ByteSource, type FileHeader } from 'lapidary';

/**
 * Names a file: SHA-256 of all before its tensor data, then of its size (8 bytes, little-endian). Known answers are
 * kept under it.
 */
export async function digest(source: ByteSource, { dataOffset }: FileHeader): Promise<string> {
  const bytes = new Uint8Array(dataOffset + 8);
  const chunk = 1 << 24;
  for (let at = 0; at < dataOffset; at += chunk) {
    bytes.set(await source.read(at, Math.min(chunk, dataOffset - at)), at);
  }
  new DataView(bytes.buffer).setBigUint64(dataOffset, BigInt(source.size), true);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return `sha256:${Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

const number = (header: FileHeader, key: string): number => {
  const value = header.metadata[`gemma4.${key}`];
  return typeof value === 'number' ? value : 0;
};

/**
 * Bytes of weights that decoding one token reads: every matrix of every layer (of experts, those used), the head, and
 * the projection of per-layer inputs; not the rows of the embedding tables, and no vectors.
 */
export function weightBytesPerToken(header: FileHeader): number {
  const layers = number(header, 'block_count');
  const owners = layers - number(header, 'attention.shared_kv_layers');
  const experts = number(header, 'expert_count');
  const used = experts > 0 ? number(header, 'expert_used_count') / experts : 1;
  const names = new Set(header.tensors.map(({ name }) => name));
  const head = names.has('output.weight') ? 'output.weight' : 'token_embd.weight';
  let sum = 0;
  for (const { name, shape, bytes } of header.tensors) {
    const [, layer, role] = /^blk\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
    if (name === head || name === 'per_layer_model_proj.weight') sum += bytes;
    else if (role === undefined || shape.length < 2) continue;
    // A file may hold keys' and values' matrices for layers that use those of others.
    else if (/^attn_[kv]$/.test(role) && Number(layer) >= owners) continue;
    else sum += /_exps$/.test(role) ? bytes * used : bytes;
  }
  if (sum === 0) {
    throw new LapidaryError('unsupported', 'this file has no layers that a benchmark could weigh');
  }
  return Math.round(sum);
}
