// Dawn's questions whether the GPU is done: without a break for a moment, then with one.
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { waitPatiently, type Scheduler } from '../../packages/lapidary/src/gpu/patience.ts';

function harness() {
  const clock = { now: 0 };
  const calls: string[] = [];
  const scheduler: Scheduler = {
    setImmediate: (...args) => calls.push(`immediate ${args.length}`),
    setTimeout: (_callback, milliseconds) => calls.push(`timeout ${milliseconds}`),
  };
  let end: () => void = () => undefined;
  class GPUBuffer {
    mapAsync(mode: number): Promise<number> {
      return new Promise((resolve) => {
        end = () => {
          resolve(mode);
        };
      });
    }
  }
  class GPUDevice {
    createComputePipelineAsync = undefined;
  }
  class GPUQueue {
    onSubmittedWorkDone(): Promise<void> {
      return Promise.reject(new Error('lost'));
    }
  }
  waitPatiently({ GPUBuffer, GPUDevice, GPUQueue }, scheduler, () => clock.now);
  // Dawn's callbacks are native and have no name, as bound functions of nameless ones are but for "bound ".
  const native = Object.defineProperty(Math.max.bind(null), 'name', { value: '' }) as () => void;
  const poll = (callback: () => void = native, ...args: unknown[]) => {
    calls.length = 0;
    scheduler.setImmediate(callback, ...args);
    return calls[0];
  };
  return {
    clock,
    poll,
    buffer: new GPUBuffer(),
    queue: new GPUQueue(),
    end: () => {
      end();
    },
  };
}

describe('waiting for Dawn', () => {
  test('is eager after a beginning and after an end, and patient between', async () => {
    const { clock, poll, buffer, end } = harness();
    clock.now = 1000;
    const mapped = buffer.mapAsync(7);
    expect(poll()).toBe('immediate 1');
    clock.now = 1019;
    expect(poll()).toBe('immediate 1');
    clock.now = 1021;
    expect(poll()).toBe('timeout 1');
    end();
    expect(await mapped).toBe(7);
    expect(poll()).toBe('immediate 1');
    clock.now = 1042;
    expect(poll()).toBe('timeout 1');
  });

  test('passes errors on, which count as an end', async () => {
    const { clock, poll, queue } = harness();
    clock.now = 50;
    await expect(queue.onSubmittedWorkDone()).rejects.toThrow('lost');
    clock.now = 60;
    expect(poll()).toBe('immediate 1');
  });

  test("leaves everybody else's immediates alone", () => {
    const { clock, poll } = harness();
    clock.now = 500;
    expect(poll()).toBe('timeout 1');
    expect(poll(() => undefined)).toBe('immediate 1');
    expect(poll(Math.max as () => void)).toBe('immediate 1');
    expect(poll(undefined, 1, 2)).toBe('immediate 3');
  });

  test('leaves setImmediate what it was to util.promisify', async () => {
    const scheduler = { setImmediate, setTimeout } as unknown as Scheduler;
    const { GPUBuffer } = {
      GPUBuffer: class {
        mapAsync() {
          return Promise.resolve();
        }
      },
    };
    const classes = {
      GPUBuffer,
      GPUDevice: class {
        createComputePipelineAsync() {
          return Promise.resolve();
        }
      },
      GPUQueue: class {
        onSubmittedWorkDone() {
          return Promise.resolve();
        }
      },
    };
    waitPatiently(classes, scheduler);
    expect(await promisify(scheduler.setImmediate as typeof setImmediate)('value')).toBe('value');
  });
});
