// GPU time by kernel, from timestamp queries: each dispatch runs in a pass of its own.

/** GPU time of all dispatches of one kernel. */
export interface KernelTime {
  kernel: string;
  dispatches: number;
  milliseconds: number;
}

/** Timed passes of one submission at most; those after them are not timed. */
const PASSES = 2048;

export class Profiler {
  private readonly queries: GPUQuerySet;
  private readonly times = new Map<string, KernelTime>();
  private readonly pending: Promise<void>[] = [];
  private labels: string[] = [];

  constructor(private readonly device: GPUDevice) {
    this.queries = device.createQuerySet({ type: 'timestamp', count: 2 * PASSES });
  }

  /** A pass for one dispatch of the kernel called `label`. */
  beginPass(encoder: GPUCommandEncoder, label: string): GPUComputePassEncoder {
    if (this.labels.length === PASSES) return encoder.beginComputePass();
    const first = 2 * this.labels.length;
    this.labels.push(label);
    return encoder.beginComputePass({
      timestampWrites: {
        querySet: this.queries,
        beginningOfPassWriteIndex: first,
        endOfPassWriteIndex: first + 1,
      },
    });
  }

  /** To be called before a submission's commands are finished. */
  endSubmission(encoder: GPUCommandEncoder): void {
    const labels = this.labels;
    this.labels = [];
    if (labels.length === 0) return;
    const size = 16 * labels.length;
    const { QUERY_RESOLVE, COPY_SRC, MAP_READ, COPY_DST } = GPUBufferUsage;
    const resolved = this.device.createBuffer({ size, usage: QUERY_RESOLVE | COPY_SRC });
    const staging = this.device.createBuffer({ size, usage: MAP_READ | COPY_DST });
    encoder.resolveQuerySet(this.queries, 0, 2 * labels.length, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
    // Mapped after the submission, which follows at once.
    this.pending.push(
      Promise.resolve()
        .then(() => staging.mapAsync(GPUMapMode.READ))
        .then(() => this.add(labels, new BigUint64Array(staging.getMappedRange())))
        .finally(() => {
          resolved.destroy();
          staging.destroy();
        }),
    );
  }

  /** All that was measured, the most expensive first. */
  async finish(): Promise<KernelTime[]> {
    await Promise.all(this.pending);
    this.queries.destroy();
    return [...this.times.values()].sort((a, b) => b.milliseconds - a.milliseconds);
  }

  private add(labels: string[], stamps: BigUint64Array): void {
    for (const [i, kernel] of labels.entries()) {
      const nanoseconds = (stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n);
      const time = this.times.get(kernel) ?? { kernel, dispatches: 0, milliseconds: 0 };
      time.dispatches++;
      // A clock that was reset between the two stamps gives nonsense: it does not count.
      if (nanoseconds > 0n) time.milliseconds += Number(nanoseconds) / 1e6;
      this.times.set(kernel, time);
    }
  }
}
