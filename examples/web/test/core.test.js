// The core against tests/golden, which every language reads.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as ddpm from "../ddpm.js";
import { NORMAL_TABLE, NORMAL_TABLE_SHA256 } from "../normal_table.js";
import { gaussianModel, golden, gaussianSpec } from "./gaussian.js";

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

test("coefficients, seen through the core's own steps", async () => {
  // a step of x_0 = c, eps = d and z shows one coefficient at a time
  const { num_train_timesteps, cases } = golden("coefficients");
  assert.equal(num_train_timesteps, 1000);
  for (const { a, a_prev, i, t, eta, variance, bits: expected, ...numbers } of cases) {
    const step = { i, t, a, a_prev };
    if (variance === "fixed_small") {
      const error = Math.abs(ddpm.noiseStd(step, eta) - numbers.c_noise);
      assert.ok(error <= 1e-14 * numbers.c_noise, `c_noise at t = ${t}, eta = ${eta}`);
    }
    const after = async (x_0, eps, z) => {
      const denoise = async () => ({ x_0: Float32Array.of(x_0), eps: Float32Array.of(eps), variance_fraction: null });
      const sampler = variance === "fixed_small" ? ddpm.ddim : ddpm.ddpm;
      const knobs = variance === "fixed_small" ? { eta } : { variance };
      for await (const state of sampler(denoise, () => Float32Array.of(z), [step], knobs)) return bits(state.x)[0];
    };
    const withinOneUlp = (actual, name) => {
      assert.ok(Math.abs(actual - expected[name]) <= 1, `${name} at t = ${t}: ${actual}, expected ${expected[name]}`);
    };
    withinOneUlp(await after(1, 0, 0), "sqrt_a_prev");
    withinOneUlp(await after(0, 1, 0), "c_eps");
    withinOneUlp(await after(0, 0, 1), "c_noise");
    const seen = (prediction, x_t, output) =>
      ddpm.denoiser(
        () => ({ [prediction]: Float32Array.of(output) }),
        gaussianSpec({ prediction, image_shape: [1, 1, 1] }),
      )(Float32Array.of(x_t), step);
    withinOneUlp(bits((await seen("v", 1, 0)).x_0)[0], "sqrt_a");
    withinOneUlp(bits((await seen("v", 1, 0)).eps)[0], "sqrt_1_minus_a");
  }
});

for (const [number, run] of golden("trajectories").cases.entries()) {
  const { sampler, states, prediction, clip_x_0, eta, variance } = run;
  const what = `${sampler} ${eta ?? variance}, ${prediction}, clip ${clip_x_0}`;
  test(`trajectory ${number}, also resumed at every step: ${what}`, async () => {
    const { seed, images, shape, num_steps, tolerance, alphas_cumprod, x_T } = golden("trajectories");
    const spec = gaussianSpec({ prediction, clip_x_0, alphas_cumprod, image_shape: shape });
    const denoise = ddpm.denoiser(gaussianModel(prediction), spec);
    const noise = ddpm.noiseStream(BigInt(seed), images, shape);
    const steps = ddpm.trajectory(spec, num_steps);
    assert.deepEqual(bits(noise(0)), bits(x_T));
    for (let from = 0; from < num_steps; from++) {
      const x = from === 0 ? undefined : Float32Array.from(states[from - 1].x);
      let at = from;
      for await (const state of ddpm[sampler](denoise, noise, steps.slice(from), { x, eta, variance })) {
        const { i, t, a, a_prev, ...expected } = states[at++];
        assert.deepEqual(state.step, { i, t, a, a_prev });
        for (const name of ["x", "x_0", "eps"]) assertClose(state[name], expected[name], tolerance);
      }
      assert.equal(at, num_steps);
    }
  });
}

test("a learned variance at f = 0 is the small one, at f = 1 the large one, and nothing at the end", async () => {
  const spec = gaussianSpec({ requires: ["variance_fraction"], variance: "learned" });
  const noise = ddpm.noiseStream(1, [0], spec.image_shape);
  const finalOf = async (fraction, variance) => {
    const plain = gaussianModel("eps");
    const model = (x_t, t) => ({ ...plain(x_t, t), variance_fraction: new Float32Array(x_t.length).fill(fraction) });
    let last;
    for await (const state of ddpm.ddpm(ddpm.denoiser(model, spec), noise, ddpm.trajectory(spec, 6), { variance })) {
      last = state.x;
    }
    return last;
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
  const size = spec.image_shape.reduce((a, b) => a * b);
  assert.deepEqual(
    seen,
    [1, 2, 3, 4, 5, 6, 7].map((step) => [step, 7, 4 * size, 4 * size]),
  );
  const noise = ddpm.noiseStream(3, [7], spec.image_shape);
  let last;
  for await (const state of ddpm.ddim(ddpm.denoiser(model, spec), noise, ddpm.trajectory(spec, 7), { eta: 0.5 })) {
    last = state.x;
  }
  assert.deepEqual(result.x.slice(2 * size, 3 * size), last);
  assert.deepEqual(result.images, ddpm.toUint8(result.x, spec.image_shape));

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
  const states = [];
  for await (const state of ddpm.ddim(
    ddpm.denoiser(model, spec),
    ddpm.noiseStream(0, [0], spec.image_shape),
    ddpm.trajectory(spec, 4),
  )) {
    states.push({ live: state.x_0, then: state.x_0.slice() });
  }
  for (const { live, then } of states) assert.deepEqual(live, then);
});

const ONE_LINE = /^[a-z][^\n]*: [^\n]+\. got [^\n]+, expected [^\n]+\. Do [^\n]+\.$/;

function refuses(error, words) {
  return (thrown) => {
    assert.ok(thrown instanceof error, String(thrown));
    assert.equal(thrown.name, error.name);
    assert.match(thrown.message, ONE_LINE);
    assert.match(thrown.message, /^[ -~]+$/);
    assert.match(thrown.message, words);
    return true;
  };
}

test("seeds, images, draws and steps out of range are refused", () => {
  const shape = [1, 1, 1];
  for (const seed of [2 ** 53, 1.5, "7", undefined, NaN, null]) {
    assert.throws(() => ddpm.noiseStream(seed, [0], shape), refuses(ddpm.UsageError, /seed: not an exact integer/));
  }
  for (const seed of [-1, -1n, 2n ** 63n]) {
    assert.throws(() => ddpm.noiseStream(seed, [0], shape), refuses(ddpm.UsageError, /seed: out of range/));
  }
  ddpm.noiseStream(2n ** 63n - 1n, [2 ** 32 - 1], shape)(2 ** 32 - 1);
  for (const image of [-1, 2 ** 32, 0.5]) {
    assert.throws(() => ddpm.noiseStream(0, [0, image], shape), refuses(ddpm.UsageError, /image: /));
    assert.throws(() => ddpm.noiseStream(0, [0], shape)(image), refuses(ddpm.UsageError, /draw: /));
  }
  assert.throws(() => ddpm.noiseStream(0, [0], shape, { domain: -1 }), refuses(ddpm.UsageError, /domain: /));
  assert.throws(() => ddpm.noiseStream(0, [0], [1, 0, 1]), refuses(ddpm.UsageError, /shape: /));
  for (const steps of [0, 51, 1.5, NaN, "5"]) {
    assert.throws(() => ddpm.trajectory(gaussianSpec({}), steps), refuses(ddpm.UsageError, /steps: .* 1 to 50/));
  }
  for (const eta of [-0.1, 1.1, NaN, "0"]) {
    assert.throws(() => ddpm.ddim(null, null, [], { eta }), refuses(ddpm.UsageError, /eta: /));
  }
  assert.throws(() => ddpm.ddpm(null, null, [], { variance: "huge" }), refuses(ddpm.UsageError, /variance: unknown/));
});

test("settings no image can be made from are refused", async () => {
  for (const [settings, words] of [
    [{ n: 0 }, /^n: /],
    [{ n: 1.5 }, /^n: /],
    [{ first: 2 ** 32 - 1, n: 2 }, /^n: .* 1 to 1\./],
    [{ first: -1 }, /^first: /],
    [{ sampler: "euler" }, /^sampler: .*"euler"/],
    [{ sampler: "ddpm", eta: 0.5 }, /^eta: has no meaning for ddpm/],
    [{ sampler: "ddim", variance: "fixed_small" }, /^variance: has no meaning for ddim/],
    [{ sampler: "ddpm", variance: "learned" }, /^variance: the network has learned none/],
  ]) {
    const sampled = ddpm.sample(gaussianModel("eps"), gaussianSpec({}), { seed: 0, ...settings });
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
    await assert.rejects(sampled, refuses(ddpm.NonFiniteError, /^step 2 \(t = 24\), image 5: /));
  }
  const other = ddpm.sample(() => ({ v: new Float32Array(6) }), spec, { seed: 0 });
  await assert.rejects(other, refuses(ddpm.BadFileError, /output eps/));
});

const sound = JSON.parse(gaussianSpec.json({}));

test("a sound spec is read, unknown keys and all", () => {
  const spec = ddpm.specFromJson(JSON.stringify({ ...sound, novelty: [1], format: "ddpm-export/1.7" }));
  assert.deepEqual(spec.image_shape, sound.image_shape);
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
]) {
  test(`a spec whose ${key} is ${JSON.stringify(value)?.slice(0, 40)} is refused`, () => {
    assert.throws(() => ddpm.specFromJson(JSON.stringify({ ...sound, [key]: value })), refuses(error, /^spec: /));
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
    assert.throws(() => ddpm.specFromJson(text), refuses(ddpm.BadFileError, /^spec: /));
  }
});

const shipped = new Uint8Array(readFileSync(new URL("../../../exported/unet.onnx", import.meta.url)));

test("the spec of the shipped model", () => {
  const spec = ddpm.specFromOnnx(shipped);
  assert.deepEqual(spec.image_shape, [1, 28, 28]);
  assert.equal(spec.prediction, "v");
  assert.equal(spec.alphas_cumprod.length, 1000);
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
    [[14 * 8 + 2, 0], /0 entries/],
    [[], /0 entries/],
    [[0x08, 0x08], /0 entries/],
    [entry("else", "{}"), /0 entries/],
    [[...entry("ddpm_export", "{}"), ...entry("ddpm_export", "{}")], /2 entries/],
    [entry("ddpm_export", "{}"), /spec: format/],
  ];
  for (const [bytes, words] of cases) {
    assert.throws(() => ddpm.specFromOnnx(Uint8Array.from(bytes)), refuses(ddpm.BadFileError, words));
  }
  // a negative int64 takes ten bytes, fixed numbers eight and four: passed over
  const numbers = [0x28, ...Array(9).fill(0xff), 0x01, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0x35, 0, 0, 0, 0];
  const json = JSON.stringify({ format: "ddpm-export/2" });
  const bytes = Uint8Array.from([...numbers, ...entry("ddpm_export", json), ...numbers]);
  assert.throws(() => ddpm.specFromOnnx(bytes), refuses(ddpm.ModelRefusedError, /unknown format/));
});
