// The visitor's camera and microphone, and in words why there is none.

export type Device = 'camera' | 'microphone';

/** Why a device did not open, by the name of what `getUserMedia` threw. */
function reason(device: Device, name: string): string {
  switch (name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return `This page may not use the ${device}: allow it in the browser’s settings of this page, then try again.`;
    case 'NotFoundError':
    case 'OverconstrainedError':
      return `There is no ${device} here.`;
    case 'NotReadableError':
    case 'AbortError':
      return `The ${device} does not start: another program may be using it.`;
    default:
      return `The ${device} does not start (${name}).`;
  }
}

/** A stream of the device. What it throws is an Error whose message the visitor can read. */
export async function openDevice(
  device: Device,
  wanted: MediaTrackConstraints,
): Promise<MediaStream> {
  // Absent outside of secure contexts, whatever its type says.
  const devices = navigator.mediaDevices as MediaDevices | undefined;
  if (!devices?.getUserMedia) {
    throw new Error(
      isSecureContext
        ? `This browser gives pages no ${device}.`
        : `The ${device} is there only over https or on localhost: open this page so.`,
    );
  }
  try {
    return await devices.getUserMedia(device === 'camera' ? { video: wanted } : { audio: wanted });
  } catch (cause) {
    const { name } = cause as { name?: unknown };
    throw new Error(reason(device, typeof name === 'string' ? name : String(cause)), { cause });
  }
}

/** Lets the device go: its light goes out. */
export function closeDevice(stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
}
