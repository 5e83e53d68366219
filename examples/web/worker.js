/**
 * Opens the model and samples, away from the page, so that the page stays awake. A message { id, task, ... } is
 * answered by { id, result } or { id, error }, while it samples also by { id, step, numSteps, pixels };
 * { task: "cancel" } has no answer.
 */

import { denoiser, isTold, noiseStream, NonFiniteError, pictureShape, plan, resultOf, sample, sizeOf } from "./ddpm.js";
import { edit } from "./given.js";
import { oneLine, openModel } from "./model.js";

const RUNTIMES = {
  wasm: "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  webgpu: "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
};
const MAX_THREADS = 4;
const QUIET = { logSeverityLevel: 3 }; // errors alone: that some nodes stay off the GPU is meant
const PREVIEW_MS = 1000; // a decoder runs no more often for a preview
const MAX_GPU_ERROR = 1e-3; // relative, of one network evaluation; float32 in another order of sums stays below 1e-5

// The runtime is fetched and compiled while the page and the model load. No call does only that: one that fails will do.
const started = {};
const start = (provider) => (started[provider] ??= startRuntime(RUNTIMES[provider]));
start("wasm").catch(() => {}); // told when a model is opened

async function startRuntime(url) {
  const ort = await import(url);
  // threads need shared memory, which a browser gives only to a page that is isolated by COOP and COEP headers
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  ort.InferenceSession.create(new Uint8Array(), QUIET).catch(() => {});
  return ort;
}

let opened = null; // what openModel returns
let cancelled = false;

const tasks = {
  /**
   * Open a model, of bytes or from a URL, of pictures unless isAny; `warning` says why another provider than the wanted one
   * is used.
   */
  async open({ bytes, url, provider, isAny = false }) {
    const begin = performance.now();
    const file = bytes ? new Uint8Array(bytes) : await download(url);
    const ort = await start(provider);
    const readBeside = async (name) => (url ? download(new URL(name, url)) : null);
    const next = await openModel(ort, file, { ...QUIET, executionProviders: ["wasm"] }, readBeside);
    const { shape, isPicture } = resultOf(next.spec);
    if (!isPicture && !isAny) {
      await next.release();
      pictureShape([]); // throws: the page shows pictures
    }
    await opened?.release();
    opened = next;
    const warning = provider === "webgpu" ? await moveToGpu(ort, file, readBeside) : null;
    return {
      spec: opened.spec,
      shape,
      bytes: file.length,
      threads: ort.env.wasm.numThreads,
      provider: provider === "webgpu" && warning === null ? "webgpu" : "wasm",
      warning,
      seconds: (performance.now() - begin) / 1000,
    };
  },

  /**
   * Sample a batch, or edit pictures where there are any; null where it was cancelled. With a pause after each row, in
   * milliseconds, what the state is there is told.
   */
  async sample({ settings: given, pictures = null, pause = 0 }, tell) {
    if (opened === null) throw new Error("No model is open. Choose a file below More settings.");
    cancelled = false;
    const begin = performance.now();
    const { model, spec, stages, decode } = opened;
    const settings = { ...given, stages };
    let due = spec.stages?.after ? begin + PREVIEW_MS : 0;
    const progress = async (step, numSteps, x, x_0) => {
      if (pause > 0) {
        tell({ step, numSteps, values: (await decode(x)).values });
        await new Promise((resolve) => setTimeout(resolve, pause));
        return !cancelled;
      }
      const isDue = performance.now() >= due;
      tell({ step, numSteps, pixels: isDue ? (await decode(x_0)).images : null });
      if (isDue && due > 0) due = performance.now() + PREVIEW_MS;
      await breathe();
      return !cancelled;
    };
    const batch = await (pictures === null
      ? sample(model, spec, settings, progress)
      : edit(model, spec, pictures, settings, progress));
    if (batch === null) return null;
    const { images, values } = batch.images ? batch : await decode(batch.x);
    return { images, values, seconds: (performance.now() - begin) / 1000 };
  },

  cancel() {
    cancelled = true;
  },
};

async function download(url) {
  const response = await fetch(url).catch((error) => ({ ok: false, status: oneLine(error) }));
  if (!response.ok) {
    throw new Error(`${url}: cannot be fetched (${response.status}). Choose a file below More settings.`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** Put the model on the GPU if it says there what it says here, at the first and the middle time; or return why not. */
async function moveToGpu(ort, file, readBeside) {
  const { model, spec } = opened;
  let gpu = null;
  try {
    gpu = await openModel(ort, file, { ...QUIET, executionProviders: ["webgpu"] }, readBeside);
    const x = noiseStream(0, [0], spec.state_shape)(0);
    const needed = spec.inputs.filter((one) => isTold(one) && (one.kind === "label" || one.none === null));
    // any class will do, and anything else
    const told = Object.fromEntries(
      needed.map((one) => [one.name, one.kind === "label" ? 0 : new Float32Array(sizeOf(one.shape))]),
    );
    const { rows } = plan(spec, { sampler: "ddim", numSteps: Math.min(2, spec.alphas_cumprod.length) });
    for (const row of rows) {
      const [here, there] = await Promise.all(
        [model, gpu.model].map((each) => denoiser(each, spec, told)(x, row, null)),
      );
      const largest = here.x_0.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const error = here.x_0.reduce((most, value, k) => Math.max(most, Math.abs(value - there.x_0[k])), 0) / largest;
      if (!(error <= MAX_GPU_ERROR)) {
        await gpu.release();
        return `it gave other numbers than the processor (relative error ${error.toPrecision(2)})`;
      }
    }
  } catch (error) {
    await gpu?.release();
    return error instanceof NonFiniteError
      ? "it gave other numbers than the processor (NaN or infinity)"
      : oneLine(error);
  }
  await opened.release();
  opened = gpu;
  return null;
}

// A turn of the event loop, in which a cancel can arrive; setTimeout would wait 4 ms each time.
const { port1, port2 } = new MessageChannel();
function breathe() {
  return new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(null);
  });
}

onmessage = async ({ data: { id, task, ...details } }) => {
  try {
    const result = await tasks[task](details, (news) => postMessage({ id, ...news }));
    if (task !== "cancel") postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: oneLine(error) });
  }
};
