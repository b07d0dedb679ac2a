// `tokenize`: the tokens of a text, as the model sees them.

import { EXIT } from '../exit.js';
import { table } from '../format.js';
import { load, type LoadFlags } from '../loading.js';

export async function tokenize(
  name: string,
  text: string,
  flags: LoadFlags & { ids?: boolean; specials?: boolean; bos?: boolean; json?: boolean },
): Promise<number> {
  const model = await load(name, { ...flags, drafter: false });
  try {
    const ids = model.tokenize(text, {
      addBos: flags.bos ?? false,
      special: flags.specials ? 'parse' : 'plain',
    });
    const piece = (id: number) => model.detokenize([id], { showControl: true });
    if (flags.json)
      process.stdout.write(`${JSON.stringify(ids.map((id) => ({ id, text: piece(id) })))}\n`);
    else if (flags.ids) process.stdout.write(`${ids.join(' ')}\n`);
    else
      process.stdout.write(
        table(ids.map((id) => [String(id).padStart(6), JSON.stringify(piece(id))])),
      );
    return EXIT.ok;
  } finally {
    await model.close();
  }
}
