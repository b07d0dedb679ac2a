// The script of the worker that `lapidary/worker` starts. A worker of one's own imports it for the same effect.

import { convertAdapter, inspect, mergeAdapters, Model } from './index.js';
import { serve } from './worker/host.js';

serve(globalThis, { load: Model.load.bind(Model), inspect, convertAdapter, mergeAdapters });
