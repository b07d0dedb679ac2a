// A vocabulary that is nobody's: Gemma 4's special tokens at their ids, bytes, printable characters, and made-up words of
// two letters, three, four, each merged from the one a letter shorter.

export interface Vocabulary {
  tokens: string[];
  /** As GGUF numbers them: 1 a word, 3 control, 4 user-defined, 5 unused, 6 a byte. */
  types: number[];
  merges: string[];
}

const CONTROL: Record<number, string> = {
  0: '<pad>',
  1: '<eos>',
  2: '<bos>',
  3: '<unk>',
  4: '<mask>',
  46: '<|tool>',
  47: '<tool|>',
  48: '<|tool_call>',
  49: '<tool_call|>',
  50: '<|tool_response>',
  51: '<tool_response|>',
  98: '<|think|>',
  100: '<|channel>',
  101: '<channel|>',
  105: '<|turn>',
  106: '<turn|>',
  255_999: '<|image>',
  256_000: '<|audio>',
  258_880: '<|image|>',
  258_881: '<|audio|>',
  258_882: '<image|>',
  258_883: '<audio|>',
  258_884: '<|video|>',
};
const USER_DEFINED: Record<number, string> = { 52: '<|"|>' };
const NEWLINES = 107;
const BYTES = 238;
const WORDS = 494;
const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const SPACE = '▁';

/** Words from the shortest on, each with the merge that makes it, if one does. */
function* words(): Generator<{ text: string; merge?: string }> {
  yield { text: SPACE };
  for (let code = 33; code < 127; code++) yield { text: String.fromCharCode(code) };
  let shorter = [SPACE, ...LETTERS];
  for (;;) {
    const longer: string[] = [];
    for (const start of shorter) {
      for (const letter of LETTERS) {
        longer.push(start + letter);
        yield { text: start + letter, merge: `${start} ${letter}` };
      }
    }
    shorter = longer;
  }
}

export function vocabulary(size: number): Vocabulary {
  const tokens: string[] = [];
  const types: number[] = [];
  const merges: string[] = [];
  const word = words();
  for (let id = 0; id < size; id++) {
    const special = CONTROL[id] ?? USER_DEFINED[id];
    if (special !== undefined) {
      tokens.push(special);
      types.push(CONTROL[id] !== undefined ? 3 : 4);
    } else if (id === NEWLINES) {
      tokens.push('\n');
      types.push(1);
    } else if (id >= BYTES && id < BYTES + 256) {
      const byte = (id - BYTES).toString(16).toUpperCase().padStart(2, '0');
      tokens.push(`<0x${byte}>`);
      types.push(6);
    } else if (id < WORDS) {
      tokens.push(`<unused${id}>`);
      types.push(5);
    } else {
      const next = word.next().value as { text: string; merge?: string };
      tokens.push(next.text);
      types.push(1);
      if (next.merge !== undefined) merges.push(next.merge);
    }
  }
  return { tokens, types, merges };
}
