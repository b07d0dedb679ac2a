// Pictures that go with the next message: chosen, pasted or dropped.

import { element } from './element.js';

const THUMBNAIL = 72; // pixels high

/** A small drawing of a picture, with its name for those who do not see it. */
export async function thumbnail(file: File): Promise<HTMLElement> {
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

const isPicture = ({ type }: File) => type.startsWith('image/');

/** The pictures that wait for the next message. `tell` hears of what is no picture. */
export class Tray {
  private files: File[] = [];
  private readonly box = element('pictures');
  private readonly list = element('picture-list');
  private readonly input = element<HTMLInputElement>('picture');

  constructor(private readonly tell: (text: string) => void) {
    this.input.addEventListener('change', () => {
      void this.add([...(this.input.files ?? [])]);
      this.input.value = '';
    });
    document.addEventListener('paste', (event) => {
      const files = [...(event.clipboardData?.files ?? [])].filter(isPicture);
      if (files.length === 0 || this.closed) return;
      event.preventDefault();
      void this.add(files);
    });
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      if (!this.closed) void this.add([...(event.dataTransfer?.files ?? [])]);
    });
  }

  /** Whether the model takes pictures. */
  open(sees: boolean): void {
    this.box.hidden = !sees;
    this.take();
  }

  private get closed(): boolean {
    return this.box.hidden !== false;
  }

  private async add(files: File[]): Promise<void> {
    for (const file of files) {
      try {
        const item = document.createElement('li');
        const remove = document.createElement('button');
        remove.type = 'button';
        remove.textContent = 'Remove';
        item.append(await thumbnail(file), remove);
        remove.addEventListener('click', () => {
          this.files = this.files.filter((each) => each !== file);
          item.remove();
        });
        this.list.append(item);
        this.files.push(file);
      } catch {
        this.tell(`${file.name} is no picture that this browser knows.`);
      }
    }
  }

  /** The pictures, which are the caller's from now on. */
  take(): File[] {
    const { files } = this;
    this.files = [];
    this.list.replaceChildren();
    return files;
  }
}
