// Pictures that a prompt names.

import { statSync } from 'node:fs';
import { homedir } from 'node:os';
import type { ContentPart, ImagePart } from 'lapidary/node';

const PICTURE = /\.(jpe?g|png|webp|gif|avif|heic|tiff?)$/i;
/** A path in quotes; or one without, in which spaces have a backslash before them, as terminals drop files. */
const NAMES = /'([^']+)'|"([^"]+)"|((?:\\.|[^\s'"\\])+)/g;

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

const fromHome = (path: string) => path.replace(/^~(?=\/)/, homedir());

/** A prompt's content, with the pictures that its words name by path: those in place of their names come first. */
export function namedPictures(text: string, maxTokens?: ImagePart['maxTokens']): ContentPart[] {
  const pictures: ContentPart[] = [];
  const rest = text.replace(NAMES, (whole, single?: string, double?: string, bare?: string) => {
    const path = fromHome(single ?? double ?? bare!.replace(/\\(.)/g, '$1'));
    if (!PICTURE.test(path) || !isFile(path)) return whole;
    pictures.push({ type: 'image', image: path, maxTokens });
    return '';
  });
  return [...pictures, { type: 'text', text: rest.trim() }];
}

/** A user's content: the pictures at these paths, then the text. */
export const withPictures = (
  paths: readonly string[],
  text: string,
  maxTokens?: ImagePart['maxTokens'],
): string | ContentPart[] =>
  paths.length === 0
    ? text
    : [
        ...paths.map((image): ContentPart => ({ type: 'image', image, maxTokens })),
        { type: 'text', text },
      ];
