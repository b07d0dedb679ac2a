// What can be checked of the documentation without reading it: links lead somewhere, every error code is explained, every
// page is listed.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ERROR_CODES } from 'lapidary/node';
import { expect, test } from 'vitest';
import { root } from '../support/fixtures.ts';

const pages = readdirSync(`${root}docs`).filter((name) => name.endsWith('.md'));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const prose = (text: string) => text.replace(/^```[^]*?^```$/gm, '');

/** The anchors of a page's headings, as GitHub makes them. */
const anchorsOf = (text: string) =>
  [...prose(text).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );

test.each([...pages.map((name) => `docs/${name}`), 'README.md', 'CHANGELOG.md'])(
  'links of %s lead somewhere',
  (path) => {
    const links = [...prose(read(path)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
    for (const link of links.filter((each) => !/^[a-z]+:/.test(each))) {
      const [file, anchor] = link.split('#');
      const target = file ? join(dirname(path), file) : path;
      expect(existsSync(join(root, target)), link).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(read(target)), link).toContain(anchor);
    }
  },
);

test('every error code has its line in troubleshooting.md', () => {
  const lines = [...read('docs/troubleshooting.md').matchAll(/^- \*\*`(\w+)`\*\* /gm)];
  expect(lines.map(([, code]) => code).sort()).toEqual(Object.values(ERROR_CODES).sort());
});

test('every page is in the list of pages', () => {
  const list = read('docs/README.md');
  for (const name of pages) if (name !== 'README.md') expect(list).toContain(`](${name})`);
});
