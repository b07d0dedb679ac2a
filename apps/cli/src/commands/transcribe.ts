// `transcribe`: writes down what is said in a recording.

import { EXIT } from '../exit.js';
import { load, type LoadFlags } from '../loading.js';

export interface TranscribeFlags extends LoadFlags {
  prompt?: string;
  maxTokens?: number;
  json?: boolean;
}

/** "1:02:03" */
function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (value: number) => String(value).padStart(2, '0');
  return `${hours > 0 ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

export async function transcribe(
  name: string,
  file: string,
  flags: TranscribeFlags,
): Promise<number> {
  const model = await load(name, flags);
  const controller = new AbortController();
  const stop = () => controller.abort();
  process.once('SIGINT', stop);
  try {
    await model.transcribe(file, {
      signal: controller.signal,
      ...(flags.prompt !== undefined && { prompt: flags.prompt }),
      ...(flags.maxTokens !== undefined && { maxTokens: flags.maxTokens }),
      onSegment: (segment) => {
        const { start, end, text } = segment;
        process.stdout.write(
          flags.json
            ? `${JSON.stringify(segment)}\n`
            : `[${clock(start)} - ${clock(end)}] ${text}\n`,
        );
      },
    });
    return EXIT.ok;
  } finally {
    process.off('SIGINT', stop);
    await model.close();
  }
}
