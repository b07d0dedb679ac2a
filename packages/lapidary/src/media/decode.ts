// Files of sound by the browser's own decoders.

import type { DecodedAudio } from '../types.js';

/**
 * The samples of a file of sound, of any kind that the browser decodes (MP3, Ogg, M4A, FLAC, WebM, WAV), mono at 16 kHz,
 * at most an hour and a half. For models in workers, where there are no decoders: give them the samples.
 *
 * Rejects with `unsupported` outside of pages, `invalid_format` for what is no sound, `invalid_argument` for what is too
 * large or too long, `io_error`, `cancelled`.
 */
export async function decodeAudio(
  file: Blob,
  { signal }: { signal?: AbortSignal } = {},
): Promise<DecodedAudio> {
  // Loaded when it is needed: most pages have no sound.
  const { decodeInPage } = await import('./page-sound.js');
  return decodeInPage(file, signal);
}
