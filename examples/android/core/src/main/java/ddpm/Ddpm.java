package ddpm;

import static ddpm.DdpmException.Kind.NOT_FINITE;
import static ddpm.DdpmException.Kind.USAGE;
import static ddpm.DdpmException.shown;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CancellationException;

/**
 * Diffusion sampling: noise, one step, two samplers. The same functions by the same names, in the same order, as in the
 * project's other languages; docs/format.md fixes every number.
 *
 * <p>Letters are those of Ho et al. 2020 and Song et al. 2020. Coefficients are computed in double and rounded once to
 * float; all else is float. Images are flat arrays in (B, C, H, W) order. Nothing here knows the runtime that evaluates
 * a network. An object is used by one thread at a time; different objects share nothing but constants.
 */
public final class Ddpm {
    /** The name of the noise below; a change to it would need another tag. */
    public static final String NOISE_TAG = "philox4x32-10/icdf-q20/1";

    /** The noise domain of sampling; 1 is kept for inpainting. */
    public static final long SAMPLING = 0;

    private static final long WORD = 0xFFFFFFFFL;

    private Ddpm() {}

    /**
     * Computes the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3).
     *
     * @param c0 to c3: the counter's words, as unsigned 32-bit numbers
     * @param k0 and k1: the key's
     * @param words receives the four words
     */
    public static void philox4x32_10(int c0, int c1, int c2, int c3, int k0, int k1, int[] words) {
        for (int round = 0; round < 10; round++) {
            long product0 = (c0 & WORD) * 0xD2511F53L; // as unsigned 64-bit numbers these do not overflow
            long product1 = (c2 & WORD) * 0xCD9E8D57L;
            c0 = (int) (product1 >>> 32) ^ c1 ^ k0;
            c1 = (int) product1;
            c2 = (int) (product0 >>> 32) ^ c3 ^ k1;
            c3 = (int) product0;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        words[0] = c0;
        words[1] = c1;
        words[2] = c2;
        words[3] = c3;
    }

    /** Returns the inverse normal distribution at the cells of a half-word, scaled by 2^20: 32 rows of 257. */
    static int[] normalTable() {
        return NormalCells.TABLE.clone();
    }

    /** Decoded when the first normal is asked for. */
    private static final class NormalCells {
        static final int[] TABLE = new int[32 * 257];

        static {
            byte[] bytes = Base64.getDecoder().decode(NormalTable.BASE64);
            ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer().get(TABLE);
        }
    }

    /**
     * Turns words into standard normals by the table and linear interpolation in integers: no math library has a say.
     *
     * @param words uniform 32-bit words, count of them
     * @param normals receives a normal a word, from offset on
     */
    public static void normalsFromWords(int[] words, int count, float[] normals, int offset) {
        for (int k = 0; k < count; k++) {
            int m = words[k] & 0x7FFFFFFF;
            int row = Integer.numberOfLeadingZeros(m) - 1; // 31 for m = 0
            int f = m << row; // the leading one now stands at bit 30; 0 stays 0
            int cell = row * 257 + (f >>> 22 & 0xFF);
            int upper = NormalCells.TABLE[cell];
            long fall = upper - NormalCells.TABLE[cell + 1]; // >= 0, as the other factor: the shift floors
            int z = upper - (int) (fall * (f & 0x3FFFFF) >> 22);
            normals[offset + k] = (words[k] < 0 ? -z : z) * 0x1p-20f; // exact: |z| < 2^23
        }
    }

    /**
     * Returns the noise of some images. Image 7 has the same noise alone or among others.
     *
     * @param seed 0 to 2^63 - 1
     * @param images their numbers, each 0 to 2^32 - 1
     * @param shape (C, H, W)
     * @param domain {@link #SAMPLING}, or another up to 2^32 - 1
     * @throws DdpmException (USAGE) outside these ranges
     */
    public static Noise noiseStream(long seed, long[] images, int[] shape, long domain) {
        if (seed < 0) {
            throw usage("seed: out of range", seed, "0 to 2^63 - 1", "pick one in that range");
        }
        for (long image : images) {
            if (image < 0 || image > WORD) {
                throw usage("images: a number is out of range", image, "0 to 2^32 - 1", "pick a smaller first");
            }
        }
        if (domain < 0 || domain > WORD) {
            throw usage("domain: out of range", domain, "0 to 2^32 - 1", "pick one in that range");
        }
        int size = size(images.length, shape);
        int imageSize = size / images.length;
        int[] words = new int[4];
        return new Noise() {
            @Override
            public int size() {
                return size;
            }

            @Override
            public void fill(long draw, float[] z) {
                if (draw < 0 || draw > WORD) {
                    throw usage("draw: out of range", draw, "0 to 2^32 - 1", "pick one in that range");
                }
                for (int b = 0; b < images.length; b++) {
                    for (int element = 0; element < imageSize; element += 4) {
                        philox4x32_10(element / 4, (int) draw, (int) images[b], (int) domain,
                                (int) seed, (int) (seed >>> 32), words);
                        normalsFromWords(words, Math.min(4, imageSize - element), z, b * imageSize + element);
                    }
                }
            }
        };
    }

    /** Returns the noise of n images from number first on, for sampling. */
    public static Noise noiseStream(long seed, long first, int n, int[] shape) {
        size(n, shape); // before room is made for it
        long[] images = new long[n];
        for (int b = 0; b < n; b++) {
            images[b] = first + b;
        }
        return noiseStream(seed, images, shape, SAMPLING);
    }

    private static int size(int images, int[] shape) {
        if (images < 1) {
            throw usage("n: too few", images, "at least 1", "raise it");
        }
        if (shape.length != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1) {
            throw usage("shape: no pixels", Arrays.toString(shape), "positive (C, H, W)", "pick another shape");
        }
        long size = images;
        for (int extent : shape) {
            size = size <= Integer.MAX_VALUE ? size * extent : size;
        }
        if (size > Integer.MAX_VALUE) {
            throw usage("n: too many for one array", images, "at most 2^31 - 1 numbers", "pick a smaller batch");
        }
        return (int) size;
    }

    /**
     * Reads and validates the spec that travels in a model file; unknown keys are ignored.
     *
     * @param json the model's metadata under {@link ModelSpec#METADATA_KEY}
     * @throws DdpmException (BAD_FILE) where the text is no valid spec, (REFUSED) where a newer reader is needed
     */
    public static ModelSpec specFromJson(String json) {
        return ModelSpec.fromJson(json);
    }

    /**
     * Returns the times of a trajectory, T (n - i) / n - 1 in integers: n distinct ones, falling from T - 1.
     *
     * @throws DdpmException (USAGE) for numSteps outside 1..T
     */
    public static int[] spacing(int numTrainTimesteps, int numSteps) {
        if (numSteps < 1 || numSteps > numTrainTimesteps) {
            throw usage("steps: out of range", numSteps,
                    "1 to " + numTrainTimesteps + " (the model's own number of time steps)", "pick one in that range");
        }
        int[] times = new int[numSteps];
        for (int i = 0; i < numSteps; i++) {
            times[i] = (int) ((long) numTrainTimesteps * (numSteps - i) / numSteps - 1);
        }
        return times;
    }

    /** Returns the steps from noise to image: numSteps evenly spaced ones; errors as {@link #spacing}. */
    public static List<Step> trajectory(ModelSpec spec, int numSteps) {
        return trajectory(spec, spacing(spec.numTrainTimesteps(), numSteps));
    }

    /**
     * Returns the steps at the given times.
     *
     * @throws DdpmException (USAGE) for times that do not strictly fall within 0..T-1
     */
    public static List<Step> trajectory(ModelSpec spec, int[] times) {
        int before = spec.numTrainTimesteps();
        for (int t : times) {
            if (t >= before || t < 0) {
                throw usage("times: not a trajectory", t + " after " + before,
                        "strictly falling times from " + (spec.numTrainTimesteps() - 1) + " to 0", "sort them");
            }
            before = t;
        }
        if (times.length == 0) {
            throw usage("times: not a trajectory", "none", "at least one", "name one");
        }
        List<Step> steps = new ArrayList<>(times.length);
        for (int k = 0; k < times.length; k++) {
            double a_prev = k + 1 < times.length ? spec.alphasCumprod(times[k + 1]) : 1.0;
            steps.add(new Step(k + 1, times[k], spec.alphasCumprod(times[k]), a_prev));
        }
        return steps;
    }

    /**
     * Binds a network, what it predicts and its clipping: x_t and a step give (x_0, eps).
     *
     * <p>x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is
     * set, x_0 is clipped and eps is what then leads from it to x_t. One network evaluation a call.
     *
     * @param batch the number of images, for which the arrays are made here
     */
    public static Denoiser denoiser(Network network, ModelSpec spec, int batch) {
        int size = size(batch, spec.imageShape());
        Denoiser.Denoised found = new Denoiser.Denoised(size, spec.hasVarianceFraction);
        float[] predicted = spec.prediction.equals("x_0") ? found.x_0 : found.eps;
        long[] t = new long[batch];
        return (x_t, step) -> {
            Arrays.fill(t, step.t);
            network.evaluate(x_t, t, predicted, found.varianceFraction);
            float signal = (float) Math.sqrt(step.a);
            float noise = (float) Math.sqrt(1.0 - step.a);
            float perSignal = (float) (1.0 / Math.sqrt(step.a));
            float perNoise = (float) (1.0 / Math.sqrt(1.0 - step.a));
            float[] x_0 = found.x_0;
            float[] eps = found.eps;
            switch (spec.prediction) {
                case "eps":
                    for (int k = 0; k < size; k++) {
                        x_0[k] = (x_t[k] - noise * eps[k]) * perSignal;
                    }
                    break;
                case "v":
                    for (int k = 0; k < size; k++) {
                        float v = eps[k];
                        x_0[k] = signal * x_t[k] - noise * v;
                        eps[k] = noise * x_t[k] + signal * v;
                    }
                    break;
                default:
                    for (int k = 0; k < size; k++) {
                        eps[k] = (x_t[k] - signal * x_0[k]) * perNoise;
                    }
            }
            if (spec.clip_x_0 != null) {
                float bound = spec.clip_x_0.floatValue();
                for (int k = 0; k < size; k++) {
                    x_0[k] = Math.max(-bound, Math.min(bound, x_0[k]));
                    eps[k] = (x_t[k] - signal * x_0[k]) * perNoise;
                }
            }
            return found;
        };
    }

    /** Returns DDIM's noise standard deviation (Song et al. 2020, eq. 16); eta = 1 is Ho's fixed_small, eq. 7. */
    public static double noiseStd(Step step, double eta) {
        return eta * Math.sqrt((1.0 - step.a_prev) / (1.0 - step.a)) * Math.sqrt(1.0 - step.a / step.a_prev);
    }

    /**
     * Returns the states of DDIM (Song et al. 2020, eq. 12), one network evaluation each, made as they are asked for:
     * to cancel, ask no more. No array is made after the first.
     *
     * @param denoise of as many images as the noise
     * @param x the state before the first of the steps, copied; null to start at noise draw 0
     * @param eta 0 (adds no noise) to 1 (DDPM's fixed_small); rounded to float first, as everywhere
     * @throws DdpmException (USAGE) for eta outside 0..1 or an x of another size
     */
    public static Iterable<State> ddim(Denoiser denoise, Noise noise, List<Step> steps, float[] x, double eta) {
        if (!(eta >= 0.0 && eta <= 1.0)) {
            throw usage("eta: out of range", eta, "0 (no noise) to 1 (ddpm)", "pick one in that range");
        }
        checkState(noise, x);
        return () -> new Walk(denoise, noise, steps, x, (float) eta, "fixed_small");
    }

    /**
     * Returns the states of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the steps leave times out.
     *
     * @param variance fixed_small is the posterior's (eq. 7), fixed_large is beta's (section 3.2), learned lies where
     *     the network says between the two of the steps taken (Nichol and Dhariwal 2021, eq. 15)
     * @throws DdpmException (USAGE) for another variance or an x of another size, and, at the first step, for a learned
     *     one where the network has learned none; the rest as in {@link #ddim}
     */
    public static Iterable<State> ddpm(Denoiser denoise, Noise noise, List<Step> steps, float[] x, String variance) {
        if (!variance.equals("fixed_small") && !variance.equals("fixed_large") && !variance.equals("learned")) {
            throw usage("variance: unknown", shown(variance), "one of fixed_small, fixed_large, learned", "pick one");
        }
        checkState(noise, x);
        return () -> new Walk(denoise, noise, steps, x, 1.0, variance);
    }

    private static void checkState(Noise noise, float[] x) {
        if (x != null && x.length != noise.size()) {
            throw usage("x: another size than the noise", x.length, String.valueOf(noise.size()),
                    "pass the state of these images");
        }
    }

    private static double largeStd(Step step) {
        return step.a_prev < 1.0 ? Math.sqrt(1.0 - step.a / step.a_prev) : 0.0;
    }

    /** Walks down the steps; eta says what noise the mean makes room for, variance what noise is added. */
    private static final class Walk implements Iterator<State> {
        private final Denoiser denoise;
        private final Noise noise;
        private final Iterator<Step> steps;
        private final double eta;
        private final String variance;
        private final float[] x;
        private final float[] z;

        Walk(Denoiser denoise, Noise noise, List<Step> steps, float[] x, double eta, String variance) {
            this.denoise = denoise;
            this.noise = noise;
            this.steps = steps.iterator();
            this.eta = eta;
            this.variance = variance;
            this.z = new float[noise.size()];
            if (x == null) {
                this.x = new float[noise.size()];
                noise.fill(0, this.x);
            } else {
                this.x = x.clone();
            }
        }

        @Override
        public boolean hasNext() {
            return steps.hasNext();
        }

        @Override
        public State next() {
            Step step = steps.next();
            Denoiser.Denoised found = denoise.denoise(x, step);
            double room = noiseStd(step, eta);
            float toImage = (float) Math.sqrt(step.a_prev);
            float toNoise = (float) Math.sqrt(Math.max(0.0, 1.0 - step.a_prev - room * room));
            for (int k = 0; k < x.length; k++) {
                x[k] = toImage * found.x_0[k] + toNoise * found.eps[k];
            }
            if (variance.equals("learned")) {
                addLearned(step, room, found.varianceFraction);
            } else {
                add(step, variance.equals("fixed_large") ? largeStd(step) : room);
            }
            return new State(step, x, found.x_0, found.eps);
        }

        private void add(Step step, double std) {
            if (std > 0.0) {
                noise.fill(step.i, z);
                float added = (float) std;
                for (int k = 0; k < x.length; k++) {
                    x[k] += added * z[k];
                }
            }
        }

        private void addLearned(Step step, double small, float[] fraction) {
            if (fraction == null) {
                throw usage("variance: the network has learned none", "'learned'", "fixed_small or fixed_large",
                        "pick one");
            }
            if (small > 0.0) {
                noise.fill(step.i, z);
                float ratio = (float) (largeStd(step) / small);
                for (int k = 0; k < x.length; k++) {
                    x[k] += (float) small * (float) Math.pow(ratio, fraction[k]) * z[k];
                }
            }
        }
    }

    /**
     * Returns pixels of images in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up; n (H, W, C) bytes, unsigned.
     *
     * @param images (n, C, H, W)
     * @param shape (C, H, W)
     */
    public static byte[] toUint8(float[] images, int[] shape) {
        int channels = shape[0];
        int plane = shape[1] * shape[2];
        byte[] pixels = new byte[images.length];
        for (int k = 0; k < images.length; k++) {
            float level = Math.max(0f, Math.min(255f, 127.5f * images[k] + 127.5f));
            int n = k / (channels * plane);
            int channel = k / plane % channels;
            pixels[(n * plane + k % plane) * channels + channel] = (byte) (int) (level + 0.5f);
        }
        return pixels;
    }

    /**
     * Samples n images in one batch and returns them, (n, C, H, W); {@link #toUint8} makes pixels of them.
     *
     * @param seed 0 to 2^63 - 1; first: the number of the first image; both decide the images, n does not
     * @param numSteps 1 to T network evaluations
     * @param sampler ddim, or ddpm with the spec's own variance
     * @param eta 0 to 1, of ddim; 0 for ddpm, which has none
     * @param progress told after every step; null for nobody
     * @throws DdpmException (USAGE) for what no image can be made from, (NOT_FINITE) at the step where a number is no
     *     longer finite
     * @throws CancellationException where progress says so
     */
    public static float[] sample(Network network, ModelSpec spec, long seed, long first, int n, int numSteps,
            String sampler, double eta, Progress progress) {
        if (sampler.equals("ddpm") && eta != 0.0) {
            throw usage("eta: has no meaning for ddpm", eta, "0", "leave it out, or choose ddim");
        }
        List<Step> steps = trajectory(spec, numSteps);
        Noise noise = noiseStream(seed, first, n, spec.imageShape());
        Denoiser denoise = denoiser(watched(network, steps, first), spec, n);
        Iterable<State> states;
        switch (sampler) {
            case "ddim":
                states = ddim(denoise, noise, steps, null, eta);
                break;
            case "ddpm":
                states = ddpm(denoise, noise, steps, null, spec.variance);
                break;
            default:
                throw usage("sampler: unknown", shown(sampler), "one of ddim, ddpm", "pick one");
        }
        float[] x = null;
        for (State state : states) {
            x = state.x;
            refuseNonFinite(x, state.step, first, n);
            if (progress != null && !progress.step(state.step.i, steps.size(), x, state.x_0)) {
                throw new CancellationException("cancelled after step " + state.step.i + " of " + steps.size());
            }
        }
        return x;
    }

    /** Returns the network, stopped where it predicts what is not finite: clipping would hide an infinity. */
    private static Network watched(Network network, List<Step> steps, long first) {
        return (x_t, t, predicted, varianceFraction) -> {
            network.evaluate(x_t, t, predicted, varianceFraction);
            int i = 0;
            while (steps.get(i).t != t[0]) {
                i++;
            }
            refuseNonFinite(predicted, steps.get(i), first, t.length);
            if (varianceFraction != null) {
                refuseNonFinite(varianceFraction, steps.get(i), first, t.length);
            }
        };
    }

    private static void refuseNonFinite(float[] values, Step step, long first, int n) {
        for (int k = 0; k < values.length; k++) {
            if (Float.isNaN(values[k]) || Float.isInfinite(values[k])) {
                long image = first + k / (values.length / n);
                throw new DdpmException(NOT_FINITE,
                        "step " + step.i + " (t = " + step.t + "), image " + image + ": a number is not finite",
                        "NaN or infinity", "finite values", "run ddpm-check on the model");
            }
        }
    }

    private static DdpmException usage(String where, Object got, String expected, String action) {
        return new DdpmException(USAGE, where, String.valueOf(got), expected, action);
    }
}
