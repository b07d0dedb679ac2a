// What the download cache needs of a browser, in memory: a file system with a quota, locks, and a crash.

import type { CacheEnvironment } from '../../packages/lapidary/src/cache/environment.ts';

/** Nothing of a browser's storage answers at once. */
const later = () => Promise.resolve();
const failure = (name: string) => new DOMException(name, name);

class Content {
  bytes = new Uint8Array(0);
  /** Of the bytes, those that a crash leaves. */
  safe = 0;
  held = false;
}

type Node = Content | Map<string, Node>;

export interface FakeBrowserOptions {
  /** Whether files have synchronous handles, as in a worker. */
  sync?: boolean;
  quota?: number;
}

/** One browser profile; each `tab()` of it shares files and locks. */
export class FakeBrowser {
  readonly files = new Map<string, Node>();
  quota: number;
  /** What the browser says is free, where that differs from the truth. */
  promised: number | undefined;
  /** Reads of file contents that fail. */
  unreadable = false;
  private generation = 0;
  private readonly locks = new Map<string, { held: Lock[]; waiting: Waiting[] }>();

  constructor(readonly options: FakeBrowserOptions = {}) {
    this.quota = options.quota ?? Infinity;
  }

  tab(base?: string): CacheEnvironment {
    return {
      root: this.directory('', this.files, this.alive()),
      locks: { request: this.request.bind(this) },
      storage: {
        estimate: () =>
          Promise.resolve({
            usage: this.usage(),
            quota: this.promised ?? Math.min(this.quota, 1e15),
          }),
        persisted: () => Promise.resolve(false),
      },
      openChannel: () => new BroadcastChannel('fake-browser'),
      base,
    };
  }

  /** The browser dies: what was not flushed is lost, and what its pages still do fails. */
  crash(): void {
    this.generation++;
    const visit = (node: Node) => {
      if (node instanceof Map) return [...node.values()].forEach(visit);
      node.bytes = node.bytes.slice(0, node.safe);
      node.held = false;
    };
    visit(this.files);
    this.locks.clear();
  }

  /** All files by their paths. */
  all(): Map<string, Content> {
    const found = new Map<string, Content>();
    const visit = (path: string, node: Node) => {
      if (node instanceof Content) found.set(path, node);
      else for (const [name, child] of node) visit(`${path}/${name}`, child);
    };
    visit('', this.files);
    return found;
  }

  usage(): number {
    let sum = 0;
    for (const { bytes } of this.all().values()) sum += bytes.length;
    return sum;
  }

  /** What throws once the browser that it was made in has died. */
  private alive(): () => void {
    const { generation } = this;
    return () => {
      if (generation !== this.generation) throw failure('InvalidStateError');
    };
  }

  private grow(more: number): void {
    if (more > 0 && this.usage() + more > this.quota) throw failure('QuotaExceededError');
  }

  private directory(
    name: string,
    children: Map<string, Node>,
    alive: () => void,
  ): FileSystemDirectoryHandle {
    const handle = {
      kind: 'directory',
      name,
      getDirectoryHandle: async (child: string, { create = false } = {}) => {
        await later();
        alive();
        if (create && !children.has(child)) children.set(child, new Map());
        const found = children.get(child);
        if (!(found instanceof Map)) throw failure('NotFoundError');
        return this.directory(child, found, alive);
      },
      getFileHandle: async (child: string, { create = false } = {}) => {
        await later();
        alive();
        if (create && !children.has(child)) children.set(child, new Content());
        const found = children.get(child);
        if (!(found instanceof Content)) throw failure('NotFoundError');
        return this.file(child, found, alive);
      },
      removeEntry: async (child: string) => {
        await later();
        alive();
        if (!children.delete(child)) throw failure('NotFoundError');
      },
      async *entries() {
        await later();
        alive();
        for (const [child, node] of children) {
          yield [child, { kind: node instanceof Map ? 'directory' : 'file', name: child }] as const;
        }
      },
      async *keys() {
        await later();
        alive();
        yield* [...children.keys()];
      },
    };
    return handle as unknown as FileSystemDirectoryHandle;
  }

  private file(name: string, content: Content, alive: () => void): FileSystemFileHandle {
    const getFile = async () => {
      await later();
      alive();
      const file = new File([content.bytes], name);
      const slice = file.slice.bind(file);
      file.slice = (...range) => {
        if (this.unreadable) throw failure('NotReadableError');
        return slice(...range);
      };
      return file;
    };
    const handle = {
      ...{ kind: 'file', name, getFile },
      createWritable: (options?: { keepExistingData?: boolean }) =>
        this.writable(content, alive, options),
      ...(this.options.sync && { createSyncAccessHandle: () => this.syncHandle(content, alive) }),
    };
    return handle as unknown as FileSystemFileHandle;
  }

  private async writable(content: Content, alive: () => void, { keepExistingData = false } = {}) {
    await later();
    alive();
    let bytes = keepExistingData ? content.bytes.slice() : new Uint8Array(0);
    let broken = false;
    const write = async (what: string | { position: number; data: Uint8Array }) => {
      await later();
      alive();
      if (broken) throw new TypeError('the stream is in an erroneous state');
      const data = typeof what === 'string' ? new TextEncoder().encode(what) : what.data.slice();
      const position = typeof what === 'string' ? 0 : what.position;
      const fresh = new Uint8Array(Math.max(bytes.length, position + data.length));
      try {
        this.grow(fresh.length - content.bytes.length);
      } catch (error) {
        broken = true;
        throw error;
      }
      fresh.set(bytes);
      fresh.set(data, position);
      bytes = fresh;
    };
    return {
      write,
      truncate: async (size: number) => {
        await later();
        bytes = bytes.slice(0, size);
      },
      close: async () => {
        await later();
        alive();
        if (broken) throw new TypeError('the stream is in an erroneous state');
        this.grow(bytes.length - content.bytes.length);
        content.bytes = bytes;
        content.safe = bytes.length;
      },
      abort: () => Promise.resolve(),
    };
  }

  private async syncHandle(content: Content, alive: () => void) {
    await later();
    alive();
    if (content.held) throw failure('NoModificationAllowedError');
    content.held = true;
    return {
      getSize: () => content.bytes.length,
      truncate: (size: number) => {
        content.bytes = content.bytes.slice(0, size);
        content.safe = Math.min(content.safe, size);
      },
      write: (data: Uint8Array, { at }: { at: number }) => {
        alive();
        // As much as there is room for, as some browsers do it, to the last byte; none at all is a failure.
        const room = this.quota - this.usage() + content.bytes.length - at;
        const part = data.subarray(0, Math.max(0, Math.min(room, data.length)));
        if (part.length === 0) throw failure('QuotaExceededError');
        const fresh = new Uint8Array(Math.max(content.bytes.length, at + part.length));
        fresh.set(content.bytes);
        fresh.set(part, at);
        content.bytes = fresh;
        return part.length;
      },
      flush: () => {
        alive();
        content.safe = content.bytes.length;
      },
      close: () => {
        alive();
        content.held = false;
      },
    };
  }

  private async request(name: string, options: LockOptions | Grant, callback?: Grant) {
    const grant = (callback ?? options) as Grant;
    const { mode = 'exclusive', ifAvailable, signal } = callback ? (options as LockOptions) : {};
    const lock: Lock = { name, mode };
    const state = this.locks.get(name) ?? { held: [], waiting: [] };
    this.locks.set(name, state);
    const fits = () =>
      state.held.length === 0 ||
      (mode === 'shared' && state.held.every((h) => h.mode === 'shared'));
    await later();
    if (!fits() || state.waiting.length > 0) {
      if (ifAvailable) return grant(null);
      await new Promise<void>((resolve, reject) => {
        const waiting = { fits, resolve };
        state.waiting.push(waiting);
        signal?.addEventListener('abort', () => {
          state.waiting.splice(state.waiting.indexOf(waiting), 1);
          reject(failure('AbortError'));
        });
      });
    }
    state.held.push(lock);
    try {
      return await grant(lock);
    } finally {
      state.held.splice(state.held.indexOf(lock), 1);
      while (state.waiting[0]?.fits()) {
        state.waiting.shift()?.resolve();
        await later();
      }
    }
  }
}

type Grant = (lock: Lock | null) => unknown;
interface Waiting {
  fits(): boolean;
  resolve(): void;
}
