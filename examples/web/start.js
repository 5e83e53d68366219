/** Starts the worker, and with it the runtime, before page.js and all that it needs are there. */

export const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
