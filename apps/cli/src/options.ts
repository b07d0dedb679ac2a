// Options that several commands have, and what their values are made of.

import { InvalidArgumentError, Option } from 'commander';

export function number(low: number, high: number, whole = false) {
  return (text: string): number => {
    const value = Number(text);
    if (
      text.trim() === '' ||
      !(value >= low && value <= high) ||
      (whole && !Number.isInteger(value))
    ) {
      const range = high === Number.MAX_SAFE_INTEGER ? `from ${low}` : `from ${low} to ${high}`;
      throw new InvalidArgumentError(`It must be a ${whole ? 'whole ' : ''}number ${range}.`);
    }
    return value;
  };
}
export const wholeFrom = (low: number) => number(low, Number.MAX_SAFE_INTEGER, true);
/** "128,2048" */
export const wholes = (text: string): number[] => text.split(',').map(wholeFrom(1));
export const wholesFrom0 = (text: string): number[] => text.split(',').map(wholeFrom(0));
export const words = (text: string): string[] => text.split(',');
export const collect = (text: string, before: string[] | undefined) => [...(before ?? []), text];

/** "8GiB": bytes. Units of a letter alone are binary, as those of docker and rclone are. */
function size(text: string): number {
  const [, value, prefix = '', kind = ''] =
    /^(\d+(?:\.\d+)?) ?(?:([KMGT]?)(iB|B|))$/i.exec(text.trim()) ?? [];
  const base = prefix && kind.toLowerCase() === 'b' ? 1000 : 1024;
  const bytes = Math.floor(Number(value) * base ** ' KMGT'.indexOf(prefix.toUpperCase() || ' '));
  if (!Number.isSafeInteger(bytes) || bytes < 1)
    throw new InvalidArgumentError(
      'It must be a size: bytes, or a number with KiB, MiB, GiB, MB, GB.',
    );
  return bytes;
}

export const models = () =>
  new Option('--models <dir>', "a folder in Ollama's layout, searched first");
export const context = () =>
  new Option('--context <tokens>', 'room for prompt and answer together').argParser(wholeFrom(1));
export const kvType = () =>
  new Option(
    '--kv-type <type>',
    'how keys and values are kept (default f16; q8_0 takes half of its memory)',
  ).choices(['f16', 'f32', 'q8_0']);
export const perLayerEmbeddings = () =>
  new Option(
    '--per-layer-embeddings <place>',
    "the table of per-layer embeddings: in the GPU's memory, or read from the file by token (default auto: the GPU, " +
      'if it has room)',
  ).choices(['gpu', 'source', 'auto']);
export const gpuMemory = () =>
  new Option(
    '--gpu-memory <size>',
    'what the model may take of the memory of the GPU (8GiB, 6000MB, bytes): what does not fit is read from the file ' +
      'whenever it is needed',
  ).argParser(size);
export const encoders = () =>
  new Option(
    '--encoders <reference>',
    'whose encoders of pictures and sound to follow where they differ (default transformers; Ollama runs llama.cpp)',
  ).choices(['transformers', 'llama.cpp']);
export const projector = () =>
  new Option(
    '--projector <path>',
    "the file of the vision tower (llama.cpp's mmproj), where it is neither the model's own nor beside it in the store",
  );
export const drafter = () =>
  new Option(
    '--drafter <path>',
    "the file of a drafter, which guesses tokens (llama.cpp's mtp), where it is not beside the model in the store",
  );
export const noDrafter = () =>
  new Option('--no-drafter', 'without the drafter that is beside the model in the store');
