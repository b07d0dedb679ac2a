// The models that earlier visits have downloaded: what there is, to load or to delete.

import { LapidaryError, openCache, type CachedModel, type ModelCache } from 'lapidary';
import { element } from './element.js';

const section = element('library');
const rows = element('models');

/** undefined where the browser keeps nothing: the page works without. */
export async function openLibrary(): Promise<ModelCache | undefined> {
  try {
    return await openCache();
  } catch (error) {
    if (error instanceof LapidaryError && error.code === 'unsupported') return undefined;
    throw error;
  }
}

const megabytes = (bytes: number) =>
  `${(bytes / 1e6).toLocaleString('en', { maximumFractionDigits: 1 })} MB`;

function sizeOf({ complete, downloaded, size }: CachedModel): string {
  if (complete) return megabytes(downloaded);
  return `${megabytes(downloaded)} of ${size === undefined ? 'an unknown size' : megabytes(size)}`;
}

function button(
  text: string,
  { name, url }: CachedModel,
  onClick: (url: string) => void,
): HTMLButtonElement {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.setAttribute('aria-label', `${text} ${name}`);
  made.addEventListener('click', () => onClick(url));
  return made;
}

function row(model: CachedModel, actions: LibraryActions): HTMLElement {
  const item = document.createElement('li');
  const title = document.createElement('span');
  title.textContent = `${model.name}, ${sizeOf(model)}`;
  title.title = model.url;
  item.append(
    title,
    button(model.complete ? 'Load' : 'Continue', model, actions.load),
    button('Delete', model, actions.remove),
  );
  return item;
}

export interface LibraryActions {
  load: (url: string) => void;
  remove: (url: string) => void;
}

/** Shows what the cache has now. */
export async function showLibrary(cache: ModelCache, actions: LibraryActions): Promise<void> {
  const models = await cache.list();
  rows.replaceChildren(...models.map((model) => row(model, actions)));
  section.hidden = models.length === 0;
}
