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
export type Shape = readonly number[];
export type Noise = (draw: number) => Float32Array;
export type Row = {
    /**
     * its number, from 1, and its noise draw
     */
    i: number;
    /**
     * what the network is told
     */
    t: number;
    /**
     * alphas_cumprod there
     */
    a: number;
    /**
     * weights of the clean images found, newest first
     */
    x_0: readonly number[];
    /**
     * weights of the noises found, newest first
     */
    eps: readonly number[];
    /**
     * weight of fresh noise: [], [std], or [small, large] of a learned variance
     */
    noise: readonly number[];
    /**
     * whether eps stays as before where x_0 is clipped; of all rows of a plan, or of none
     */
    raw_eps?: boolean;
};
export type Plan = {
    rows: readonly Row[];
    start: number;
};
export type Grid = {
    t: readonly number[];
    a: readonly number[];
};
export type Outputs = Record<string, Float32Array>;
export type Inputs = Record<string, BigInt64Array | Float32Array>;
export type Model = (x_t: Float32Array, t: BigInt64Array | Float32Array, inputs: Inputs) => Outputs | Promise<Outputs>;
export type Denoised = {
    x_0: Float32Array;
    eps: Float32Array;
    variance_fraction: Float32Array | null;
};
export type Denoiser = (x_t: Float32Array, row: Row, x_0_before: Float32Array | null) => Promise<Denoised>;
export type Keep = (x: Float32Array, draw: number, a: number) => Float32Array;
export type Progress = (step: number, numSteps: number, x: Float32Array, x_0: Float32Array) => unknown;
export type State = {
    row: Row;
    /**
     * the image after the row
     */
    x: Float32Array;
    /**
     * what the denoiser found before it
     */
    x_0: Float32Array;
    /**
     * the same
     */
    eps: Float32Array;
    /**
     * [x_0, eps] that later rows read, newest first
     */
    history: readonly (readonly [Float32Array, Float32Array])[];
};
export type Variance = "fixed_small" | "fixed_large" | "learned";
export type Input = {
    name: string;
    kind: "label" | "vector" | "image" | "previous";
    /**
     * without the batch, [] of a label
     */
    shape: readonly number[];
    /**
     * what fills it where nothing is said; null where it has to be given
     */
    none: number | null;
    /**
     * the names of a label's values, from 0 on
     */
    classes: readonly string[];
    /**
     * the least and the largest that a user may give, each one number or
     * one for each place of the last axis; [] for any
     */
    limits?: readonly (readonly number[])[];
};
export type Guidance = {
    /**
     * 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it
     * is, and both cost one evaluation
     */
    scale: number;
    /**
     * [low, high], the times t that are guided, both ends among them; at
     * others the scale is 1 (Kynkaanniemi et al. 2024). Left out, all are
     */
    interval?: readonly number[] | null;
};
export type ModelSpec = {
    name: string;
    prediction: "eps" | "x_0" | "v";
    /**
     * three sizes of pictures; what is made of any other number are floats
     */
    state_shape: Shape;
    /**
     * T numbers, strictly falling
     */
    alphas_cumprod: readonly number[];
    clip_x_0: number | null;
    /**
     * of the ddpm sampler
     */
    variance: Variance;
    defaults: {
        sampler: string;
        num_steps: number;
        eta: number;
        times?: number[];
        plan?: string;
        guidance?: Guidance | null;
    };
    /**
     * of a one-call file, which sampler it has inside
     */
    graph?: string | null;
    requires: readonly string[];
    inputs: readonly Input[];
    plans: Record<string, Plan>;
    /**
     * value = scale x + shift, along an axis
     */
    units?: {
        scale: number[];
        shift: number[];
        axis: number;
    } | null;
    /**
     * graphs that run once for each image, beside the model: before, which gives
     * inputs of the network, after, which gives images or values, and encode
     */
    stages?: Record<string, Stage>;
};
export type Stage = {
    outputs: Record<string, number[]>;
    inputs: Input[];
    file?: string;
    sha256?: string;
};
export type Stages = (name: string, inputs: Inputs) => Promise<Outputs>;
export type Settings = {
    /**
     * 0 to 2^63 - 1; as a number only up to 2^53 - 1
     */
    seed: number | bigint;
    /**
     * number of the first image, 0 if left out
     */
    first?: number;
    /**
     * how many images, 1 if left out
     */
    n?: number;
    numSteps?: number;
    /**
     * strictly falling, in place of numSteps evenly spaced ones
     */
    times?: readonly number[];
    /**
     * ddim or ddpm
     */
    sampler?: string;
    /**
     * only of ddim
     */
    eta?: number;
    /**
     * only of ddpm
     */
    variance?: Variance;
    /**
     * the name of one of the file's plans, in place of steps, times, sampler and knobs
     */
    plan?: string;
    /**
     * a class by name or index, none, or a list of them, image k number k mod their count;
     * every class in turn if left out
     */
    label?: unknown;
    /**
     * as of `denoiser`
     */
    guidance?: number | Guidance | null;
    /**
     * what else the network is told, by name: values for one image or for
     * several, which images take in turn as well
     */
    inputs?: Record<string, unknown>;
    /**
     * runs the file's: inputs are then those that a user gives, else the network's own
     */
    stages?: Stages;
    /**
     * another seed, and how far the noise that images begin
     * with is turned to its, 0 to 1
     */
    toward?: {
        seed: number | bigint;
        share: number;
    };
};
/** Something that stops the work and is told in one line; exitCode is what a command ends with. */
export declare class DdpmError extends Error {
    exitCode: number;
    get name(): string;
}
/** An argument is out of its range. */
export declare class UsageError extends DdpmError {
    exitCode: number;
}
/** A file is broken or foreign. */
export declare class BadFileError extends DdpmError {
    exitCode: number;
}
/** A sound file asks for what this reader cannot do. */
export declare class ModelRefusedError extends DdpmError {
    exitCode: number;
}
/** A number of an image became infinite or NaN: number `at` of its flat batch. */
export declare class NonFiniteError extends DdpmError {
    where: string;
    at: number;
    exitCode: number;
    /**
     * @param {string} where
     * @param {number} at
     */
    constructor(where: string, at: number, what?: string);
}
/**
 * Return a value for an error's line.
 * @param {any} value
 * @returns {string}
 */
export declare function shown(value: any): string;
/**
 * Return how many numbers a shape has.
 * @param {Shape} shape
 */
export declare const sizeOf: (shape: Shape) => number;
/**
 * Write the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3) to `words` from `at` on, and return
 * `words`. Unsigned 32-bit words throughout.
 * @param {ArrayLike<number>} counter 4 words
 * @param {ArrayLike<number>} key 2 words
 */
export declare function philox4x32_10(counter: ArrayLike<number>, key: ArrayLike<number>, words?: Uint32Array<ArrayBuffer>, at?: number): Uint32Array<ArrayBuffer>;
/**
 * Return a standard normal for each word, by table and linear interpolation in integers: no math library has a say.
 * @param {Uint32Array} words
 */
export declare function normalsFromWords(words: Uint32Array): Float32Array<ArrayBuffer>;
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
export declare function noiseStream(seed: number | bigint, images: Iterable<number>, shape: Shape, { domain }?: {
    domain?: number;
}): Noise;
/**
 * Read and validate a spec. Unknown keys are ignored; what is missing is never guessed.
 * Throws BadFileError where the text is no valid spec, ModelRefusedError where a newer reader is needed.
 * @param {string} text
 * @returns {ModelSpec}
 */
export declare function specFromJson(text: string): ModelSpec;
/**
 * Return whether a state is a picture by itself, without a decoder or units.
 * @param {Pick<ModelSpec, "state_shape" | "units" | "stages">} spec
 */
export declare const stateIsPicture: ({ state_shape, units, stages }: Pick<ModelSpec, "state_shape" | "units" | "stages">) => boolean;
/**
 * Return the shape of what is made of one state, and whether it is a picture, or else numbers.
 * @param {ModelSpec} spec
 * @returns {{ shape: Shape, isPicture: boolean }}
 */
export declare function resultOf({ state_shape, units, stages }: ModelSpec): {
    shape: Shape;
    isPicture: boolean;
};
/**
 * Return the values of states (n, ...shape): x itself without units.
 * @param {ModelSpec} spec
 * @param {Float32Array} x
 * @returns {Float32Array}
 */
export declare function valuesOf({ state_shape, units }: ModelSpec, x: Float32Array): Float32Array;
/**
 * Return the spec in an ONNX file: a walk over the protobuf's top-level fields to metadata_props, without a schema,
 * since ONNX Runtime shows no metadata to JavaScript.
 * Throws BadFileError for what is no ONNX file of this project, and what `specFromJson` throws.
 * @param {Uint8Array} bytes the whole file
 */
export declare function specFromOnnx(bytes: Uint8Array): ModelSpec;
/**
 * Return numSteps of T times, falling from T - 1, evenly spaced: t_i = floor(T (n - i) / n) - 1.
 * Throws UsageError for numSteps outside 1..T.
 * @param {number} numTrainTimesteps T
 * @param {number} numSteps
 */
export declare function spacing(numTrainTimesteps: number, numSteps: number): number[];
/**
 * Return numSteps evenly spaced times, or the given falling ones; without either, the spec's number of them.
 * Throws UsageError for numSteps outside 1..T and for times that do not strictly fall within 0..T - 1.
 * @param {ModelSpec} spec
 * @param {number | null} [numSteps]
 * @param {{ times?: Iterable<number> | null }} [options]
 * @returns {Grid}
 */
export declare function grid(spec: ModelSpec, numSteps?: number | null, { times }?: {
    times?: Iterable<number> | null;
}): Grid;
/**
 * Return the rows of DDIM (Song et al. 2020, eq. 12 and 16); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.
 * eta is rounded to float32. Throws UsageError for eta outside 0..1.
 * @param {Grid} grid
 * @param {{ eta?: number }} [options]
 * @returns {Row[]}
 */
export declare function ddim(grid: Grid, { eta }?: {
    eta?: number;
}): Row[];
/**
 * Return the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the grid leaves times out.
 * variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's (section 3.2), learned lies where the network
 * says between the two (Nichol and Dhariwal 2021, eq. 15). Throws UsageError for another variance.
 * @param {Grid} grid
 * @param {{ variance?: string }} [options]
 * @returns {Row[]}
 */
export declare function ddpm(grid: Grid, { variance }?: {
    variance?: string;
}): Row[];
/**
 * Return the rows from noise to picture: of a sampler on a grid of times, or a plan that the file carries. What is left
 * out is the spec's default. name: of one of spec.plans, in place of all else.
 * Throws UsageError for what is no plan, ModelRefusedError for a default sampler that this version does not know.
 * @param {ModelSpec} spec
 * @param {{ sampler?: string | null, numSteps?: number | null, times?: readonly number[] | null, name?: string | null,
 *   eta?: number | null, variance?: string | null }} [options]
 * @returns {Plan}
 */
export declare function plan(spec: ModelSpec, { sampler, numSteps, times, name, eta, variance }?: {
    sampler?: string | null;
    numSteps?: number | null;
    times?: readonly number[] | null;
    name?: string | null;
    eta?: number | null;
    variance?: string | null;
}): Plan;
/**
 * Return how many evaluations a row reads, its own among them.
 * @param {Row} row
 */
export declare const reachOf: ({ x_0, eps }: Row) => number;
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
export declare function walk(denoise: Denoiser, noise: Noise, plan: Plan, { x, state, keep }?: {
    x?: Float32Array | null;
    state?: State | null;
    keep?: Keep | null;
}): AsyncGenerator<State>;
/**
 * Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4).
 * @param {Float32Array} x_0
 * @param {Float32Array} eps
 * @param {number} a
 */
export declare function noised(x_0: Float32Array, eps: Float32Array, a: number): Float32Array<ArrayBuffer>;
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
export declare function denoiser(model: Model, spec: ModelSpec, inputs?: Record<string, unknown>, guidance?: number | Guidance | null): Denoiser;
/**
 * Return the input that says which class is wanted, null where the network is told none.
 * @param {ModelSpec} spec
 * @returns {Input | null}
 */
export declare const labelOf: (spec: ModelSpec) => Input | null;
/**
 * Return whether a network's predictions can be guided: it knows "no class", or takes guidance in its graph.
 * @param {ModelSpec} spec
 */
export declare function takesGuidance(spec: ModelSpec): boolean;
/**
 * Return the guidance that is meant: what is given, a number being a scale for all times, or else the file's. Throws
 * UsageError for what is out of its range, and for any scale but 1 of a network that takes none.
 * @param {ModelSpec} spec
 * @param {number | Guidance | null} [given]
 * @returns {Guidance}
 */
export declare function guidanceFor(spec: ModelSpec, given?: number | Guidance | null): Guidance;
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
export declare function predictTwice(model: Model, spec: ModelSpec, x_t: Float32Array, row: Row, inputs: Inputs, others: Inputs): Promise<Outputs[]>;
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
export declare function predict(model: Model, spec: ModelSpec, x_t: Float32Array, row: Row, inputs: Inputs): Promise<Outputs>;
/**
 * Return what predictions of one x_t make, before anything is converted or clipped: of one, itself; of two, c with a
 * label and u without, u + scale (c - u), scale = 1 + w of Ho and Salimans 2022 (eq. 6); a learned variance is that of
 * c.
 * @param {Outputs[]} predictions
 * @param {number} [scale]
 * @returns {Outputs}
 */
export declare function combine(predictions: Outputs[], scale?: number): Outputs;
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
export declare function denoised(outputs: Outputs, spec: ModelSpec, x_t: Float32Array, row: Row): Denoised;
/**
 * Return the names of the network's outputs, in order.
 * @param {ModelSpec} spec
 */
export declare function outputNames(spec: ModelSpec): ("eps" | "v" | "variance_fraction" | "x_0")[];
/**
 * Return whether whoever samples says an input; the walk feeds a previous, and guidance its own scale.
 * @param {Input} one
 */
export declare const isTold: ({ kind, name }: Input) => boolean;
/**
 * Return the inputs that a user gives: those of the network that no stage makes, and those of `before`.
 * @param {ModelSpec} spec
 * @returns {Input[]}
 */
export declare function askedInputs({ inputs, stages }: ModelSpec): Input[];
/**
 * Return flat numbers of an input that a user gives. Throws UsageError where they are not finite or beyond its limits, which
 * are far outside of what training saw.
 * @param {Input} one
 * @param {Float32Array} values
 */
export declare function withinLimits(one: Input, values: Float32Array): Float32Array<ArrayBufferLike>;
/**
 * Return the network's inputs, of those that a user gives, for all images or for each one. Throws UsageError for what does
 * not fit, NonFiniteError where `before` gives NaN or infinity.
 * @param {ModelSpec} spec
 * @param {Stages} stages
 * @param {Record<string, any>} given
 * @returns {Promise<Record<string, any>>}
 */
export declare function prepared(spec: ModelSpec, stages: Stages, given: Record<string, any>): Promise<Record<string, any>>;
/**
 * Return what states (n, ...shape) are: themselves without units and stages. Throws NonFiniteError where `after` gives NaN
 * or infinity.
 * @param {ModelSpec} spec
 * @param {Stages} stages
 * @param {Float32Array} x
 * @returns {Promise<Float32Array>}
 */
export declare function decoded(spec: ModelSpec, stages: Stages, x: Float32Array): Promise<Float32Array>;
/**
 * Return [C, H, W]. Throws UsageError for the shape of what is no picture.
 * @param {Shape} shape
 */
export declare function pictureShape(shape: Shape): Shape;
/**
 * Return pixels [B, H, W, C] of images [B, C, H, W] in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up.
 * Throws UsageError, as `fromUint8` does, for what is no picture.
 * @param {Float32Array} x
 * @param {Shape} shape
 */
export declare function toUint8(x: Float32Array, shape: Shape): Uint8Array<ArrayBuffer>;
/**
 * Return images [B, C, H, W] of pixels [B, H, W, C]: pixel k is k / 127.5 - 1 (Ho et al. 2020, section 3.3).
 * @param {ArrayLike<number>} pixels
 * @param {Shape} shape
 */
export declare function fromUint8(pixels: ArrayLike<number>, shape: Shape): Float32Array<ArrayBuffer>;
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
export declare function sample(model: Model, spec: ModelSpec, settings: Settings, progress?: Progress): Promise<{
    images: Uint8Array | null;
    x: Float32Array;
} | null>;
/**
 * Return the numbers of the images of a batch.
 * @param {{ first?: number, n?: number }} settings
 */
export declare function numbersOf({ first, n }: {
    first?: number;
    n?: number;
}): number[];
/**
 * Return the plan that settings choose, and the denoiser of images that are told what those of these numbers are.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Omit<Settings, "seed">} settings
 * @param {readonly number[]} numbers
 * @returns {Promise<{ rows: Plan, denoise: Denoiser }>}
 */
export declare function chosen(model: Model, spec: ModelSpec, settings: Omit<Settings, "seed">, numbers: readonly number[]): Promise<{
    rows: Plan;
    denoise: Denoiser;
}>;
/**
 * Walk to the end and return the pictures, as `sample` does.
 * @param {AsyncIterable<State>} states
 * @param {Plan} plan
 * @param {ModelSpec} spec
 * @param {readonly number[]} numbers of the images, which an error names
 * @param {Progress} progress
 * @returns {Promise<{ images: Uint8Array | null, x: Float32Array } | null>}
 */
export declare function pictured(states: AsyncIterable<State>, plan: Plan, spec: ModelSpec, numbers: readonly number[], progress: Progress): Promise<{
    images: Uint8Array | null;
    x: Float32Array;
} | null>;
