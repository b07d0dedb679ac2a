// Token ids of a fake model: a word with the space before it is a token, numbered as it is first met.

/** `<bos>`; the first ids are control tokens, as in a real vocabulary. */
const BOS = 2;
const FIRST = 4;

/** A text's tokens; together they are the text. */
export const piecesOf = (text: string): string[] => text.match(/\s*\S+|\s+$/g) ?? [];

export class Vocabulary {
  static readonly size = 65_536;
  private readonly ids = new Map<string, number>();
  private readonly pieces: string[] = [];

  idOf(piece: string): number {
    let id = this.ids.get(piece);
    if (id === undefined) {
      if (FIRST + this.pieces.length >= Vocabulary.size) {
        throw new RangeError('a fake model knows no more words');
      }
      id = FIRST + this.pieces.push(piece) - 1;
      this.ids.set(piece, id);
    }
    return id;
  }

  tokenize(text: string, addBos: boolean): number[] {
    return [...(addBos ? [BOS] : []), ...piecesOf(text).map((piece) => this.idOf(piece))];
  }

  detokenize(ids: ArrayLike<number>, showControl: boolean): string {
    const control = (id: number) => (showControl ? (id === BOS ? '<bos>' : `<control${id}>`) : '');
    return Array.from(ids, (id) => this.pieces[id - FIRST] ?? control(id)).join('');
  }
}
