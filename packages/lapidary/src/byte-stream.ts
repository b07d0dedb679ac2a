// Pieces of a file as a stream.

/** `pieces` as a stream, pulled one by one; cancelling it ends them, and then calls `cancelled`. */
export function streamOf<Piece>(
  pieces: AsyncGenerator<Piece, void, void>,
  cancelled: () => Promise<void>,
): ReadableStream<Piece> {
  return new ReadableStream<Piece>({
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: async () => {
      await pieces.return();
      await cancelled();
    },
  });
}
