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
export const gaussianModel = (prediction) => (x_t, t) => {
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
