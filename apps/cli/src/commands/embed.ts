// `embed`: texts as vectors, in JSON.

import { EXIT } from '../exit.js';
import { load, type LoadFlags } from '../loading.js';

interface EmbedFlags extends LoadFlags {
  pooling?: 'mean' | 'last';
  normalize?: boolean;
  dimensions?: number;
  truncate?: boolean;
}

export async function embed(name: string, texts: string[], flags: EmbedFlags): Promise<number> {
  const model = await load(name, { ...flags, drafter: false });
  try {
    const { pooling, normalize, dimensions, truncate } = flags;
    const { embeddings } = await model.embed(texts, {
      ...(pooling && { pooling }),
      ...(normalize !== undefined && { normalize }),
      ...(dimensions !== undefined && { dimensions }),
      ...(truncate && { truncate }),
    });
    const lines = embeddings.map((floats) => `${JSON.stringify(Array.from(floats))}\n`);
    process.stdout.write(lines.join(''));
    return EXIT.ok;
  } finally {
    await model.close();
  }
}
