// The model of tests/golden/trajectories.json: the best denoiser for pixels that are each N(mean, std^2). No network.
import { readFileSync } from "node:fs";

import { specFromJson } from "../ddpm.js";

export const golden = (name) =>
  JSON.parse(readFileSync(new URL(`../../../tests/golden/${name}.json`, import.meta.url), "utf8"));

const { alphas_cumprod, mean, std, shape } = golden("trajectories");

/** Return the spec of such a model, with some of its values changed. */
export const gaussianSpec = (changes) => specFromJson(gaussianSpec.json(changes));

gaussianSpec.json = (changes) =>
  JSON.stringify({
    format: "ddpm-export/1",
    name: "gaussian",
    prediction: "eps",
    image_shape: shape,
    value_range: [-1, 1],
    alphas_cumprod,
    clip_x_0: null,
    variance: "fixed_small",
    defaults: { sampler: "ddim", num_steps: 50, eta: 0 },
    noise: "philox4x32-10/icdf-q20/1",
    requires: [],
    ...changes,
  });

/** Return (x_t, t) -> { [prediction]: values }, with the formulas of tests/golden/README.md. */
export const gaussianModel = (prediction) => gaussian(prediction, alphas_cumprod, mean);

const gaussian = (prediction, alphas_cumprod, mean) => (x_t, t) => {
  const a = alphas_cumprod[Number(t[0])];
  const s = a * std ** 2 + 1 - a;
  const [slope, offset] = {
    eps: [Math.sqrt(1 - a) / s, 0],
    x_0: [(Math.sqrt(a) * std ** 2) / s, mean],
    v: [(Math.sqrt(a * (1 - a)) * (1 - std ** 2)) / s, -Math.sqrt(1 - a) * mean],
  }[prediction];
  return {
    [prediction]: x_t.map((x) => Math.fround(slope) * Math.fround(x - Math.fround(Math.sqrt(a) * mean)) + offset),
  };
};

/** Return the network of tests/golden/conditions.json: that of each image's label, or one that guides itself. */
export const classesModel = ({ prediction, state_shape, inputs, requires }) => {
  const { alphas_cumprod, means, variance_fractions } = golden("conditions");
  const models = means.map((mean) => gaussian(prediction, alphas_cumprod, mean));
  const size = state_shape.reduce((a, b) => a * b);
  return (x_t, t, { y, guidance }) => {
    const outputs = { [prediction]: new Float32Array(x_t.length) };
    if (requires.includes("variance_fraction")) outputs.variance_fraction = new Float32Array(x_t.length);
    y.forEach((label, k) => {
      const [from, to] = [k * size, (k + 1) * size];
      const [c, u] = [label, 3].map((of) => models[Number(of)](x_t.slice(from, to), t)[prediction]);
      outputs[prediction].set(guidance ? c.map((value, at) => u[at] + guidance[k] * (value - u[at])) : c, from);
      outputs.variance_fraction?.fill(variance_fractions[Number(label)], from, to);
    });
    if (guidance && inputs.length !== 2) throw new Error("told more than its inputs");
    return outputs;
  };
};
