// The benchmark, for Node and for pages.

export { readBandwidth } from './bandwidth.js';
export { checkLogits, checkNano } from './gate.js';
export { digest, weightBytesPerToken } from './header.js';
export { NANO, SYNTHETIC, type LogitAnswers } from './known.js';
export { bench } from './run.js';
export { measured } from './stats.js';
export { table } from './table.js';
export { DEFAULTS } from './types.js';
export type * from './types.js';
