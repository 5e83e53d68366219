// The core against tests/golden, which every language reads.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as ddpm from "../ddpm.js";
import { NORMAL_TABLE, NORMAL_TABLE_SHA256 } from "../normal_table.js";
import { classesModel, gaussianModel, gaussianSpec, golden } from "./gaussian.js";

const bits = (values) => [...new Uint32Array(Float32Array.from(values).buffer)];
const sha256 = (array) => createHash("sha256").update(new Uint8Array(array.buffer)).digest("hex");

function assertClose(actual, expected, tolerance) {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, k) => {
    assert.ok(Math.abs(value - expected[k]) <= tolerance, `[${k}]: ${value}, expected ${expected[k]}`);
  });
}

test("philox", () => {
  for (const { counter, key, words } of golden("philox").cases) {
    assert.deepEqual([...ddpm.philox4x32_10(counter, key)], words);
  }
});

test("the table of normals is whole", () => {
  const { table_sha256, table_shape, table_first_column, table_first_row } = golden("normals");
  assert.equal(sha256(NORMAL_TABLE), table_sha256);
  assert.equal(NORMAL_TABLE_SHA256, table_sha256);
  assert.equal(NORMAL_TABLE.length, table_shape[0] * table_shape[1]);
  assert.deepEqual([...NORMAL_TABLE.slice(0, 257)], table_first_row);
  assert.deepEqual(
    Array.from({ length: 32 }, (_, e) => NORMAL_TABLE[e * 257]),
    table_first_column,
  );
});

test("normals, to the bit", () => {
  for (const { word, z, bits: expected } of golden("normals").cases) {
    const normals = ddpm.normalsFromWords(Uint32Array.of(word));
    assert.equal(normals[0] * 2 ** 20, z);
    assert.deepEqual(bits(normals), [expected]);
  }
});

test("noise, to the bit", () => {
  for (const { seed, image, draw, domain, shape, first_bits, last_bits, sha256: digest } of golden("noise").cases) {
    const noise = ddpm.noiseStream(BigInt(seed), [image], shape, { domain })(draw);
    assert.deepEqual(bits(noise).slice(0, 8), first_bits);
    assert.deepEqual(bits(noise).slice(-3), last_bits);
    assert.equal(sha256(noise), digest);
  }
});

test("an image's noise is the same alone and among others, for a seed as number and as BigInt", () => {
  const among = ddpm.noiseStream(5, [3, 0, 7], [1, 3, 3]);
  for (const draw of [0, 1, 2]) {
    assert.deepEqual(ddpm.noiseStream(5n, [0], [1, 3, 3])(draw), among(draw).subarray(9, 18));
  }
});

test("time grids", () => {
  for (const { num_train_timesteps, num_steps, t } of golden("time_grids").cases) {
    assert.deepEqual(ddpm.spacing(num_train_timesteps, num_steps), t);
  }
  for (let T = 1; T <= 40; T++) {
    for (let n = 1; n <= T; n++) {
      const grid = ddpm.spacing(T, n);
      assert.equal(new Set(grid).size, n);
      assert.equal(grid[0], T - 1);
    }
  }
});

test("coefficients, seen through rows and the denoiser", async () => {
  const { num_train_timesteps, cases } = golden("coefficients");
  assert.equal(num_train_timesteps, 1000);
  for (const { a, a_prev, i, t, eta, variance, bits: expected, ...numbers } of cases) {
    const grid = { t: [t], a: [a, a_prev] };
    const [row] = variance === "fixed_small" ? ddpm.ddim(grid, { eta }) : ddpm.ddpm(grid, { variance });
    const [c_noise = 0] = row.noise;
    if (variance === "fixed_small") {
      const error = Math.abs(c_noise - numbers.c_noise);
      assert.ok(error <= 1e-14 * numbers.c_noise, `c_noise at t = ${t}, eta = ${eta}`);
    }
    const withinOneUlp = (actual, name) => {
      const error = Math.abs(bits([actual])[0] - expected[name]);
      assert.ok(error <= 1, `${name} at t = ${t}: ${actual}, expected ${numbers[name]}`);
    };
    withinOneUlp(row.x_0[0], "sqrt_a_prev");
    withinOneUlp(row.eps[0], "c_eps");
    withinOneUlp(c_noise, "c_noise");
    const seen = (x_t, v) => {
      const spec = gaussianSpec({ prediction: "v", image_shape: [1, 1, 1] });
      return ddpm.denoised({ v: Float32Array.of(v) }, spec, Float32Array.of(x_t), row);
    };
    withinOneUlp(seen(1, 0).x_0[0], "sqrt_a");
    withinOneUlp(seen(1, 0).eps[0], "sqrt_1_minus_a");
  }
});

/** The states of a walk, which may not change once they are yielded. */
async function statesOf(...walk) {
  const [states, copies] = [[], []];
  for await (const state of ddpm.walk(...walk)) {
    states.push(state);
    copies.push(structuredClone(state));
  }
  assert.deepEqual(states, copies);
  return states;
}

const lastOf = async (...walk) => (await statesOf(...walk)).at(-1).x;

/** Compare states with golden ones, then go on from each of them, in a copy: to the same bits. */
async function assertStates(denoise, noise, plan, golden, tolerance) {
  const states = await statesOf(denoise, noise, plan);
  assert.equal(states.length, golden.length);
  for (const [k, { row, ...arrays }] of states.entries()) {
    const { i, t, a } = golden[k];
    assert.deepEqual({ i: row.i, t: row.t, a: row.a }, { i, t, a });
    for (const name of ["x", "x_0", "eps"]) assertClose(arrays[name], golden[k][name], tolerance);
    const rest = await statesOf(denoise, noise, plan, { state: structuredClone(states[k]) });
    assert.deepEqual(rest, states.slice(k + 1));
  }
  return states;
}

for (const [number, run] of golden("trajectories").cases.entries()) {
  const { sampler, states, prediction, clip_x_0, eta, variance } = run;
  const what = `${sampler} ${eta ?? variance}, ${prediction}, clip ${clip_x_0}`;
  test(`trajectory ${number}, also resumed at every step: ${what}`, async () => {
    const { seed, images, shape, num_steps, tolerance, alphas_cumprod, x_T } = golden("trajectories");
    const spec = gaussianSpec({ prediction, clip_x_0, alphas_cumprod, image_shape: shape });
    const denoise = ddpm.denoiser(gaussianModel(prediction), spec);
    const noise = ddpm.noiseStream(BigInt(seed), images, shape);
    const plan = ddpm.plan(spec, { sampler, numSteps: num_steps, eta, variance });
    assert.deepEqual(bits(noise(0)), bits(x_T));
    await assertStates(denoise, noise, plan, states, tolerance);
    for (let from = 1; from < num_steps; from++) {
      const rest = { ...plan, rows: plan.rows.slice(from) };
      const x = await lastOf(denoise, noise, rest, { x: Float32Array.from(states[from - 1].x) });
      assertClose(x, states[num_steps - 1].x, tolerance);
    }
  });
}

for (const [number, { name, prediction, clip_x_0, plan, states }] of golden("plans").cases.entries()) {
  test(`plan ${number}, ${name}, from a file, also resumed at every row: ${prediction}, clip ${clip_x_0}`, async () => {
    const { seed, images, shape, tolerance, alphas_cumprod, variance_fraction } = golden("plans");
    const plans = { [name]: plan };
    const changes = {
      prediction,
      clip_x_0,
      alphas_cumprod,
      image_shape: shape,
      plans,
      requires: ["raw_eps", "variance_fraction"],
    };
    const spec = gaussianSpec(changes);
    const noise = ddpm.noiseStream(BigInt(seed), images, shape);
    const model = (x_t, t) => ({
      ...gaussianModel(prediction)(x_t, t),
      variance_fraction: new Float32Array(x_t.length).fill(variance_fraction),
    });
    const walked = ddpm.plan(spec, { name });
    const seen = await assertStates(ddpm.denoiser(model, spec), noise, walked, states, tolerance);
    // what no later row reads is dropped
    const reaches = walked.rows.map(({ x_0, eps }) => Math.max(x_0.length, eps.length));
    for (const [k, { history }] of seen.entries()) {
      const wanted = Math.max(0, ...reaches.slice(k + 1).map((reach, ahead) => reach - ahead - 1));
      assert.deepEqual(
        history,
        seen
          .slice(k + 1 - wanted, k + 1)
          .map(({ x_0, eps }) => [x_0, eps])
          .reverse(),
      );
    }
  });
}

for (const [number, run] of golden("conditions").cases.entries()) {
  const { y, guidance, inputs, prediction, clip_x_0, sampler, eta, variance, states } = run;
  test(`conditions ${number}: ${y}, ${JSON.stringify(guidance)}, ${prediction}, ${sampler}`, async () => {
    const { seed, images, shape, num_steps, tolerance, alphas_cumprod } = golden("conditions");
    const requires = ["inputs", ...(variance === "learned" ? ["variance_fraction"] : [])];
    const spec = gaussianSpec({ prediction, clip_x_0, alphas_cumprod, image_shape: shape, inputs, requires });
    const noise = ddpm.noiseStream(BigInt(seed), images, shape);
    const plan = ddpm.plan(spec, { sampler, numSteps: num_steps, eta, variance });
    const batches = [];
    const network = classesModel(spec);
    const model = (x_t, t, told) => (batches.push(t.length), network(x_t, t, told));
    const denoise = ddpm.denoiser(model, spec, { y }, guidance);
    await lastOf(denoise, noise, plan);
    // one evaluation a row: of twice the batch where it is guided, and not by the network itself
    const isTwice = ({ t }) => {
      const [low, high] = guidance.interval ?? [0, Infinity];
      return guidance.scale > 1 && t >= low && t <= high && y.some((label) => label !== 3) && inputs.length === 1;
    };
    assert.deepEqual(
      batches,
      plan.rows.map((row) => (isTwice(row) ? 6 : 3)),
    );
    await assertStates(denoise, noise, plan, states, tolerance);
  });
}

test("a row's number, not its time, says which noise it draws and where a walk goes on", async () => {
  const a = 0.5;
  const row = (i) => ({ i, t: 3, a, x_0: [1], eps: [], noise: [1] });
  const draws = [];
  const noise = (draw) => (draws.push(draw), Float32Array.of(0));
  const plan = { rows: [row(1), row(2), row(3)], start: 1 };
  const states = await statesOf(async (x) => ({ x_0: x, eps: x, variance_fraction: null }), noise, plan);
  assert.deepEqual(draws, [0, 1, 2, 3]);
  draws.length = 0;
  await statesOf(async (x) => ({ x_0: x, eps: x, variance_fraction: null }), noise, plan, { state: states[1] });
  assert.deepEqual(draws, [3]);
});

test("sums: x_0 then eps of each age, newest first, then noise, every operation rounded", async () => {
  const f = Math.fround;
  const of = (x_0, eps) => ({ x_0: Float32Array.of(x_0), eps: Float32Array.of(eps), variance_fraction: null });
  const found = [of(1e8, 0.7), of(1e8, 1)];
  const rows = [
    { i: 1, t: 1, a: 0.5, x_0: [1], eps: [1], noise: [] },
    { i: 2, t: 0, a: 0.5, x_0: [1.1, -1.1], eps: [1, 0.3], noise: [0.6] },
  ];
  const noise = () => Float32Array.of(0.7);
  const x = await lastOf(async (_, { i }) => found[i - 1], noise, { rows, start: 1 });
  // 1.1e8 swallows the 1; once it is gone, what is small counts
  let sum = f(f(f(1.1) * 1e8) + 1);
  assert.equal(sum, f(f(1.1) * 1e8));
  sum = f(sum - f(f(1.1) * 1e8));
  sum = f(sum + f(f(0.3) * f(0.7)));
  sum = f(sum + f(f(0.6) * f(0.7)));
  assert.deepEqual(bits(x), bits([sum]));
});

test("a learned variance at f = 0 is the small one, at f = 1 the large one, and nothing at the end", async () => {
  const spec = gaussianSpec({ requires: ["variance_fraction"], variance: "learned" });
  const noise = ddpm.noiseStream(1, [0], spec.state_shape);
  const finalOf = async (fraction, variance) => {
    const plain = gaussianModel("eps");
    const model = (x_t, t) => ({ ...plain(x_t, t), variance_fraction: new Float32Array(x_t.length).fill(fraction) });
    return lastOf(ddpm.denoiser(model, spec), noise, ddpm.plan(spec, { sampler: "ddpm", numSteps: 6, variance }));
  };
  assertClose(await finalOf(0, "learned"), await finalOf(0, "fixed_small"), 1e-6);
  assertClose(await finalOf(1, "learned"), await finalOf(0, "fixed_large"), 1e-5);
  const [low, half, high] = [await finalOf(0, "learned"), await finalOf(0.5, "learned"), await finalOf(1, "learned")];
  assert.notDeepEqual(half, low);
  assert.notDeepEqual(half, high);
});

test("eta is rounded to float32 before use", async () => {
  const spec = gaussianSpec({});
  const finalOf = async (eta) => {
    const settings = { seed: 0, n: 16, numSteps: 50, sampler: "ddim", eta };
    return (await ddpm.sample(gaussianModel("eps"), spec, settings)).x;
  };
  for (const eta of [0.1, 0.3, 0.7, 0.9]) assert.deepEqual(await finalOf(eta), await finalOf(Math.fround(eta)));
});

test("pixels, in every channel order", () => {
  for (const { x, level } of golden("pixels").cases) {
    assert.deepEqual([...ddpm.toUint8(Float32Array.of(x), [1, 1, 1])], [level]);
  }
  const [red, green] = [1, -1]; // two images of two channels and two pixels: C, H, W -> H, W, C
  const x = Float32Array.of(red, red, green, green, green, green, red, red);
  assert.deepEqual([...ddpm.toUint8(x, [2, 1, 2])], [255, 0, 255, 0, 0, 255, 0, 255]);
});

test("sample: the same as its lines, whatever the batch, with progress and cancel", async () => {
  const spec = gaussianSpec({});
  const model = gaussianModel("eps");
  const seen = [];
  const settings = { seed: 3n, first: 5, n: 4, numSteps: 7, sampler: "ddim", eta: 0.5 };
  const result = await ddpm.sample(model, spec, settings, (step, numSteps, x, x_0) => {
    seen.push([step, numSteps, x.length, x_0.length]);
  });
  const size = spec.state_shape.reduce((a, b) => a * b);
  assert.deepEqual(
    seen,
    [1, 2, 3, 4, 5, 6, 7].map((step) => [step, 7, 4 * size, 4 * size]),
  );
  const noise = ddpm.noiseStream(3, [7], spec.state_shape);
  const plan = ddpm.plan(spec, { sampler: "ddim", numSteps: 7, eta: 0.5 });
  const last = await lastOf(ddpm.denoiser(model, spec), noise, plan);
  assert.deepEqual(result.x.slice(2 * size, 3 * size), last);
  assert.deepEqual(result.images, ddpm.toUint8(result.x, spec.state_shape));

  let steps = 0;
  assert.equal(await ddpm.sample(model, spec, settings, async (step) => ++steps < 3 && step < 3), null);
  assert.equal(steps, 3);
});

test("sample fills in what the spec says", async () => {
  const spec = gaussianSpec({ defaults: { sampler: "ddpm", num_steps: 5, eta: 0.25 }, variance: "fixed_large" });
  const model = gaussianModel("eps");
  const same = async (a, b) =>
    assert.deepEqual(
      (await ddpm.sample(model, spec, { seed: 1, ...a })).x,
      (await ddpm.sample(model, spec, { seed: 1, ...b })).x,
    );
  await same({}, { first: 0, n: 1, numSteps: 5, sampler: "ddpm", variance: "fixed_large" });
  await same({ sampler: "ddim" }, { numSteps: 5, sampler: "ddim", eta: 0.25 });
  await same({ sampler: "ddpm", variance: "fixed_small" }, { sampler: "ddim", eta: 1 });
});

test("a buffer that the network uses again changes nothing that was yielded", async () => {
  const spec = gaussianSpec({ prediction: "x_0" });
  const buffer = { x_0: new Float32Array(6) };
  const model = (x_t, t) => (buffer.x_0.set(gaussianModel("x_0")(x_t, t).x_0), buffer);
  await statesOf(
    ddpm.denoiser(model, spec),
    ddpm.noiseStream(0, [0], spec.state_shape),
    ddpm.plan(spec, { numSteps: 4 }),
  );
});

test("a number of steps picks the default plan's sibling, or else the default sampler", () => {
  const rows = (t) => ({ rows: [{ i: 1, t, a: 0.5, x_0: [1], eps: [], noise: [] }], start: 1 });
  const plans = { "tuned-2": rows(3), "tuned-1": rows(2), other: rows(1) };
  const usual = gaussianSpec({});
  const spec = { ...usual, plans, defaults: { ...usual.defaults, plan: "tuned-2" } };
  assert.equal(ddpm.plan(spec), plans["tuned-2"]);
  assert.equal(ddpm.plan(spec, { numSteps: 1 }), plans["tuned-1"]);
  assert.deepEqual(ddpm.plan(spec, { numSteps: 3 }), ddpm.plan(usual, { numSteps: 3 }));
  assert.deepEqual(
    ddpm.plan({ ...spec, defaults: { ...usual.defaults, plan: "other" } }, { numSteps: 1 }),
    ddpm.plan(usual, { numSteps: 1 }),
  );
});

const SENTENCES = /^[A-Za-z'].*\.$/; // at most two of them, which no one pleads with

function refuses(error, words) {
  return (thrown) => {
    assert.ok(thrown instanceof error, String(thrown));
    assert.equal(thrown.name, error.name);
    assert.match(thrown.message, SENTENCES);
    assert.doesNotMatch(thrown.message, /, expected |\. Do /);
    assert.match(thrown.message, /^[ -~]+$/);
    assert.match(thrown.message, words);
    return true;
  };
}

test("seeds, images, draws and steps out of range are refused", () => {
  const shape = [1, 1, 1];
  for (const seed of [2 ** 53, 1.5, "7", undefined, NaN, null]) {
    assert.throws(
      () => ddpm.noiseStream(seed, [0], shape),
      refuses(ddpm.UsageError, /^seed must be a BigInt or an integer/),
    );
  }
  for (const seed of [-1, -1n, 2n ** 63n]) {
    assert.throws(
      () => ddpm.noiseStream(seed, [0], shape),
      refuses(ddpm.UsageError, /^seed must be from 0 to 2\^63 - 1, got /),
    );
  }
  ddpm.noiseStream(2n ** 63n - 1n, [2 ** 32 - 1], shape)(2 ** 32 - 1);
  for (const image of [-1, 2 ** 32, 0.5]) {
    assert.throws(
      () => ddpm.noiseStream(0, [0, image], shape),
      refuses(ddpm.UsageError, /^Numbers of images must be from 0 to 2\^32 - 1, got /),
    );
    assert.throws(() => ddpm.noiseStream(0, [0], shape)(image), refuses(ddpm.UsageError, /^draw must be/));
  }
  assert.throws(() => ddpm.noiseStream(0, [0], shape, { domain: -1 }), refuses(ddpm.UsageError, /^domain must be/));
  assert.throws(() => ddpm.noiseStream(0, [0], [1, 0, 1]), refuses(ddpm.UsageError, /^shape must be/));
  for (const steps of [0, 51, 1.5, NaN, "5"]) {
    assert.throws(
      () => ddpm.plan(gaussianSpec({}), { numSteps: steps }),
      refuses(ddpm.UsageError, /^The number of steps must be from 1 to 50, the model's own, got /),
    );
  }
  assert.throws(
    () => ddpm.plan(gaussianSpec({}), { sampler: "ddpm", variance: "learned" }),
    refuses(ddpm.UsageError, /the network has learned none/),
  );
  const grid = ddpm.grid(gaussianSpec({}), 3);
  for (const eta of [-0.1, 1.1, NaN, "0"]) {
    assert.throws(() => ddpm.ddim(grid, { eta }), refuses(ddpm.UsageError, /^eta must be between 0 and 1, got /));
  }
  assert.throws(
    () => ddpm.ddpm(grid, { variance: "huge" }),
    refuses(ddpm.UsageError, /^variance must be one of .*'huge'/),
  );
  for (const times of [[], [3, 3], [3, 4], [50], [1, -1], [1.5], ["3"]]) {
    assert.throws(
      () => ddpm.grid(gaussianSpec({}), null, { times }),
      refuses(ddpm.UsageError, /^times must strictly fall/),
    );
  }
  assert.throws(
    () => ddpm.grid(gaussianSpec({}), 3, { times: [4, 0] }),
    refuses(ddpm.UsageError, /^numSteps must be left out or be the number of times, 2, got 3/),
  );
});

test("settings no image can be made from are refused", async () => {
  for (const [settings, words] of [
    [{ n: 0 }, /^n must be/],
    [{ n: 1.5 }, /^n must be/],
    [{ first: 2 ** 32 - 1, n: 2 }, /^n must be from 1 to 1, got 2\./],
    [{ first: -1 }, /^first must be/],
    [{ sampler: "euler" }, /^sampler must be one of ddpm, ddim, got 'euler'\.$/],
    [{ sampler: "ddpm", eta: 0.5 }, /^eta does not apply to ddpm\.$/],
    [{ sampler: "ddim", variance: "fixed_small" }, /^variance does not apply to ddim\.$/],
    [{ sampler: "ddpm", variance: "learned" }, /^variance must be .* the network has learned none, got 'learned'\.$/],
    [{ numSteps: 3, times: [4, 0] }, /^numSteps must be left out/],
    [{ plan: "heun" }, /^plan must be one of toString, got 'heun'\.$/],
    [{ plan: "valueOf" }, /^plan must be one of toString/],
    [{ plan: "toString", numSteps: 3 }, /^plan toString already fixes the steps\. Drop numSteps\.$/],
    [{ plan: "toString", eta: 0 }, /^plan toString already fixes the steps\. Drop eta/],
  ]) {
    const spec = gaussianSpec({ plans: { toString: { rows: [[3, 0.5, [1], [], []]] } } });
    const sampled = ddpm.sample(gaussianModel("eps"), spec, { seed: 0, ...settings });
    await assert.rejects(sampled, refuses(ddpm.UsageError, words));
  }
});

test("a network that breaks is told by step and image, an output that is missing by its name", async () => {
  const spec = gaussianSpec({ clip_x_0: 1 });
  for (const broken of [NaN, Infinity]) {
    const model = (x_t, t) => {
      const outputs = gaussianModel("eps")(x_t, t);
      if (t[0] === 24n) outputs.eps[7] = broken;
      return outputs;
    };
    const sampled = ddpm.sample(model, spec, { seed: 0, n: 2, first: 4, numSteps: 2, sampler: "ddim" });
    await assert.rejects(
      sampled,
      refuses(ddpm.NonFiniteError, /^At step 2 \(t = 24\), image 5 became NaN or infinite\. Run/),
    );
  }
  const other = ddpm.sample(() => ({ v: new Float32Array(6) }), spec, { seed: 0 });
  await assert.rejects(other, refuses(ddpm.BadFileError, /no output 'eps', which its spec names; it has \['v'\]\.$/));
  const short = ddpm.sample(() => ({ eps: new Float32Array(5) }), spec, { seed: 0 });
  await assert.rejects(short, refuses(ddpm.BadFileError, /output 'eps' must have 6 numbers, got 5\.$/));
});

test("a weight that carries an image beyond float32 is told by its row", async () => {
  const spec = gaussianSpec({});
  const row = (i, weight) => ({ i, t: 5, a: 0.5, x_0: [weight], eps: [], noise: [] });
  const plan = { rows: [row(1, 1), row(2, 1e300)], start: 1 };
  const walked = lastOf(ddpm.denoiser(gaussianModel("eps"), spec), ddpm.noiseStream(0, [0], spec.state_shape), plan);
  await assert.rejects(walked, refuses(ddpm.NonFiniteError, /^At step 2 \(t = 5\), number 0 of the batch became/));
});

test("predict, combine, denoised are what the denoiser does", async () => {
  const spec = gaussianSpec({ clip_x_0: 0.5 });
  const [model, [row]] = [gaussianModel("eps"), ddpm.plan(spec, { numSteps: 2 }).rows];
  const x_t = ddpm.noiseStream(3, [0, 1], spec.state_shape)(0);
  const outputs = ddpm.combine([await ddpm.predict(model, spec, x_t, row, {})]);
  assert.deepEqual(ddpm.denoised(outputs, spec, x_t, row), await ddpm.denoiser(model, spec)(x_t, row, null));
});

// --- times, plans and inputs of a file ---

const VECTOR = { name: "v", kind: "vector", shape: [3], none: 0.5 };
const LABEL = { name: "y", kind: "label", shape: [], none: 2, classes: ["cat", "dog"] };
const IMAGE = { name: "low", kind: "image", shape: [1, 1, 2], none: null };
const PREVIOUS = { name: "x_0_prev", kind: "previous", shape: [1, 2, 3], none: null };
const withInputs = (...inputs) => gaussianSpec({ inputs, requires: ["inputs"] });

test("times of one's own, the file's times and the file's plan", async () => {
  const timesOf = (...how) => ddpm.plan(...how).rows.map(({ t }) => t);
  const plans = { short: { rows: [[7, 0.5, [1], [0.5], []]], start: 2 } };
  const spec = gaussianSpec({ plans });
  assert.deepEqual(timesOf(spec, { times: [40, 7, 0] }), [40, 7, 0]);
  assert.deepEqual(ddpm.plan(spec, { name: "short" }), {
    rows: [{ i: 1, t: 7, a: 0.5, x_0: [1], eps: [0.5], noise: [], raw_eps: false }],
    start: 2,
  });
  assert.equal(timesOf(spec).length, 50);
  const defaults = { sampler: "ddim", num_steps: 2, eta: 0 };
  const timed = gaussianSpec({ plans, requires: ["times"], defaults: { ...defaults, times: [30, 3] } });
  assert.deepEqual(timesOf(timed), [30, 3]);
  assert.deepEqual(timesOf(timed, { sampler: "ddpm" }), [30, 3]);
  assert.deepEqual(timesOf(timed, { numSteps: 1 }), [49]);
  assert.deepEqual(timesOf(timed, { times: [5] }), [5]);
  const planned = gaussianSpec({ plans, requires: ["plan"], defaults: { ...defaults, plan: "short" } });
  assert.deepEqual(timesOf(planned), [7]);
  assert.deepEqual(timesOf(planned, { sampler: "ddim" }), [49, 24]);
  assert.deepEqual(timesOf(planned, { eta: 1, times: [3] }), [3]);
  // in one call, too; the picture is x after the last row, which this plan leaves away from x_0
  const { x, images } = await ddpm.sample(gaussianModel("eps"), planned, { seed: 1 });
  const noise = ddpm.noiseStream(1, [0], planned.state_shape);
  const [state] = await statesOf(ddpm.denoiser(gaussianModel("eps"), planned), noise, ddpm.plan(planned));
  assert.deepEqual(x, state.x);
  assert.notDeepEqual(x, state.x_0);
  assert.deepEqual(images, ddpm.toUint8(x, planned.state_shape));
});

test("a default sampler that is unknown is refused, unless another is chosen", () => {
  const spec = gaussianSpec({ defaults: { sampler: "euler", num_steps: 5, eta: 0 } });
  assert.throws(
    () => ddpm.plan(spec),
    refuses(ddpm.ModelRefusedError, /^The model's default sampler, 'euler', is unknown to this version\.$/),
  );
  assert.equal(ddpm.plan(spec, { sampler: "ddpm" }).rows.length, 5);
});

/** A model that keeps what it was told; eps = x_t / 2. */
function listening() {
  const told = [];
  return { told, model: (x_t, t, inputs) => (told.push({ t, ...inputs }), { eps: x_t.map((x) => x / 2) }) };
}

test("inputs by name: given for all or for each, or what stands for nothing; the walk feeds the clean image", async () => {
  const spec = withInputs(LABEL, VECTOR, IMAGE, PREVIOUS);
  const { told, model } = listening();
  const noise = ddpm.noiseStream(0, [0, 1], spec.state_shape);
  const plan = ddpm.plan(spec, { numSteps: 2 });
  const [first] = await statesOf(ddpm.denoiser(model, spec, { low: [1, 2] }), noise, plan);
  assert.deepEqual(told[0].y, BigInt64Array.of(2n, 2n));
  assert.deepEqual(told[0].v, new Float32Array(6).fill(0.5));
  assert.deepEqual(told[0].low, Float32Array.of(1, 2, 1, 2));
  assert.deepEqual(told[0].x_0_prev, new Float32Array(12));
  assert.deepEqual(told[1].x_0_prev, first.x_0);
  const given = { y: ["dog", 0n], v: Float32Array.of(1, 2, 3), low: [1, 2, 3, 4] };
  await statesOf(ddpm.denoiser(model, spec, given), noise, plan, { state: first });
  assert.equal(told.length, 3);
  assert.deepEqual(told[2].y, BigInt64Array.of(1n, 0n));
  assert.deepEqual(told[2].v, Float32Array.of(1, 2, 3, 1, 2, 3));
  assert.deepEqual(told[2].low, Float32Array.of(1, 2, 3, 4));
  assert.deepEqual(told[2].x_0_prev, first.x_0);
});

test("an input may have any name, and t is float32 where the file says so", async () => {
  const names = ["__proto__", "constructor", "toString"];
  const inputs = names.map((name) => ({ ...VECTOR, name }));
  const plans = { fine: { rows: [[2.5, 0.5, [1], [], []]] } };
  const spec = gaussianSpec({ inputs, requires: ["inputs", "fractional_t"], plans });
  const { told, model } = listening();
  await ddpm.sample(model, spec, { seed: 0, n: 2, plan: "fine" });
  assert.deepEqual(told[0].t, Float32Array.of(2.5, 2.5));
  for (const name of names) assert.deepEqual(Object.getOwnPropertyDescriptor(told[0], name).value.length, 6);
});

for (const [given, words] of [
  [{ z: 1 }, /^The model has no input 'z'; it has y, v, low\.$/],
  [{ x_0_prev: [0] }, /^The model has no input 'x_0_prev'/],
  [{}, /^Input 'low', of kind image and shape \[1, 1, 2\], must be given\.$/],
  [{ low: [1] }, /^Input 'low' must have shape \[1, 1, 2\] or \[2, 1, 1, 2\], got 1 values\.$/],
  [{ low: 1 }, /^Input 'low' must have shape .*, got 1\.$/],
  [{ low: ["1", "2"] }, /^Input 'low' must have shape/],
  [{ low: [1, NaN] }, /^Input 'low' must be finite, got NaN or infinity\.$/],
  [{ low: [1, 1e300] }, /^Input 'low' must be finite/],
  [{ low: [1, 2], y: "cow" }, /^Input 'y' must be one of cat, dog or its index from 0 to 1, got 'cow'\.$/],
  [{ low: [1, 2], y: 3 }, /^Input 'y' must be one of cat, dog .*, got 3\.$/],
  [{ low: [1, 2], y: -1n }, /^Input 'y' must be one of/],
  [{ low: [1, 2], y: 0.5 }, /^Input 'y' must be one of/],
  [{ low: [1, 2], y: true }, /^Input 'y' must be one of/],
  [{ low: [1, 2], y: ["cat", 3] }, /^Input 'y' must be one of/],
  [{ low: [1, 2], y: ["cat"] }, /^Input 'y' must have shape \[\] or \[2\], got 1 values\.$/],
]) {
  test(`inputs ${JSON.stringify(given, (_, v) => (typeof v === "bigint" ? `${v}n` : v))} are refused`, async () => {
    const spec = withInputs(LABEL, VECTOR, IMAGE, PREVIOUS);
    const { told, model } = listening();
    const [row] = ddpm.plan(spec, { numSteps: 1 }).rows;
    const call = async () => ddpm.denoiser(model, spec, given)(new Float32Array(12), row, null);
    await assert.rejects(call, refuses(ddpm.UsageError, words));
    assert.equal(told.length, 0);
  });
}

const guidedSpec = (...more) => withInputs(LABEL, VECTOR, PREVIOUS, ...more);

test("guidance asks with the label and without in one batch, and all else alike", async () => {
  const spec = guidedSpec();
  const { told, model } = listening();
  const noise = ddpm.noiseStream(0, [0, 1], spec.state_shape);
  const given = { y: ["dog", "cat"], v: [1, 2, 3, 4, 5, 6] };
  const guidance = { scale: 3, interval: [0, 24] };
  const states = await statesOf(
    ddpm.denoiser(model, spec, given, guidance),
    noise,
    ddpm.plan(spec, { times: [25, 24, 0] }),
  );
  assert.deepEqual(told[0].y, BigInt64Array.of(1n, 0n));
  assert.deepEqual(told[1].t, new BigInt64Array(4).fill(24n));
  for (const one of told.slice(1)) {
    assert.deepEqual(one.y, BigInt64Array.of(1n, 0n, 2n, 2n));
    assert.deepEqual(one.v, Float32Array.of(1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6));
  }
  assert.deepEqual(told[2].x_0_prev, Float32Array.of(...states[1].x_0, ...states[1].x_0));
});

test("guidance: u + scale (c - u), every operation rounded; a learned variance is that of c", async () => {
  const f = Math.fround;
  const of = (eps, fraction) => ({ eps: Float32Array.of(eps), variance_fraction: Float32Array.of(fraction) });
  const combined = ddpm.combine([of(0.1, 0.25), of(0.5, 0.5)], 2.3);
  assert.deepEqual(combined, {
    eps: Float32Array.of(f(f(0.5) + f(f(2.3) * f(f(0.1) - f(0.5))))),
    variance_fraction: Float32Array.of(0.25),
  });
  const alone = of(0.3, 0.25);
  assert.equal(ddpm.combine([alone], 7), alone);
  // what is not finite is told of its image, in whichever half
  for (const half of [0, 1]) {
    const spec = gaussianSpec({ inputs: [LABEL], requires: ["inputs", "variance_fraction"] });
    const model = (x_t) => {
      const variance_fraction = x_t.slice();
      variance_fraction[12 * half + 7] = NaN;
      return { eps: x_t, variance_fraction };
    };
    const sampled = ddpm.sample(model, spec, { seed: 0, n: 2, first: 4, numSteps: 1, guidance: 2 });
    await assert.rejects(sampled, refuses(ddpm.NonFiniteError, /^At step 1 \(t = 49\), image 5 became NaN/));
  }
});

test("images are told in turn by their numbers, whatever the batch", async () => {
  const spec = guidedSpec();
  const toldOf = async (settings) => {
    const { told, model } = listening();
    await ddpm.sample(model, spec, { seed: 0, numSteps: 1, ...settings });
    return { y: [...told[0].y].map(Number), v: [...told[0].v] };
  };
  const v = [0.5, 1, 2, 3, 4, 5];
  const half = [0.5, 0.5, 0.5];
  assert.deepEqual(await toldOf({ n: 3, first: 1 }), { y: [1, 0, 1], v: [...half, ...half, ...half] });
  assert.deepEqual(await toldOf({ n: 3, first: 1, inputs: { v } }), {
    y: [1, 0, 1],
    v: [3, 4, 5, 0.5, 1, 2, 3, 4, 5],
  });
  assert.deepEqual((await toldOf({ n: 4, first: 1, label: ["dog", "none", 0] })).y, [2, 0, 1, 2]);
  for (const label of ["dog", "1", 1, 1n]) assert.deepEqual((await toldOf({ n: 2, label })).y, [1, 1]);
  assert.deepEqual((await toldOf({ n: 2, inputs: { y: ["dog", "cat"] } })).y, [1, 0]);
  assert.deepEqual((await toldOf({ n: 2, guidance: 0 })).y, [2, 2]);
  assert.deepEqual((await toldOf({ n: 2, guidance: 2 })).y, [0, 1, 2, 2]);
  const named = withInputs({ ...LABEL, classes: ["none", "0"] });
  const { told, model } = listening();
  await ddpm.sample(model, named, { seed: 0, n: 2, numSteps: 1, label: ["0", "none"] });
  assert.deepEqual(told[0].y, BigInt64Array.of(1n, 0n));
});

test("the file's own guidance counts until another is said; a number is a scale for all times", async () => {
  const defaults = { sampler: "ddim", num_steps: 2, eta: 0, guidance: { scale: 2, interval: [0, 30] } };
  const spec = gaussianSpec({ inputs: [LABEL], requires: ["inputs", "guidance"], defaults });
  const batches = async (guidance) => {
    const { told, model } = listening();
    await ddpm.sample(model, spec, { seed: 0, guidance });
    return told.map(({ t }) => t.length);
  };
  assert.deepEqual(await batches(undefined), [1, 2]);
  assert.deepEqual(await batches(null), [1, 2]);
  assert.deepEqual(await batches(3), [2, 2]);
  assert.deepEqual(await batches(1), [1, 1]);
  assert.deepEqual(await batches({ scale: 3, interval: [49, 49] }), [2, 1]);
});

test("a graph with the sampler inside takes guidance only where it says so", () => {
  const takes = (changes) =>
    ddpm.takesGuidance(ddpm.specFromJson(JSON.stringify({ ...sound, inputs: [LABEL], ...changes })));
  assert.equal(takes({ requires: ["inputs"] }), true);
  assert.equal(takes({ requires: ["inputs"], graph: null }), true);
  assert.equal(takes({ requires: ["inputs"], graph: "slice" }), false);
  assert.equal(takes({ requires: ["inputs", "guidance"], graph: "slice" }), true);
  assert.equal(takes({ requires: ["inputs", "guidance"], graph: "slice", inputs: [{ ...LABEL, none: null }] }), false);
});

test("a vector of one is a plain number", async () => {
  const spec = withInputs({ ...VECTOR, shape: [1] });
  const { told, model } = listening();
  await ddpm.sample(model, spec, { seed: 0, numSteps: 1, n: 2, inputs: { v: 0.25 } });
  assert.deepEqual(told[0].v, Float32Array.of(0.25, 0.25));
});

const NEVER = /^guidance must be 1 for a network that has not learned to do without a class, got 2\.5\.$/;
const INTERVAL = "the interval of guidance must be two times, the lower first, from 0 on, got ";
for (const [settings, words, inputs = [LABEL, VECTOR]] of [
  [{ guidance: -1 }, /^guidance must be a number from 0 to 100, got -1\.$/],
  [{ guidance: 100.5 }, /^guidance must be a number from 0 to 100, got 100\.5\.$/],
  [{ guidance: NaN }, /^guidance must be a number from 0 to 100, got NaN\.$/],
  [{ guidance: "2" }, /^guidance must be a number from 0 to 100, got '2'\.$/],
  ...[[3, 1], [-1, 1], [0, Infinity], [1], "ab"].map((interval) => [
    { guidance: { scale: 2, interval } },
    new RegExp(`^${INTERVAL}`),
  ]),
  [{ guidance: 2.5 }, NEVER, []],
  [{ guidance: 2.5 }, NEVER, [{ ...LABEL, none: null }]],
  [
    { label: "none" },
    /^Input 'y' cannot be none, since the network was always told a class\.$/,
    [{ ...LABEL, none: null }],
  ],
  [{ label: "cat" }, /^label does not apply to a network that is told no class\.$/, []],
  [{ label: "cat", inputs: { y: 1 } }, /^label must be left out beside the input 'y', which is the same\.$/],
  [{ label: "cow" }, /^Input 'y' must be one of cat, dog or its index from 0 to 1, got 'cow'\.$/],
  [{ label: ["cat", "3"] }, /^Input 'y' must be one of cat, dog .* got '3'\.$/],
  [{ label: [] }, /^Input 'y' must have shape \[\] or \[K\], got 0 values\.$/],
  [{ inputs: { v: [1, 2] } }, /^Input 'v' must have shape \[3\] or \[K, 3\], got 2 values\.$/],
  [{ inputs: { guidance: [2] } }, /^The model has no input 'guidance'; it has y, v\.$/],
  [
    { inputs: { guidance: [2] } },
    /^The model has no input 'guidance'; it has y\.$/,
    [LABEL, { name: "guidance", kind: "vector", shape: [1], none: 1 }],
  ],
]) {
  test(`conditions ${JSON.stringify(settings)} are refused of ${inputs.length} inputs`, async () => {
    const { told, model } = listening();
    const spec = inputs.length > 0 ? withInputs(...inputs) : gaussianSpec({});
    const sampled = ddpm.sample(model, spec, { seed: 0, numSteps: 1, ...settings });
    await assert.rejects(sampled, refuses(ddpm.UsageError, words));
    assert.equal(told.length, 0);
  });
}

test("what fits no batch is refused before the first", () => {
  const spec = withInputs(LABEL);
  assert.throws(() => ddpm.denoiser(null, spec, { y: "cow" }), refuses(ddpm.UsageError, /^Input 'y'/));
  assert.throws(() => ddpm.denoiser(null, spec, { z: 1 }), refuses(ddpm.UsageError, /no input 'z'/));
  assert.throws(() => ddpm.denoiser(null, withInputs(IMAGE)), refuses(ddpm.UsageError, /^Input 'low', of kind image/));
  assert.throws(() => ddpm.denoiser(null, gaussianSpec({}), { y: 1 }), refuses(ddpm.UsageError, /it has none\.$/));
});

const SPEC = /^The model's spec |^In the model's spec, |^The model needs /;
const sound = JSON.parse(gaussianSpec.json({}));

test("a sound spec is read, unknown keys and all", () => {
  const spec = ddpm.specFromJson(JSON.stringify({ ...sound, novelty: [1], format: "ddpm-export/1.7" }));
  assert.deepEqual(spec.state_shape, sound.image_shape);
  assert.deepEqual(ddpm.outputNames(spec), ["eps"]);
  ddpm.specFromJson(
    JSON.stringify({
      ...sound,
      prediction: "v",
      alphas_cumprod: [0.5, 0],
      defaults: { sampler: "ddim", num_steps: 1, eta: 0 },
    }),
  );
});

for (const [key, value, error = ddpm.BadFileError] of [
  ["format", undefined],
  ["format", "ddpm-export/2", ddpm.ModelRefusedError],
  ["format", "else/1"],
  ["requires", ["y"], ddpm.ModelRefusedError],
  ["requires", "variance_fraction"],
  ["requires", [1]],
  ["noise", "mt19937", ddpm.ModelRefusedError],
  ["prediction", "score"],
  ["variance", "learned"],
  ["variance", "huge"],
  ["name", 5],
  ["name", "x".repeat(201)],
  ["image_shape", [1, 2]],
  ["image_shape", [1, 2, 0]],
  ["image_shape", [1, 2, "3"]],
  ["image_shape", [1, 2 ** 20, 2 ** 20]],
  ["value_range", [0, 1]],
  ["clip_x_0", 0],
  ["clip_x_0", true],
  ["alphas_cumprod", []],
  ["alphas_cumprod", [1, 0.5]],
  ["alphas_cumprod", [0.5, 0.5]],
  ["alphas_cumprod", [0.5, 0]],
  ["alphas_cumprod", [0.5, -0.1]],
  ["alphas_cumprod", [0.5, "0.1"]],
  ["defaults", { sampler: "ddim", num_steps: 50 }],
  ["defaults", { sampler: "ddim", num_steps: 51, eta: 0 }],
  ["defaults", { sampler: "ddim", num_steps: 5, eta: 2 }],
  ["defaults", { sampler: 1, num_steps: 5, eta: 0 }],
  ["source", []],
  ["golden", "x"],
  ["graph", "loop", ddpm.ModelRefusedError],
]) {
  test(`a spec whose ${key} is ${JSON.stringify(value)?.slice(0, 40)} is refused`, () => {
    assert.throws(() => ddpm.specFromJson(JSON.stringify({ ...sound, [key]: value })), refuses(error, SPEC));
  });
}

test("every key is needed, and JSON is kept to its limits", () => {
  for (const key of Object.keys(sound).filter((key) => !["golden", "source"].includes(key))) {
    const { [key]: _, ...rest } = sound;
    assert.throws(() => ddpm.specFromJson(JSON.stringify(rest)), refuses(ddpm.BadFileError, new RegExp(key)));
  }
  const deep = `{"a":${"[".repeat(40)}${"]".repeat(40)}}`;
  const large = JSON.stringify({ ...sound, novelty: "x".repeat(256 * 1024) });
  for (const text of ["", "[]", "null", "{", "NaN", '{"a": 1e999}', deep, large, '"\u202e"']) {
    assert.throws(() => ddpm.specFromJson(text), refuses(ddpm.BadFileError, SPEC));
  }
});

const shipped = new Uint8Array(readFileSync(new URL("../../../exported/unet.onnx", import.meta.url)));

test("the spec of the shipped model", () => {
  const spec = ddpm.specFromOnnx(shipped);
  assert.deepEqual(spec.state_shape, [1, 28, 28]);
  assert.equal(spec.prediction, "v");
  assert.equal(spec.alphas_cumprod.length, 1000);
});

test("the README's lines run, and stand at the top of the core", async () => {
  const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
  const [, lines] = /^```js\n(.*?)^```/ms.exec(read("README.md"));
  for (const line of lines.trim().split("\n")) assert.ok(read("ddpm.js").includes(` *     ${line}\n`), line);
  const names = "specFromOnnx, denoiser, noiseStream, plan, walk, toUint8";
  const pictures = [];
  const given = { ...ddpm, bytes: shipped, model: (x_t) => ({ v: x_t }), show: (each) => pictures.push(each) };
  const AsyncFunction = (async () => {}).constructor;
  await new AsyncFunction(`{ ${names}, bytes, model, show }`, lines)(given);
  assert.deepEqual(
    pictures.map(({ length }) => length),
    Array(50).fill(3 * 28 * 28),
  );
});

test("what is no ONNX file, or has no spec, or two, is refused", () => {
  const entry = (key, value) => {
    const field = (number, bytes) => [number * 8 + 2, bytes.length, ...bytes];
    return field(14, [...field(1, Buffer.from(key)), ...field(2, Buffer.from(value))]);
  };
  const cases = [
    [Buffer.from("<!doctype html>"), /not an ONNX file/],
    [[0x89, 0x50, 0x4e, 0x47], /not an ONNX file/],
    [shipped.subarray(0, 100_000), /not an ONNX file/],
    [[0x08], /not an ONNX file/],
    [Array(20).fill(0xff), /not an ONNX file/],
    [entry("ddpm_export", "\u00e9").slice(0, -1), /not an ONNX file/],
    [entry("ddpm_export", [0xff]), /not an ONNX file/],
    [[14 * 8 + 2, 0], /must have one entry .*, got 0\./],
    [[], /must have one entry .*, got 0\./],
    [[0x08, 0x08], /must have one entry .*, got 0\./],
    [entry("else", "{}"), /must have one entry .*, got 0\./],
    [[...entry("ddpm_export", "{}"), ...entry("ddpm_export", "{}")], /got 2\./],
    [entry("ddpm_export", "{}"), /^In the model's spec, format must be/],
  ];
  for (const [bytes, words] of cases) {
    assert.throws(() => ddpm.specFromOnnx(Uint8Array.from(bytes)), refuses(ddpm.BadFileError, words));
  }
  // a negative int64 takes ten bytes, fixed numbers eight and four: passed over
  const numbers = [0x28, ...Array(9).fill(0xff), 0x01, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0x35, 0, 0, 0, 0];
  const json = JSON.stringify({ format: "ddpm-export/2" });
  const bytes = Uint8Array.from([...numbers, ...entry("ddpm_export", json), ...numbers]);
  assert.throws(
    () => ddpm.specFromOnnx(bytes),
    refuses(
      ddpm.ModelRefusedError,
      /^The model needs the format 'ddpm-export\/2', and this version knows ddpm-export\/1\. Install a newer one\.$/,
    ),
  );
});
