// The way of a file's bytes to the GPU: from the source into memory that the GPU copies from, several pieces at once.

import type { ByteSource } from '../source/source.js';

/** Bytes of a piece. */
const PIECE = 8 << 20;
/** Pieces that are on their way at the same time; with their size the most memory that uploading takes. */
const AT_ONCE = 6;

export class Uploader {
  private readonly free: GPUBuffer[] = [];
  private readonly waiting: ((staging: GPUBuffer) => void)[] = [];
  private made = 0;
  /** Nothing more is expected: staging memory goes as soon as the GPU has copied from it. */
  private released = false;

  constructor(private readonly device: GPUDevice) {}

  /**
   * Copies `size` bytes of `source` into `target`; done when every copy is submitted. The first piece that fails ends
   * the reads of the others, as `signal` does; its error is the upload's.
   */
  async upload(
    source: ByteSource,
    offset: number,
    size: number,
    target: GPUBuffer,
    targetOffset: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const failed = new AbortController();
    const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
    const failures: unknown[] = [];
    const pieces: Promise<void>[] = [];
    for (let done = 0; done < size; done += PIECE) {
      const length = Math.min(PIECE, size - done);
      const piece = this.piece(source, offset + done, length, target, targetOffset + done, stop);
      pieces.push(
        piece.catch((error: unknown) => {
          failures.push(error);
          failed.abort();
        }),
      );
    }
    // All are awaited, also after a failure: those still under way write into staging memory.
    await Promise.all(pieces);
    if (failures.length > 0) throw failures[0];
  }

  private async piece(
    source: ByteSource,
    offset: number,
    length: number,
    target: GPUBuffer,
    targetOffset: number,
    signal: AbortSignal,
  ): Promise<void> {
    const staging = await this.take();
    try {
      const bytes = new Uint8Array(staging.getMappedRange(0, PIECE));
      if (source.readInto) await source.readInto(offset, bytes.subarray(0, length), signal);
      else bytes.set(await source.read(offset, length, signal));
      // Copies move whole words: what lies in the last one after the bytes is zero.
      const words = (length + 3) & ~3;
      bytes.fill(0, length, words);
      staging.unmap();
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(staging, 0, target, targetOffset, words);
      this.device.queue.submit([encoder.finish()]);
    } catch (error) {
      staging.unmap();
      this.recycle(staging);
      throw error;
    }
    this.recycle(staging);
  }

  private take(): Promise<GPUBuffer> {
    this.released = false;
    const staging = this.free.pop();
    if (staging) return Promise.resolve(staging);
    if (this.made < AT_ONCE) {
      this.made++;
      const { MAP_WRITE, COPY_SRC } = GPUBufferUsage;
      const usage = MAP_WRITE | COPY_SRC;
      return Promise.resolve(
        this.device.createBuffer({ size: PIECE, usage, mappedAtCreation: true, label: 'upload' }),
      );
    }
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Maps a staging buffer again, which waits for the GPU's copy from it. */
  private recycle(staging: GPUBuffer): void {
    void staging.mapAsync(GPUMapMode.WRITE).then(
      () => {
        const next = this.waiting.shift();
        if (next) next(staging);
        else this.free.push(staging);
        if (this.released) this.release();
      },
      () => {
        // The device is lost or gone; whoever waits learns it from an unmapped buffer.
        this.waiting.shift()?.(staging);
      },
    );
  }

  /** Frees the staging memory, each buffer as soon as nobody uses it. */
  release(): void {
    this.released = true;
    for (const staging of this.free.splice(0)) {
      staging.destroy();
      this.made--;
    }
  }
}
