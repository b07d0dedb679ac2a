// What comparisons of logits need.

export function row(logits: Float32Array, vocab: number, position: number): Float32Array {
  return logits.subarray(position * vocab, (position + 1) * vocab);
}

/** NaN where either holds one: no tolerance lets that pass. */
export function maxAbsDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers against ${b.length}`);
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] ?? NaN) - (b[i] ?? NaN));
    if (!(difference <= most)) most = difference;
  }
  return most;
}

export function maxAbs(values: ArrayLike<number>): number {
  return maxAbsDifference(values, new Float32Array(values.length));
}

export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    if ((values[i] ?? -Infinity) > (values[best] ?? -Infinity)) best = i;
  }
  return best;
}

/** Writes what was reached, beside what is asked for. */
export function report(what: string, reached: number, limit: number): void {
  console.log(`${what}: ${reached.toExponential(2)} (limit ${limit})`);
}
