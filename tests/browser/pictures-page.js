// Decodes pictures and sound as the library does it in a page.
/* global AbortSignal, AudioContext, Blob, File, GainNode, MediaRecorder, OscillatorNode, createImageBitmap,
   window */

import { decodeAudio } from '/lapidary/media/decode.js';
import { decodeInPage, pixelsOfBitmap } from '/lapidary/media/page.js';

const bytesOf = async (pixels) => {
  const { width, height, channels, size } = pixels;
  // In two pieces, of which the second begins within a row.
  const cut = 4 * Math.floor(size / 11);
  const [head, tail] = [await pixels.read(0, cut), await pixels.read(cut, size - cut)];
  await pixels.close?.();
  return { width, height, channels, bytes: [...head, ...tail] };
};

/** A file's pixels. */
window.decode = async (file) => bytesOf(await decodeInPage(Uint8Array.from(file), 'it'));

/** Those of a bitmap that is made of it. */
window.bitmap = async (file) =>
  bytesOf(pixelsOfBitmap('it', await createImageBitmap(new Blob([Uint8Array.from(file)]))));

/** The code of the error that a file ends in. */
window.refusal = async (file) => {
  try {
    await decodeInPage(Uint8Array.from(file), 'it');
    return 'none';
  } catch (error) {
    return error.code;
  }
};

const codeOf = (work) =>
  work.then(
    () => 'none',
    (error) => error.code,
  );

/** A WAV file of 8 bits, silent, of so many seconds. */
const silence = (seconds, rate) => {
  const size = seconds * rate;
  const bytes = new Uint8Array(44 + size).fill(128);
  const view = new DataView(bytes.buffer);
  const text = (at, word) => bytes.set(new TextEncoder().encode(word), at);
  text(0, 'RIFF');
  view.setUint32(4, bytes.length - 8, true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate, true);
  view.setUint16(32, 1, true);
  view.setUint16(34, 8, true);
  text(36, 'data');
  view.setUint32(40, size, true);
  return new File([bytes], 'silence.wav');
};

/** A second of a tone, as the browser's own encoder writes it: WebM, which does not say how long it is. */
const toneFile = async () => {
  const context = new AudioContext();
  const tone = new OscillatorNode(context, { frequency: 440 });
  const quiet = new GainNode(context, { gain: 0.5 });
  const end = context.createMediaStreamDestination();
  tone.connect(quiet).connect(end);
  const recorder = new MediaRecorder(end.stream, { audioBitsPerSecond: 128_000 });
  const pieces = [];
  recorder.ondataavailable = ({ data }) => pieces.push(data);
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  tone.start();
  recorder.start();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  recorder.stop();
  await stopped;
  await context.close();
  return new File(pieces, 'tone.webm', { type: pieces[0].type });
};

/** What becomes of files of sound. */
window.sounds = async () => {
  const tone = await decodeAudio(await toneFile());
  const middle = tone.samples.subarray(4000, 12_000);
  let crossings = 0;
  let sum = 0;
  for (let i = 1; i < middle.length; i++) {
    if (middle[i - 1] < 0 && middle[i] >= 0) crossings++;
    sum += middle[i] ** 2;
  }
  const short = await decodeAudio(silence(2, 8000));
  return {
    seconds: tone.samples.length / tone.sampleRate,
    rate: tone.sampleRate,
    hertz: (crossings * 16_000) / middle.length,
    loudness: Math.sqrt(sum / middle.length),
    short: short.samples.length,
    long: await codeOf(decodeAudio(silence(5500, 4000))),
    text: await codeOf(decodeAudio(new File(['no sound at all'], 'it.mp3'))),
    empty: await codeOf(decodeAudio(new File([], 'it.mp3'))),
    aborted: await codeOf(decodeAudio(silence(1, 8000), { signal: AbortSignal.abort() })),
  };
};
