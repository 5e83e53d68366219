// What is given: against tests/golden/given.json, and what an edit does with it.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as ddpm from "../ddpm.js";
import * as given from "../given.js";
import { gaussianModel, gaussianSpec, golden } from "./gaussian.js";

const { seed, images, shape, tolerance, levels, times, crossfade, cases } = golden("given");
const pictures = Float32Array.from(levels, (level) => level / 127.5 - 1);
const [channels, height, width] = shape;
const size = channels * height * width;
/** uint8 [2, H, W, C], as an edit is given them. */
const pixels = ddpm.toUint8(pictures, shape);
const specOf = (changes) => gaussianSpec({ prediction: "v", image_shape: shape, clip_x_0: 0.75, ...changes });

function assertClose(actual, expected, most = tolerance) {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, k) => {
    assert.ok(Math.abs(value - expected[k]) <= most, `[${k}]: ${value}, expected ${expected[k]}`);
  });
}

const refuses = (words) => (error) => {
  assert.equal(error.constructor, ddpm.UsageError);
  assert.match(error.message, words);
  return true;
};

const planOf = ({ plan: { rows, start = 1 } }) => ({
  rows: rows.map(([t, a, x_0, eps, noise], k) => ({ i: k + 1, t, a, x_0, eps, noise, raw_eps: false })),
  start,
});

for (const run of cases) {
  const { name, mask = null, measure, strength, clip_x_0, states } = run;
  test(`given: ${name}`, async () => {
    const spec = specOf({ clip_x_0 });
    const noise = ddpm.noiseStream(BigInt(seed), images, shape);
    const plan = planOf(run);
    let denoise = ddpm.denoiser(gaussianModel("v"), spec);
    let [x, keep] = [name === "backwards" ? pictures : null, null];
    if (strength !== undefined) x = ddpm.noised(pictures, noise(0), plan.rows[0].a);
    if (measure) {
      const measurement = given.measurementFromText(measure, shape, mask);
      denoise = given.measured(denoise, measurement, measurement.of(pictures));
    } else if (mask) {
      const noiseOfTheKnown = ddpm.noiseStream(BigInt(seed), images, shape, { domain: 1 });
      keep = given.knownPixels(pictures, mask, noiseOfTheKnown);
    }
    const made = [];
    for await (const state of ddpm.walk(denoise, noise, plan, { x, keep })) made.push(state);
    assert.equal(made.length, states.length);
    for (const [k, state] of made.entries()) {
      for (const array of ["x", "x_0", "eps"]) assertClose(state[array], states[k][array]);
    }
    // going on from a state puts in no known pixels a second time
    const [first, ...rest] = made;
    const after = [];
    for await (const state of ddpm.walk(denoise, noise, plan, { state: first, keep })) after.push(state);
    assert.deepEqual(after, rest);
  });
}

test("the plans of the cases are made of what they say", () => {
  const T = specOf({}).alphas_cumprod.length;
  for (const run of cases.filter(({ sampler }) => sampler === "ddim")) {
    const { num_steps, eta, strength = 1, returns = 0, jump } = run;
    assert.deepEqual(ddpm.spacing(T, num_steps), times);
    const below = given.timesBelow(times, strength, T);
    const rows = ddpm.plan(specOf({}), { sampler: "ddim", times: below, eta });
    const { rows: made } = given.withReturns(rows, returns, jump);
    const expected = planOf(run).rows;
    assert.deepEqual(
      made.map(({ i, t, a }) => [i, t, a]),
      expected.map(({ i, t, a }) => [i, t, a]),
    );
    for (const list of ["x_0", "eps", "noise"]) {
      made.forEach((row, k) => assertClose(row[list], expected[k][list], 1e-12));
    }
  }
});

test("between two pictures", () => {
  assertClose(given.crossfade(pictures.subarray(0, size), pictures.subarray(size), 3), crossfade, 1e-7);
  assert.throws(() => given.crossfade(pictures, pictures, 1), refuses(/^There must be at least 2 images .*, got 1\.$/));
});

test("an edit is its parts: ways, masks, domains and plans", async () => {
  const [spec, model] = [specOf({}), gaussianModel("v")];
  const run = cases.find(({ name }) => name === "known, with returns");
  const { returns, jump, eta, num_steps: numSteps } = run;
  const mask = Uint8Array.of(0, 255, 64, 0, 255, 255, 0, 128);
  const settings = { seed: 1n, numSteps, sampler: "ddim", eta, returns, jump };
  const seen = [];
  const four = { ...settings, n: 2, first: 5, mask };
  const { images: made, x } = await given.edit(model, spec, pixels, four, (...all) => seen.push(all.slice(0, 3)));
  const each = [0, 0, 1, 1].flatMap((k) => [...pictures.subarray(k * size, (k + 1) * size)]);
  const noiseOf = (domain) => ddpm.noiseStream(1n, [5, 6, 7, 8], shape, { domain });
  const m = Float32Array.from(mask, (level) => level / Math.fround(255));
  const keep = given.knownPixels(Float32Array.from(each), m, noiseOf(1));
  const plan = given.withReturns(ddpm.plan(spec, { sampler: "ddim", numSteps, eta }), returns, jump);
  const denoise = ddpm.denoiser(model, spec);
  const expected = [];
  for await (const state of ddpm.walk(denoise, noiseOf(0), plan, { keep })) expected.push([state.row.i, 8, state.x]);
  assert.deepEqual(seen, expected);
  assert.deepEqual(x, expected.at(-1)[2]);
  assert.deepEqual(made, ddpm.toUint8(x, shape));
  // known pixels come back to the level, in every way
  for (let k = 0; k < made.length; k++) {
    const [picture, at] = [Math.floor(k / size / 2), k % size];
    if (mask[Math.floor(at / channels)] === 0) assert.equal(made[k], pixels[picture * size + at]);
  }
  // an image is the same in any batch; a mask for each picture
  const alone = await given.edit(model, spec, pixels.subarray(size), {
    ...{ ...settings, n: 1, first: 7 },
    mask,
  });
  assert.deepEqual(alone.images, made.subarray(2 * size, 3 * size));
  const other = mask.map((level) => 255 - level);
  const both = await given.edit(model, spec, pixels, { ...settings, mask: Uint8Array.of(...mask, ...other) });
  const second = await given.edit(model, spec, pixels.subarray(size), { ...settings, first: 1, mask: other });
  assert.deepEqual(both.images.subarray(size), second.images);
  assert.equal(await given.edit(model, spec, pixels, { ...settings, mask }, () => false), null);
});

test("what is measured is what the picture measures, and what is between begins and ends at the pictures' edits", async () => {
  const [spec, model] = [specOf({ clip_x_0: null }), gaussianModel("v")];
  const settings = { seed: 3, numSteps: 6, sampler: "ddim", eta: 1 };
  for (const measure of ["average:2", "grey"]) {
    const { x } = await given.edit(model, spec, pixels, { ...settings, measure });
    const { of } = given.measurementFromText(measure, shape);
    assertClose(of(x), of(pictures));
  }
  const between = { ...settings, strength: 0.5, between: true };
  const nine = await given.edit(model, spec, pixels, { ...between, first: 4 });
  assert.equal(nine.images.length, 9 * size);
  for (const [k, place] of [
    [0, 0],
    [1, 8],
  ]) {
    const one = { ...settings, first: 4, strength: 0.5 };
    const end = await given.edit(model, spec, pixels.subarray(k * size, (k + 1) * size), one);
    assert.deepEqual(nine.x.subarray(place * size, (place + 1) * size), end.x);
  }
});

test("pictures are told no class unless one is said", async () => {
  const label = { name: "y", kind: "label", shape: [], none: 2, classes: ["cat", "dog"] };
  const spec = specOf({ inputs: [label], requires: ["inputs"] });
  const told = [];
  const model = (x_t, t, { y }) => (told.push([...y].map(Number)), gaussianModel("v")(x_t, t));
  const settings = { seed: 0, numSteps: 1, strength: 1 };
  for (const said of [{}, { label: "dog" }, { inputs: { y: [0, 1] } }]) {
    await given.edit(model, spec, pixels, { ...settings, ...said });
  }
  await given.edit(model, spec, pixels, { ...settings, between: true, n: 3, first: 1, label: ["cat", "dog"] });
  assert.deepEqual(told, [
    [2, 2],
    [1, 1],
    [0, 1],
    [1, 1, 1],
  ]);
});

const MASK = new Uint8Array(height * width);
for (const [settings, words, some = pixels] of [
  [{}, /^A picture needs a mask, a measure or a strength\.$/],
  [{ strength: 0 }, /^strength must be above 0 and at most 1, got 0\.$/],
  [{ strength: 0.1 }, /^strength must reach the lowest time, t = 11 of 50, got 0\.1\.$/],
  [{ strength: 0.5, returns: 1 }, /^returns need a mask or a measure\.$/],
  [{ mask: MASK, returns: -1 }, /^returns must be 0 or more, got -1\.$/],
  [{ mask: MASK, returns: 1, jump: 4 }, /^jump must be between 1 and 3, below the plan's rows, got 4\.$/],
  [{ mask: MASK, returns: 1, plan: "back" }, /^returns need a sampler that does not look back .* Choose ddim\.$/],
  [{ strength: 0.7, plan: "back" }, /^strength does not apply to a plan whose rows look back beyond it\.$/],
  [{ mask: MASK.subarray(1) }, /^mask must be uint8 \[2, 4\], or one for each picture, got 7 numbers\.$/],
  [{ mask: [...MASK] }, /^mask must be uint8 \[2, 4\], or one for each picture, got 'object'\.$/],
  [{ mask: MASK }, /^images must be uint8 \[m, 2, 4, 3\], got 47 numbers\.$/, pixels.subarray(1)],
  [{ measure: "average:4" }, /^measure average:K must divide 2 x 4 pixels, got 'average:4'\.$/],
  [{ measure: "average:0" }, /^measure average:K must divide/],
  [{ measure: "half" }, /^measure must be average:K, grey or mask, got 'half'\.$/],
  [{ measure: "mask" }, /^measure mask needs a mask\.$/],
  [{ measure: "grey", mask: MASK }, /^mask does not apply to measure grey\.$/],
  [{ between: true, mask: MASK }, /^between needs a strength, and nothing else besides\.$/],
  [{ between: true, strength: 0.5 }, /^between needs 2 images, got 1\.$/, pixels.subarray(size)],
  [{ between: true, strength: 0.5, n: 1 }, /^There must be at least 2 images from one end to the other, got 1\.$/],
  [{ mask: MASK, n: 0 }, /^n must be from 1 to/],
]) {
  test(`an edit given ${JSON.stringify(settings)} is refused: ${words.source.slice(0, 40)}`, async () => {
    const row = (t, weights) => [t, 0.5, weights, [0.5], []];
    const back = { rows: [row(40, [1]), row(30, [1, 0.5])] };
    const spec = specOf({ plans: { back } });
    const how = settings.plan ? {} : { numSteps: 4 };
    const made = given.edit(gaussianModel("v"), spec, some, { seed: 0, ...how, ...settings });
    await assert.rejects(made, refuses(words));
  });
}
