// Files of sound other than WAV: what they are.

import { LapidaryError } from '../errors.js';

const KINDS: [at: number, magic: string, name: string][] = [
  [0, 'ID3', 'MP3'],
  [0, 'OggS', 'Ogg'],
  [0, 'fLaC', 'FLAC'],
  [4, 'ftyp', 'MP4'],
  [0, 'FORM', 'AIFF'],
  [0, 'caff', 'CAF'],
  [0, '\x1a\x45\xdf\xa3', 'WebM'],
];

/** What other than WAV a file of sound is, by its first bytes; undefined for WAV, and for what is not known. */
export function otherSound(bytes: Uint8Array): string | undefined {
  const head = String.fromCharCode(...bytes.subarray(0, 12));
  const kind = KINDS.find(([at, magic]) => head.startsWith(magic, at));
  if (kind) return kind[2];
  // A frame's eleven bits of synchronisation, and its layer: 0 is AAC's.
  const [first = 0, second = 0] = bytes;
  if (first !== 0xff || (second & 0xe0) !== 0xe0) return undefined;
  return (second & 0x06) === 0 ? 'AAC' : 'MP3';
}

/** For environments without decoders. */
export function refuseSound(name: string, kind: string, how: string): LapidaryError {
  return new LapidaryError(
    'unsupported',
    `${name} is ${kind}, and WAV is what is read here: ${how}`,
  );
}
