// Adapters on the command line: `--adapter PATH[:SCALE]`, and /adapter in a conversation.

import type { Model } from 'lapidary/node';
import { UsageError } from './exit.js';
import { bytes } from './format.js';

export interface NamedAdapter {
  path: string;
  scale: number;
}

/** "style.gguf:0.5"; without a number after the last colon, the scale is 1. */
export function parseAdapter(text: string): NamedAdapter {
  const [, path = text, number] = /^(.+):([^:/\\]*)$/s.exec(text) ?? [];
  // The colon of a drive ("c:\\lora") and of an address stand before a slash.
  if (number === undefined) return { path: text, scale: 1 };
  const scale = Number(number);
  if (number.trim() === '' || !Number.isFinite(scale)) {
    throw new UsageError(`'${number}' is no scale: an adapter is PATH or PATH:SCALE`);
  }
  return { path, scale };
}

/** A line an adapter. */
export function listAdapters(model: Model): string {
  const lines = model.adapters.map(
    ({ id, name, scale, rank, gpuBytes }) =>
      `  ${id}  ${name}: ${scale === 0 ? 'off' : `scale ${scale}`}, rank ${rank}, ${bytes(gpuBytes)}`,
  );
  return lines.length === 0 ? 'there are no adapters' : lines.join('\n');
}

/** `/adapter …` in a conversation; the text says what there is afterwards. */
export async function applyAdapter(model: Model, text: string): Promise<string> {
  const [, command = '', rest = ''] = /^(\S*)\s*(.*)$/s.exec(text) ?? [];
  if (command === 'off') await model.setAdapters([]);
  else if (command === 'scale') {
    const [, id, scale] = /^(\d+)\s+(\S+)$/.exec(rest) ?? [];
    if (id === undefined || !Number.isFinite(Number(scale)))
      return '/adapter scale takes the number of an adapter and a scale';
    const wanted = model.adapters.map((adapter) =>
      adapter.id === Number(id) ? { id: adapter.id, scale: Number(scale) } : adapter,
    );
    if (!wanted.some((adapter) => adapter.id === Number(id))) return `there is no adapter ${id}`;
    await model.setAdapters(wanted.map(({ id, scale }) => ({ id, scale })));
  } else if (command === 'remove') {
    const id = Number(rest);
    if (!model.adapters.some((adapter) => adapter.id === id)) return `there is no adapter ${rest}`;
    await model.removeAdapter(id);
  } else if (text !== '') {
    const { path, scale } = parseAdapter(text);
    await model.loadAdapter(path, { scale });
  }
  return listAdapters(model);
}
