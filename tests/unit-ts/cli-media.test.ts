// What the command line makes of words that name pictures and recordings.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { givenMedia, isPathOfMedia, namedMedia, withMedia } from '../../apps/cli/src/media.ts';

const folder = mkdtempSync(join(tmpdir(), 'lapidary-names-'));
const file = (name: string) => {
  const path = join(folder, name);
  writeFileSync(path, 'x');
  return path;
};
const [cat, dog, talk, text] = ['cat.png', 'a dog.JPG', 'talk.wav', 'notes.txt'].map(file);
afterAll(() => rmSync(folder, { recursive: true }));

const paths = (words: string) =>
  namedMedia(words, {}).media.map((medium) =>
    medium.type === 'image' ? medium.image : medium.audio,
  );

test('paths among words are what lies there, the rest is said', () => {
  expect(namedMedia(`what is in ${cat} ?`, {})).toEqual({
    media: [{ type: 'image', image: cat, maxTokens: 280 }],
    text: 'what is in  ?',
  });
  expect(paths(`'${dog}' and "${cat}" and ${talk}`)).toEqual([dog, cat, talk]);
  // As terminals drop it.
  expect(paths(`see ${dog!.replace(' ', '\\ ')}`)).toEqual([dog]);
});

test('what names no such file stays a word', () => {
  for (const words of [`${folder}/none.png`, text!, 'cat.png', "it's png", '"', '\\', '']) {
    expect(namedMedia(words, {})).toEqual({ media: [], text: words });
  }
});

test('a path at the beginning is no command', () => {
  expect(isPathOfMedia(`${cat} what is this?`)).toBe(true);
  expect(isPathOfMedia(`${dog!.replace(' ', '\\ ')} and this?`)).toBe(true);
  for (const words of ['/set think on', '/bye', `${text} x`, '']) {
    expect(isPathOfMedia(words)).toBe(false);
  }
});

test('what the command line gives comes first', () => {
  expect(givenMedia({ image: ['a.png'], imageTokens: '70', audio: ['b.wav'] })).toEqual([
    { type: 'image', image: 'a.png', maxTokens: 70 },
    { type: 'audio', audio: 'b.wav' },
  ]);
  expect(withMedia([], 'hello')).toBe('hello');
  expect(withMedia([{ type: 'audio', audio: 'b.wav' }], 'hello')).toHaveLength(2);
});
