// The microphone as samples, piece by piece. Loaded when it is first used.

import { closeDevice, openDevice } from './devices.js';
import worklet from './microphone-worklet.ts?worker&url';

export interface Microphone {
  /** Hz. */
  rate: number;
  /** Lets the device go, after the last samples have been told. */
  close(): Promise<void>;
}

/** Milliseconds that the audio thread has for its last samples. */
const PATIENCE = 1000;

/**
 * Opens the microphone: `hear` is given mono samples, `lost` is called when the device goes away. What it throws is an
 * Error whose message the visitor can read.
 */
export async function openMicrophone(
  hear: (samples: Float32Array<ArrayBuffer>) => void,
  lost: () => void,
): Promise<Microphone> {
  const stream = await openDevice('microphone', { channelCount: 1 });
  let context: AudioContext | undefined;
  try {
    context = new AudioContext();
    await context.audioWorklet.addModule(worklet);
    const gather = new AudioWorkletNode(context, 'gather', { numberOfOutputs: 0 });
    const ended = new Promise<void>((resolve) => {
      gather.port.onmessage = ({ data }: MessageEvent<Float32Array<ArrayBuffer> | null>) => {
        if (data) hear(data);
        else resolve();
      };
    });
    context.createMediaStreamSource(stream).connect(gather);
    await context.resume();
    for (const track of stream.getTracks()) track.addEventListener('ended', lost);
    const { sampleRate: rate } = context;
    const opened = context;
    return {
      rate,
      async close() {
        closeDevice(stream);
        gather.port.postMessage('end');
        await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
        await opened.close();
      },
    };
  } catch (error) {
    closeDevice(stream);
    await context?.close();
    throw error;
  }
}
