// A recording that is heard while it is made: soft tokens of what has come, and its samples.

import { LapidaryError } from '../errors.js';
import { throwIfAborted } from '../source/source.js';
import type { AudioPart, RawAudio, RecordingProgress, Recording } from '../types.js';
import { newHasher } from './digest.js';
import type { Host } from './media.js';
import { MAX_FILE_BYTES } from './pixels.js';
import { soundKey } from './sound.js';

const isLost = (error: unknown) => error instanceof LapidaryError && error.code === 'device_lost';

/** A recording in the engine, one call at a time. */
export class Listening {
  private constructor(
    private readonly host: Host,
    private readonly handle: number,
  ) {}

  static async open(
    host: Host,
    spec: { rate: number; channels: number },
    signal: AbortSignal,
  ): Promise<Listening> {
    const args = [host.handle, JSON.stringify(spec)];
    const { recording } = await host.engine.callJson<{ recording: number }>(
      'lap_recording_open',
      args,
      { signal },
    );
    return new Listening(host, recording);
  }

  write(samples: Float32Array, signal: AbortSignal): Promise<RecordingProgress> {
    const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
    return this.host.engine.callJson('lap_recording_write', [this.handle, bytes], { signal });
  }

  async end(key: string, signal: AbortSignal): Promise<void> {
    await this.host.engine.call('lap_recording_end', [this.handle, key], { signal }).done;
  }

  close(): void {
    try {
      this.host.engine.callVoid('lap_recording_close', this.handle);
    } catch {
      // An engine that has stopped holds nothing.
    }
  }
}

function join(pieces: Float32Array[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Keeps the samples, and has `listening` hear them, several writes together where it lags behind. */
export class LiveRecording implements Recording {
  private readonly pieces: Float32Array[] = [];
  private readonly hasher = newHasher();
  private readonly stopping = new AbortController();
  private readonly signal: AbortSignal;
  private length = 0;
  /** Pieces that the engine has been given. */
  private heard = 0;
  private progress: RecordingProgress = { tokens: 0, seconds: 0 };
  private work: Promise<unknown> = Promise.resolve();
  private failure: unknown;
  private ended: Promise<AudioPart & { audio: RawAudio }> | undefined;

  /** `signal`: the model's closing, or the caller's. */
  constructor(
    private listening: Listening | undefined,
    private readonly rate: number,
    private readonly channels: number,
    signal: AbortSignal,
    private readonly mostBytes = MAX_FILE_BYTES,
  ) {
    this.signal = AbortSignal.any([signal, this.stopping.signal]);
    this.signal.addEventListener('abort', () => this.close(), { once: true });
    if (this.signal.aborted) this.close();
  }

  write(samples: Float32Array): Promise<RecordingProgress> {
    return this.next(() => {
      if (this.ended) throw new LapidaryError('invalid_argument', 'this recording has ended');
      if (!(samples instanceof Float32Array)) {
        throw new LapidaryError('invalid_argument', 'samples are a Float32Array');
      }
      if ((this.length + samples.length) * samples.BYTES_PER_ELEMENT > this.mostBytes) {
        throw new LapidaryError(
          'invalid_argument',
          `a recording of more than ${this.mostBytes >> 20} MiB is longer than is read at once: end it`,
        );
      }
      if (samples.length % this.channels !== 0) {
        const text = `${samples.length} samples are not those of ${this.channels} channels`;
        throw new LapidaryError('invalid_argument', text);
      }
      // Of each write by itself: the engine hears several together.
      const bad = samples.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) {
        const text = `sample ${this.length + bad} of the audio is no finite number`;
        throw new LapidaryError('invalid_argument', text);
      }
      this.length += samples.length;
      this.pieces.push(samples.slice());
      return () => this.hear();
    });
  }

  end(): Promise<AudioPart & { audio: RawAudio }> {
    this.ended ??= this.next(() => () => this.finish());
    return this.ended;
  }

  cancel(): Promise<void> {
    this.stopping.abort(new LapidaryError('cancelled', 'the recording was cancelled'));
    return Promise.resolve();
  }

  /** Does what `begin` gives after all that was asked before. What fails is the end of the recording. */
  private next<T>(begin: () => () => Promise<T>): Promise<T> {
    const fail = (error: unknown) => {
      this.failure ??= error;
      this.close();
      throw error;
    };
    try {
      this.check();
      const step = begin();
      const done = this.work
        .then(() => {
          this.check();
          return step();
        })
        .catch(fail);
      this.work = done.catch(() => {});
      return done;
    } catch (error) {
      // What was wrongly asked changes nothing that was there.
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  private check(): void {
    if (this.failure) throw this.failure as Error;
    throwIfAborted(this.signal);
  }

  private async hear(): Promise<RecordingProgress> {
    const fresh = this.pieces.slice(this.heard);
    if (fresh.length === 0) return this.progress;
    this.heard = this.pieces.length;
    const samples = join(fresh);
    const seconds = this.progress.seconds + samples.length / this.channels / this.rate;
    (await this.hasher).update(new Uint8Array(samples.buffer));
    const tokens = await this.tell((listening) => listening.write(samples, this.signal));
    this.progress = { tokens: tokens?.tokens ?? this.progress.tokens, seconds };
    return this.progress;
  }

  private async finish(): Promise<AudioPart & { audio: RawAudio }> {
    await this.hear();
    const { rate: sampleRate, channels } = this;
    const key = soundKey((await this.hasher).digest(), sampleRate, channels);
    await this.tell((listening) => listening.end(key, this.signal));
    const samples = join(this.pieces);
    this.close();
    return { type: 'audio', audio: { samples, sampleRate, channels } };
  }

  /** Of an engine that has lost its GPU nothing is left; the samples are, and are heard when they are asked about. */
  private async tell<T>(what: (listening: Listening) => Promise<T>): Promise<T | undefined> {
    if (!this.listening) return undefined;
    try {
      return await what(this.listening);
    } catch (error) {
      this.check();
      if (!isLost(error)) throw error;
      this.listening.close();
      this.listening = undefined;
      return undefined;
    }
  }

  private close(): void {
    this.listening?.close();
    this.listening = undefined;
    this.pieces.length = 0;
    this.heard = 0;
  }
}
