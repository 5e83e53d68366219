/**
 * Sampling from a diffusion model: noise, steps and pixels, the same for the same seed in every language of this
 * project (docs/format.md is the contract). For browsers, workers and node; knows nothing of ONNX Runtime.
 *
 *     const spec = specFromOnnx(bytes);                             // the numbers that travel in the model file
 *     const denoise = denoiser(model, spec);                        // (x_t, step) -> { x_0, eps }
 *     const steps = trajectory(spec, 50);                           // the time grid, as data
 *     const noise = noiseStream(7n, [0, 1, 2], spec.image_shape);   // draw -> normals; draw 0 is x_T
 *     for await (const state of ddim(denoise, noise, steps)) show(toUint8(state.x_0, spec.image_shape));
 *
 * or `sample`, which is these lines with one call. Images are flat Float32Arrays in B, C, H, W order. Names with an
 * underscore are the papers' letters (x_0, a_prev) or keys of the file (image_shape), written as they are there.
 *
 * Coefficients are doubles, rounded once to float32; `fround` after every operation makes the rest float32 as well.
 */

import { NORMAL_TABLE } from "./normal_table.js";

/** @typedef {readonly number[]} Shape [C, H, W] */
/** @typedef {(draw: number) => Float32Array} Noise draw index -> [B, C, H, W]; 0 is x_T, i belongs to step i */
/** @typedef {{ i: number, t: number, a: number, a_prev: number }} Step
 * i, its noise draw, from 1; t; a = alphas_cumprod[t]; a_prev, 1 at the end */
/** @typedef {Record<string, Float32Array>} Outputs a network's outputs by name */
/** @typedef {(x_t: Float32Array, t: BigInt64Array, dims: number[]) => Outputs | Promise<Outputs>} Model
 * x_t is flat [B, C, H, W] and dims its shape, t is [B] */
/** @typedef {{ x_0: Float32Array, eps: Float32Array, variance_fraction: Float32Array | null }} Denoised */
/** @typedef {(x_t: Float32Array, step: Step) => Promise<Denoised>} Denoiser */
/** @typedef {{ step: Step, x: Float32Array, x_0: Float32Array, eps: Float32Array }} State
 * the step, the image after it, and the denoiser's x_0 and eps before it */
/** @typedef {"fixed_small" | "fixed_large" | "learned"} Variance */
/**
 * What a model file says of itself, with the keys of docs/format.md.
 * @typedef {object} ModelSpec
 * @property {string} name
 * @property {"eps" | "x_0" | "v"} prediction
 * @property {Shape} image_shape
 * @property {readonly number[]} alphas_cumprod T numbers, strictly falling
 * @property {number | null} clip_x_0
 * @property {Variance} variance of the ddpm sampler
 * @property {{ sampler: string, num_steps: number, eta: number }} defaults
 * @property {readonly string[]} requires
 */
/**
 * What, besides the model, decides a batch of images; what is left out comes from the spec.
 * @typedef {object} Settings
 * @property {number | bigint} seed 0 to 2^63 - 1; as a number only up to 2^53 - 1
 * @property {number} [first] number of the first image, 0 if left out
 * @property {number} [n] how many images, 1 if left out
 * @property {number} [numSteps]
 * @property {string} [sampler] ddim or ddpm
 * @property {number} [eta] ddim alone
 * @property {Variance} [variance] ddpm alone
 */

const { fround, sqrt } = Math;
const WORD = 2 ** 32;
const NOISE_TAG = "philox4x32-10/icdf-q20/1";
const METADATA_KEY = "ddpm_export";
const FORMAT = "ddpm-export/1";
const PREDICTIONS = ["eps", "x_0", "v"];
const VARIANCES = ["fixed_small", "fixed_large", "learned"];
const VARIANCE_FRACTION = "variance_fraction"; // the second output of a network that learned its variances
const REQUIRED = "name prediction image_shape alphas_cumprod clip_x_0 variance value_range defaults noise requires";
const MAX_JSON_BYTES = 256 * 1024;
const MAX_NESTING = 32;
const MAX_PIXELS = 2 ** 26;

/** Something that stops the work and is told in one line; exitCode is what a command ends with. */
export class DdpmError extends Error {
  exitCode = 1;
  get name() {
    return this.constructor.name;
  }
}

/** An argument is out of its range. */
export class UsageError extends DdpmError {
  exitCode = 2;
}

/** A file is broken or foreign. */
export class BadFileError extends DdpmError {
  exitCode = 3;
}

/** A sound file asks for what this reader cannot do. */
export class ModelRefusedError extends DdpmError {
  exitCode = 4;
}

/** A number of an image became infinite or NaN. */
export class NonFiniteError extends DdpmError {
  exitCode = 6;
}

/**
 * Return a value as one short, printable line: what comes from a file may hold anything.
 * @param {unknown} value
 */
function shown(value) {
  const isData = typeof value === "string" || (typeof value === "object" && value !== null);
  const text = (isData ? JSON.stringify(value) : String(value)).replace(
    /[^ -~]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}

/** @param {Shape} shape */
const sizeOf = ([channels, height, width]) => channels * height * width;

// --- noise (docs/format.md, section 3) ---

/**
 * Return the high 32 bits of a 64-bit product of two words, from products of 16-bit halves: none exceeds 2^32.
 * @param {number} a
 * @param {number} b
 */
function highWord(a, b) {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = (Math.imul(aHigh, bLow) >>> 0) + (Math.imul(aLow, bLow) >>> 16);
  const carry = ((Math.imul(aLow, bHigh) >>> 0) + (middle & 0xffff)) >>> 16;
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + carry) >>> 0;
}

/**
 * Write the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3) to `words` from `at` on, and return
 * `words`. Unsigned 32-bit words throughout.
 * @param {ArrayLike<number>} counter 4 words
 * @param {ArrayLike<number>} key 2 words
 */
export function philox4x32_10(counter, key, words = new Uint32Array(4), at = 0) {
  let [c0, c1, c2, c3] = [counter[0], counter[1], counter[2], counter[3]];
  let [k0, k1] = [key[0], key[1]];
  for (let round = 0; round < 10; round++) {
    const [high0, high1] = [highWord(c0, 0xd2511f53), highWord(c2, 0xcd9e8d57)];
    const [low0, low1] = [Math.imul(c0, 0xd2511f53), Math.imul(c2, 0xcd9e8d57)];
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  words[at] = c0;
  words[at + 1] = c1;
  words[at + 2] = c2;
  words[at + 3] = c3;
  return words;
}

/**
 * Return a standard normal for each word, by table and linear interpolation in integers: no math library has a say.
 * @param {Uint32Array} words
 */
export function normalsFromWords(words) {
  const normals = new Float32Array(words.length);
  for (let k = 0; k < words.length; k++) {
    const m = words[k] & 0x7fffffff;
    const leadingZeros = Math.clz32(m) - 1; // below the sign bit; 31 for m = 0
    const f = m << Math.min(leadingZeros, 30); // the leading one now stands at bit 30, save for m = 0
    const cell = leadingZeros * 257 + ((f >> 22) & 0xff);
    const upper = NORMAL_TABLE[cell];
    // the product needs 34 bits: `>>` would cut it to 32
    const z = upper - Math.floor(((upper - NORMAL_TABLE[cell + 1]) * (f & 0x3fffff)) / 2 ** 22);
    normals[k] = (words[k] >>> 31 ? -z : z) / 2 ** 20; // exact, since 1 <= z < 2^23
  }
  return normals;
}

/**
 * Return the noise of some images, draw index -> [B, C, H, W]: nothing is kept between calls, and image 7 has the same
 * noise alone or among others. Throws UsageError for a seed outside 0..2^63 - 1, for one that is a number above
 * 2^53 - 1 (it may not be the one that was written), and for images, draws or a domain outside 0..2^32 - 1.
 * @param {number | bigint} seed
 * @param {Iterable<number>} images
 * @param {Shape} shape
 * @param {{ domain?: number }} [options] domain 0 is sampling
 * @returns {Noise}
 */
export function noiseStream(seed, images, shape, { domain = 0 } = {}) {
  const numbers = [...images];
  if (typeof seed !== "bigint" && !Number.isSafeInteger(seed)) {
    throw new UsageError(
      `seed: not an exact integer. got ${shown(seed)}, expected a BigInt, or an integer of at most 2^53 - 1. ` +
        "Do write it with n at its end.",
    );
  }
  if (seed < 0 || seed >= 2n ** 63n) {
    throw new UsageError(`seed: out of range. got ${seed}, expected 0 to 2^63 - 1. Do pick one in that range.`);
  }
  if (shape.length !== 3 || !shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
    throw new UsageError(`shape: no pixels. got ${shown(shape)}, expected positive [C, H, W]. Do pick another shape.`);
  }
  for (const number of numbers) requireWord("image", number);
  requireWord("domain", domain);
  const key = [Number(BigInt(seed) & 0xffffffffn), Number(BigInt(seed) >> 32n)];
  const size = sizeOf(shape);
  const counter = new Uint32Array(4);
  const words = new Uint32Array(4 * Math.ceil(size / 4)); // of one image; those left over at its end are dropped

  return (draw) => {
    requireWord("draw", draw);
    const normals = new Float32Array(numbers.length * size);
    numbers.forEach((image, row) => {
      for (let block = 0; 4 * block < size; block++) {
        counter.set([block, draw, image, domain]);
        philox4x32_10(counter, key, words, 4 * block);
      }
      normals.set(normalsFromWords(words.subarray(0, size)), row * size);
    });
    return normals;
  };
}

/**
 * @param {string} where
 * @param {number} value
 */
function requireWord(where, value) {
  if (!Number.isInteger(value) || value < 0 || value >= WORD) {
    throw new UsageError(`${where}: out of range. got ${shown(value)}, expected 0 to 2^32 - 1. Do pick a smaller one.`);
  }
}

// --- spec (docs/format.md, section 1) ---

/**
 * @param {string} where
 * @param {unknown} got
 * @param {string} expected
 */
function bad(where, got, expected) {
  return new BadFileError(
    `spec: ${where} is not usable. got ${shown(got)}, expected ${expected}. Do export the model again.`,
  );
}

/**
 * @param {string} what
 * @param {unknown} got
 * @param {unknown} expected
 */
function refused(what, got, expected) {
  return new ModelRefusedError(
    `spec: ${what}. got ${shown(got)}, expected ${shown(expected)}. Do take a newer version of this module.`,
  );
}

/**
 * @param {unknown} value
 * @param {number} levels
 * @returns {boolean}
 */
function isNestedWithin(value, levels) {
  if (typeof value !== "object" || value === null) return levels > 0;
  return levels > 0 && Object.values(value).every((child) => isNestedWithin(child, levels - 1));
}

/** @param {unknown} value */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Read and validate a spec. Unknown keys are ignored; what is missing is never guessed.
 * Throws BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
 * @param {string} text
 * @returns {ModelSpec}
 */
export function specFromJson(text) {
  if (new TextEncoder().encode(text).length > MAX_JSON_BYTES) {
    throw bad("size", text.length, `at most ${MAX_JSON_BYTES} bytes`);
  }
  let spec;
  try {
    spec = JSON.parse(text, (_, value) => {
      if (value === Infinity || value === -Infinity) throw new RangeError("a number beyond every float");
      return value;
    });
  } catch (error) {
    throw new BadFileError(
      `spec: not JSON. got ${shown(/** @type {Error} */ (error).message)}, expected one object. ` +
        "Do export the model again.",
    );
  }
  if (!isNestedWithin(spec, MAX_NESTING)) throw bad("nesting", "a deeper one", `at most ${MAX_NESTING} levels`);
  if (!isObject(spec)) throw bad("it", spec, "an object");
  if (typeof spec.format !== "string" || !spec.format.startsWith("ddpm-export/")) {
    throw bad("format", spec.format, JSON.stringify(FORMAT));
  }
  if (spec.format.split("/")[1].split(".")[0] !== FORMAT.split("/")[1]) {
    throw refused("unknown format", spec.format, FORMAT);
  }
  const missing = REQUIRED.split(" ").filter((key) => !Object.hasOwn(spec, key));
  if (missing.length > 0) throw bad("a key", `none of ${missing}`, "all of them");
  validate(spec);
  return spec;
}

/** @param {Record<string, any>} spec */
function validate(spec) {
  const isNumber = Number.isFinite; // false for what is no number
  /** @param {unknown} list @param {(item: any) => boolean} test */
  const isListOf = (list, test) => Array.isArray(list) && list.every(test);

  if (!isListOf(spec.requires, (name) => typeof name === "string"))
    throw bad("requires", spec.requires, "a list of names");
  const unknown = spec.requires.filter((/** @type {string} */ name) => name !== VARIANCE_FRACTION);
  if (unknown.length > 0) {
    throw refused("asks for what this version cannot do", unknown.slice(0, 5), [VARIANCE_FRACTION]);
  }
  if (typeof spec.name !== "string" || [...spec.name].length > 200) throw bad("name", spec.name, "a short string");
  if (!PREDICTIONS.includes(spec.prediction))
    throw bad("prediction", spec.prediction, `one of ${PREDICTIONS.join(", ")}`);
  if (!VARIANCES.includes(spec.variance)) throw bad("variance", spec.variance, `one of ${VARIANCES.join(", ")}`);
  if (spec.variance === "learned" && !spec.requires.includes(VARIANCE_FRACTION)) {
    throw bad("variance", spec.variance, `"${VARIANCE_FRACTION}" among requires`);
  }
  if (spec.noise !== NOISE_TAG) throw refused("unknown noise", spec.noise, NOISE_TAG);
  const shape = spec.image_shape;
  if (
    !isListOf(shape, (size) => Number.isInteger(size) && size > 0) ||
    shape.length !== 3 ||
    sizeOf(shape) > MAX_PIXELS
  ) {
    throw bad("image_shape", shape, `three positive integers [C, H, W] with a product of at most ${MAX_PIXELS}`);
  }
  const range = spec.value_range;
  if (!isListOf(range, isNumber) || range.length !== 2 || range[0] !== -1 || range[1] !== 1) {
    throw bad("value_range", range, "[-1, 1]");
  }
  if (spec.clip_x_0 !== null && !(isNumber(spec.clip_x_0) && spec.clip_x_0 > 0)) {
    throw bad("clip_x_0", spec.clip_x_0, "a positive number or null");
  }
  const alphas = spec.alphas_cumprod;
  if (!isListOf(alphas, isNumber) || alphas.length === 0) throw bad("alphas_cumprod", alphas, "at least one number");
  const last = alphas[alphas.length - 1];
  if (
    alphas[0] >= 1 ||
    alphas.some((/** @type {number} */ a, /** @type {number} */ t) => t > 0 && a >= alphas[t - 1])
  ) {
    throw bad("alphas_cumprod", alphas, "numbers that strictly fall within (0, 1)");
  }
  if (last < 0 || (last === 0 && spec.prediction === "eps")) {
    throw bad("alphas_cumprod", last, "a last value above 0 (0 itself only with x_0 or v)");
  }
  const defaults = spec.defaults;
  if (!isObject(defaults)) throw bad("defaults", defaults, "an object with sampler, num_steps, eta");
  if (typeof defaults.sampler !== "string") throw bad("defaults.sampler", defaults.sampler, "a sampler's name");
  if (!Number.isInteger(defaults.num_steps) || defaults.num_steps < 1 || defaults.num_steps > alphas.length) {
    throw bad("defaults.num_steps", defaults.num_steps, `1 to ${alphas.length}`);
  }
  if (!isNumber(defaults.eta) || defaults.eta < 0 || defaults.eta > 1) {
    throw bad("defaults.eta", defaults.eta, "a number from 0 to 1");
  }
  if (!isObject(spec.source ?? {}) || !isObject(spec.golden ?? {}))
    throw bad("source or golden", spec.source, "objects");
}

/**
 * Return the spec in an ONNX file: a walk over the protobuf's top-level fields to metadata_props, without a schema,
 * since ONNX Runtime shows no metadata to JavaScript.
 * Throws BadFileError for what is no ONNX file of this project, and what `specFromJson` throws.
 * @param {Uint8Array} bytes the whole file
 */
export function specFromOnnx(bytes) {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  const found = [];
  try {
    for (const [field, property] of protobufFields(bytes)) {
      if (field !== 14) continue; // ModelProto.metadata_props: key = 1, value = 2
      const entry = new Map(protobufFields(property));
      if (utf8.decode(entry.get(1)) === METADATA_KEY) found.push(utf8.decode(entry.get(2)));
    }
  } catch (error) {
    throw new BadFileError(
      `model: not an ONNX file. got ${shown(/** @type {Error} */ (error).message)} in ${bytes.length} bytes, ` +
        "expected what ddpm-export wrote. Do download or export it again.",
    );
  }
  if (found.length !== 1) {
    throw new BadFileError(
      `model: not of this project. got ${found.length} entries "${METADATA_KEY}" in its metadata, expected 1. ` +
        "Do export it with ddpm-export.",
    );
  }
  return specFromJson(found[0]);
}

/**
 * Yield [field number, bytes] of every field with a length; the others are passed over.
 * @param {Uint8Array} bytes
 * @returns {Generator<[number, Uint8Array]>}
 */
function* protobufFields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0; // as a double: exact wherever it matters, and a negative int64 is only passed over
    for (let power = 1; power < 2 ** 70; power *= 128) {
      if (at >= bytes.length) throw new RangeError("an early end");
      const byte = bytes[at++];
      value += (byte & 0x7f) * power;
      if (byte < 0x80) return value;
    }
    throw new RangeError("an endless number");
  };
  while (at < bytes.length) {
    const tag = varint();
    const [field, type] = [Math.floor(tag / 8), tag % 8];
    const length = type === 0 ? (varint(), 0) : type === 1 ? 8 : type === 5 ? 4 : type === 2 ? varint() : NaN;
    if (field === 0 || !(at + length <= bytes.length)) throw new RangeError(`field ${field} of type ${type} at ${at}`);
    if (type === 2) yield [field, bytes.subarray(at, at + length)];
    at += length;
  }
}

// --- steps (docs/format.md, section 2) ---

/**
 * Return numSteps of T times, falling from T - 1, evenly spaced: t_i = floor(T (n - i) / n) - 1.
 * Throws UsageError for numSteps outside 1..T.
 * @param {number} T num_train_timesteps
 * @param {number} numSteps
 */
export function spacing(T, numSteps) {
  if (!Number.isInteger(numSteps) || numSteps < 1 || numSteps > T) {
    throw new UsageError(`steps: out of range. got ${shown(numSteps)}, expected 1 to ${T}. Do pick one in that range.`);
  }
  return Array.from({ length: numSteps }, (_, i) => Math.floor((T * (numSteps - i)) / numSteps) - 1);
}

/**
 * Return the steps from noise to image, as data; numSteps left out is the spec's default.
 * @param {ModelSpec} spec
 * @returns {Step[]}
 */
export function trajectory(spec, numSteps = spec.defaults.num_steps) {
  const times = spacing(spec.alphas_cumprod.length, numSteps);
  const a = [...times.map((t) => spec.alphas_cumprod[t]), 1];
  return times.map((t, i) => ({ i: i + 1, t, a: a[i], a_prev: a[i + 1] }));
}

/**
 * Return (x_t, step) -> { x_0, eps, variance_fraction }; one network evaluation a call. x_0 follows from eps (Ho et al.
 * 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is set, x_0 is clipped and eps is what
 * then leads from it to x_t. Throws BadFileError where the network lacks an output that the spec names.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @returns {Denoiser}
 */
export function denoiser(model, spec) {
  const names = outputNames(spec);
  const clip = spec.clip_x_0 === null ? null : fround(spec.clip_x_0);

  return async (x_t, step) => {
    const batch = x_t.length / sizeOf(spec.image_shape);
    const outputs = await model(x_t, new BigInt64Array(batch).fill(BigInt(step.t)), [batch, ...spec.image_shape]);
    for (const name of names) {
      if (outputs[name]?.length !== x_t.length) {
        throw new BadFileError(
          `model: output ${name} is not as the spec says. got ${outputs[name]?.length ?? 0} numbers, ` +
            `expected ${x_t.length}. Do export the model again.`,
        );
      }
    }
    const predicted = outputs[spec.prediction];
    const [signal, noise] = [fround(sqrt(step.a)), fround(sqrt(1 - step.a))];
    const [perSignal, perNoise] = [fround(1 / sqrt(step.a)), fround(1 / sqrt(1 - step.a))];
    // fresh arrays: `predicted` may be a buffer that the next evaluation overwrites, and what is yielded must stay
    const [x_0, eps] = [new Float32Array(x_t.length), new Float32Array(x_t.length)];
    for (let k = 0; k < x_t.length; k++) {
      const p = predicted[k];
      if (spec.prediction === "eps") {
        x_0[k] = fround(x_t[k] - fround(noise * p)) * perSignal;
        eps[k] = p;
      } else if (spec.prediction === "v") {
        x_0[k] = fround(signal * x_t[k]) - fround(noise * p);
        eps[k] = fround(noise * x_t[k]) + fround(signal * p);
      } else {
        x_0[k] = p;
        eps[k] = fround(x_t[k] - fround(signal * p)) * perNoise;
      }
      if (clip !== null) {
        x_0[k] = Math.min(Math.max(x_0[k], -clip), clip);
        eps[k] = fround(x_t[k] - fround(signal * x_0[k])) * perNoise;
      }
    }
    return { x_0, eps, variance_fraction: outputs[VARIANCE_FRACTION]?.slice() ?? null };
  };
}

/**
 * Return the names of the network's outputs, in order.
 * @param {ModelSpec} spec
 */
export function outputNames(spec) {
  return [spec.prediction, ...spec.requires.filter((name) => name === VARIANCE_FRACTION)];
}

/**
 * Return DDIM's noise standard deviation (Song et al. 2020, eq. 16); eta = 1 is Ho's fixed_small, eq. 7.
 * @param {Step} step
 * @param {number} eta
 */
export function noiseStd({ a, a_prev }, eta) {
  return eta * sqrt((1 - a_prev) / (1 - a)) * sqrt(1 - a / a_prev);
}

/** @param {Step} step */
const largeStd = ({ a, a_prev }) => (a_prev < 1 ? sqrt(1 - a / a_prev) : 0);

/**
 * Yield the states of DDIM (Song et al. 2020, eq. 12); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.
 * Starts at noise draw 0, or goes on from `x`, the state before the first of `steps`. One network evaluation a step.
 * Throws UsageError for eta outside 0..1.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Iterable<Step>} steps
 * @param {{ x?: Float32Array, eta?: number }} [options]
 */
export function ddim(denoise, noise, steps, { x, eta = 0 } = {}) {
  if (!(typeof eta === "number" && eta >= 0 && eta <= 1)) {
    throw new UsageError(
      `eta: out of range. got ${shown(eta)}, expected 0 (no noise) to 1 (ddpm). Do pick one in that range.`,
    );
  }
  const std = fround(eta); // the one-call graph takes float32: the same eta everywhere
  return walk(denoise, noise, steps, x, (step) => [noiseStd(step, std), noiseStd(step, std)]);
}

/**
 * Yield the states of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where steps leave times out.
 * variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's (section 3.2), learned lies where the network
 * says between the two (Nichol and Dhariwal 2021, eq. 15). Throws UsageError for another variance, and for a learned
 * one where the network has learned none.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Iterable<Step>} steps
 * @param {{ x?: Float32Array, variance?: string }} [options]
 */
export function ddpm(denoise, noise, steps, { x, variance = "fixed_small" } = {}) {
  if (variance === "fixed_small") return ddim(denoise, noise, steps, { x, eta: 1 });
  if (variance === "fixed_large") {
    return walk(denoise, noise, steps, x, (step) => [noiseStd(step, 1), largeStd(step)]);
  }
  if (variance === "learned") {
    return walk(denoise, noise, steps, x, (step, found) => [noiseStd(step, 1), learnedStd(step, found)]);
  }
  throw new UsageError(
    `variance: unknown. got ${shown(variance)}, expected one of ${VARIANCES.join(", ")}. Do pick one.`,
  );
}

/**
 * @param {Step} step
 * @param {Denoised} found
 */
function learnedStd(step, { variance_fraction }) {
  if (variance_fraction === null) {
    throw new UsageError(
      'variance: the network has learned none. got "learned", expected fixed_small or fixed_large. Do pick one.',
    );
  }
  const small = noiseStd(step, 1);
  if (small === 0) return 0; // the end of the grid
  const ratio = fround(largeStd(step) / small);
  return variance_fraction.map((f) => fround(small) * fround(ratio ** f));
}

/**
 * Walk down the steps; `stds` gives the noise that the mean makes room for and the noise that is added.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Iterable<Step>} steps
 * @param {Float32Array | undefined} x
 * @param {(step: Step, found: Denoised) => [number, number | Float32Array]} stds
 * @returns {AsyncGenerator<State>}
 */
async function* walk(denoise, noise, steps, x, stds) {
  let x_t = x ?? noise(0);
  for (const step of steps) {
    const found = await denoise(x_t, step);
    const [room, added] = stds(step, found);
    const [c_x_0, c_eps] = [fround(sqrt(step.a_prev)), fround(sqrt(Math.max(0, 1 - step.a_prev - room * room)))];
    const x_prev = found.x_0.map((x_0, k) => fround(c_x_0 * x_0) + fround(c_eps * found.eps[k]));
    if (added !== 0) {
      const z = noise(step.i);
      const c_noise = typeof added === "number" ? new Float32Array(x_prev.length).fill(added) : added;
      for (let k = 0; k < x_prev.length; k++) x_prev[k] += fround(c_noise[k] * z[k]);
    }
    x_t = x_prev;
    yield { step, x: x_prev, x_0: found.x_0, eps: found.eps };
  }
}

/**
 * Return pixels [B, H, W, C] of images [B, C, H, W] in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up.
 * @param {Float32Array} x
 * @param {Shape} shape
 */
export function toUint8(x, [channels, height, width]) {
  const pixels = new Uint8Array(x.length);
  const plane = height * width;
  for (let k = 0; k < x.length; k++) {
    const [image, channel, position] = [
      Math.floor(k / (channels * plane)),
      Math.floor(k / plane) % channels,
      k % plane,
    ];
    const level = Math.min(Math.max(fround(fround(127.5 * x[k]) + 127.5), 0), 255);
    pixels[(image * plane + position) * channels + channel] = Math.floor(fround(level + 0.5));
  }
  return pixels;
}

/**
 * Return a batch of images, uint8 [n, H, W, C], and the floats they are of; null where onStep returned false.
 * onStep(step from 1, numSteps, x, x_0) is awaited after every step; it must not change the arrays it is given.
 * Throws UsageError for settings no image can be made from, NonFiniteError where a number is no longer finite.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Settings} settings
 * @param {(step: number, numSteps: number, x: Float32Array, x_0: Float32Array) => unknown} [onStep]
 * @returns {Promise<{ images: Uint8Array, x: Float32Array } | null>}
 */
export async function sample(model, spec, settings, onStep = () => true) {
  const { seed, first = 0, n = 1, numSteps, sampler = spec.defaults.sampler, eta, variance } = settings;
  requireWord("first", first);
  if (!Number.isInteger(n) || n < 1 || first + n > WORD) {
    throw new UsageError(`n: out of range. got ${shown(n)}, expected 1 to ${WORD - first}. Do change it.`);
  }
  const [own, foreign] = sampler === "ddpm" ? ["variance", "eta"] : ["eta", "variance"];
  if (sampler !== "ddim" && sampler !== "ddpm") {
    throw new UsageError(`sampler: unknown. got ${shown(sampler)}, expected one of ddpm, ddim. Do pick one.`);
  }
  if ({ eta, variance }[foreign] !== undefined) {
    throw new UsageError(
      `${foreign}: has no meaning for ${sampler}. got ${shown({ eta, variance }[foreign])}, expected none. ` +
        `Do leave it out, or give ${own}.`,
    );
  }
  const steps = trajectory(spec, numSteps);
  const noise = noiseStream(
    seed,
    Array.from({ length: n }, (_, k) => first + k),
    spec.image_shape,
  );
  const denoise = denoiser(watched(model, spec, steps, first), spec);
  const states =
    sampler === "ddim"
      ? ddim(denoise, noise, steps, { eta: eta ?? spec.defaults.eta })
      : ddpm(denoise, noise, steps, { variance: variance ?? spec.variance });
  let x = /** @type {Float32Array} */ (new Float32Array());
  for await (const state of states) {
    refuseNonFinite(state.x, state.step, spec, first);
    if ((await onStep(state.step.i, steps.length, state.x, state.x_0)) === false) return null;
    x = state.x;
  }
  return { images: toUint8(x, spec.image_shape), x };
}

/**
 * Return the model, stopped where it predicts what is not finite: clipping would hide an infinity.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Step[]} steps
 * @param {number} first
 * @returns {Model}
 */
function watched(model, spec, steps, first) {
  return async (x_t, t, dims) => {
    const outputs = await model(x_t, t, dims);
    const step = /** @type {Step} */ (steps.find((each) => BigInt(each.t) === t[0]));
    for (const name of outputNames(spec)) if (outputs[name]) refuseNonFinite(outputs[name], step, spec, first);
    return outputs;
  };
}

/**
 * @param {Float32Array} values
 * @param {Step} step
 * @param {ModelSpec} spec
 * @param {number} first
 */
function refuseNonFinite(values, step, spec, first) {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at >= 0) {
    throw new NonFiniteError(
      `step ${step.i} (t = ${step.t}), image ${first + Math.floor(at / sizeOf(spec.image_shape))}: a number is not ` +
        "finite. got NaN or infinity, expected finite values. Do run ddpm-check on the model.",
    );
  }
}
