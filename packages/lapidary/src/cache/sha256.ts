// SHA-256 of what comes piece by piece, which WebCrypto has not. The library is bundled into the built file: pages
// without a bundler find no packages by their names (tools/build.mjs).

import { createSHA256 } from 'hash-wasm';

export interface Sha256 {
  update(bytes: Uint8Array): void;
  /** 64 hexadecimal digits; nothing can be added then. */
  digest(): string;
  /** All that is needed to go on later from here; begins with a mark of the library's version. */
  save(): Uint8Array;
  /** Goes on from what {@link save} gave; throws when another version gave it. */
  load(state: Uint8Array): void;
}

export async function sha256(): Promise<Sha256> {
  const hasher = await createSHA256();
  hasher.init();
  return {
    update: (bytes) => void hasher.update(bytes),
    digest: () => hasher.digest('hex'),
    save: () => hasher.save(),
    load: (state) => void hasher.load(state),
  };
}

/** SHA-256 of a short text: 64 hexadecimal digits. */
export async function sha256OfText(text: string): Promise<string> {
  const hasher = await sha256();
  hasher.update(new TextEncoder().encode(text));
  return hasher.digest();
}
