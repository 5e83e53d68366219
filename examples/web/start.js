/** Starts the worker, and with it the runtime, before page.js and all that it needs are there. */

/** Keep the pages for when there is no network. */
export async function keepForOffline() {
  if (!("serviceWorker" in navigator)) return;
  navigator.serviceWorker.register(new URL("sw.js", import.meta.url)).catch(() => {}); // only offline use is lost
  await navigator.serviceWorker.ready;
  document.documentElement.dataset.offline = "ready";
}

export const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
