// The benchmark's own thread, as a chat's engine has one.

import { bench, type Subject } from '@lapidary/bench';
import { BlobSource, HttpRangeSource, LapidaryError } from 'lapidary';
import type { BenchRequest, FromBenchWorker } from './bench-protocol.js';

const say = (message: FromBenchWorker) => postMessage(message);

const subject = (where: string | File): Subject =>
  typeof where === 'string'
    ? { name: where, open: () => HttpRangeSource.open(where) }
    : { name: where.name, open: () => Promise.resolve(new BlobSource(where)) };

addEventListener('message', ({ data }: MessageEvent<BenchRequest>) => {
  bench(subject(data.model), subject(data.nano), {
    ...data.options,
    onProgress: (text) => say({ type: 'progress', text }),
  }).then(
    (report) => say({ type: 'done', report }),
    (error: unknown) => {
      const { code, message } =
        error instanceof LapidaryError ? error : new LapidaryError('internal_error', String(error));
      say({ type: 'error', error: { code, message } });
    },
  );
});
