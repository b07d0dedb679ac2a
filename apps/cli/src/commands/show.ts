// `show`: what a model's file and its store say about it. Needs no GPU.

import {
  FileSource,
  OllamaStore,
  inspect,
  isPath,
  type KvType,
  type MemoryReport,
  type MetadataValue,
  type ModelFiles,
} from 'lapidary/node';
import { EXIT } from '../exit.js';
import { bytes, count, safe, table } from '../format.js';
import { storeOptions, type StoreFlags } from '../stores.js';

const LONGEST = 72;

function shown(value: MetadataValue): string {
  const text =
    typeof value === 'object' && 'count' in value
      ? `${String(value.count)} × ${String(value.type)}`
      : typeof value === 'string'
        ? value
        : JSON.stringify(value);
  return safe(text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
}

const CLASSES: [keyof MemoryReport['needs'], string][] = [
  ['dense', 'layers'],
  ['experts', 'experts'],
  ['tables', 'embedding, head'],
  ['perLayerEmbeddings', 'per-layer embeddings'],
  ['vectors', 'norms, positions'],
  ['towers', 'pictures, sound'],
  ['drafter', 'drafter'],
  ['kv', 'KV cache'],
  ['scratch', 'activations'],
];

function memoryRows(memory: MemoryReport): string[][] {
  const rows = CLASSES.filter(([key]) => memory.needs[key] > 0).map(([key, name]) => [
    `  ${name}`,
    bytes(memory.needs[key]),
  ]);
  rows.push(['  together', bytes(memory.total)], ['  at the least', bytes(memory.least)]);
  if (memory.budget !== undefined)
    rows.push([`  in ${bytes(memory.budget)}`, `${memory.fit} (${bytes(memory.planned)})`]);
  return rows;
}

export async function show(
  name: string,
  flags: StoreFlags & {
    tensors?: boolean;
    json?: boolean;
    context?: number;
    kvType?: KvType;
    gpuMemory?: number;
  },
): Promise<number> {
  let files: ModelFiles | undefined;
  if (!isPath(name)) files = await (await OllamaStore.open(storeOptions(flags))).resolve(name);
  const path = files?.layers.find((layer) => layer.kind === 'model')?.path ?? name;
  const source = await FileSource.open(path);
  try {
    const header = await inspect(source, {
      ...(flags.context !== undefined && { contextLength: flags.context }),
      ...(flags.kvType && { kvType: flags.kvType }),
      ...(flags.gpuMemory !== undefined && { gpuMemory: flags.gpuMemory }),
    });
    const out = (text: string) => process.stdout.write(text);
    if (flags.json) {
      const { tensors, ...rest } = header;
      const json = { name: files?.name ?? path, file: path, layers: files?.layers, ...rest };
      out(`${JSON.stringify(flags.tensors ? { ...json, tensors } : json, null, 2)}\n`);
      return EXIT.ok;
    }
    const elements = header.tensors.reduce(
      (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
      0,
    );
    const types = new Map<string, number>();
    for (const { type } of header.tensors) types.set(type, (types.get(type) ?? 0) + 1);
    out(
      table([
        ['name', files?.name ?? path],
        ['file', path],
        ['size', `${bytes(header.fileSize)} (GGUF version ${header.version})`],
        ['parameters', count(elements)],
        [
          'tensors',
          `${header.tensors.length}: ${[...types].map(([type, n]) => `${n} ${type}`).join(', ')}`,
        ],
      ]),
    );
    if (files) {
      out('\nlayers\n');
      out(
        table(
          files.layers.map(({ kind, size, blob }) => [`  ${kind}`, bytes(size), blob.slice(0, 19)]),
        ),
      );
    }
    if (header.memory) {
      out('\nGPU memory\n');
      out(table(memoryRows(header.memory)));
    }
    out('\nmetadata\n');
    out(
      table(
        Object.entries(header.metadata).map(([key, value]) => [`  ${safe(key)}`, shown(value)]),
      ),
    );
    if (flags.tensors) {
      out('\ntensors\n');
      out(
        table(
          header.tensors.map((t) => [
            `  ${safe(t.name)}`,
            t.type,
            t.shape.join(' × '),
            bytes(t.bytes),
          ]),
        ),
      );
    }
    return EXIT.ok;
  } finally {
    await source.close();
  }
}
