/** Service worker: keeps the page's files for when there is no network; where there is one, it comes first. */

const CACHE = "ddpm-export";
const RUNTIME = "node_modules/onnxruntime-web/dist/";
const FILES = [
  "./",
  "style.css",
  "start.js",
  "page.js",
  "images.js",
  "paint.js",
  "worker.js",
  "model.js",
  "ddpm.js",
  "given.js",
  "normal_table.js",
  "unet.onnx",
  `${RUNTIME}ort.wasm.bundle.min.mjs`,
  `${RUNTIME}ort-wasm-simd-threaded.wasm`,
];
const PLANS = [
  "policy.html",
  "policy_page.js",
  "two-ways.onnx",
  "two-ways.before.onnx",
  "two-ways.after.onnx",
];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then(async (cache) => {
        await cache.addAll(FILES);
        await cache.addAll(PLANS).catch(() => {}); // where the page of plans is not served
      })
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(answer(request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.status !== 200) return response;
    const [kept, etag] = [await cache.match(request), response.headers.get("ETag")];
    if (!etag || kept?.headers.get("ETag") !== etag) await cache.put(request, response.clone()); // not a large file again
    return response;
  } catch (error) {
    const kept = await cache.match(request);
    if (kept) return kept;
    throw error;
  }
}
