// The download cache in a worker, where files have synchronous handles: does what the page asks, and answers.
/* global addEventListener, crypto, postMessage */

import { openCache } from '/lapidary/index.js';

// A browser that promises room which it has not: only so a quota is met in the middle of a download.
const { storage } = navigator;
const estimate = storage.estimate.bind(storage);
let promised;
storage.estimate = async () => ({ ...(await estimate()), ...(promised && { quota: promised }) });

addEventListener('message', async ({ data }) => {
  const { id, url, options, expected, promise } = data;
  promised = promise;
  let last;
  const retries = [];
  const cache = await openCache(options);
  try {
    const source = await cache.fetch(url, {
      ...expected,
      onProgress: (progress) => {
        last = progress;
        if (progress.retry) retries.push(progress.retry);
      },
    });
    const bytes = await source.read(0, source.size);
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const digest = Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');
    await source.close();
    postMessage({ id, result: { digest, last, retries } });
  } catch (error) {
    const { code, message } = error;
    const kept = (await cache.list()).find((model) => model.url === url)?.downloaded;
    postMessage({ id, result: { code, message, kept, last, retries } });
  }
});
postMessage({ id: 0 });
