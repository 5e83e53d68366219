/**
 * A policy: from what a robot observes, step by step, to what it does. The queue of the receding horizon, and no more; as
 * ddpm.js it knows nothing of ONNX Runtime.
 *
 *     const policy = new Policy(await openModel(ort, bytes, {}, readBeside), { deadlineS: 0.05 });
 *     policy.reset(7n);
 *     const action = await policy.act({ "observation.state": state });
 *
 * A plan is a chunk of actions (Chi et al. 2023, section 4.2): it is made of the last few observations, all of its actions
 * are taken, and then the next one is made. Plan k of a seed is image k of that seed: the same on any machine.
 */

import { askedInputs, DdpmError, decoded, ModelRefusedError, resultOf, sample, shown, sizeOf, UsageError, withinLimits } from "./ddpm.js";

/** @typedef {import("./ddpm.js").Input} Input */
/** @typedef {Record<string, Float32Array>} Observation */
/** @typedef {{ model: import("./ddpm.js").Model, stages: import("./ddpm.js").Stages, spec: import("./ddpm.js").ModelSpec }} Opened */

/** A plan took longer than it may. */
export class LateError extends DdpmError {
  exitCode = 5;
}

/** Holds the last observations and the actions that are left; all else is in the file. */
export class Policy {
  plans = 0; // made since the reset
  #seed = /** @type {number | bigint} */ (0);
  #isBusy = false;
  #observed = /** @type {Observation[]} */ ([]);
  #actions = /** @type {Float32Array[]} */ ([]);

  /**
   * settings: the steps, sampler or plan; deadlineS: how long a plan may take. Throws ModelRefusedError for a model that
   * takes no observations [steps, ...] or gives no actions [steps, actions].
   * @param {Opened} opened what `openModel` returns
   * @param {Omit<import("./ddpm.js").Settings, "seed"> & { deadlineS?: number }} [settings]
   */
  constructor(opened, { deadlineS = Infinity, ...settings } = {}) {
    this.opened = opened;
    this.deadlineS = deadlineS;
    this.settings = settings;
    this.inputs = askedInputs(opened.spec).filter(({ kind }) => kind !== "label");
    const { shape } = resultOf(opened.spec);
    const lengths = new Set(this.inputs.map((one) => one.shape[0]));
    if (shape.length !== 2 || lengths.size !== 1 || this.inputs.some((one) => one.shape.length < 2)) {
      const got = this.inputs.map((one) => `${one.name} ${shown(one.shape)}`).join(", ") || "no inputs";
      throw new ModelRefusedError(
        `A policy takes observations of [steps, ...] and gives actions [steps, actions], got ${got} and ${shown(shape)}. ` +
          "Use `sample` for this model.",
      );
    }
  }

  /**
   * Forget what was observed and planned: an episode begins, whose plans follow from the seed.
   * @param {number | bigint} [seed]
   */
  reset(seed = 0) {
    this.#refuseBusy();
    [this.#seed, this.plans, this.#observed, this.#actions] = [seed, 0, [], []];
  }

  /**
   * Return the next action of an observation, flat numbers by the names of `askedInputs`; the first one stands for those
   * before it. Costs a plan where no action is left, else nothing. Throws UsageError for names and sizes other than the
   * file's, for NaN, and for numbers far from what training saw; LateError for a plan that took longer than the deadline.
   * Then nothing has changed.
   * @param {Record<string, ArrayLike<number>>} observation
   * @returns {Promise<Float32Array>}
   */
  async act(observation) {
    this.#refuseBusy();
    const own = this.#checked(observation);
    const before = this.#observed.length > 0 ? this.#observed : Array(this.inputs[0].shape[0]).fill(own);
    const window = [...before.slice(1), own];
    this.#isBusy = true;
    try {
      if (this.#actions.length === 0) {
        this.#actions = await this.#planned(window);
        this.plans++;
      }
    } finally {
      this.#isBusy = false;
    }
    this.#observed = window;
    return /** @type {Float32Array} */ (this.#actions.shift());
  }

  #refuseBusy() {
    if (this.#isBusy) throw new UsageError("The action before must be awaited first.");
  }

  /**
   * @param {Record<string, ArrayLike<number>>} observation
   * @returns {Observation}
   */
  #checked(observation) {
    const names = this.inputs.map(({ name }) => name);
    const missing = names.filter((name) => !Object.hasOwn(observation, name));
    const wrong = [...missing, ...Object.keys(observation).filter((name) => !names.includes(name))].sort()[0];
    if (wrong !== undefined) {
      const has = missing.includes(wrong) ? "lacks" : "has";
      throw new UsageError(`The observation ${has} ${shown(wrong)}. The policy takes ${names.join(", ")}.`);
    }
    const entries = this.inputs.map((one) => {
      const shape = one.shape.slice(1);
      const values = Float32Array.from(observation[one.name]);
      if (values.length !== sizeOf(shape)) {
        throw new UsageError(`Observation ${shown(one.name)} must have shape ${shown(shape)}, got ${values.length} numbers.`);
      }
      return [one.name, withinLimits(one, values)];
    });
    return Object.fromEntries(entries);
  }

  /**
   * Return a chunk of actions.
   * @param {Observation[]} window
   */
  async #planned(window) {
    const { model, stages, spec } = this.opened;
    const entries = this.inputs.map(({ name }) => [name, window.flatMap((observed) => [...observed[name]])]);
    const settings = { ...this.settings, stages, seed: this.#seed, first: this.plans, n: 1, inputs: Object.fromEntries(entries) };
    const begun = performance.now();
    const { x } = /** @type {{ x: Float32Array }} */ (await sample(model, spec, settings));
    const chunk = await decoded(spec, stages, x);
    const taken = (performance.now() - begun) / 1000;
    if (taken > this.deadlineS) {
      throw new LateError(
        `Plan ${this.plans} took ${taken.toFixed(3)} s, longer than the deadline of ${this.deadlineS} s. Take fewer steps, ` +
          "or a larger deadline.",
      );
    }
    const [steps, size] = resultOf(spec).shape;
    return Array.from({ length: steps }, (_, k) => chunk.slice(k * size, (k + 1) * size));
  }
}
