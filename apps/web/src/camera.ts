// The camera: a preview to take pictures from. Loaded when it is first used.

import { closeDevice, openDevice } from './devices.js';

/** Of a picture taken; cameras have more than models look at. */
const QUALITY = 0.92;

function button(text: string): HTMLButtonElement {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  return made;
}

/** What the preview shows now, as a JPEG file. */
async function picture(video: HTMLVideoElement): Promise<File> {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d')?.drawImage(video, 0, 0);
  const blob = await new Promise<Blob | null>((resolve) =>
    canvas.toBlob(resolve, 'image/jpeg', QUALITY),
  );
  if (!blob) throw new Error('The camera shows nothing yet.');
  const at = new Date().toTimeString().slice(0, 8);
  return new File([blob], `camera, ${at}`, { type: 'image/jpeg' });
}

/** Shows what the camera sees until the visitor closes it; `take` is given each picture. Errors have readable messages. */
export async function showCamera(
  take: (picture: File) => void,
  tell: (text: string) => void,
): Promise<void> {
  let stream = await openDevice('camera', { facingMode: { ideal: 'environment' } });
  const dialog = document.createElement('dialog');
  dialog.className = 'camera';
  dialog.setAttribute('aria-label', 'Camera');
  const video = document.createElement('video');
  video.muted = video.playsInline = true;
  video.setAttribute('aria-label', 'What the camera sees');
  const shoot = button('Take the picture');
  shoot.disabled = true;
  const close = button('Close');
  const choice = document.createElement('select');
  choice.setAttribute('aria-label', 'Which camera');
  choice.hidden = true;
  dialog.append(video, choice, shoot, close);
  document.body.append(dialog);

  let closed = false;
  const ended = new Promise<void>((resolve) =>
    dialog.addEventListener('close', () => {
      closed = true;
      resolve();
    }),
  );
  const fail = (error: unknown) => {
    dialog.close();
    tell(error instanceof Error ? error.message : String(error));
  };
  const play = async () => {
    video.srcObject = stream;
    for (const track of stream.getTracks()) {
      track.addEventListener('ended', () => fail(new Error('The camera has gone away.')));
    }
    await video.play();
    shoot.disabled = false;
  };
  /** Another one takes the first one's place: of some phones only one is open at a time. */
  const turn = async () => {
    shoot.disabled = choice.disabled = true;
    closeDevice(stream);
    const other = await openDevice('camera', { deviceId: { exact: choice.value } });
    // Closed while it opened.
    if (closed) closeDevice(other);
    else {
      stream = other;
      choice.disabled = false;
      await play();
    }
  };
  choice.addEventListener('change', () => void turn().catch(fail));
  close.addEventListener('click', () => dialog.close());
  shoot.addEventListener('click', () => {
    picture(video).then((file) => {
      take(file);
      dialog.close();
    }, fail);
  });
  try {
    dialog.showModal();
    await play();
    shoot.focus();
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter(({ kind }) => kind === 'videoinput');
    const current = stream.getVideoTracks()[0]?.getSettings().deviceId;
    choice.replaceChildren(
      ...cameras.map(({ deviceId, label }, i) => {
        const chosen = deviceId === current;
        return new Option(label || `Camera ${i + 1}`, deviceId, chosen, chosen);
      }),
    );
    choice.hidden = cameras.length < 2;
    await ended;
  } catch (error) {
    // Closed before the first frame came.
    if (!closed) throw error;
  } finally {
    closeDevice(stream);
    video.srcObject = null;
    dialog.remove();
  }
}
