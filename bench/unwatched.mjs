// A page that Playwright does not watch. It has Chromium keep what pages fetch, and that takes longer than fetching it:
// a load over HTTP would be measured at a third of its speed.

/** Opens `url` beside Playwright's own pages. */
export async function openUnwatched(browser, url) {
  const session = await browser.newBrowserCDPSession();
  const { targetId } = await session.send('Target.createTarget', { url });
  const { sessionId } = await session.send('Target.attachToTarget', { targetId, flatten: false });
  const waiting = new Map();
  session.on('Target.receivedMessageFromTarget', ({ message }) => {
    const { id, result, error } = JSON.parse(message);
    waiting.get(id)?.(error ? { exceptionDetails: { text: error.message } } : result);
    waiting.delete(id);
  });
  let calls = 0;
  const page = {
    /** What `work`, a function of its own, gives in the page. */
    async evaluate(work) {
      const id = ++calls;
      const answer = new Promise((resolve) => waiting.set(id, resolve));
      const params = { expression: `(${work})()`, returnByValue: true };
      const message = JSON.stringify({ id, method: 'Runtime.evaluate', params });
      await session.send('Target.sendMessageToTarget', { sessionId, message });
      const { result, exceptionDetails } = await answer;
      if (exceptionDetails) {
        throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      }
      return result.value;
    },
    close: () => session.send('Target.closeTarget', { targetId }),
  };
  for (;;) {
    const { href, readyState } = await page.evaluate(() => ({
      href: globalThis.location.href,
      readyState: globalThis.document.readyState,
    }));
    if (href === url && readyState === 'complete') return page;
    if (href.startsWith('chrome-error:')) throw new Error(`${url} cannot be opened`);
    await new Promise((done) => setTimeout(done, 50));
  }
}
