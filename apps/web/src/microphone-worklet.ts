// Runs on the browser's audio thread: gathers the microphone's samples into pieces for the page.

/** Of this scope, what TypeScript's library does not know. */
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, made: new () => AudioWorkletProcessor): void;

/** Samples of a piece: at 48 kHz some 43 ms. */
const PIECE = 2048;

class Gather extends AudioWorkletProcessor {
  private piece = new Float32Array(PIECE);
  private filled = 0;
  private ended = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.ended = true;
      this.send();
      this.port.postMessage(null);
    };
  }

  private send(): void {
    const piece = this.filled === PIECE ? this.piece : this.piece.slice(0, this.filled);
    if (this.filled > 0) this.port.postMessage(piece, [piece.buffer]);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
  }

  process([channels = []]: Float32Array[][]): boolean {
    const length = this.ended ? 0 : (channels[0]?.length ?? 0);
    for (let i = 0; i < length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i]!;
      this.piece[this.filled++] = sum / channels.length;
      if (this.filled === PIECE) this.send();
    }
    return !this.ended;
  }
}
registerProcessor('gather', Gather);
