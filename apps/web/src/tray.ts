// Pictures and sound that go with the next message: chosen, pasted, dropped, recorded or taken.

import { decodeAudio, type AudioPart, type ContentPart, type ModelInfo } from 'lapidary';
import { element } from './element.js';

const THUMBNAIL = 72; // pixels high

/** A small drawing of a picture, with its name for those who do not see it. */
async function thumbnail(file: File): Promise<HTMLElement> {
  const canvas = document.createElement('canvas');
  canvas.className = 'thumbnail';
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', file.name || 'a pasted picture');
  const bitmap = await createImageBitmap(file, { resizeHeight: THUMBNAIL });
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext('2d')?.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** A recording's name. */
function chip(name: string): HTMLElement {
  const made = document.createElement('span');
  made.className = 'sound';
  made.textContent = name;
  return made;
}

/** A picture or a sound that waits to be sent. */
export interface Item {
  part: ContentPart;
  /** What is seen of it; made anew for each place. */
  show(): Promise<HTMLElement>;
}

const isPicture = ({ type }: File) => type.startsWith('image/');
const isSound = ({ type }: File) => type.startsWith('audio/') || type === 'video/webm';
const isWav = ({ name, type }: File) =>
  /^audio\/(x-|vnd\.)?wave?$/.test(type) || /\.wav$/i.test(name);

/** A file as what a message holds; the worker, where the model is, has no decoders for sound. */
async function itemOf(file: File): Promise<Item> {
  if (!isSound(file)) {
    return { part: { type: 'image', image: file }, show: () => thumbnail(file) };
  }
  const audio = isWav(file) ? file : await decodeAudio(file);
  return soundItem({ type: 'audio', audio }, file.name);
}

export const soundItem = (part: AudioPart, name: string): Item => ({
  part,
  show: () => Promise.resolve(chip(name)),
});

/** What waits for the next message. `tell` hears of what is neither picture nor sound. */
export class Tray {
  private items: Item[] = [];
  private sees = false;
  private hears = false;
  private readonly box = element('media');
  private readonly list = element('media-list');
  private readonly label = element('media-label');
  private readonly input = element<HTMLInputElement>('media-file');

  constructor(private readonly tell: (text: string) => void) {
    this.input.addEventListener('change', () => {
      void this.addFiles([...(this.input.files ?? [])]);
      this.input.value = '';
    });
    document.addEventListener('paste', (event) => {
      const files = [...(event.clipboardData?.files ?? [])].filter(
        (file) => isPicture(file) || isSound(file),
      );
      if (files.length === 0 || this.closed) return;
      event.preventDefault();
      void this.addFiles(files);
    });
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      if (!this.closed) void this.addFiles([...(event.dataTransfer?.files ?? [])]);
    });
  }

  /** What the model takes beside text. */
  open(modalities: ModelInfo['modalities']): void {
    this.sees = modalities.includes('image');
    this.hears = modalities.includes('audio');
    this.box.hidden = this.closed;
    element('camera').hidden = !this.sees;
    element('record').hidden = !this.hears;
    const what = [this.sees && 'pictures', this.hears && 'sound'].filter(Boolean).join(' and ');
    this.label.textContent = `${what.charAt(0).toUpperCase()}${what.slice(1)}: choose them, paste them, or drop them here`;
    this.input.accept = [this.sees && 'image/*', this.hears && 'audio/*'].filter(Boolean).join();
    this.take();
  }

  private get closed(): boolean {
    return !this.sees && !this.hears;
  }
  get empty(): boolean {
    return this.items.length === 0;
  }

  async addFiles(files: File[]): Promise<void> {
    for (const file of files) {
      if (isSound(file) ? !this.hears : !this.sees) {
        this.tell(`This model takes no ${isSound(file) ? 'sound' : 'pictures'}.`);
        continue;
      }
      try {
        await this.add(await itemOf(file));
      } catch (error) {
        this.tell(
          isSound(file) && error instanceof Error
            ? error.message
            : `${file.name} is no picture that this browser knows.`,
        );
      }
    }
  }

  async add(item: Item): Promise<void> {
    const row = document.createElement('li');
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = 'Remove';
    row.append(await item.show(), remove);
    remove.addEventListener('click', () => {
      this.items = this.items.filter((each) => each !== item);
      row.remove();
    });
    this.list.append(row);
    this.items.push(item);
  }

  /** What there is; it is the caller's from now on. */
  take(): Item[] {
    const { items } = this;
    this.items = [];
    this.list.replaceChildren();
    return items;
  }
}
