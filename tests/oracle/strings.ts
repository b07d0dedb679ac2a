// Strings to tokenize: the same ones every time, of every kind that tokenizers get wrong.

/** Numbers in [0, 1): mulberry32. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const WORDS = (
  'the of and to in is you that it he was for on are as with his they I at be this have from or one had by word ' +
  'but not what all were we when your can said there use an each which she do how their if will up other about out ' +
  'many then them these so some her would make like him into time has look two more write go see number no way ' +
  'could people my than first water been call who its now find long down day did get come made may part capital ' +
  "France Paris Hello HELLO hello don’t don't naïve café Straße İstanbul ΑΒΓ привет мир"
).split(' ');
const PIECES = [
  ' ',
  '  ',
  '   ',
  '\t',
  '\n',
  '\n\n',
  '\n\n\n',
  '\r\n',
  ' \n',
  '\n ',
  '\u00a0',
  '\u200b',
  '\u3000',
  '\u2581',
  '\ufeff',
  '.',
  ',',
  '!',
  '?',
  ';',
  ':',
  '…',
  '—',
  '-',
  '_',
  '*',
  '**',
  '#',
  '##',
  '`',
  '```',
  '~',
  '|',
  '\\',
  '/',
  '//',
  '"',
  "'",
  '(',
  ')',
  '[',
  ']',
  '{',
  '}',
  '<',
  '>',
  '</',
  '/>',
  '=',
  '==',
  '=>',
  '->',
  '+=',
  '&&',
  '||',
  '%',
  '$',
  '€',
  '@',
  '&',
  '^',
  '日本',
  '日本語',
  'こんにちは',
  '中文字符',
  '한국어',
  'العربية',
  'עברית',
  'हिन्दी',
  'ไทย',
  'Ελληνικά',
  'Здравствуйте',
  'ქართული',
  '😀',
  '🚀',
  '👩‍👩‍👧‍👦',
  '🇫🇷',
  '👍🏽',
  '❤️',
  '☃',
  '𝔘𝔫𝔦',
  '𠜎',
  'é',
  'e\u0301',
  'ﬁ',
  '½',
  '²',
  '\u0000',
  '\u0007',
  '\u007f',
  '\u0085',
  '\ud7ff',
  '\ue000',
  '\ufffd',
  '\u{10ffff}',
  '<bos>',
  '<eos>',
  '<pad>',
  '<unk>',
  '<|turn>',
  '<turn|>',
  '<|turn',
  'turn|>',
  '<|think|>',
  '<|tool>',
  '<|tool_call>',
  '<tool_call|>',
  '<|channel>',
  '<channel|>',
  '<|"|>',
  '<|image>',
  '<start_of_turn>',
  '<0x0A>',
  '<0x',
  '<unused3>',
  '<mask>',
  'function',
  'return x;',
  'for (int i = 0; i < n; ++i) {',
  'def f(self):\n    return None',
  'SELECT * FROM t;',
  '#include <a.h>',
  '<div class="a">',
  'https://example.org/a?b=c&d=%20',
  'a@b.de',
  'C:\\Users\\x',
  '$HOME/.config',
  '--flag=1',
  '{"a": [1, 2.5e-3]}',
  '0',
  '1',
  '7',
  '12',
  '007',
  '3.14159',
  '1,000,000',
  '2026-11-23',
  '23:59',
  '0xdeadbeef',
  '1e10',
  '-5',
  '٣',
  '五',
];

/** `count` different strings, none of them among `known`. */
export function testStrings(count: number, known: ReadonlySet<string>): string[] {
  const random = generator(20_261_123);
  const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)] as T;
  const codePoint = () => {
    const limits = [0x80, 0x250, 0x3000, 0xd800, 0x1_0000, 0x11_0000] as const;
    const point = Math.floor(random() * pick(limits));
    // Surrogates are no characters: a string that holds a lone one has no UTF-8.
    return String.fromCodePoint(point >= 0xd800 && point < 0xe000 ? point - 0x800 : point);
  };
  const many = (most: number, make: () => string, joint = '') =>
    Array.from({ length: 1 + Math.floor(random() * most) }, make).join(joint);
  const kinds: (() => string)[] = [
    () => pick(PIECES),
    () => many(4, () => pick(PIECES)),
    () => many(12, () => pick(PIECES), ' '),
    () => many(12, () => pick(WORDS), ' '),
    () => many(30, () => pick([...WORDS, ...PIECES]), ' '),
    () => many(20, () => (random() < 0.5 ? pick(WORDS) : pick(PIECES))),
    () => many(20, codePoint),
    () =>
      pick(['\n', ' ', '\t', 'a', 'ab', '0', '=', '-', '😀', '▁', '<']).repeat(
        1 + Math.floor(random() * 70),
      ),
    () => many(40, () => String(Math.floor(random() * 10))),
    () =>
      many(
        6,
        () =>
          `${pick(['', ' ', '  ', '\n', '\n\n    ', '\t'])}${pick(WORDS)}${pick([' ', '', '.', ',  '])}`,
      ),
    () => many(25, () => String.fromCharCode(32 + Math.floor(random() * 95))),
    () => many(3, () => pick(WORDS).repeat(1 + Math.floor(random() * 8)), pick(['', ' ', '-'])),
  ];
  const strings = new Set<string>();
  for (let i = 0; strings.size < count; i++) {
    const make = kinds[i % kinds.length];
    const text = make?.();
    if (text !== undefined && !known.has(text)) strings.add(text);
  }
  return [...strings];
}
