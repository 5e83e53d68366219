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
import { DdpmError } from "./ddpm.js";
export type Input = import("./ddpm.js").Input;
export type Observation = Record<string, Float32Array>;
export type Opened = {
    model: import("./ddpm.js").Model;
    stages: import("./ddpm.js").Stages;
    spec: import("./ddpm.js").ModelSpec;
};
/** @typedef {import("./ddpm.js").Input} Input */
/** @typedef {Record<string, Float32Array>} Observation */
/** @typedef {{ model: import("./ddpm.js").Model, stages: import("./ddpm.js").Stages, spec: import("./ddpm.js").ModelSpec }} Opened */
/** A plan took longer than it may. */
export declare class LateError extends DdpmError {
    exitCode: number;
}
/** Holds the last observations and the actions that are left; all else is in the file. */
export declare class Policy {
    #private;
    opened: Opened;
    deadlineS: number;
    settings: {
        first?: number;
        n?: number;
        numSteps?: number;
        times?: readonly number[];
        sampler?: string;
        eta?: number;
        variance?: import("./ddpm.js").Variance;
        plan?: string;
        label?: unknown;
        guidance?: number | import("./ddpm.js").Guidance | null;
        inputs?: Record<string, unknown>;
        stages?: import("./ddpm.js").Stages;
        toward?: {
            seed: number | bigint;
            share: number;
        };
    };
    inputs: import("./ddpm.js").Input[];
    plans: number;
    /**
     * settings: the steps, sampler or plan; deadlineS: how long a plan may take. Throws ModelRefusedError for a model that
     * takes no observations [steps, ...] or gives no actions [steps, actions].
     * @param {Opened} opened what `openModel` returns
     * @param {Omit<import("./ddpm.js").Settings, "seed"> & { deadlineS?: number }} [settings]
     */
    constructor(opened: Opened, { deadlineS, ...settings }?: Omit<import("./ddpm.js").Settings, "seed"> & {
        deadlineS?: number;
    });
    /**
     * Forget what was observed and planned: an episode begins, whose plans follow from the seed.
     * @param {number | bigint} [seed]
     */
    reset(seed?: number | bigint): void;
    /**
     * Return the next action of an observation, flat numbers by the names of `askedInputs`; the first one stands for those
     * before it. Costs a plan where no action is left, else nothing. Throws UsageError for names and sizes other than the
     * file's, for NaN, and for numbers far from what training saw; LateError for a plan that took longer than the deadline.
     * Then nothing has changed.
     * @param {Record<string, ArrayLike<number>>} observation
     * @returns {Promise<Float32Array>}
     */
    act(observation: Record<string, ArrayLike<number>>): Promise<Float32Array>;
}
