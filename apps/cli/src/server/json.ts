// JSON that anybody may have written, looked over before it is parsed: a few megabytes of brackets, or of members, keep
// the parser busy for seconds, and everybody else waiting.

/** What requests are allowed to need; each part of one has closer limits of its own. */
const MAX_DEPTH = 128;
const MAX_MEMBERS = 200_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;

/** What is too much in these bytes; undefined where nothing is. Whether they are JSON is the parser's to say. */
export function excessOf(json: Uint8Array): string | undefined {
  let depth = 0;
  let members = 0;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i]!;
    if (byte === QUOTE) {
      // To the end of the text, past what is escaped.
      while (++i < json.length && json[i] !== QUOTE) if (json[i] === BACKSLASH) i++;
    } else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > MAX_DEPTH) return `objects and lists are more than ${MAX_DEPTH} deep`;
    } else if (byte === 0x5d || byte === 0x7d) depth--;
    else if (byte === COLON && ++members > MAX_MEMBERS) return `more than ${MAX_MEMBERS} members`;
  }
  return undefined;
}
