// Who may use a model: some requests side by side, others alone. All in the order in which they came.

interface Waiting {
  alone: boolean;
  start: () => void;
}

export class Turns {
  private readonly waiting: Waiting[] = [];
  private running = 0;
  private alone = false;

  /** `places` is how many may go on side by side. */
  constructor(private readonly places: () => number) {}

  /** Runs `work` beside others of its kind, when all that came before and runs alone is done and there is a place. */
  beside<T>(work: () => Promise<T>): Promise<T> {
    return this.enter(false, work);
  }

  /** Runs `work` when all that came before is done; what comes later waits for it. */
  byItself<T>(work: () => Promise<T>): Promise<T> {
    return this.enter(true, work);
  }

  private enter<T>(alone: boolean, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const start = () => {
        this.running++;
        this.alone = alone;
        // Later, as the work of whoever waited is: its caller has its hands free first.
        Promise.resolve()
          .then(work)
          .then(resolve, reject)
          .finally(() => {
            this.running--;
            this.alone = false;
            this.next();
          });
      };
      this.waiting.push({ alone, start });
      this.next();
    });
  }

  private next(): void {
    for (;;) {
      const [first] = this.waiting;
      if (!first || this.alone || this.running >= (first.alone ? 1 : this.places())) return;
      this.waiting.shift();
      first.start();
    }
  }
}
