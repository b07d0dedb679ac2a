// Pictures and sound that a prompt names.

import { statSync } from 'node:fs';
import { homedir } from 'node:os';
import type { AudioPart, ContentPart, ImagePart } from 'lapidary/node';

type Medium = ImagePart | AudioPart;

const PICTURE = /\.(jpe?g|png|webp|gif|avif|heic|tiff?)$/i;
const SOUND = /\.wave?$/i;
/** A path in quotes; or one without, in which spaces have a backslash before them, as terminals drop files. */
const NAMES = /'([^']+)'|"([^"]+)"|((?:\\.|[^\s'"\\])+)/g;

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

const fromHome = (path: string) => path.replace(/^~(?=\/)/, homedir());

/** What the command line says of media. */
export interface MediaFlags {
  image?: string[];
  imageTokens?: string;
  audio?: string[];
}

/** The media that the command line names. */
export function givenMedia({ image = [], imageTokens = '280', audio = [] }: MediaFlags): Medium[] {
  // commander has checked the number.
  const maxTokens = Number(imageTokens) as NonNullable<ImagePart['maxTokens']>;
  return [
    ...image.map((path): Medium => ({ type: 'image', image: path, maxTokens })),
    ...audio.map((path): Medium => ({ type: 'audio', audio: path })),
  ];
}

/** A prompt without the paths of pictures and sound among its words, and these. */
export function namedMedia(text: string, flags: MediaFlags): { media: Medium[]; text: string } {
  const image: string[] = [];
  const audio: string[] = [];
  const rest = text.replace(NAMES, (whole, single?: string, double?: string, bare?: string) => {
    const path = fromHome(single ?? double ?? bare!.replace(/\\(.)/g, '$1'));
    const list = PICTURE.test(path) ? image : SOUND.test(path) ? audio : undefined;
    if (!list || !isFile(path)) return whole;
    list.push(path);
    return '';
  });
  return { media: givenMedia({ ...flags, image, audio }), text: rest.trim() };
}

/** Whether what was said begins with the path of a picture or a recording, not with a command. */
export const isPathOfMedia = (text: string): boolean =>
  namedMedia(/^(?:\\.|\S)*/.exec(text)?.[0] ?? '', {}).media.length > 0;

/** A user's content: media, then what is said of them. */
export const withMedia = (media: Medium[], text: string): string | ContentPart[] =>
  media.length === 0 ? text : [...media, { type: 'text', text }];
