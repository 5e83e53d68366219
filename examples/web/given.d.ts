/**
 * Given something: pixels that are known, a measurement, a picture to start from, two to go between. As in Python's
 * ddpm_export/process/given.py and editing.py; docs/given.md says what each is good for, docs/format.md fixes every number.
 *
 *     const mask = new Uint8Array(28 * 28).fill(255, 14 * 28);      // 255 is made, 0 is known
 *     const filled = await edit(model, spec, pictures, { seed: 7n, n: 4, mask, eta: 1, returns: 4 });
 *
 * Images are flat Float32Arrays in B, C, H, W order, pictures and masks Uint8Arrays in B, H, W, C order.
 */
export type Denoiser = import("./ddpm.js").Denoiser;
export type Keep = import("./ddpm.js").Keep;
export type Model = import("./ddpm.js").Model;
export type ModelSpec = import("./ddpm.js").ModelSpec;
export type Noise = import("./ddpm.js").Noise;
export type Plan = import("./ddpm.js").Plan;
export type Progress = import("./ddpm.js").Progress;
export type Row = import("./ddpm.js").Row;
export type Settings = import("./ddpm.js").Settings;
export type Shape = import("./ddpm.js").Shape;
export type Measurement = {
    of: (x: Float32Array) => Float32Array;
    back: (y: Float32Array) => Float32Array;
};
export type Given = {
    /**
     * [H, W], or one for each picture, [m, H, W]: 255 where pixels are to be made, 0
     * where they are known, between them blended
     */
    mask?: Uint8Array | null;
    /**
     * average:K, grey or mask
     */
    measure?: string | null;
    /**
     * above 0 to 1, the share of the training times from which on noise is added and
     * taken away again
     */
    strength?: number | null;
    /**
     * how often to go back (RePaint), with a mask or a measurement; 0 if left out
     */
    returns?: number;
    /**
     * how many rows to go back, 1 if left out
     */
    jump?: number;
    /**
     * n images, 9 if left out, from the first of two pictures to the second, all with the
     * noise of one image; needs a strength
     */
    between?: boolean;
};
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
export declare function knownPixels(known: Float32Array, mask: ArrayLike<number>, noise: Noise): Keep;
/**
 * Return a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023, eq. 13). After
 * clipping, which is not repeated; eps is then what leads from this x_0 to x_t. Costs what `denoise` does.
 * @param {Denoiser} denoise
 * @param {Measurement} measurement
 * @param {Float32Array} y
 * @returns {Denoiser}
 */
export declare function measured(denoise: Denoiser, measurement: Measurement, y: Float32Array): Denoiser;
/**
 * Return the means of squares of size x size pixels of images of a shape [C, H, W].
 * @param {number} size
 * @param {Shape} shape
 * @returns {Measurement}
 */
export declare function average(size: number, [, height, width]: Shape): Measurement;
/**
 * Return the mean of the channels of images of a shape [C, H, W].
 * @param {Shape} shape
 * @returns {Measurement}
 */
export declare function grey([channels, height, width]: Shape): Measurement;
/**
 * Return the pixels that are known, 0 in their mask as in `knownPixels`; values between weigh the measurement.
 * @param {ArrayLike<number>} mask
 * @returns {Measurement}
 */
export declare function masked(mask: ArrayLike<number>): Measurement;
/**
 * Return the measurement that `average:4`, `grey` or `mask` names, of images of a shape [C, H, W]. Throws UsageError
 * for another name, for squares that do not fill the image, and for a mask that is not there.
 * @param {string} text
 * @param {Shape} shape
 * @param {ArrayLike<number> | null} [mask]
 * @returns {Measurement}
 */
export declare function measurementFromText(text: string, shape: Shape, mask?: ArrayLike<number> | null): Measurement;
/**
 * Return (1 - s) first + s last for `count` shares s from 0 to 1, [count, C, H, W], of pictures [C, H, W]. Noised with
 * one noise these are the states that Ho et al. 2020 interpolate between (section 4.3): it is linear. Throws UsageError
 * for a count below 2.
 * @param {Float32Array} first
 * @param {Float32Array} last
 * @param {number} count
 */
export declare function crossfade(first: Float32Array, last: Float32Array, count: number): Float32Array<ArrayBuffer>;
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
export declare function withReturns(plan: Plan, returns: number, jump?: number): Plan;
/**
 * Return the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022). Throws
 * UsageError for a strength outside 0..1, and for one below which there is no time.
 * @param {readonly number[]} times
 * @param {number} strength
 * @param {number} numTrainTimesteps T
 */
export declare function timesBelow(times: readonly number[], strength: number, numTrainTimesteps: number): number[];
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
export declare function edit(model: Model, spec: ModelSpec, images: Uint8Array | Float32Array, settings: Settings & Given, progress?: Progress): Promise<{
    images: Uint8Array | null;
    x: Float32Array;
} | null>;
