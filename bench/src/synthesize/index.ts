// Writes a whole model of random weights: shapes, metadata and mix of block types are those of a real one, so it loads
// and runs as fast as that does; what it says is noise. The same seed writes the same bytes.

import { open, rm } from 'node:fs/promises';
import { LapidaryError } from 'lapidary';
import { BlockPools } from './blocks.js';
import { headerBytes, layout, type PlacedTensor } from './gguf.js';
import { SHAPES, metadataOf, tensorsOf } from './shapes.js';

export { SHAPES, tensorsOf };

export interface SynthesizeOptions {
  seed?: number;
  signal?: AbortSignal;
}

export interface Plan {
  /** All of the file before its tensors' data. */
  header: Uint8Array;
  tensors: PlacedTensor[];
  /** Of the whole file. */
  size: number;
  vocab: number;
}

/** What the file of a shape ('e2b', 'tiny') holds. */
export function plan(shapeName: string, seed = 1): Plan {
  const shape = SHAPES[shapeName];
  if (!shape) {
    throw new LapidaryError(
      'invalid_argument',
      `no shape is called '${shapeName}'; there are: ${Object.keys(SHAPES).join(', ')}`,
    );
  }
  const tensors = layout(tensorsOf(shape));
  const header = headerBytes(metadataOf(shape, seed), tensors);
  const last = tensors.at(-1);
  const size = header.length + (last ? last.offset + last.bytes : 0);
  return { header, tensors, size, vocab: shape.vocab };
}

/** Writes that file to `path`, in memory that does not grow with it. */
export async function synthesize(
  shapeName: string,
  path: string,
  { seed = 1, signal }: SynthesizeOptions = {},
): Promise<{ size: number }> {
  const { header, tensors, vocab } = plan(shapeName, seed);
  const pools = new BlockPools(seed, vocab);
  const file = await open(path, 'w');
  let size = 0;
  const write = async (bytes: Uint8Array) => {
    if (signal?.aborted) throw new LapidaryError('cancelled', 'cancelled');
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await file.write(bytes, done, bytes.length - done);
      done += bytesWritten;
    }
    size += bytes.length;
  };
  try {
    await write(header);
    const dataStart = size;
    for (const tensor of tensors) {
      // Zeros up to where the tensor begins.
      await write(new Uint8Array(dataStart + tensor.offset - size));
      for (const bytes of pools.tensor(tensor)) await write(bytes);
    }
  } catch (error) {
    await file.close();
    // Half a model is of no use to anybody.
    await rm(path, { force: true });
    throw error;
  }
  await file.close();
  return { size };
}
