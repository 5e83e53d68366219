/**
 * Given something: pixels that are known, a measurement, a picture to start from, two to go between. As in Python's
 * ddpm_export/process/given.py and editing.py; docs/given.md says what each is good for, docs/format.md fixes every number.
 *
 *     const mask = new Uint8Array(28 * 28).fill(255, 14 * 28);      // 255 is made, 0 is known
 *     const filled = await edit(model, spec, pictures, { seed: 7n, n: 4, mask, eta: 1, returns: 4 });
 *
 * Images are flat Float32Arrays in B, C, H, W order, pictures and masks Uint8Arrays in B, H, W, C order.
 */

import {
  chosen,
  fromUint8,
  labelOf,
  noised,
  noiseStream,
  numbersOf,
  pictured,
  reachOf,
  shown,
  sizeOf,
  UsageError,
  walk,
} from "./ddpm.js";

/** @typedef {import("./ddpm.js").Denoiser} Denoiser */
/** @typedef {import("./ddpm.js").Keep} Keep */
/** @typedef {import("./ddpm.js").Model} Model */
/** @typedef {import("./ddpm.js").ModelSpec} ModelSpec */
/** @typedef {import("./ddpm.js").Noise} Noise */
/** @typedef {import("./ddpm.js").Plan} Plan */
/** @typedef {import("./ddpm.js").Progress} Progress */
/** @typedef {import("./ddpm.js").Row} Row */
/** @typedef {import("./ddpm.js").Settings} Settings */
/** @typedef {import("./ddpm.js").Shape} Shape */
/** @typedef {{ of: (x: Float32Array) => Float32Array, back: (y: Float32Array) => Float32Array }} Measurement a linear
 * measurement y = A x of images, and the way back: A+, its pseudo-inverse */
/**
 * What an edit is given, besides what any batch is.
 * @typedef {object} Given
 * @property {Uint8Array | null} [mask] [H, W], or one for each picture, [m, H, W]: 255 where pixels are to be made, 0
 *   where they are known, between them blended
 * @property {string | null} [measure] average:K, grey or mask
 * @property {number | null} [strength] above 0 to 1, the share of the training times from which on noise is added and
 *   taken away again
 * @property {number} [returns] how often to go back (RePaint), with a mask or a measurement; 0 if left out
 * @property {number} [jump] how many rows to go back, 1 if left out
 * @property {boolean} [between] n images, 9 if left out, from the first of two pictures to the second, all with the
 *   noise of one image; needs a strength
 */

const { fround, sqrt } = Math;
const GIVEN = 1; // the noise domain of known pixels
const BETWEEN = 9; // how many images from one end to the other, unless told

// --- what changes x or x_0 ---

/**
 * Return what puts known pixels into every state of a walk (replacement: Song et al. 2021, appendix I.2).
 * known: [B, C, H, W] in [-1, 1]. mask: 0 where a pixel is known, 1 where it is to be made, [H, W], [C, H, W] or as
 * known. noise: of the known pixels, draw i after row i, from domain 1. Until the picture, whatever is not wholly known
 * is made: a mixture of two noises would have too little of it. The picture is mask x + (1 - mask) known.
 * @param {Float32Array} known
 * @param {ArrayLike<number>} mask
 * @param {Noise} noise
 * @returns {Keep}
 */
export function knownPixels(known, mask, noise) {
  const m = Float32Array.from(known, (_, k) => mask[k % mask.length]);
  return (x, draw, a) => {
    if (a === 1) return x.map((value, k) => fround(m[k] * value) + fround(fround(1 - m[k]) * known[k]));
    const kept = noised(known, noise(draw), a);
    return x.map((value, k) => (m[k] > 0 ? value : kept[k]));
  };
}

/**
 * Return a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023, eq. 13). After
 * clipping, which is not repeated; eps is then what leads from this x_0 to x_t. Costs what `denoise` does.
 * @param {Denoiser} denoise
 * @param {Measurement} measurement
 * @param {Float32Array} y
 * @returns {Denoiser}
 */
export function measured(denoise, measurement, y) {
  const target = measurement.back(y);
  return async (x_t, row, x_0_before) => {
    const found = await denoise(x_t, row, x_0_before);
    const seen = measurement.back(measurement.of(found.x_0));
    const [signal, perNoise] = [fround(sqrt(row.a)), fround(1 / sqrt(1 - row.a))];
    const x_0 = found.x_0.map((value, k) => target[k] + fround(value - seen[k]));
    const eps = x_t.map((value, k) => fround(value - fround(signal * x_0[k])) * perNoise);
    return { ...found, x_0, eps };
  };
}

/**
 * Return the means of squares of size x size pixels of images of a shape [C, H, W].
 * @param {number} size
 * @param {Shape} shape
 * @returns {Measurement}
 */
export function average(size, [, height, width]) {
  const squareOf = (/** @type {number} */ k) => {
    const [row, column] = [Math.floor(k / width), k % width]; // rows of all planes, which are whole squares high
    return Math.floor(row / size) * (width / size) + Math.floor(column / size);
  };
  return {
    of: (x) => {
      const sums = new Float32Array(x.length / size ** 2);
      x.forEach((value, k) => (sums[squareOf(k)] += value));
      return sums.map((sum) => sum / size ** 2);
    },
    back: (y) => new Float32Array(y.length * size ** 2).map((_, k) => y[squareOf(k)]),
  };
}

/**
 * Return the mean of the channels of images of a shape [C, H, W].
 * @param {Shape} shape
 * @returns {Measurement}
 */
export function grey([channels, height, width]) {
  const plane = height * width;
  const placeOf = (/** @type {number} */ k) => Math.floor(k / (channels * plane)) * plane + (k % plane);
  return {
    of: (x) => {
      const sums = new Float32Array(x.length / channels);
      x.forEach((value, k) => (sums[placeOf(k)] += value));
      return sums.map((sum) => sum / channels);
    },
    back: (y) => new Float32Array(y.length * channels).map((_, k) => y[placeOf(k)]),
  };
}

/**
 * Return the pixels that are known, 0 in their mask as in `knownPixels`; values between weigh the measurement.
 * @param {ArrayLike<number>} mask
 * @returns {Measurement}
 */
export function masked(mask) {
  return { of: (x) => x.map((value, k) => fround(1 - mask[k % mask.length]) * value), back: (y) => y };
}

/**
 * Return the measurement that `average:4`, `grey` or `mask` names, of images of a shape [C, H, W]. Throws UsageError
 * for another name, for squares that do not fill the image, and for a mask that is not there.
 * @param {string} text
 * @param {Shape} shape
 * @param {ArrayLike<number> | null} [mask]
 * @returns {Measurement}
 */
export function measurementFromText(text, shape, mask = null) {
  if (text !== "mask" && shape.length !== 3) {
    throw new UsageError(`measure must be mask for numbers of shape ${shown(shape)}, got ${shown(text)}.`);
  }
  const size = /^average:([0-9]{1,9})$/.exec(text)?.[1];
  if (size !== undefined) {
    if (Number(size) < 1 || shape.slice(1).some((length) => length % Number(size) !== 0)) {
      throw new UsageError(`measure average:K must divide ${shape[1]} x ${shape[2]} pixels, got ${shown(text)}.`);
    }
    return average(Number(size), shape);
  }
  if (text === "grey") return grey(shape);
  if (text !== "mask") throw new UsageError(`measure must be average:K, grey or mask, got ${shown(text)}.`);
  if (mask === null) throw new UsageError("measure mask needs a mask.");
  return masked(mask);
}

// --- what is between two ---

/**
 * Return (1 - s) first + s last for `count` shares s from 0 to 1, [count, C, H, W], of pictures [C, H, W]. Noised with
 * one noise these are the states that Ho et al. 2020 interpolate between (section 4.3): it is linear. Throws UsageError
 * for a count below 2.
 * @param {Float32Array} first
 * @param {Float32Array} last
 * @param {number} count
 */
export function crossfade(first, last, count) {
  if (!Number.isInteger(count) || count < 2) {
    throw new UsageError(`There must be at least 2 images from one end to the other, got ${shown(count)}.`);
  }
  const between = new Float32Array(count * first.length);
  return between.map((_, k) => {
    const share = fround(Math.floor(k / first.length) / (count - 1));
    const at = k % first.length;
    return fround(fround(1 - share) * first[at]) + fround(share * last[at]);
  });
}

// --- other plans ---

/**
 * Return a plan that goes `jump` rows back, `returns` times from each place (RePaint: Lugmayr et al. 2022). The places
 * are `jump` rows apart, the last one before the last row. Going back adds noise, so it is merged into the row before.
 * Costs about 1 + returns times the evaluations. Throws UsageError for returns below 0, for a jump that does not fit
 * the plan, and for a plan whose rows look back or weigh a learned variance.
 * @param {Plan} plan
 * @param {number} returns
 * @param {number} [jump]
 * @returns {Plan}
 */
export function withReturns(plan, returns, jump = 1) {
  const [{ rows, start }, left] = [plan, new Map()];
  if (!Number.isInteger(returns) || returns < 0) {
    throw new UsageError(`returns must be 0 or more, got ${shown(returns)}.`);
  }
  if (returns > 0) {
    const most = rows.length - 1;
    if (!Number.isInteger(jump) || jump < 1 || jump > most) {
      throw new UsageError(`jump must be between 1 and ${most}, below the plan's rows, got ${shown(jump)}.`);
    }
    if (rows.some((row) => reachOf(row) > 1 || row.noise.length === 2)) {
      throw new UsageError("returns need a sampler that does not look back and has a fixed variance. Choose ddim.");
    }
    for (let place = most; place >= jump; place -= jump) left.set(place, returns);
  }
  const walked = /** @type {Row[]} */ ([]);
  for (let place = 0; place < rows.length; ) {
    let row = rows[place++]; // place: rows that lie behind, of those given
    if (left.get(place) > 0) {
      left.set(place, left.get(place) - 1);
      row = andBack(row, rows[place].a, rows[place - jump].a);
      place -= jump;
    }
    walked.push({ ...row, i: walked.length + 1 });
  }
  return { rows: walked, start };
}

/**
 * Return a row that ends at a_u, where noise carries what ended at a_s.
 * @param {Row} row
 * @param {number} a_s
 * @param {number} a_u
 * @returns {Row}
 */
function andBack(row, a_s, a_u) {
  const r = sqrt(a_u / a_s);
  const noise = row.noise[0] ?? 0;
  const [x_0, eps] = [row.x_0, row.eps].map((weights) => weights.map((weight) => r * weight));
  return { ...row, x_0, eps, noise: [sqrt(r * r * noise * noise + 1 - r * r)] };
}

/**
 * Return the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022). Throws
 * UsageError for a strength outside 0..1, and for one below which there is no time.
 * @param {readonly number[]} times
 * @param {number} strength
 * @param {number} numTrainTimesteps T
 */
export function timesBelow(times, strength, numTrainTimesteps) {
  if (!(typeof strength === "number" && strength > 0 && strength <= 1)) {
    throw new UsageError(`strength must be above 0 and at most 1, got ${shown(strength)}.`);
  }
  const end = Math.floor(strength * numTrainTimesteps + 0.5);
  const below = times.filter((t) => t < end);
  if (below.length === 0) {
    const lowest = Math.min(...times);
    throw new UsageError(
      `strength must reach the lowest time, t = ${lowest} of ${numTrainTimesteps}, got ${shown(strength)}.`,
    );
  }
  return below;
}

/**
 * Return the rows of a plan from a share of the training times on. Of ddim and ddpm they are the rows of those times.
 * @param {Plan} plan
 * @param {number} strength
 * @param {number} numTrainTimesteps T
 * @returns {Plan}
 */
function planBelow(plan, strength, numTrainTimesteps) {
  const below = rowsBelow(plan, strength, numTrainTimesteps);
  if (looksBack(below)) throw new UsageError("strength does not apply to a plan whose rows look back beyond it.");
  return below;
}

/**
 * @param {Plan} plan
 * @param {number} strength
 * @param {number} numTrainTimesteps
 * @returns {Plan} the rows from a share of the training times on, numbered anew
 */
function rowsBelow({ rows }, strength, numTrainTimesteps) {
  const times = [...new Set(rows.map(({ t }) => t))].sort((s, t) => t - s);
  const [highest] = timesBelow(times, strength, numTrainTimesteps);
  const begin = rows.findIndex(({ t }) => t <= highest);
  const left = rows.slice(begin).map((row, k) => ({ ...row, i: k + 1 }));
  return { rows: left, start: 1 };
}

/** @type {(plan: Plan, atAll?: boolean) => boolean} */
const looksBack = ({ rows }, atAll = false) => rows.some((row) => reachOf(row) > (atAll ? 1 : row.i));

// --- from pictures to pictures ---

/**
 * Return images made from pictures, as `sample` returns them: uint8 [n, H, W, C] and the floats they are of, null where
 * progress returned false.
 * images: uint8 [m, H, W, C], or float32 [m, ...shape] where states are no pictures, and masks too have that shape; of each of which n are made (1 if left out): image k, counted from `first`, is of
 * picture floor(k / n). They have to be given with a mask, a measure or a strength. The label of pictures is none,
 * where the network knows that, unless one is given. Throws UsageError for what does not fit the model or goes with
 * nothing, and what `sample` throws.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Uint8Array | Float32Array} images
 * @param {Settings & Given} settings
 * @param {Progress} [progress]
 */
export async function edit(model, spec, images, settings, progress = () => true) {
  const { mask = null, measure = null, strength = null, returns = 0, jump = 1, between = false, ...others } = settings;
  refuseWhatDoesNotGoTogether(mask, measure, strength, returns, between);
  const [shape, T] = [spec.state_shape, spec.alphas_cumprod.length];
  const [size, isPicture] = [sizeOf(shape), shape.length === 3];
  const count = images.length / size;
  if (!(isPicture ? isBytes(images) : images instanceof Float32Array) || !Number.isInteger(count) || count < 1) {
    const wanted = isPicture ? `uint8 [m, ${hwc(shape)}]` : `a Float32Array [m, ${shape.join(", ")}]`;
    throw new UsageError(`images must be ${wanted}, got ${lengthOf(images)}.`);
  }
  if (between && count !== 2) throw new UsageError(`between needs 2 images, got ${count}.`);
  const fits = mask === null || (isBytes(mask) && [1, count].includes((mask.length * (isPicture ? shape[0] : 1)) / size));
  if (!fits) throw new UsageError(`mask must be uint8 ${isPicture ? hw(shape) : shown(shape)}, or one for each picture, got ${lengthOf(mask)}.`);

  const ways = between ? 1 : (others.n ?? 1);
  let known = images instanceof Float32Array ? images : fromUint8(images, shape);
  if (between) known = crossfade(known.subarray(0, size), known.subarray(size), others.n ?? BETWEEN);
  const numbers = numbersOf({ first: others.first, n: (known.length / size) * ways });
  const whose = between ? numbers.map(() => numbers[0]) : numbers; // what is between has one noise, and is told alike
  const each = (/** @type {ArrayLike<number>} */ of, /** @type {number} */ length) =>
    Float32Array.from({ length: numbers.length * length }, (_, k) => {
      const picture = Math.floor(Math.floor(k / length) / ways);
      return of[(picture * length + (k % length)) % of.length];
    });
  const pictures = each(known, size);
  const levels = mask && Float32Array.from(mask, (level) => level / fround(255));
  const m = levels && each(isPicture ? eachChannel(levels, shape) : levels, size);

  const settled = tellingNothing(spec, others);
  let { rows, denoise } = await chosen(model, spec, settled, whose);
  const isNamed = [others.sampler, others.times, others.plan].some((value) => (value ?? null) !== null);
  const isBeyond = strength !== null && looksBack(rowsBelow(rows, strength, T));
  if (!isNamed && (isBeyond || (returns > 0 && looksBack(rows, true)))) { // what ddim can do
    const numSteps = others.numSteps ?? spec.defaults.num_steps;
    ({ rows, denoise } = await chosen(model, spec, { ...settled, sampler: "ddim", numSteps }, whose));
  }
  if (strength !== null) rows = planBelow(rows, strength, T);
  if (returns !== 0) rows = withReturns(rows, returns, jump);
  const noise = noiseStream(others.seed, whose, shape);
  const x = strength === null ? null : noised(pictures, noise(0), rows.rows[0].a);
  let keep = null;
  if (measure !== null) {
    const measurement = measurementFromText(measure, shape, m);
    denoise = measured(denoise, measurement, measurement.of(pictures));
  } else if (m !== null) {
    keep = knownPixels(pictures, m, noiseStream(others.seed, whose, shape, { domain: GIVEN }));
  }
  return pictured(walk(denoise, noise, rows, { x, keep }), rows, spec, numbers, progress);
}

/**
 * @param {unknown} mask
 * @param {string | null} measure
 * @param {number | null} strength
 * @param {number} returns
 * @param {boolean} between
 */
function refuseWhatDoesNotGoTogether(mask, measure, strength, returns, between) {
  if (returns !== 0 && mask === null && measure === null) throw new UsageError("returns need a mask or a measure.");
  if (between && (strength === null || mask !== null || measure !== null)) {
    throw new UsageError("between needs a strength, and nothing else besides.");
  }
  if (mask === null && measure === null && strength === null) {
    throw new UsageError("A picture needs a mask, a measure or a strength.");
  }
  if (measure !== null && measure !== "mask" && mask !== null) {
    throw new UsageError(`mask does not apply to measure ${measure}.`);
  }
}

/**
 * Return settings with no class, unless they say one: of a picture it is not known, and every one is wrong.
 * @template {Omit<Settings, "seed">} S
 * @param {ModelSpec} spec
 * @param {S} settings
 * @returns {S}
 */
function tellingNothing(spec, settings) {
  const label = labelOf(spec);
  const isSaid = label !== null && Object.hasOwn(settings.inputs ?? {}, label.name);
  if (label === null || label.none === null || isSaid) return settings;
  return { ...settings, label: settings.label ?? label.none };
}

/**
 * Return masks [m, H, W] as [m, C, H, W].
 * @param {Float32Array} mask
 * @param {Shape} shape
 */
function eachChannel(mask, [channels, height, width]) {
  const plane = height * width;
  return new Float32Array(mask.length * channels).map(
    (_, k) => mask[Math.floor(k / (channels * plane)) * plane + (k % plane)],
  );
}

/** @param {unknown} value */
const isBytes = (value) => value instanceof Uint8Array || value instanceof Uint8ClampedArray;

/** @param {any} value */
const lengthOf = (value) => (isBytes(value) ? `${value.length} numbers` : shown(typeof value));

/** @param {Shape} shape */
const hwc = ([channels, height, width]) => `${height}, ${width}, ${channels}`;

/** @param {Shape} shape */
const hw = ([, height, width]) => `[${height}, ${width}]`;
