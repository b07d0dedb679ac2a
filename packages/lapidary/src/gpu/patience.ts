// Dawn for Node has no thread that waits for the GPU: as long as a promise of it is open, it asks whether that ended in
// one immediate after another, and a core is busy doing nothing else. That is right for a moment, since an answer in
// time is what decoding lives on, and wrong for long waits: here they become looks at every millisecond or so.

/** How long after the last answer Dawn goes on asking without a break, in milliseconds: longer than a token takes. */
const EAGER = 20;
const BREAK = 1;

type Method = (this: object, ...args: unknown[]) => Promise<unknown>;
/** What Dawn for Node exports as `globals`, of which this changes the methods that are waited for. */
export interface WaitedFor {
  GPUBuffer: { prototype: object };
  GPUDevice: { prototype: object };
  GPUQueue: { prototype: object };
}
/** The part of the global object that this changes. */
export interface Scheduler {
  setImmediate: (callback: () => void, ...args: unknown[]) => unknown;
  setTimeout: (callback: () => void, milliseconds: number) => unknown;
}

/** A function of Dawn's: compiled code without a name. A bound one that reads the same comes to no harm by a break. */
function isNative(callback: unknown): boolean {
  return (
    typeof callback === 'function' &&
    callback.name === '' &&
    Function.prototype.toString.call(callback).endsWith('{ [native code] }')
  );
}

/** Makes Dawn's immediates wait a little where nothing began or ended for a while. To be called once. */
export function waitPatiently(
  { GPUBuffer, GPUDevice, GPUQueue }: WaitedFor,
  scheduler: Scheduler = globalThis,
  now: () => number = () => performance.now(),
): void {
  let progress = now();
  const watch = ({ prototype }: { prototype: object }, name: string): void => {
    const methods = prototype as Record<string, Method>;
    const original = methods[name]!;
    methods[name] = function (...args) {
      const promise = original.apply(this, args);
      progress = now();
      const ended = (): void => {
        progress = now();
      };
      promise.then(ended, ended);
      return promise;
    };
  };
  watch(GPUBuffer, 'mapAsync');
  watch(GPUDevice, 'createComputePipelineAsync');
  watch(GPUQueue, 'onSubmittedWorkDone');

  const immediate = scheduler.setImmediate;
  const patient: typeof immediate = (callback, ...args) =>
    args.length > 0 || now() - progress < EAGER || !isNative(callback)
      ? immediate(callback, ...args)
      : scheduler.setTimeout(callback, BREAK);
  // Node's own has a property by which util.promisify knows it.
  const properties = Object.getOwnPropertyDescriptors<object>(immediate);
  scheduler.setImmediate = Object.defineProperties(patient, properties);
}
