// What the page and its worker say to each other.

import type {
  AudioPart,
  ChatOptions,
  ErrorCode,
  LoadProgress,
  Message,
  ModelInfo,
  ReplyEvent,
} from 'lapidary';

export type ToWorker =
  | { type: 'load'; from: string | File; keep: boolean; projector?: File }
  | { type: 'chat'; messages: Message[]; options: Omit<ChatOptions, 'signal'> }
  | { type: 'stop' }
  /** A recording at so many Hz begins; its samples; its end; or it is given up. */
  | { type: 'record'; rate: number }
  | { type: 'samples'; samples: Float32Array<ArrayBuffer> }
  | { type: 'recorded' }
  | { type: 'discard' };

export type FromWorker =
  | { type: 'progress'; progress: LoadProgress }
  | {
      type: 'loaded';
      title: string;
      device: string;
      software: boolean;
      contextLength: number;
      modalities: ModelInfo['modalities'];
    }
  | { type: 'event'; event: ReplyEvent }
  | { type: 'recorded'; part: AudioPart }
  | { type: 'error'; during: 'load' | 'chat' | 'record'; code: ErrorCode; message: string };
