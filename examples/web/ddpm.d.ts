/**
 * Sampling from a diffusion model: noise, steps and pixels, the same for the same seed in every language of this
 * project (docs/format.md is the contract). For browsers, workers and node; knows nothing of ONNX Runtime.
 *
 *     const spec = specFromOnnx(bytes);                             // the numbers that travel in the model file
 *     const denoise = denoiser(model, spec);                        // (x_t, step) -> { x_0, eps }
 *     const steps = trajectory(spec, 50);                           // the time grid, as data
 *     const noise = noiseStream(7n, [0, 1, 2], spec.image_shape);   // draw -> normals; draw 0 is x_T
 *     for await (const state of ddim(denoise, noise, steps)) show(toUint8(state.x_0, spec.image_shape));
 *
 * or `sample`, which is these lines with one call. Images are flat Float32Arrays in B, C, H, W order. Names with an
 * underscore are the papers' letters (x_0, a_prev) or keys of the file (image_shape), written as they are there.
 *
 * Coefficients are doubles, rounded once to float32; `fround` after every operation makes the rest float32 as well.
 */
export type Shape = readonly number[];
export type Noise = (draw: number) => Float32Array;
export type Step = {
    i: number;
    t: number;
    a: number;
    a_prev: number;
};
export type Outputs = Record<string, Float32Array>;
export type Model = (x_t: Float32Array, t: BigInt64Array, dims: number[]) => Outputs | Promise<Outputs>;
export type Denoised = {
    x_0: Float32Array;
    eps: Float32Array;
    variance_fraction: Float32Array | null;
};
export type Denoiser = (x_t: Float32Array, step: Step) => Promise<Denoised>;
export type State = {
    step: Step;
    x: Float32Array;
    x_0: Float32Array;
    eps: Float32Array;
};
export type Variance = "fixed_small" | "fixed_large" | "learned";
export type ModelSpec = {
    name: string;
    prediction: "eps" | "x_0" | "v";
    image_shape: Shape;
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
    };
    requires: readonly string[];
};
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
     * ddim or ddpm
     */
    sampler?: string;
    /**
     * ddim alone
     */
    eta?: number;
    /**
     * ddpm alone
     */
    variance?: Variance;
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
/** A number of an image became infinite or NaN. */
export declare class NonFiniteError extends DdpmError {
    exitCode: number;
}
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
 * Return the noise of some images, draw index -> [B, C, H, W]: nothing is kept between calls, and image 7 has the same
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
 * Return the spec in an ONNX file: a walk over the protobuf's top-level fields to metadata_props, without a schema,
 * since ONNX Runtime shows no metadata to JavaScript.
 * Throws BadFileError for what is no ONNX file of this project, and what `specFromJson` throws.
 * @param {Uint8Array} bytes the whole file
 */
export declare function specFromOnnx(bytes: Uint8Array): ModelSpec;
/**
 * Return numSteps of T times, falling from T - 1, evenly spaced: t_i = floor(T (n - i) / n) - 1.
 * Throws UsageError for numSteps outside 1..T.
 * @param {number} T num_train_timesteps
 * @param {number} numSteps
 */
export declare function spacing(T: number, numSteps: number): number[];
/**
 * Return the steps from noise to image, as data; numSteps left out is the spec's default.
 * @param {ModelSpec} spec
 * @returns {Step[]}
 */
export declare function trajectory(spec: ModelSpec, numSteps?: number): Step[];
/**
 * Return (x_t, step) -> { x_0, eps, variance_fraction }; one network evaluation a call. x_0 follows from eps (Ho et al.
 * 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is set, x_0 is clipped and eps is what
 * then leads from it to x_t. Throws BadFileError where the network lacks an output that the spec names.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @returns {Denoiser}
 */
export declare function denoiser(model: Model, spec: ModelSpec): Denoiser;
/**
 * Return the names of the network's outputs, in order.
 * @param {ModelSpec} spec
 */
export declare function outputNames(spec: ModelSpec): ("eps" | "v" | "variance_fraction" | "x_0")[];
/**
 * Return DDIM's noise standard deviation (Song et al. 2020, eq. 16); eta = 1 is Ho's fixed_small, eq. 7.
 * @param {Step} step
 * @param {number} eta
 */
export declare function noiseStd({ a, a_prev }: Step, eta: number): number;
/**
 * Yield the states of DDIM (Song et al. 2020, eq. 12); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small.
 * Starts at noise draw 0, or goes on from `x`, the state before the first of `steps`. One network evaluation a step.
 * Throws UsageError for eta outside 0..1.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Iterable<Step>} steps
 * @param {{ x?: Float32Array, eta?: number }} [options]
 */
export declare function ddim(denoise: Denoiser, noise: Noise, steps: Iterable<Step>, { x, eta }?: {
    x?: Float32Array;
    eta?: number;
}): AsyncGenerator<State, any, any>;
/**
 * Yield the states of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where steps leave times out.
 * variance: fixed_small is the posterior's (eq. 7), fixed_large is beta's (section 3.2), learned lies where the network
 * says between the two (Nichol and Dhariwal 2021, eq. 15). Throws UsageError for another variance, and for a learned
 * one where the network has learned none.
 * @param {Denoiser} denoise
 * @param {Noise} noise
 * @param {Iterable<Step>} steps
 * @param {{ x?: Float32Array, variance?: string }} [options]
 */
export declare function ddpm(denoise: Denoiser, noise: Noise, steps: Iterable<Step>, { x, variance }?: {
    x?: Float32Array;
    variance?: string;
}): AsyncGenerator<State, any, any>;
/**
 * Return pixels [B, H, W, C] of images [B, C, H, W] in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up.
 * @param {Float32Array} x
 * @param {Shape} shape
 */
export declare function toUint8(x: Float32Array, [channels, height, width]: Shape): Uint8Array<ArrayBuffer>;
/**
 * Return a batch of images, uint8 [n, H, W, C], and the floats they are of; null where onStep returned false.
 * onStep(step from 1, numSteps, x, x_0) is awaited after every step; it must not change the arrays it is given.
 * Throws UsageError for settings no image can be made from, NonFiniteError where a number is no longer finite.
 * @param {Model} model
 * @param {ModelSpec} spec
 * @param {Settings} settings
 * @param {(step: number, numSteps: number, x: Float32Array, x_0: Float32Array) => unknown} [onStep]
 * @returns {Promise<{ images: Uint8Array, x: Float32Array } | null>}
 */
export declare function sample(model: Model, spec: ModelSpec, settings: Settings, onStep?: (step: number, numSteps: number, x: Float32Array, x_0: Float32Array) => unknown): Promise<{
    images: Uint8Array;
    x: Float32Array;
} | null>;
