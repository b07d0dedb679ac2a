// The cache's folders: one for each file, named by its address and by the digest that it must have.

import { ENTRY, fileSize } from './entry.js';
import { isMissing } from './environment.js';
import { sha256OfText } from './sha256.js';

/** Hexadecimal digits of a hash that are enough to tell addresses apart. */
const DIGITS = 32;

/** What the names of all folders of an address begin with. */
export const keyOf = async (url: string) => (await sha256OfText(url)).slice(0, DIGITS);

export const folderName = (key: string, digest: string | undefined) =>
  digest === undefined ? key : `${key}-${digest.slice(0, DIGITS)}`;

/** The names of folders, those of one address or all. */
export async function folderNames(root: FileSystemDirectoryHandle, key = ''): Promise<string[]> {
  const names: string[] = [];
  for await (const [name, handle] of root.entries()) {
    if (handle.kind === 'directory' && name.startsWith(key)) names.push(name);
  }
  return names.sort();
}

async function fileNames(folder: FileSystemDirectoryHandle): Promise<string[]> {
  const names: string[] = [];
  for await (const name of folder.keys()) names.push(name);
  return names;
}

async function remove(folder: FileSystemDirectoryHandle, name: string): Promise<void> {
  try {
    await folder.removeEntry(name, { recursive: true });
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** Removes what is in a folder: the entry first, so that none tells of bytes that are gone. */
export async function emptyFolder(folder: FileSystemDirectoryHandle): Promise<void> {
  await remove(folder, ENTRY);
  for (const name of await fileNames(folder)) await remove(folder, name);
}

/** The same, and the folder itself. */
export async function removeFolder(root: FileSystemDirectoryHandle, name: string): Promise<void> {
  const folder = await openFolder(root, name);
  if (!folder) return;
  await emptyFolder(folder);
  await remove(root, name);
}

/** undefined where there is none. */
export async function openFolder(
  root: FileSystemDirectoryHandle,
  name: string,
): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    return await root.getDirectoryHandle(name);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Bytes of all files in a folder. */
export async function folderSize(folder: FileSystemDirectoryHandle): Promise<number> {
  let sum = 0;
  for (const name of await fileNames(folder)) sum += await fileSize(folder, name);
  return sum;
}
