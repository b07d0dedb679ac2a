// Pieces as a stream.

/** `pieces` as a stream, pulled one by one; cancelling it ends them, and then calls `cancelled`. */
export function streamOf<Piece>(
  pieces: AsyncIterable<Piece>,
  cancelled?: () => Promise<void>,
): ReadableStream<Piece> {
  let iterator: AsyncIterator<Piece> | undefined;
  const begin = () => (iterator ??= pieces[Symbol.asyncIterator]());
  return new ReadableStream<Piece>({
    async pull(controller) {
      const next = await begin().next();
      if (next.done) controller.close();
      else controller.enqueue(next.value);
    },
    cancel: async () => {
      await begin().return?.();
      await cancelled?.();
    },
  });
}
