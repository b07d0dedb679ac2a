// What the page and its worker say to each other.

import type {
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
  | { type: 'stop' };

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
  | { type: 'error'; during: 'load' | 'chat'; code: ErrorCode; message: string };
