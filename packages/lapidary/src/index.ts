// The entry point of pages, workers and bundlers. Node's is node.ts.

export * from './exported.js';
