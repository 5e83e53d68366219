/**
 * Sampling from a diffusion model: noise, rows and pixels, the same for the same seed in every language of this
 * project (docs/format.md is the contract). For browsers, workers and node; knows nothing of ONNX Runtime.
 *
 *     const spec = specFromOnnx(bytes);                             // the numbers that travel in the model file
 *     const denoise = denoiser(model, spec);                        // (x_t, row, x_0 before) -> { x_0, eps }
 *     const noise = noiseStream(7n, [0, 1, 2], spec.state_shape);   // draw -> normals; draw 0 is x_T
 *     const rows = plan(spec, { sampler: "ddim", numSteps: 50 });   // the solver, a table of numbers
 *     for await (const state of walk(denoise, noise, rows)) show(toUint8(state.x, spec.state_shape));
 *
 * or `sample`, which is these lines in one call. Images are flat Float32Arrays in B, C, H, W order. Names with an
 * underscore are the papers' letters (x_0, a_prev) or keys of the file (num_steps), written as they are there.
 *
 * Coefficients are doubles, rounded once to float32; `fround` after every operation makes the rest float32 as well.
 */

import { NORMAL_TABLE } from "./normal_table.js";

/** @typedef {readonly number[]} Shape [C, H, W] of pictures, else one, two or four sizes */
/** @typedef {(draw: number) => Float32Array} Noise draw index -> [B, ...shape]; 0 is x_T, i belongs to row i */
/**
 * One network evaluation and the state after it, docs/format.md section 2.
 * @typedef {object} Row
 * @property {number} i its number, from 1, and its noise draw
 * @property {number} t what the network is told
 * @property {number} a alphas_cumprod there
 * @property {readonly number[]} x_0 weights of the clean images found, newest first
 * @property {readonly number[]} eps weights of the noises found, newest first
 * @property {readonly number[]} noise weight of fresh noise: [], [std], or [small, large] of a learned variance
 * @property {boolean} [raw_eps] whether eps stays as before where x_0 is clipped; of all rows of a plan, or of none
 */
/** @typedef {{ rows: readonly Row[], start: number }} Plan from noise to picture; start weighs noise draw 0 */
/** @typedef {{ t: readonly number[], a: readonly number[] }} Grid times, and alphas_cumprod there and, one number more,
 * where the last row ends */
/** @typedef {Record<string, Float32Array>} Outputs a network's outputs by name */
/** @typedef {Record<string, BigInt64Array | Float32Array>} Inputs what a network is told besides x_t and t, by name */
/** @typedef {(x_t: Float32Array, t: BigInt64Array | Float32Array, inputs: Inputs) => Outputs | Promise<Outputs>} Model
 * t has a number for each image and is float32 only where the spec requires fractional_t */
/** @typedef {{ x_0: Float32Array, eps: Float32Array, variance_fraction: Float32Array | null }} Denoised */
/** @typedef {(x_t: Float32Array, row: Row, x_0_before: Float32Array | null) => Promise<Denoised>} Denoiser
 * x_0_before: the clean image that the evaluation before found, null at first */
/** @typedef {(x: Float32Array, draw: number, a: number) => Float32Array} Keep a state, its draw and alphas_cumprod there
 * -> it, with what is known put in, as a fresh array */
/** @typedef {(step: number, numSteps: number, x: Float32Array, x_0: Float32Array) => unknown} Progress */
/**
 * What a row leaves; `walk` goes on from it exactly.
 * @typedef {object} State
 * @property {Row} row
 * @property {Float32Array} x the image after the row
 * @property {Float32Array} x_0 what the denoiser found before it
 * @property {Float32Array} eps the same
 * @property {readonly (readonly [Float32Array, Float32Array])[]} history [x_0, eps] that later rows read, newest first
 */
/** @typedef {"fixed_small" | "fixed_large" | "learned"} Variance */
/**
 * An input of the network's graph besides x_t and t.
 * @typedef {object} Input
 * @property {string} name
 * @property {"label" | "vector" | "image" | "previous"} kind
 * @property {readonly number[]} shape without the batch, [] of a label
 * @property {number | null} none what fills it where nothing is said; null where it has to be given
 * @property {readonly string[]} classes the names of a label's values, from 0 on
 * @property {readonly (readonly number[])[]} [limits] the least and the largest that a user may give, each one number or
 *   one for each place of the last axis; [] for any
 */
/**
 * How strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it.
 * @typedef {object} Guidance
 * @property {number} scale 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it
 *   is, and both cost one evaluation
 * @property {readonly number[] | null} [interval] [low, high], the times t that are guided, both ends among them; at
 *   others the scale is 1 (Kynkaanniemi et al. 2024). Left out, all are
 */
/**
 * What a model file says of itself, with the keys of docs/format.md.
 * @typedef {object} ModelSpec
 * @property {string} name
 * @property {"eps" | "x_0" | "v"} prediction
 * @property {Shape} state_shape three sizes of pictures; what is made of any other number are floats
 * @property {readonly number[]} alphas_cumprod T numbers, strictly falling
 * @property {number | null} clip_x_0
 * @property {Variance} variance of the ddpm sampler
 * @property {{ sampler: string, num_steps: number, eta: number, times?: number[], plan?: string,
 *   guidance?: Guidance | null }} defaults
 * @property {string | null} [graph] of a one-call file, which sampler it has inside
 * @property {readonly string[]} requires
 * @property {readonly Input[]} inputs
 * @property {Record<string, Plan>} plans
 * @property {{ scale: number[], shift: number[], axis: number } | null} [units] value = scale x + shift, along an axis
 * @property {Record<string, Stage>} [stages] graphs that run once for each image, beside the model: before, which gives
 *   inputs of the network, after, which gives images or values, and encode
 */
/** @typedef {{ outputs: Record<string, number[]>, inputs: Input[], file?: string, sha256?: string }} Stage inputs: what
 * `before` takes of the user */
/** @typedef {(name: string, inputs: Inputs) => Promise<Outputs>} Stages runs a stage of the file on one image */
/**
 * What, besides the model, decides a batch of images; what is left out comes from the spec.
 * @typedef {object} Settings
 * @property {number | bigint} seed 0 to 2^63 - 1; as a number only up to 2^53 - 1
 * @property {number} [first] number of the first image, 0 if left out
 * @property {number} [n] how many images, 1 if left out
 * @property {number} [numSteps]
 * @property {readonly number[]} [times] strictly falling, in place of numSteps evenly spaced ones
 * @property {string} [sampler] ddim or ddpm
 * @property {number} [eta] only of ddim
 * @property {Variance} [variance] only of ddpm
 * @property {string} [plan] the name of one of the file's plans, in place of steps, times, sampler and knobs
 * @property {unknown} [label] a class by name or index, none, or a list of them, image k number k mod their count;
 *   every class in turn if left out
 * @property {number | Guidance | null} [guidance] as of `denoiser`
 * @property {Record<string, unknown>} [inputs] what else the network is told, by name: values for one image or for
 *   several, which images take in turn as well
 * @property {Stages} [stages] runs the file's: inputs are then those that a user gives, else the network's own
 * @property {{ seed: number | bigint, share: number }} [toward] another seed, and how far the noise that images begin
 *   with is turned to its, 0 to 1
 */

const { fround, sqrt } = Math;
const WORD = 2 ** 32;
const NOISE_TAG = "philox4x32-10/icdf-q20/1";
const METADATA_KEY = "ddpm_export";
const FORMAT = "ddpm-export/1";
const PREDICTIONS = ["eps", "x_0", "v"];
const SAMPLERS = ["ddpm", "ddim"];
const VARIANCES = ["fixed_small", "fixed_large", "learned"];
const VARIANCE_FRACTION = "variance_fraction"; // the second output of a network that learned its variances
const FRACTIONAL_T = "fractional_t";
const RAW_EPS = "raw_eps";
const NO_CLASS = "none"; // as users call it, unless a class has that name
const OWN_GUIDANCE = "guidance"; // the input of a network that guides itself: the scale, whose none is 1
const MAX_GUIDANCE = 100;
const UNDERSTOOD = [
  ...[FRACTIONAL_T, "guidance", "inputs", "plan", RAW_EPS, "shape", "stages", "times", "units", VARIANCE_FRACTION],
];
const REQUIRED = "name prediction alphas_cumprod clip_x_0 variance value_range defaults noise requires";
const KINDS = ["label", "vector", "image", "previous"]; // of inputs
const RESERVED = { label: "y", previous: "x_0_prev" }; // the names that belong to a kind
const IDENTIFIER = /^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$/; // or several with dots between
const PLAN_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$/;
const MAX_JSON_BYTES = 256 * 1024;
const MAX_NESTING = 32;
const MAX_PIXELS = 2 ** 26;
const MAX_DIMENSIONS = 4;
const MAX_CLASSES = 4096;
const MAX_ROWS = 10_000;
const MAX_REACH = 16; // how many evaluations a row may read, its own among them

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

/** A number of an image became infinite or NaN: number `at` of its flat batch. */
export class NonFiniteError extends DdpmError {
  exitCode = 6;
  /**
   * @param {string} where
   * @param {number} at
   */
  constructor(where, at, what = `number ${at} of the batch`) {
    super(`At ${where}, ${what} became NaN or infinite. Run ddpm-check on the model.`);
    this.where = where;
    this.at = at;
  }
}

/**
 * Return text as one short, printable line: what comes from a file may hold anything.
 * @param {string} text
 */
function plain(text) {
  const line = text.replace(/[^ -~]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return line.length <= 80 ? line : `${line.slice(0, 77)}...`;
}

/**
 * Return a value for an error's line.
 * @param {any} value
 * @returns {string}
 */
export function shown(value) {
  if (typeof value === "string") return `'${plain(value)}'`;
  if (Array.isArray(value)) return plain(`[${value.map(shown).join(", ")}]`);
  return plain(typeof value === "object" && value !== null ? JSON.stringify(value) : String(value));
}

/**
 * Return the first few of a list, and how many there are where those are not all.
 * @param {readonly unknown[]} list
 */
function several(list, most = 5) {
  const some = plain(list.slice(0, most).join(", "));
  return list.length <= most ? some : `${some}, ... (${list.length} of them)`;
}

/**
 * Return how many numbers a shape has.
 * @param {Shape} shape
 */
export const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

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
 * Return the noise of some images, draw index -> [B, ...shape]: nothing is kept between calls, and image 7 has the same
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
      `seed must be a BigInt or an integer of at most 2^53 - 1, got ${shown(seed)}. Write it with n at its end.`,
    );
  }
  if (seed < 0 || seed >= 2n ** 63n) throw new UsageError(`seed must be from 0 to 2^63 - 1, got ${seed}.`);
  if (shape.length === 0 || !shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
    throw new UsageError(`shape must be positive sizes, such as [C, H, W], got ${shown(shape)}.`);
  }
  for (const number of numbers) requireWord("Numbers of images", number);
  requireWord("domain", domain);
  const key = [Number(BigInt(seed) & 0xffffffffn), Number(BigInt(seed) >> 32n)];
  const size = sizeOf(shape);
  const counter = new Uint32Array(4);
  const words = new Uint32Array(4 * Math.ceil(size / 4)); // of one image; those left over at its end are dropped

  return (draw) => {
    requireWord("draw", draw);
    const normals = new Float32Array(numbers.length * size);
    numbers.forEach((image, k) => {
      for (let block = 0; 4 * block < size; block++) {
        counter.set([block, draw, image, domain]);
        philox4x32_10(counter, key, words, 4 * block);
      }
      normals.set(normalsFromWords(words.subarray(0, size)), k * size);
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
    throw new UsageError(`${where} must be from 0 to 2^32 - 1, got ${shown(value)}.`);
  }
}

// --- spec (docs/format.md, section 1) ---

const isNumber = Number.isFinite; // false for what is no number

/** @param {unknown} value */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * @param {unknown} list
 * @param {(item: any) => boolean} test
 */
const isListOf = (list, test) => Array.isArray(list) && list.every(test);

/** @param {unknown} size */
const isSize = (size) => Number.isInteger(size) && /** @type {number} */ (size) > 0;

/** @param {number[]} numbers */
const strictlyFalls = (numbers) => numbers.every((number, k) => k === 0 || number < numbers[k - 1]);

/**
 * @param {unknown} isSo
 * @param {string} what
 */
function need(isSo, what) {
  if (!isSo) throw new BadFileError(`The model's spec cannot be used: ${what}.`);
}

/**
 * @param {unknown} isSo
 * @param {string} key
 * @param {string} expected
 * @param {unknown} got
 */
function must(isSo, key, expected, got) {
  if (!isSo) throw new BadFileError(`In the model's spec, ${key} must be ${expected}, got ${shown(got)}.`);
}

/**
 * @param {unknown} isSo
 * @param {string} what
 * @param {unknown} got
 * @param {string} known
 */
function understand(isSo, what, got, known) {
  const needed = `The model needs ${what} ${shown(got)}`;
  if (!isSo) throw new ModelRefusedError(`${needed}, and this version knows ${known}. Install a newer one.`);
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

/**
 * Read and validate a spec. Unknown keys are ignored; what is missing is never guessed.
 * Throws BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
 * @param {string} text
 * @returns {ModelSpec}
 */
export function specFromJson(text) {
  const { length } = new TextEncoder().encode(text);
  if (length > MAX_JSON_BYTES) {
    throw new BadFileError(`The model's spec must have at most ${MAX_JSON_BYTES} bytes, got ${length}.`);
  }
  let spec;
  try {
    spec = JSON.parse(text, (_, value) => {
      if (value === Infinity || value === -Infinity) throw new RangeError("a number beyond every float");
      return value;
    });
  } catch (error) {
    throw new BadFileError(`The model's spec is not JSON: ${plain(/** @type {Error} */ (error).message)}.`);
  }
  if (!isNestedWithin(spec, MAX_NESTING)) {
    throw new BadFileError(`The model's spec must be nested at most ${MAX_NESTING} levels deep.`);
  }
  if (!isObject(spec)) throw new BadFileError(`The model's spec must be a JSON object, got ${shown(spec)}.`);
  const isOurs = typeof spec.format === "string" && spec.format.startsWith("ddpm-export/");
  must(isOurs, "format", `'${FORMAT}'`, spec.format);
  understand(spec.format.split("/")[1].split(".")[0] === FORMAT.split("/")[1], "the format", spec.format, FORMAT);
  const shapeKey = spec.requires?.includes?.("shape") ? "state_shape" : "image_shape";
  const missing = `${REQUIRED} ${shapeKey}`.split(" ").filter((key) => !Object.hasOwn(spec, key));
  if (missing.length > 0) throw new BadFileError(`The model's spec must have ${several(missing)}, which it lacks.`);
  spec.state_shape = spec[shapeKey];
  validate(spec, shapeKey);
  const inputs = (spec.inputs ?? []).map((/** @type {any} */ one) => inputFromJson(one, spec.state_shape));
  const names = new Set(inputs.map((/** @type {Input} */ { name }) => name));
  const isNamed = inputs.length > 0 === spec.requires.includes("inputs");
  if (names.size < inputs.length || !isNamed) {
    throw new BadFileError(
      "In the model's spec, inputs must have different names, and requires must name inputs if there are any.",
    );
  }
  const readStage = (/** @type {any} */ [name, stage]) => [name, stageFromJson(name, stage, inputs, spec.state_shape)];
  const stages = Object.fromEntries(Object.entries(spec.stages ?? {}).map(readStage));
  const plans = Object.entries(spec.plans ?? {}).map(([name, plan]) => [name, planFromJson(name, plan, spec)]);
  const read = { ...spec, inputs, stages, plans: Object.fromEntries(plans) };
  if (spec.defaults.guidance && !takesGuidance(read)) {
    throw new BadFileError("In the model's spec, defaults.guidance needs a label that may be none, and has none.");
  }
  needIntegers(read, text, shapeKey);
  return read;
}

/**
 * Refuse 3.0 and 3e0 where the format wants an integer: JSON.parse makes no difference, other readers do.
 * @param {Record<string, any>} spec
 * @param {string} text
 * @param {string} shapeKey
 */
function needIntegers(spec, text, shapeKey) {
  const isFloat = (/** @type {string} */ token) => token[0] !== '"' && /[.eE]/.test(token);
  const tokens = /"(?:[^"\\]+|\\.)*"|-?\d[\d.eE+-]*/g;
  const withoutFloats = JSON.parse(text.replace(tokens, (token) => (isFloat(token) ? "null" : token)));
  const integersOf = (/** @type {any} */ { [shapeKey]: shape, defaults, inputs = [], plans = {}, requires, ...rest }) => [
    ...[...shape, defaults.num_steps, ...(defaults.times ?? []), rest.units?.axis],
    ...Object.values(rest.stages ?? {}).flatMap((/** @type {any} */ { outputs }) => Object.values(outputs).flat()),
    ...[...inputs, ...(rest.stages?.before?.inputs ?? [])].flatMap((/** @type {any} */ { kind, shape, none }) => (kind === "label" ? [none] : shape)),
    ...Object.values(requires.includes(FRACTIONAL_T) ? {} : plans).flatMap(({ rows }) =>
      rows.map((/** @type {any} */ row) => (Array.isArray(row) ? row[0] : row.t)),
    ),
  ];
  const kept = integersOf(withoutFloats);
  const wrong = integersOf(spec).find((number, k) => number !== kept[k]);
  need(wrong === undefined, `sizes, steps, times and classes must be integers, not ${wrong}.0`);
}

/**
 * @param {Record<string, any>} spec
 * @param {string} shapeKey
 */
function validate(spec, shapeKey) {
  const { requires, alphas_cumprod: alphas, state_shape: shape, value_range: range, clip_x_0: clip, defaults } = spec;
  must(
    isListOf(requires, (name) => typeof name === "string"),
    "requires",
    "a list of names",
    requires,
  );
  const unknown = requires.filter((/** @type {string} */ name) => !UNDERSTOOD.includes(name));
  understand(unknown.length === 0, "a reader of", several(unknown), UNDERSTOOD.join(", "));
  const isGraph = [undefined, null, "sampler", "slice", "edit"].includes(spec.graph);
  understand(isGraph, "the graph", spec.graph, "a denoiser, sampler, slice and edit");
  understand(spec.noise === NOISE_TAG, "the noise", spec.noise, NOISE_TAG);
  must(typeof spec.name === "string" && [...spec.name].length <= 200, "name", "a short string", spec.name);
  must(PREDICTIONS.includes(spec.prediction), "prediction", `one of ${PREDICTIONS.join(", ")}`, spec.prediction);
  must(VARIANCES.includes(spec.variance), "variance", `one of ${VARIANCES.join(", ")}`, spec.variance);
  const isPicture = shapeKey === "image_shape";
  const isCount = (/** @type {number} */ count) => (count === 3) === isPicture && count > 0 && count <= MAX_DIMENSIONS;
  must(
    isListOf(shape, isSize) && isCount(shape.length) && sizeOf(shape) <= MAX_PIXELS,
    shapeKey,
    `${isPicture ? "three" : "one, two or four"} positive integers with a product of at most ${MAX_PIXELS}`,
    shape,
  );
  must(
    Array.isArray(range) && range.length === 2 && range[0] === -1 && range[1] === 1,
    "value_range",
    "[-1, 1]",
    range,
  );
  must(clip === null || (isNumber(clip) && clip > 0), "clip_x_0", "a positive number or null", clip);
  must(isListOf(alphas, isNumber) && alphas.length > 0, "alphas_cumprod", "at least one number", alphas);
  must(alphas[0] < 1 && strictlyFalls(alphas), "alphas_cumprod", "numbers that strictly fall within (0, 1)", alphas);
  const [T, last] = [alphas.length, alphas[alphas.length - 1]];
  const isLastPossible = last > 0 || (last === 0 && spec.prediction !== "eps");
  must(isLastPossible, "alphas_cumprod", "a last value above 0 (0 itself only with x_0 or v)", last);
  must(isObject(defaults), "defaults", "an object with sampler, num_steps, eta", defaults);
  const { sampler, num_steps, eta, times = null, plan = null, guidance = null } = defaults;
  must(typeof sampler === "string", "defaults.sampler", "a sampler's name", sampler);
  must(isSize(num_steps) && num_steps <= T, "defaults.num_steps", `1 to ${T}`, num_steps);
  must(isNumber(eta) && eta >= 0 && eta <= 1, "defaults.eta", "a number from 0 to 1", eta);
  const isTime = (/** @type {any} */ t) => Number.isInteger(t) && t >= 0 && t < T;
  const areTimes = times === null || (isListOf(times, isTime) && times.length > 0 && strictlyFalls(times));
  must(areTimes, "defaults.times", `strictly falling integers from ${T - 1} to 0`, times);
  const { source = {}, golden } = spec;
  must(isObject(source) && isObject(golden ?? {}), "source and golden", "objects", isObject(source) ? golden : source);
  must(spec.inputs === undefined || Array.isArray(spec.inputs), "inputs", "a list", spec.inputs);
  must(spec.plans === undefined || isObject(spec.plans), "plans", "an object", spec.plans);
  if (plan !== null && !(typeof plan === "string" && Object.hasOwn(spec.plans ?? {}, plan))) {
    throw new BadFileError(`The model's default plan, ${shown(plan)}, is not among its plans.`);
  }
  const isVariance = spec.variance !== "learned" || requires.includes(VARIANCE_FRACTION);
  must(isVariance, "variance", `fixed unless requires has ${VARIANCE_FRACTION}`, spec.variance);
  if (guidance !== null) {
    const isWhole = isObject(guidance) && Object.hasOwn(guidance, "scale");
    need(isWhole, `guidance must be an object with scale, got ${shown(guidance)}`);
    const trouble = troubleOf(guidance);
    need(trouble === null, trouble ?? "");
  }
  const { units = null, stages } = spec;
  if (units !== null) checkUnits(units, shape);
  must(stages === undefined || isObject(stages), "stages", "an object", stages);
  const asked = stages?.before ?? stages?.after ?? null;
  for (const [name, needed] of Object.entries({ times, plan, guidance, units, stages: asked })) {
    if (needed === null || requires.includes(name)) continue;
    throw new BadFileError(`In the model's spec, requires must name '${name}', got ${shown(requires)}.`);
  }
}

/**
 * @param {any} units
 * @param {Shape} shape of a state
 */
function checkUnits(units, shape) {
  const isAxis = isObject(units) && Number.isInteger(units.axis) && units.axis >= 0 && units.axis < shape.length;
  must(isAxis, "units.axis", "a dimension of the state", units?.axis);
  for (const key of ["scale", "shift"]) {
    const fits = (/** @type {any} */ one) => isNumber(one) && Math.abs(one) <= 1e6 && !(key === "scale" && one === 0);
    const isSound = isListOf(units[key], fits) && [1, shape[units.axis]].includes(units[key].length);
    must(isSound, `units.${key}`, `1 or ${shape[units.axis]} numbers`, units[key]);
  }
}

/**
 * @param {string} name
 * @param {any} stage
 * @param {Input[]} inputs of the network
 * @param {Shape} stateShape
 * @returns {Stage}
 */
function stageFromJson(name, stage, inputs, stateShape) {
  must(isObject(stage), `stages.${name}`, "an object", stage);
  const entries = isObject(stage.outputs) ? Object.entries(stage.outputs) : [];
  const isSound = entries.every(([_, shape]) => {
    return isListOf(shape, isSize) && shape.length > 0 && shape.length <= MAX_DIMENSIONS && sizeOf(shape) <= MAX_PIXELS;
  });
  const [[key, shape], isOne] = [entries[0] ?? [], entries.length === 1];
  const made = (/** @type {[string, any]} */ [key, shape]) => {
    const isIt = (/** @type {Input} */ one) => one.name === key && isTold(one) && one.kind !== "label";
    return inputs.some((one) => isIt(one) && String(one.shape) === String(shape));
  };
  const isBefore = name === "before" && entries.length > 0 && entries.length <= 64 && isSound && entries.every(made);
  const isAfter = name === "after" && isOne && (key === "values" || (key === "images" && shape?.length === 3));
  const isEncoder = name === "encode" && isOne && key === "x" && String(shape) === String(stateShape);
  const expected = "before, which gives inputs of the network, after, which gives images or values, or encode, a state";
  must(isSound && (isBefore || isAfter || isEncoder), `stages.${name}`, expected, stage.outputs);
  const taken = stage.inputs === undefined ? [] : stage.inputs;
  const fits = Array.isArray(taken) && taken.length > 0 === isBefore;
  must(fits, `stages.${name}.inputs`, "a list, there for before and for no other", taken);
  const { file = null, sha256 = null } = stage;
  const isPlain = file === null ? sha256 === null : /^[\p{L}\p{N}_-][\p{L}\p{N}_ .+-]*\.onnx$/u.test(file) && /^[0-9a-f]{64}$/.test(sha256);
  must(isPlain, `stages.${name}`, "a plain file name and 64 hexadecimal digits", stage);
  return { ...stage, inputs: taken.map((/** @type {any} */ one) => inputFromJson(one, [1, 1])) };
}

/**
 * Return whether a state is a picture by itself, without a decoder or units.
 * @param {Pick<ModelSpec, "state_shape" | "units" | "stages">} spec
 */
export const stateIsPicture = ({ state_shape, units, stages }) => state_shape.length === 3 && !units && !stages?.after;

/**
 * Return the shape of what is made of one state, and whether it is a picture, or else numbers.
 * @param {ModelSpec} spec
 * @returns {{ shape: Shape, isPicture: boolean }}
 */
export function resultOf({ state_shape, units, stages }) {
  const outputs = stages?.after?.outputs;
  if (!outputs) return { shape: state_shape, isPicture: stateIsPicture({ state_shape, units, stages }) };
  return { shape: outputs.images ?? outputs.values, isPicture: "images" in outputs };
}

/**
 * Return the values of states (n, ...shape): x itself without units.
 * @param {ModelSpec} spec
 * @param {Float32Array} x
 * @returns {Float32Array}
 */
export function valuesOf({ state_shape, units }, x) {
  if (!units) return x;
  const [scale, shift] = [units.scale, units.shift].map((numbers) => Float32Array.from(numbers));
  const inner = sizeOf(state_shape.slice(units.axis + 1));
  return x.map((value, k) => {
    const place = Math.floor(k / inner) % state_shape[units.axis];
    return fround(scale[scale.length === 1 ? 0 : place] * value) + shift[shift.length === 1 ? 0 : place];
  });
}

/**
 * @param {any} one
 * @param {Shape} stateShape
 * @returns {Input}
 */
function inputFromJson(one, stateShape) {
  const isWhole = isObject(one) && ["name", "kind", "shape", "none"].every((key) => Object.hasOwn(one, key));
  need(isWhole, "an input must be an object with name, kind, shape and none");
  const { name, kind, shape, none, classes = [], limits = [] } = one;
  need(Array.isArray(shape) && Array.isArray(classes), "shape and classes of an input must be lists");
  const isName = typeof name === "string" && IDENTIFIER.test(name) && name !== "x_t" && name !== "t";
  need(isName, `an input's name must be an identifier other than x_t and t, not ${shown(name)}`);
  const where = `input ${shown(name)}`;
  need(KINDS.includes(kind), `the kind of ${where} must be one of ${KINDS.join(", ")}, not ${shown(kind)}`);
  for (const [owner, reserved] of Object.entries(RESERVED)) {
    const isKept = (name === reserved) === (kind === owner);
    need(isKept, `the name ${reserved} is kept for the kind ${owner}, and the only one that it may have`);
  }
  const isOwn = kind === "vector" && shape.length === 1 && shape[0] === 1 && none === 1;
  need(name !== OWN_GUIDANCE || isOwn, `${where} must be a vector of one number, whose none is 1`);
  const isShape = shape.every(isSize) && sizeOf(shape) <= MAX_PIXELS;
  need(isShape, `the shape of ${where} must be positive integers with a product of at most ${MAX_PIXELS}`);
  const isAny = kind === "image" && stateShape.length !== 3 && shape.length > 0 && shape.length <= MAX_DIMENSIONS;
  const dimensions = [0, 1, 3, stateShape.length][KINDS.indexOf(kind)]; // beside numbers an image is numbers too
  const fits =
    (isAny || shape.length === dimensions) && (kind !== "previous" || shape.join() === stateShape.join());
  need(fits, `the shape of ${where}, a ${kind}, does not fit it: ${shown(shape)}`);
  if (kind === "label") {
    const areNames = isListOf(classes, (one) => typeof one === "string");
    const isCount = classes.length > 0 && classes.length <= MAX_CLASSES;
    need(areNames && isCount, `the classes of ${where} must be 1 to ${MAX_CLASSES} names`);
    need(new Set(classes).size === classes.length, `the classes of ${where} must have different names`);
    const isIndex = none === null || (Number.isInteger(none) && none >= 0 && none <= classes.length);
    need(isIndex, `none of ${where} must be null or an index from 0 to ${classes.length}`);
  } else {
    need(classes.length === 0, `only a label has classes, ${where} is a ${kind}`);
    need(none === null || isNumber(none), `none of ${where} must be null or a finite number`);
  }
  const [low, high] = isListOf(limits, (ends) => isListOf(ends, isNumber)) ? limits : [null];
  const isPair = limits?.length === 2 && low?.length === high?.length && [1, shape.at(-1)].includes(low?.length);
  const areLimits = limits?.length === 0 || (isPair && kind !== "label");
  need(Array.isArray(limits) && areLimits, `limits of ${where} must be two lists, of one number or the last axis's`);
  return { name, kind, shape, none, classes, limits };
}

/**
 * @param {string} name
 * @param {any} values
 * @param {Record<string, any>} spec
 * @returns {Plan}
 */
function planFromJson(name, values, { alphas_cumprod, prediction, requires }) {
  need(PLAN_NAME.test(name), "a plan's name must be 1 to 64 letters, digits and ._+-, starting with a letter or digit");
  need(isObject(values) && Array.isArray(values.rows), `plan ${name} must be an object with a list of rows`);
  const { start = 1, raw_eps = false, rows } = values;
  need(isNumber(start) && start > 0, `the start of plan ${name} must be a positive number`);
  need(typeof raw_eps === "boolean", `raw_eps of plan ${name} must be true or false`);
  const count = rows.length;
  need(count >= 1 && count <= MAX_ROWS, `plan ${name} must have 1 to ${MAX_ROWS} rows, not ${count}`);
  const isFractional = requires.includes(FRACTIONAL_T);
  const last = alphas_cumprod.length - 1;

  /** @param {any} values @param {number} k */
  const rowFromJson = (values, k) => {
    const [i, where] = [k + 1, `row ${k + 1} of plan ${name}`];
    need(Array.isArray(values) && values.length === 5, `${where}: it must be [t, a, x_0, eps, noise]`);
    const [t, a, ...lists] = values;
    const isTime = isFractional ? isNumber(t) : Number.isInteger(t);
    const kind = isFractional ? "a number" : "an integer";
    need(isTime && t >= 0 && t <= last, `${where}: t must be ${kind} from 0 to ${last}`);
    need(isNumber(a) && a >= 0 && a < 1, `${where}: a must be a number from 0 to below 1`);
    if (a === 0 && prediction === "eps") {
      throw new BadFileError(`Plan ${name} must keep a above 0, since the network predicts eps.`);
    }
    const areLists = lists.every((/** @type {unknown} */ list) => isListOf(list, isNumber));
    need(areLists, `${where}: x_0, eps and noise must be lists of finite numbers`);
    const [x_0, eps, noise] = lists;
    const row = { i, t, a, x_0, eps, noise, raw_eps };
    const most = Math.min(i, MAX_REACH);
    const isReach = reachOf(row) >= 1 && reachOf(row) <= most;
    need(isReach, `${where}: it must read 1 to ${most} evaluations, not ${reachOf(row)}`);
    const isNoise = noise.length <= 2 && noise.every((/** @type {number} */ std) => std > 0);
    need(isNoise, `${where}: noise must be empty, one positive number, or two of them, small and large`);
    if (noise.length === 2 && !requires.includes(VARIANCE_FRACTION)) {
      throw new BadFileError(`Plan ${name} needs a learned variance, which the network does not have.`);
    }
    return row;
  };
  const plan = { rows: rows.map(rowFromJson), start };
  if (raw_eps && !requires.includes(RAW_EPS)) {
    throw new BadFileError(`Plan ${name} has raw_eps, so that requires must name it, got ${shown(requires)}.`);
  }
  return plan;
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
    const why = plain(/** @type {Error} */ (error).message);
    throw new BadFileError(
      `The model is not an ONNX file: ${why}, in ${bytes.length} bytes. Download it or export it again.`,
    );
  }
  if (found.length !== 1) {
    throw new BadFileError(
      `The model's metadata must have one entry '${METADATA_KEY}', got ${found.length}. Export it with ddpm-export.`,
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

// --- rows (docs/format.md, section 2) ---

/**
 * Return numSteps of T times, falling from T - 1, evenly spaced: t_i = floor(T (n - i) / n) - 1.
 * Throws UsageError for numSteps outside 1..T.
 * @param {number} numTrainTimesteps T
 * @param {number} numSteps
 */
export function spacing(numTrainTimesteps, numSteps) {
  const T = numTrainTimesteps;
  if (!Number.isInteger(numSteps) || numSteps < 1 || numSteps > T) {
    throw new UsageError(`The number of steps must be from 1 to ${T}, the model's own, got ${shown(numSteps)}.`);
  }
  return Array.from({ length: numSteps }, (_, i) => Math.floor((T * (numSteps - i)) / numSteps) - 1);
}

/**
 * Return numSteps evenly spaced times, or the given falling ones; without either, the spec's number of them.
 * Throws UsageError for numSteps outside 1..T and for times that do not strictly fall within 0..T - 1.
 * @param {ModelSpec} spec
 * @param {number | null} [numSteps]
 * @param {{ times?: Iterable<number> | null }} [options]
 * @returns {Grid}
 */
export function grid(spec, numSteps, { times } = {}) {
  const T = spec.alphas_cumprod.length;
  const t = [...(times ?? spacing(T, numSteps ?? spec.defaults.num_steps))];
  if (t.length === 0 || !t.every((each) => Number.isInteger(each) && each >= 0 && each < T) || !strictlyFalls(t)) {
    throw new UsageError(`times must strictly fall from at most ${T - 1} to at least 0, got ${several(t)}.`);
  }
  if (![undefined, null, t.length].includes(numSteps)) {
    throw new UsageError(`numSteps must be left out or be the number of times, ${t.length}, got ${shown(numSteps)}.`);
  }
  return { t, a: [...t.map((each) => spec.alphas_cumprod[each]), 1] };
}

/**
 * Return the rows of DDIM (Song et al. 2020, eq. 12 and 16); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.
 * eta is rounded to float32. Throws UsageError for eta outside 0..1.
 * @param {Grid} grid
 * @param {{ eta?: number }} [options]
 * @returns {Row[]}
 */
export function ddim(grid, { eta = 0 } = {}) {
  if (!(typeof eta === "number" && eta >= 0 && eta <= 1)) {
    throw new UsageError(`eta must be between 0 and 1, got ${shown(eta)}.`);
  }
  const rounded = fround(eta); // the one-call graph takes float32: the same eta everywhere
  return grid.t.map((t, k) => {
    const [a, a_prev] = [grid.a[k], grid.a[k + 1]];
    const std = rounded * sqrt((1 - a_prev) / (1 - a)) * sqrt(1 - a / a_prev);
    const c_eps = sqrt(Math.max(0, 1 - a_prev - std * std));
    return { i: k + 1, t, a, x_0: [sqrt(a_prev)], eps: [c_eps], noise: std > 0 ? [std] : [], raw_eps: false };
  });
}

/**
 * Return the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the grid leaves times out.
 * variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's (section 3.2), learned lies where the network
 * says between the two (Nichol and Dhariwal 2021, eq. 15). Throws UsageError for another variance.
 * @param {Grid} grid
 * @param {{ variance?: string }} [options]
 * @returns {Row[]}
 */
export function ddpm(grid, { variance = "fixed_small" } = {}) {
  if (!VARIANCES.includes(variance)) {
    throw new UsageError(`variance must be one of ${VARIANCES.join(", ")}, got ${shown(variance)}.`);
  }
  return ddim(grid, { eta: 1 }).map((row, k) => {
    if (variance === "fixed_small" || row.noise.length === 0) return row;
    const large = sqrt(1 - grid.a[k] / grid.a[k + 1]);
    return { ...row, noise: variance === "learned" ? [...row.noise, large] : [large] };
  });
}

/**
 * Return the rows from noise to picture: of a sampler on a grid of times, or a plan that the file carries. What is left
 * out is the spec's default. name: of one of spec.plans, in place of all else.
 * Throws UsageError for what is no plan, ModelRefusedError for a default sampler that this version does not know.
 * @param {ModelSpec} spec
 * @param {{ sampler?: string | null, numSteps?: number | null, times?: readonly number[] | null, name?: string | null,
 *   eta?: number | null, variance?: string | null }} [options]
 * @returns {Plan}
 */
export function plan(spec, { sampler, numSteps, times, name, eta, variance } = {}) {
  const given = Object.entries({ sampler, numSteps, times, eta, variance });
  let said = given.filter(([, value]) => (value ?? null) !== null).map(([key]) => key);
  let chosen = name ?? (said.length === 0 ? spec.defaults.plan : null) ?? null;
  if (chosen === null && said.join() === "numSteps") {
    chosen = planWith(spec, /** @type {number} */ (numSteps));
    said = chosen === null ? said : [];
  }
  if (chosen !== null) {
    if (!Object.hasOwn(spec.plans, chosen)) {
      const names = Object.keys(spec.plans).join(", ") || "none, for the model carries none";
      throw new UsageError(`plan must be one of ${names}, got ${shown(chosen)}.`);
    }
    if (said.length > 0) throw new UsageError(`plan ${chosen} already fixes the steps. Drop ${said[0]}.`);
    return spec.plans[chosen];
  }
  const solver = sampler ?? spec.defaults.sampler;
  if (!SAMPLERS.includes(solver)) {
    const got = shown(solver);
    if (said.includes("sampler")) throw new UsageError(`sampler must be one of ${SAMPLERS.join(", ")}, got ${got}.`);
    throw new ModelRefusedError(`The model's default sampler, ${got}, is unknown to this version.`);
  }
  const places = grid(spec, numSteps, { times: times ?? (said.includes("numSteps") ? null : spec.defaults.times) });
  const foreign = solver === "ddim" ? "variance" : "eta";
  if (said.includes(foreign)) throw new UsageError(`${foreign} does not apply to ${solver}.`);
  const rows =
    solver === "ddim"
      ? ddim(places, { eta: eta ?? spec.defaults.eta })
      : ddpm(places, { variance: variance ?? spec.variance });
  const isLearned = rows.some(({ noise }) => noise.length === 2);
  if (isLearned && !outputNames(spec).includes(VARIANCE_FRACTION)) throw noLearnedVariance();
  return { rows, start: 1 };
}

/**
 * Return the name of the default plan's sibling for another number of steps, such as tuned-5 for tuned-8; null where
 * the file carries no such plan: then the default sampler takes those steps.
 * @param {ModelSpec} spec
 * @param {number} numSteps
 */
const planWith = (spec, numSteps) => {
  const family = /^(.*)-[0-9]+$/.exec(spec.defaults.plan ?? "")?.[1];
  const sibling = `${family}-${numSteps}`;
  return family !== undefined && Object.hasOwn(spec.plans, sibling) ? sibling : null;
};

const noLearnedVariance = () =>
  new UsageError("variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'.");

/**
 * Return how many evaluations a row reads, its own among them.
 * @param {Row} row
 */
export const reachOf = ({ x_0, eps }) => Math.max(x_0.length, eps.length);

/**
 * Return how many of the evaluations up to rows[k], newest first, later rows read.
 * @param {Plan} plan
 * @param {number} k
 */
const keptAfter = ({ rows }, k) =>
  Math.max(0, ...rows.slice(k + 1, k + MAX_REACH).map((row, ahead) => reachOf(row) - ahead - 1));

/**
 * Yield the state after every row of a plan; one network evaluation each, and nothing is kept that no row reads.
 * Starts at noise draw 0, or at `x` in its place; or goes on from `state`, which an earlier walk of the same plan
 * yielded, to the same bits. keep: what changes every state, the first among them, before it is yielded; of the picture
 * a is 1. Throws NonFiniteError at the row whose numbers are no longer finite.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Plan} plan
 * @param {{ x?: Float32Array | null, state?: State | null, keep?: Keep | null }} [options]
 * @returns {AsyncGenerator<State>}
 */
export async function* walk(denoise, noise, plan, { x, state, keep } = {}) {
  const start = fround(plan.start);
  let x_t = state?.x ?? x ?? noise(0).map((z) => start * z);
  let x_0_before = state?.x_0 ?? null;
  let history = state?.history ?? [];
  if (keep && !state) x_t = keep(x_t, 0, plan.rows[0].a);
  for (const [k, row] of plan.rows.entries()) {
    if (state && row.i <= state.row.i) continue;
    const found = await denoise(x_t, row, x_0_before);
    history = [[found.x_0, found.eps], ...history];
    x_t = after(row, history, found, noise);
    if (keep) x_t = keep(x_t, row.i, plan.rows[k + 1]?.a ?? 1);
    refuseNonFinite(x_t, row);
    history = history.slice(0, keptAfter(plan, k));
    x_0_before = found.x_0;
    yield { row, x: x_t, x_0: found.x_0, eps: found.eps, history };
  }
}

/**
 * Return the state after a row: newest first, clean image before noise, then fresh noise; this order is fixed.
 * @param {Row} row
 * @param {State["history"]} history
 * @param {Denoised} found
 * @param {Noise} noise
 */
function after(row, history, { x_0, variance_fraction }, noise) {
  const x = new Float32Array(x_0.length);
  let isFirst = true;
  for (let age = 0; age < reachOf(row); age++) {
    for (const [which, weights] of [row.x_0, row.eps].entries()) {
      if (age >= weights.length) continue;
      const [weight, values] = [fround(weights[age]), history[age][which]];
      if (isFirst) for (let k = 0; k < x.length; k++) x[k] = weight * values[k];
      else for (let k = 0; k < x.length; k++) x[k] += fround(weight * values[k]);
      isFirst = false;
    }
  }
  if (row.noise.length === 0) return x;
  const [small, large = small] = row.noise;
  if (row.noise.length === 2 && !variance_fraction) throw noLearnedVariance();
  const fraction = row.noise.length === 2 ? variance_fraction : null;
  const [std, ratio] = [fround(small), fround(large / small)];
  const z = noise(row.i);
  for (let k = 0; k < x.length; k++) {
    x[k] += fround((fraction ? fround(std * fround(ratio ** fraction[k])) : std) * z[k]);
  }
  return x;
}

/**
 * @param {Float32Array} values
 * @param {Row} row
 */
function refuseNonFinite(values, row) {
  const at = values.findIndex((value) => !isNumber(value));
  if (at >= 0) throw new NonFiniteError(`step ${row.i} (t = ${Number(row.t.toPrecision(6))})`, at);
}

// --- from a network to x_0 and eps: predict, combine, denoised ---

/**
 * Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4).
 * @param {Float32Array} x_0
 * @param {Float32Array} eps
 * @param {number} a
 */
export function noised(x_0, eps, a) {
  const [signal, noise] = [fround(sqrt(a)), fround(sqrt(1 - a))];
  return x_0.map((clean, k) => fround(signal * clean) + fround(noise * eps[k]));
}

/**
 * Bind a model, what it predicts, its clipping, inputs and guidance: (x_t, row, x_0 before) -> Denoised.
 * inputs: by the names of spec.inputs, a value for all images or one for each; a label's may be a class's name, its
 * index as text, or none; all else is flat numbers. guidance: null is the file's own, a number a scale for all times.
 * One network evaluation a call, at times with a scale other than 0 and 1 of two rows an image: with its label and
 * without. Throws UsageError for inputs that are unknown, missing or do not fit, here where it can be seen without a
 * batch, and for guidance that does not apply; its calls throw NonFiniteError where the network gives NaN or infinity,
 * BadFileError where an output is missing.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Record<string, unknown>} [inputs]
 * @param {number | Guidance | null} [guidance]
 * @returns {Denoiser}
 */
export function denoiser(model, spec, inputs = {}, guidance = null) {
  const guided = guidanceFor(spec, guidance);
  if (!Object.values(inputs).some(isList)) boundInputs(spec.inputs, inputs, 1, null); // what fits any batch
  return async (x_t, row, x_0_before = null) => {
    const told = boundInputs(spec.inputs, inputs, x_t.length / sizeOf(spec.state_shape), x_0_before);
    const scale = scaleAt(guided, row.t);
    const predictions = await predictionsOf(model, spec, x_t, row, told, scale);
    return denoised(combine(predictions, scale), spec, x_t, row);
  };
}

/**
 * Return the input that says which class is wanted, null where the network is told none.
 * @param {ModelSpec} spec
 * @returns {Input | null}
 */
export const labelOf = (spec) => spec.inputs.find(({ kind }) => kind === "label") ?? null;

/**
 * Return whether a network's predictions can be guided: it knows "no class", or takes guidance in its graph.
 * @param {ModelSpec} spec
 */
export function takesGuidance(spec) {
  const can = guidesItself(spec) || (labelOf(spec)?.none ?? null) !== null;
  const combines = (spec.graph ?? null) === null || spec.requires.includes("guidance"); // a graph only where it says so
  return can && combines;
}

/**
 * Return whether the scale of guidance is an input of the network, which then combines by itself.
 * @param {ModelSpec} spec
 */
const guidesItself = (spec) => spec.inputs.some(({ name }) => name === OWN_GUIDANCE);

/**
 * Return the guidance that is meant: what is given, a number being a scale for all times, or else the file's. Throws
 * UsageError for what is out of its range, and for any scale but 1 of a network that takes none.
 * @param {ModelSpec} spec
 * @param {number | Guidance | null} [given]
 * @returns {Guidance}
 */
export function guidanceFor(spec, given = null) {
  if (given === null) return spec.defaults.guidance ?? { scale: 1 };
  const guidance = isObject(given) ? /** @type {Guidance} */ (given) : { scale: /** @type {number} */ (given) };
  const trouble = troubleOf(guidance);
  if (trouble !== null) throw new UsageError(`${trouble}.`);
  if (guidance.scale !== 1 && !takesGuidance(spec)) {
    throw new UsageError(
      `guidance must be 1 for a network that has not learned to do without a class, got ${guidance.scale}.`,
    );
  }
  return guidance;
}

/**
 * Return what is wrong with a scale or an interval out of its range, null where they are fine.
 * @param {Guidance} guidance
 */
function troubleOf({ scale, interval = null }) {
  if (!isNumber(scale) || scale < 0 || scale > MAX_GUIDANCE) {
    return `guidance must be a number from 0 to ${MAX_GUIDANCE}, got ${shown(scale)}`;
  }
  if (interval === null) return null;
  const isInterval = isListOf(interval, isNumber) && interval.length === 2;
  if (isInterval && 0 <= interval[0] && interval[0] <= interval[1]) return null;
  return `the interval of guidance must be two times, the lower first, from 0 on, got ${shown(interval)}`;
}

/**
 * Return the scale at a time.
 * @param {Guidance} guidance
 * @param {number} t
 */
const scaleAt = ({ scale, interval }, t) => (!interval || (interval[0] <= t && t <= interval[1]) ? scale : 1);

/**
 * Return the predictions that a scale needs: one, or with the label and without it.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Float32Array} x_t
 * @param {Row} row
 * @param {Inputs} told
 * @param {number} scale
 * @returns {Promise<Outputs[]>}
 */
async function predictionsOf(model, spec, x_t, row, told, scale) {
  if (guidesItself(spec)) {
    const scales = new Float32Array(told[OWN_GUIDANCE].length).fill(scale);
    return [await predict(model, spec, x_t, row, { ...told, [OWN_GUIDANCE]: scales })];
  }
  const label = labelOf(spec);
  if (scale === 1 || label === null) return [await predict(model, spec, x_t, row, told)];
  const labels = /** @type {BigInt64Array} */ (told[label.name]);
  const none = BigInt(/** @type {number} */ (label.none));
  const without = { ...told, [label.name]: labels.map(() => none) };
  if (scale === 0 || labels.every((y) => y === none)) return [await predict(model, spec, x_t, row, without)];
  return predictTwice(model, spec, x_t, row, told, without);
}

/**
 * Return what `predict` says with these inputs and with others: one evaluation of a batch twice as long.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Float32Array} x_t
 * @param {Row} row
 * @param {Inputs} inputs
 * @param {Inputs} others
 * @returns {Promise<Outputs[]>}
 */
export async function predictTwice(model, spec, x_t, row, inputs, others) {
  const both = mapped(inputs, (name, values) => twice(values, others[name]));
  const outputs = await evaluated(model, spec, twice(x_t, x_t), row, both);
  const { length } = x_t;
  const halves = [0, length].map((from) => mapped(outputs, (_, values) => values.subarray(from, from + length)));
  for (const half of halves) for (const values of Object.values(half)) refuseNonFinite(values, row);
  return halves;
}

/**
 * Return what the network says of x_t in a row, by the names of the spec's outputs. Throws BadFileError where an output
 * is missing, NonFiniteError where one is not finite: clipping would hide it.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Float32Array} x_t
 * @param {Row} row
 * @param {Inputs} inputs
 * @returns {Promise<Outputs>}
 */
export async function predict(model, spec, x_t, row, inputs) {
  const outputs = await evaluated(model, spec, x_t, row, inputs);
  for (const values of Object.values(outputs)) refuseNonFinite(values, row);
  return outputs;
}

/**
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Float32Array} x_t
 * @param {Row} row
 * @param {Inputs} inputs
 * @returns {Promise<Outputs>}
 */
async function evaluated(model, spec, x_t, row, inputs) {
  const batch = x_t.length / sizeOf(spec.state_shape);
  const isFractional = spec.requires.includes(FRACTIONAL_T);
  const t = isFractional ? new Float32Array(batch).fill(row.t) : new BigInt64Array(batch).fill(BigInt(row.t));
  const outputs = await model(x_t, t, inputs);
  for (const name of outputNames(spec)) {
    if (!outputs[name]) {
      const names = shown(Object.keys(outputs).sort());
      throw new BadFileError(`The model has no output '${name}', which its spec names; it has ${names}.`);
    }
    if (outputs[name].length !== x_t.length) {
      const got = outputs[name].length;
      throw new BadFileError(`The model's output '${name}' must have ${x_t.length} numbers, got ${got}.`);
    }
  }
  return Object.fromEntries(outputNames(spec).map((name) => [name, outputs[name]]));
}

/**
 * Return an object with its values changed: own properties, whatever their names, since an input may be called
 * __proto__.
 * @template A, B
 * @param {Record<string, A>} object
 * @param {(name: string, value: A) => B} change
 * @returns {Record<string, B>}
 */
const mapped = (object, change) =>
  Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(name, value)]));

/**
 * Return two arrays of one kind, one behind the other.
 * @template {BigInt64Array | Float32Array} A
 * @param {A} first
 * @param {A} second
 * @returns {A}
 */
function twice(first, second) {
  const both = /** @type {any} */ (new /** @type {any} */ (first.constructor)(2 * first.length));
  both.set(first);
  both.set(second, first.length);
  return both;
}

/**
 * Return what predictions of one x_t make, before anything is converted or clipped: of one, itself; of two, c with a
 * label and u without, u + scale (c - u), scale = 1 + w of Ho and Salimans 2022 (eq. 6); a learned variance is that of
 * c.
 * @param {Outputs[]} predictions
 * @param {number} [scale]
 * @returns {Outputs}
 */
export function combine(predictions, scale = 1) {
  const [given, without] = predictions;
  if (!without) return given;
  const weight = fround(scale);
  return mapped(given, (name, c) => {
    const u = without[name];
    return name === VARIANCE_FRACTION ? c : c.map((value, k) => u[k] + fround(weight * fround(value - u[k])));
  });
}

/**
 * Convert a prediction into the clean image and the noise, and clip, once. x_0 follows from eps (Ho et al. 2020, eq.
 * 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is set, x_0 is clipped and eps is what then leads
 * from it to x_t, or with the row's raw_eps what it was before. Fresh arrays: a buffer that the next evaluation
 * overwrites changes nothing that was yielded.
 * @param {Outputs} outputs
 * @param {ModelSpec} spec
 * @param {Float32Array} x_t
 * @param {Row} row
 * @returns {Denoised}
 */
export function denoised(outputs, spec, x_t, row) {
  const { a } = row;
  const predicted = outputs[spec.prediction];
  const clip = spec.clip_x_0 === null ? null : fround(spec.clip_x_0);
  const [signal, noise] = [fround(sqrt(a)), fround(sqrt(1 - a))];
  const [perSignal, perNoise] = [fround(1 / sqrt(a)), fround(1 / sqrt(1 - a))];
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
      if (!row.raw_eps) eps[k] = fround(x_t[k] - fround(signal * x_0[k])) * perNoise;
    }
  }
  const fraction = outputNames(spec).includes(VARIANCE_FRACTION) ? outputs[VARIANCE_FRACTION].slice() : null;
  return { x_0, eps, variance_fraction: fraction };
}

/**
 * Return the names of the network's outputs, in order.
 * @param {ModelSpec} spec
 */
export function outputNames(spec) {
  return [spec.prediction, ...spec.requires.filter((name) => name === VARIANCE_FRACTION)];
}

/**
 * @param {unknown} value
 * @returns {value is ArrayLike<unknown>}
 */
const isList = (value) => Array.isArray(value) || (ArrayBuffer.isView(value) && "length" in value);

/**
 * Return whether whoever samples says an input; the walk feeds a previous, and guidance its own scale.
 * @param {Input} one
 */
export const isTold = ({ kind, name }) => kind !== "previous" && name !== OWN_GUIDANCE;

/**
 * Return the inputs that a user gives: those of the network that no stage makes, and those of `before`.
 * @param {ModelSpec} spec
 * @returns {Input[]}
 */
export function askedInputs({ inputs, stages }) {
  const all = [...inputs, ...(stages?.before?.inputs ?? [])];
  const made = Object.keys(stages?.before?.outputs ?? {});
  return all.filter(({ name }, k) => !made.includes(name) && all.findIndex((one) => one.name === name) === k);
}

/**
 * Return the arrays of a network's inputs for a batch: what was given, and what stands for nothing.
 * @param {readonly Input[]} inputs
 * @param {Record<string, unknown>} given
 * @param {number} batch
 * @param {Float32Array | null} x_0_before
 * @returns {Inputs}
 */
function boundInputs(inputs, given, batch, x_0_before) {
  const named = inputs.filter(isTold).map(({ name }) => name);
  const unknown = Object.keys(given).filter((name) => !named.includes(name));
  if (unknown.length > 0) {
    throw new UsageError(`The model has no input ${shown(unknown.sort()[0])}; it has ${named.join(", ") || "none"}.`);
  }
  // own properties, whatever their names: an input may be called __proto__
  return Object.fromEntries(
    inputs.map((one) => {
      const value = Object.hasOwn(given, one.name) ? given[one.name] : undefined;
      if (one.kind === "previous") return [one.name, x_0_before ?? new Float32Array(batch * sizeOf(one.shape))];
      if (value !== undefined) return [one.name, batchOf(one, value, batch)];
      if (one.none === null) {
        const which = `${shown(one.name)}, of kind ${one.kind} and shape ${shown(one.shape)}`;
        throw new UsageError(`Input ${which}, must be given.`);
      }
      const none = one.kind === "label" ? one.none : new Float32Array(sizeOf(one.shape)).fill(one.none);
      return [one.name, batchOf(one, none, batch)];
    }),
  );
}

/**
 * Return a value for each image, from one for all of them or one for each.
 * @param {Input} one
 * @param {unknown} value
 * @param {number} batch
 */
function batchOf(one, value, batch) {
  const places = Array.from({ length: batch }, (_, k) => k);
  return spread(checked(one, value, batch), places, sizeOf(one.shape));
}

/**
 * Return values for images by their numbers from K that they take in turn: image k number k mod K.
 * @template {BigInt64Array | Float32Array} A
 * @param {A} values
 * @param {readonly number[]} numbers
 * @param {number} size of one
 * @returns {A}
 */
function spread(values, numbers, size) {
  const count = values.length / size;
  const each = new /** @type {any} */ (values.constructor)(numbers.length * size);
  numbers.forEach((number, k) => {
    const from = (number % count) * size;
    each.set(values.subarray(from, from + size), k * size);
  });
  return each;
}

/**
 * Return one value of an input, or `count` of them, null for any count, as an array of its kind.
 * @param {Input} one
 * @param {unknown} value
 * @param {number | null} count
 */
function checked(one, value, count) {
  const size = sizeOf(one.shape);
  const isLabel = one.kind === "label";
  const isOne = isLabel || (one.kind === "vector" && size === 1 && typeof value === "number"); // as a plain number
  const numbers = isList(value) ? Array.from(value) : isOne ? [value] : [];
  const isSeveral =
    count === null ? numbers.length > 0 && numbers.length % size === 0 : numbers.length === count * size;
  const fits = isSeveral || (numbers.length === size && !(isLabel && isList(value)));
  if (!fits || (!isLabel && !isListOf(numbers, (number) => typeof number === "number"))) {
    const several = shown([count ?? "K", ...one.shape]).replace("'K'", "K");
    const got = isList(value) ? `${numbers.length} values` : shown(value);
    throw new UsageError(`Input ${shown(one.name)} must have shape ${shown(one.shape)} or ${several}, got ${got}.`);
  }
  if (isLabel) return BigInt64Array.from(numbers, (label) => BigInt(indexOf(one, label)));
  return finite(one, Float32Array.from(/** @type {number[]} */ (numbers)));
}

/**
 * @param {Input} one
 * @param {Float32Array} values
 */
function finite(one, values) {
  if (values.every(isNumber)) return values;
  throw new UsageError(`Input ${shown(one.name)} must be finite, got NaN or infinity.`);
}

/**
 * Return flat numbers of an input that a user gives. Throws UsageError where they are not finite or beyond its limits, which
 * are far outside of what training saw.
 * @param {Input} one
 * @param {Float32Array} values
 */
export function withinLimits(one, values) {
  finite(one, values);
  const [low, high] = one.limits ?? [];
  if (!low) return values;
  const at = values.findIndex((value, k) => value < low[k % low.length] || value > high[k % high.length]);
  if (at < 0) return values;
  const [least, largest, got] = [low[at % low.length], high[at % high.length], values[at]].map((number) => Number(number.toPrecision(6)));
  let rest = at % sizeOf(one.shape);
  const place = [...one.shape].reverse().map((size) => [rest % size, (rest = Math.floor(rest / size))][0]);
  throw new UsageError(
    `Input ${shown(one.name)} must be from ${least} to ${largest} at ${shown(place.reverse())}, got ${got}. ` +
      "What the network was trained on lies well within that.",
  );
}

/**
 * Return the index of a class that is given by its name, by its index, as text too, or as none.
 * @param {Input} one
 * @param {unknown} value
 */
function indexOf({ name, none, classes }, value) {
  let label = typeof value === "bigint" ? Number(value) : value;
  if (typeof value === "string") {
    label = classes.indexOf(value);
    if (label === -1 && value === NO_CLASS) {
      if (none !== null) return none;
      throw new UsageError(`Input ${shown(name)} cannot be none, since the network was always told a class.`);
    }
    if (label === -1 && /^[0-9]{1,9}$/.test(value)) label = Number(value);
  }
  if (typeof label === "number" && Number.isInteger(label)) {
    if ((label >= 0 && label < classes.length) || label === none) return label;
  }
  const known = `one of ${several(classes, 20)} or its index from 0 to ${classes.length - 1}`;
  throw new UsageError(`Input ${shown(name)} must be ${known}, got ${shown(value)}.`);
}

/**
 * Return what a network is told of images by their numbers.
 * @param {ModelSpec} spec
 * @param {Omit<Settings, "seed">} settings
 * @param {readonly number[]} numbers
 */
async function toldOf(spec, { label = null, inputs = {}, stages }, numbers) {
  const own = labelOf(spec);
  let given = { ...inputs };
  if (label !== null) {
    if (own === null) throw new UsageError("label does not apply to a network that is told no class.");
    if (Object.hasOwn(given, own.name)) {
      throw new UsageError(`label must be left out beside the input ${shown(own.name)}, which is the same.`);
    }
    given = { ...given, [own.name]: label };
  } else if (own !== null) {
    given = { [own.name]: own.classes.map((_, k) => k), ...given };
  }
  const asked = stages ? askedInputs(spec) : spec.inputs;
  const told = mapped(given, (name, value) => {
    const one = asked.find((input) => input.name === name && isTold(input));
    if (!one) return value; // which denoiser refuses
    const values = checked(one, value, null);
    if (values instanceof Float32Array) withinLimits(one, values);
    const isForAll = one.kind !== "label" && values.length === sizeOf(one.shape); // of which `before` is asked once
    return isForAll ? values : spread(values, numbers, sizeOf(one.shape));
  });
  return stages ? prepared(spec, stages, told) : told;
}

// --- stages (docs/format.md, section 6) ---

/**
 * Return the network's inputs, of those that a user gives, for all images or for each one. Throws UsageError for what does
 * not fit, NonFiniteError where `before` gives NaN or infinity.
 * @param {ModelSpec} spec
 * @param {Stages} stages
 * @param {Record<string, any>} given
 * @returns {Promise<Record<string, any>>}
 */
export async function prepared(spec, stages, given) {
  const before = spec.stages?.before;
  if (!before) return given;
  const isOwn = (/** @type {string} */ key) => spec.inputs.some(({ name }) => name === key) && !Object.hasOwn(before.outputs, key);
  const isTaken = (/** @type {string} */ key) => before.inputs.some(({ name }) => name === key);
  const [own, taken] = [isOwn, (/** @type {string} */ key) => isTaken(key) || !isOwn(key)].map((isIt) =>
    Object.fromEntries(Object.entries(given).filter(([key]) => isIt(key))),
  );
  const counts = before.inputs.map(({ name, shape }) => (isList(taken[name]) ? taken[name].length / sizeOf(shape) : 1));
  const batch = Math.max(1, ...counts.map(Math.floor));
  return { ...own, ...(await resultsOf(spec, stages, "before", boundInputs(before.inputs, taken, batch, null), batch)) };
}

/**
 * Return what states (n, ...shape) are: themselves without units and stages. Throws NonFiniteError where `after` gives NaN
 * or infinity.
 * @param {ModelSpec} spec
 * @param {Stages} stages
 * @param {Float32Array} x
 * @returns {Promise<Float32Array>}
 */
export async function decoded(spec, stages, x) {
  const values = valuesOf(spec, x);
  if (!spec.stages?.after) return values;
  return Object.values(await resultsOf(spec, stages, "after", { x: values }, x.length / sizeOf(spec.state_shape)))[0];
}

/**
 * Return what a stage gives, by name: it runs image by image, so that memory stays that of one.
 * @param {ModelSpec} spec
 * @param {Stages} stages
 * @param {string} name
 * @param {Inputs} inputs
 * @param {number} batch
 */
async function resultsOf(spec, stages, name, inputs, batch) {
  const { outputs } = /** @type {Record<string, Stage>} */ (spec.stages)[name];
  const results = mapped(outputs, (_, shape) => new Float32Array(batch * sizeOf(shape)));
  for (let image = 0; image < batch; image++) {
    const ofOne = (/** @type {string} */ _, /** @type {Float32Array | BigInt64Array} */ values) =>
      values.slice((image * values.length) / batch, ((image + 1) * values.length) / batch);
    const found = await stages(name, mapped(inputs, ofOne));
    for (const [key, values] of Object.entries(results)) {
      if (!found[key].every(isNumber)) throw new NonFiniteError(`the stage '${name}'`, image, `${shown(key)} of image ${image}`);
      values.set(found[key], (image * values.length) / batch);
    }
  }
  return results;
}

// --- pixels, and all of it in one call ---

/**
 * Return [C, H, W]. Throws UsageError for the shape of what is no picture.
 * @param {Shape} shape
 */
export function pictureShape(shape) {
  if (shape.length === 3) return shape;
  throw new UsageError(`This needs a model of pictures, got one of numbers of shape ${shown(shape)}.`);
}

/**
 * Return pixels [B, H, W, C] of images [B, C, H, W] in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up.
 * Throws UsageError, as `fromUint8` does, for what is no picture.
 * @param {Float32Array} x
 * @param {Shape} shape
 */
export function toUint8(x, shape) {
  const [channels, height, width] = pictureShape(shape);
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
 * Return images [B, C, H, W] of pixels [B, H, W, C]: pixel k is k / 127.5 - 1 (Ho et al. 2020, section 3.3).
 * @param {ArrayLike<number>} pixels
 * @param {Shape} shape
 */
export function fromUint8(pixels, shape) {
  const [channels, height, width] = pictureShape(shape);
  const x = new Float32Array(pixels.length);
  const plane = height * width;
  for (let k = 0; k < x.length; k++) {
    const [image, channel] = [Math.floor(k / (channels * plane)), Math.floor(k / plane) % channels];
    x[k] = pixels[(image * plane + (k % plane)) * channels + channel] / 127.5 - 1;
  }
  return x;
}

/**
 * Return a batch of images, uint8 [n, H, W, C], null where the states are no pictures (`decode` of model.js), the floats x [n, ...shape]
 * that they are of; null in place of all where progress returned false.
 * progress(row's number from 1, number of rows, x, x_0) is awaited after every row; it must not change the arrays it is
 * given. Throws UsageError for settings no image can be made from, NonFiniteError where a number is no longer finite.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Settings} settings
 * @param {Progress} [progress]
 * @returns {Promise<{ images: Uint8Array | null, x: Float32Array } | null>}
 */
export async function sample(model, spec, settings, progress = () => true) {
  const numbers = numbersOf(settings);
  const { rows, denoise } = await chosen(model, spec, settings, numbers);
  return pictured(walk(denoise, noiseOf(spec, settings, numbers), rows), rows, spec, numbers, progress);
}

/**
 * Return the noise of images: of their seed, or of two at a right angle between which the first noise is turned, as
 * Python's `seeds` (Song et al. 2020, appendix D.5).
 * @param {ModelSpec} spec
 * @param {Settings} settings
 * @param {readonly number[]} numbers
 */
function noiseOf({ state_shape: shape }, { seed, toward }, numbers) {
  const own = noiseStream(seed, numbers, shape);
  if (toward === undefined) return own;
  if (!(toward.share >= 0 && toward.share <= 1)) {
    throw new UsageError(`toward.share must be from 0 to 1, got ${shown(toward.share)}.`);
  }
  const other = noiseStream(toward.seed, numbers, shape)(0);
  const angle = (toward.share * Math.PI) / 2;
  const [near, far] = [fround(Math.cos(angle)), fround(Math.sin(angle))];
  return (/** @type {number} */ draw) =>
    draw > 0 ? own(draw) : own(0).map((z, k) => fround(near * z) + fround(far * other[k]));
}

/**
 * Return the numbers of the images of a batch.
 * @param {{ first?: number, n?: number }} settings
 */
export function numbersOf({ first = 0, n = 1 }) {
  requireWord("first", first);
  if (!Number.isInteger(n) || n < 1 || first + n > WORD) {
    throw new UsageError(`n must be from 1 to ${WORD - first}, got ${shown(n)}.`);
  }
  return Array.from({ length: n }, (_, k) => first + k);
}

/**
 * Return the plan that settings choose, and the denoiser of images that are told what those of these numbers are.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Omit<Settings, "seed">} settings
 * @param {readonly number[]} numbers
 * @returns {Promise<{ rows: Plan, denoise: Denoiser }>}
 */
export async function chosen(model, spec, settings, numbers) {
  const { sampler, numSteps, times, plan: name, eta, variance, guidance = null } = settings;
  const rows = plan(spec, { sampler, numSteps, times, name, eta, variance });
  return { rows, denoise: denoiser(model, spec, await toldOf(spec, settings, numbers), guidanceFor(spec, guidance)) };
}

/**
 * Walk to the end and return the pictures, as `sample` does.
 * @param {AsyncIterable<State>} states
 * @param {Plan} plan
 * @param {ModelSpec} spec
 * @param {readonly number[]} numbers of the images, which an error names
 * @param {Progress} progress
 * @returns {Promise<{ images: Uint8Array | null, x: Float32Array } | null>}
 */
export async function pictured(states, plan, spec, numbers, progress) {
  let x = /** @type {Float32Array} */ (new Float32Array());
  try {
    for await (const state of states) {
      if ((await progress(state.row.i, plan.rows.length, state.x, state.x_0)) === false) return null;
      x = state.x;
    }
  } catch (error) {
    if (!(error instanceof NonFiniteError)) throw error;
    const image = numbers[Math.floor(error.at / sizeOf(spec.state_shape))];
    throw new NonFiniteError(error.where, error.at, `image ${image}`);
  }
  return { images: stateIsPicture(spec) ? toUint8(x, spec.state_shape) : null, x };
}
