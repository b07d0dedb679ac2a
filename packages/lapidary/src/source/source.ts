// Where a model's bytes come from.

/** Random access to the bytes of one file. Reads may run at the same time. */
export interface ByteSource {
  /** For messages: a path, a URL, a file name. */
  readonly name: string;
  /** Total size in bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`; rejects with `truncated` or `io_error` when they cannot be had. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
  close?(): Promise<void>;
}
