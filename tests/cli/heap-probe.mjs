// Loaded before a program (`node --expose-gc --import`): on SIGUSR2 it says on standard error how many bytes it holds.
/* global gc */

process.on('SIGUSR2', () => {
  gc();
  gc();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  // Array buffers are part of what is external.
  process.stderr.write(`heap ${heapUsed + external} ${arrayBuffers}\n`);
});
