package ddpm;

import static ddpm.DdpmException.Kind.REFUSED;
import static ddpm.DdpmException.Kind.USAGE;
import static ddpm.DdpmException.shown;

import java.lang.reflect.Array;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.concurrent.CancellationException;

/**
 * Diffusion sampling: noise, one step, plans and the loop that walks them. The same functions by the same names, in the
 * same order, as in the project's other languages; docs/format.md fixes every number.
 *
 * <p>Letters are those of Ho et al. 2020 and Song et al. 2020. Coefficients are computed in double and rounded once to
 * float; all else is float. Images are flat arrays in (B, C, H, W) order. Nothing here knows the runtime that evaluates
 * a network. An object is used by one thread at a time; different objects share nothing but constants.
 */
public final class Ddpm {
    /** The name of the noise below; a change to it would need another tag. */
    public static final String NOISE_TAG = "philox4x32-10/icdf-q20/1";

    /** The noise domain of sampling; 1 is for known pixels, 2 for inputs in golden vectors. */
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
        checkRange("seed", seed, Long.MAX_VALUE, "2^63 - 1");
        for (long image : images) {
            checkRange("Numbers of images", image, WORD, "2^32 - 1");
        }
        checkRange("domain", domain, WORD, "2^32 - 1");
        int size = size(images.length, shape);
        int imageSize = size / images.length;
        int[] words = new int[4];
        return new Noise() {
            @Override
            public int images() {
                return images.length;
            }

            @Override
            public int size() {
                return size;
            }

            @Override
            public void fill(long draw, float[] z) {
                checkRange("draw", draw, WORD, "2^32 - 1");
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

    private static void checkRange(String name, long value, long most, String asText) {
        if (value < 0 || value > most) {
            throw usage(name + " must be from 0 to " + asText + ", got " + value + ".");
        }
    }

    private static int size(int images, int[] shape) {
        if (images < 1) {
            throw usage("n must be at least 1, got " + images + ".");
        }
        if (shape.length != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1) {
            throw usage("shape must be positive (C, H, W), got " + Arrays.toString(shape) + ".");
        }
        long size = images;
        for (int extent : shape) {
            size = size <= Integer.MAX_VALUE ? size * extent : size;
        }
        if (size > Integer.MAX_VALUE) {
            throw usage("n is too many images for one batch, got " + images + ". Sample them in several.");
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
            throw usage("The number of steps must be from 1 to " + numTrainTimesteps + ", the model's own, got "
                    + numSteps + ".");
        }
        int[] times = new int[numSteps];
        for (int i = 0; i < numSteps; i++) {
            times[i] = (int) ((long) numTrainTimesteps * (numSteps - i) / numSteps - 1);
        }
        return times;
    }

    /**
     * Returns the rows from noise to picture: of a sampler on a grid of times, or a plan that the file carries. What is
     * null is the spec's default.
     *
     * @param sampler ddim, or ddpm
     * @param numSteps 1 to T, evenly spaced; times: strictly falling ones in their place
     * @param name of one of the spec's plans, in place of all else
     * @param eta of ddim: 0 (adds no noise) to 1 (DDPM's fixed_small); rounded to float first, as everywhere
     * @param variance of ddpm
     * @throws DdpmException (USAGE) for what is no plan, (REFUSED) for a default sampler that is unknown here
     */
    public static Plan plan(ModelSpec spec, String sampler, Integer numSteps, int[] times, String name, Double eta,
            String variance) {
        String said = sampler != null ? "sampler" : numSteps != null ? "num_steps" : times != null ? "times"
                : eta != null ? "eta" : variance != null ? "variance" : null;
        String chosen = name == null && said == null ? spec.defaults.plan : name;
        if (chosen != null) {
            if (!spec.plans.containsKey(chosen)) {
                throw usage("plan must be one of " + (spec.plans.isEmpty() ? "none, for the model carries none"
                        : String.join(", ", spec.plans.keySet())) + ", got " + shown(chosen) + ".");
            }
            if (said != null) {
                throw usage(said + " does not apply to plan " + chosen + ", which is whole.");
            }
            return spec.plans.get(chosen);
        }
        List<String> known = Arrays.asList("ddpm", "ddim");
        if (sampler == null && !known.contains(spec.defaults.sampler)) {
            throw new DdpmException(REFUSED, "The model's default sampler, " + shown(spec.defaults.sampler)
                    + ", is unknown to this version.");
        }
        String solver = sampler == null ? spec.defaults.sampler : sampler;
        int[] grid = grid(spec, numSteps, times == null && numSteps == null ? spec.defaults.times : times);
        if (!known.contains(solver)) {
            throw usage("sampler must be one of ddpm, ddim, got " + shown(solver) + ".");
        }
        if (solver.equals("ddim") ? variance != null : eta != null) {
            throw usage((variance != null ? "variance" : "eta") + " does not apply to " + solver + ".");
        }
        double[] a = new double[grid.length + 1];
        for (int k = 0; k < grid.length; k++) {
            a[k] = spec.alphasCumprod(grid[k]);
        }
        a[grid.length] = 1.0; // where the last row ends
        List<Row> rows = solver.equals("ddim") ? ddim(grid, a, eta == null ? spec.defaults.eta : eta)
                : ddpm(grid, a, variance == null ? spec.variance : variance);
        Plan plan = new Plan(rows, 1.0);
        if (plan.needsLearnedVariance() && !spec.hasVarianceFraction) {
            throw noLearnedVariance();
        }
        return plan;
    }

    private static int[] grid(ModelSpec spec, Integer numSteps, int[] times) {
        int T = spec.numTrainTimesteps();
        if (times == null) {
            return spacing(T, numSteps == null ? spec.defaults.numSteps : numSteps);
        }
        boolean falls = times.length > 0 && times[0] < T && times[times.length - 1] >= 0;
        for (int k = 1; k < times.length; k++) {
            falls &= times[k] < times[k - 1];
        }
        if (!falls) {
            String first = Arrays.toString(Arrays.copyOf(times, Math.min(5, times.length)));
            throw usage("times must strictly fall from at most " + (T - 1) + " to at least 0, got "
                    + first.substring(1, first.length() - 1)
                    + (times.length > 5 ? ", ... (" + times.length + " of them)." : "."));
        }
        if (numSteps != null && numSteps != times.length) {
            throw usage("num_steps must be left out or be the number of times, " + times.length + ", got " + numSteps
                    + ".");
        }
        return times;
    }

    /** Returns the rows of DDIM (Song et al. 2020, eq. 12 and 16); eta = 1 is DDPM's fixed_small (Ho et al., eq. 7). */
    private static List<Row> ddim(int[] t, double[] a, double eta) {
        if (!(eta >= 0.0 && eta <= 1.0)) {
            throw usage("eta must be between 0 and 1, got " + eta + ".");
        }
        List<Row> rows = new ArrayList<>(t.length);
        for (int k = 0; k < t.length; k++) {
            double a_prev = a[k + 1];
            double noiseStd = (float) eta * Math.sqrt((1.0 - a_prev) / (1.0 - a[k])) * Math.sqrt(1.0 - a[k] / a_prev);
            double toNoise = Math.sqrt(Math.max(1.0 - a_prev - noiseStd * noiseStd, 0.0));
            rows.add(new Row(k + 1, t[k], a[k], new double[] {Math.sqrt(a_prev)}, new double[] {toNoise},
                    noiseStd > 0.0 ? new double[] {noiseStd} : new double[0], false));
        }
        return rows;
    }

    /**
     * Returns the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the times leave any out:
     * fixed_small is the posterior's variance (eq. 7), fixed_large is beta's (section 3.2), learned lies where the
     * network says between the two of the steps taken (Nichol and Dhariwal 2021, eq. 15).
     */
    private static List<Row> ddpm(int[] t, double[] a, String variance) {
        if (!ModelSpec.VARIANCES.contains(variance)) {
            throw usage("variance must be one of " + String.join(", ", ModelSpec.VARIANCES) + ", got "
                    + shown(variance) + ".");
        }
        List<Row> rows = ddim(t, a, 1.0);
        for (int k = 0; k < t.length; k++) {
            Row row = rows.get(k);
            if (row.noise.length > 0 && !variance.equals("fixed_small")) {
                double large = Math.sqrt(1.0 - a[k] / a[k + 1]);
                double[] noise = variance.equals("learned") ? new double[] {row.noise[0], large}
                        : new double[] {large};
                rows.set(k, new Row(row.i, row.t, row.a, row.x_0, row.eps, noise, row.rawEps));
            }
        }
        return rows;
    }

    /**
     * Binds a model, what it predicts, its clipping, inputs and guidance: x_t and a row give (x_0, eps). One network
     * evaluation a call, for any batch, at times with a scale other than 0 and 1 of two rows an image: with its label
     * and without. No array is made after the first of a size.
     *
     * @param inputs by the names of the spec's inputs: of a label a class by name or index, as text too, or none
     *     (String, Integer, Long), or a List of them, one for each image; of others float[], for all images or one
     *     after the other, or of a vector of one a number. Null for none
     * @param guidance null for the file's own
     * @throws DdpmException (USAGE) for inputs that are unknown, missing or do not fit, here where it can be seen
     *     without a batch, and for guidance that does not apply; its calls throw (NOT_FINITE) where the network gives
     *     NaN or infinity
     */
    public static Denoiser denoiser(Model model, ModelSpec spec, Map<String, ?> inputs, Guidance guidance) {
        Guidance guided = guidanceFor(spec, guidance);
        Map<String, Object> given = new LinkedHashMap<>(inputs == null ? Collections.emptyMap() : inputs);
        if (given.values().stream().noneMatch(value -> value instanceof float[] || value instanceof List)) {
            Input.bound(spec.inputs, given, 1); // what fits any batch is checked before the first
        }
        return new Bound(model, spec, given, guided);
    }

    /**
     * Returns the guidance that is meant: what is given, or else the file's.
     *
     * @throws DdpmException (USAGE) for what is out of its range, and for any scale but 1 of a network that takes none
     */
    public static Guidance guidanceFor(ModelSpec spec, Guidance given) {
        if (given == null) {
            return spec.defaults.guidance == null ? new Guidance(1.0, null) : spec.defaults.guidance;
        }
        if (given.trouble() != null) {
            throw usage(given.trouble() + ".");
        }
        if (given.scale != 1.0 && !spec.takesGuidance()) {
            throw usage("guidance must be 1 for a network that has not learned to do without a class, got "
                    + Guidance.text(given.scale) + ".");
        }
        return given;
    }

    private static final class Bound implements Denoiser {
        private final Model model;
        private final ModelSpec spec;
        private final Map<String, Object> given;
        private final Guidance guided;
        private final Input label;
        private final int imageSize;
        private final Map<String, float[]> outputs = new LinkedHashMap<>();
        private Map<String, Object> told;
        private Map<String, Object> without; // the label
        private Twice twice;
        private float[] zeros = {};

        Bound(Model model, ModelSpec spec, Map<String, Object> given, Guidance guided) {
            this.model = model;
            this.spec = spec;
            this.given = given;
            this.guided = guided;
            label = spec.label();
            imageSize = size(1, spec.stateShape());
        }

        @Override
        public void denoise(float[] x_t, Row row, float[] x_0_before, Denoised found) {
            if (x_t.length == 0 || x_t.length % imageSize != 0) {
                throw usage("x_t must hold images of " + imageSize + " numbers, got " + x_t.length + ".");
            }
            if (told == null || zeros.length != x_t.length) {
                bind(x_t.length / imageSize);
            }
            double scale = guided.at(row.t);
            for (Input one : spec.inputs) {
                if (one.kind.equals("previous")) {
                    told.put(one.name, x_0_before == null ? zeros : x_0_before);
                    without.put(one.name, told.get(one.name));
                } else if (one.isOwnGuidance()) {
                    Arrays.fill((float[]) told.get(one.name), (float) scale);
                }
            }
            if (spec.hasVarianceFraction && found.varianceFraction == null) {
                found.varianceFraction = new float[x_t.length];
            }
            // the prediction lands where the walk wants it, and what follows from it is computed in place
            outputs.put(spec.prediction, spec.prediction.equals("x_0") ? found.x_0 : found.eps);
            if (spec.hasVarianceFraction) {
                outputs.put(ModelSpec.VARIANCE_FRACTION, found.varianceFraction);
            }
            denoised(combine(predictions(x_t, row, scale), scale), spec, x_t, row, found);
        }

        private void bind(int images) {
            told = Input.bound(spec.inputs, given, images);
            without = new LinkedHashMap<>(told);
            if (label != null && label.none != null) {
                long[] none = new long[images];
                Arrays.fill(none, label.none.longValue());
                without.put(label.name, none);
            }
            zeros = new float[images * imageSize];
            twice = null;
        }

        /** Returns the predictions that a scale needs: one, or with the label and without it. */
        private List<Map<String, float[]>> predictions(float[] x_t, Row row, double scale) {
            boolean isAsTold = scale == 1.0 || label == null || spec.guidesItself();
            if (isAsTold || scale == 0.0
                    || Arrays.equals((long[]) told.get(label.name), (long[]) without.get(label.name))) {
                predict(model, spec, x_t, row, isAsTold ? told : without, outputs);
                return Collections.singletonList(outputs);
            }
            if (twice == null) {
                twice = new Twice(told, outputs, x_t.length / imageSize, x_t.length);
            }
            return twice.predict(model, x_t, row, told, without, outputs);
        }
    }

    /** The arrays of one evaluation of a batch twice as long, and of its second half. */
    private static final class Twice {
        private final int images;
        private final float[] x_t;
        private final Map<String, Object> inputs = new LinkedHashMap<>();
        private final Map<String, float[]> outputs = new LinkedHashMap<>();
        private final Map<String, float[]> second = new LinkedHashMap<>();

        Twice(Map<String, Object> told, Map<String, float[]> said, int images, int size) {
            this.images = images;
            x_t = new float[2 * size];
            told.forEach((name, values) -> inputs.put(name, values instanceof long[]
                    ? (Object) new long[2 * ((long[]) values).length] : new float[2 * ((float[]) values).length]));
            said.keySet().forEach(name -> {
                outputs.put(name, new float[2 * size]);
                second.put(name, new float[size]);
            });
        }

        /** Returns what {@link Ddpm#predict} says with these inputs, in the arrays of said, and with others. */
        List<Map<String, float[]>> predict(Model model, float[] half, Row row, Map<String, Object> told,
                Map<String, Object> others, Map<String, float[]> said) {
            fill(x_t, half, half, half.length);
            inputs.forEach((name, both) -> fill(both, told.get(name), others.get(name), Array.getLength(both) / 2));
            model.evaluate(x_t, row.t, inputs, outputs);
            List<Map<String, float[]>> halves = Arrays.asList(said, second);
            for (int k = 0; k < 2; k++) {
                for (Map.Entry<String, float[]> one : halves.get(k).entrySet()) {
                    System.arraycopy(outputs.get(one.getKey()), k * half.length, one.getValue(), 0, half.length);
                    refuseNonFinite(one.getValue(), row, images);
                }
            }
            return halves;
        }

        private static void fill(Object both, Object first, Object second, int size) {
            System.arraycopy(first, 0, both, 0, size);
            System.arraycopy(second, 0, both, size, size);
        }
    }

    /**
     * Fills in what the network says of x_t in a row, by the names of the spec's outputs.
     *
     * @throws DdpmException (NOT_FINITE) where a number is not finite: clipping would hide it
     */
    public static void predict(Model model, ModelSpec spec, float[] x_t, Row row, Map<String, Object> inputs,
            Map<String, float[]> outputs) {
        model.evaluate(x_t, row.t, inputs, outputs);
        for (float[] values : outputs.values()) {
            refuseNonFinite(values, row, x_t.length / size(1, spec.stateShape()));
        }
    }

    /**
     * Returns what predictions of one x_t make, before anything is converted or clipped: of one, itself; of two, c with
     * a label and u without, u + scale (c - u), scale = 1 + w of Ho and Salimans 2022 (eq. 6), in the arrays of c,
     * whose learned variance stays.
     */
    public static Map<String, float[]> combine(List<Map<String, float[]>> predictions, double scale) {
        Map<String, float[]> given = predictions.get(0);
        if (predictions.size() == 1) {
            return given;
        }
        float weight = (float) scale;
        for (Map.Entry<String, float[]> one : predictions.get(1).entrySet()) {
            float[] c = given.get(one.getKey());
            float[] u = one.getValue();
            for (int k = 0; k < c.length && !one.getKey().equals(ModelSpec.VARIANCE_FRACTION); k++) {
                c[k] = u[k] + weight * (c[k] - u[k]);
            }
        }
        return given;
    }

    /** Returns x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4). */
    public static float[] noised(float[] x_0, float[] eps, double a) {
        float signal = (float) Math.sqrt(a);
        float noise = (float) Math.sqrt(1.0 - a);
        float[] x_t = new float[x_0.length];
        for (int k = 0; k < x_t.length; k++) {
            x_t[k] = signal * x_0[k] + noise * eps[k];
        }
        return x_t;
    }

    /**
     * Converts a prediction into the clean image and the noise, and clips, once.
     *
     * <p>x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is
     * set, x_0 is clipped and eps is what then leads from it to x_t, or with the row's rawEps what it was before.
     *
     * @param found receives both; its arrays may be those of the outputs
     */
    public static void denoised(Map<String, float[]> outputs, ModelSpec spec, float[] x_t, Row row, Denoised found) {
        float signal = (float) Math.sqrt(row.a);
        float noise = (float) Math.sqrt(1.0 - row.a);
        float perSignal = (float) (1.0 / Math.sqrt(row.a));
        float perNoise = (float) (1.0 / Math.sqrt(1.0 - row.a));
        float[] predicted = outputs.get(spec.prediction);
        float[] x_0 = found.x_0;
        float[] eps = found.eps;
        found.varianceFraction = outputs.get(ModelSpec.VARIANCE_FRACTION);
        switch (spec.prediction) {
            case "eps":
                for (int k = 0; k < x_t.length; k++) {
                    eps[k] = predicted[k];
                    x_0[k] = (x_t[k] - noise * eps[k]) * perSignal;
                }
                break;
            case "v":
                for (int k = 0; k < x_t.length; k++) {
                    float v = predicted[k];
                    x_0[k] = signal * x_t[k] - noise * v;
                    eps[k] = noise * x_t[k] + signal * v;
                }
                break;
            default:
                for (int k = 0; k < x_t.length; k++) {
                    x_0[k] = predicted[k];
                    eps[k] = (x_t[k] - signal * x_0[k]) * perNoise;
                }
        }
        if (spec.clip_x_0 != null) {
            float bound = spec.clip_x_0.floatValue();
            for (int k = 0; k < x_t.length; k++) {
                x_0[k] = Math.max(-bound, Math.min(bound, x_0[k]));
            }
            for (int k = 0; k < x_t.length && !row.rawEps; k++) {
                eps[k] = (x_t[k] - signal * x_0[k]) * perNoise;
            }
        }
    }

    static boolean isFinite(float value) {
        return Math.abs(value) <= Float.MAX_VALUE;
    }

    private static void refuseNonFinite(float[] values, Row row, int images) {
        for (int k = 0; k < values.length; k++) {
            if (!isFinite(values[k])) {
                int index = k / (values.length / images);
                throw DdpmException.notFinite(row, index, "image " + index + " of its batch");
            }
        }
    }

    /**
     * Returns the states after every row of a plan, one network evaluation each, made as they are asked for: to cancel,
     * ask no more. No array is made after the first.
     *
     * @param x the state before the first row, copied; null to start at noise draw 0
     * @param state one that an earlier walk of the same plan gave, copied, to go on from exactly; null to start
     * @param keep what changes every state, the first among them, before it is given; null for nothing
     * @throws DdpmException (USAGE) for an x of another size than the noise, and, at its row, for a history that it
     *     lacks or a variance that the network has not learned, (NOT_FINITE) where a number is no longer finite
     */
    public static Iterable<State> walk(Denoiser denoise, Noise noise, Plan plan, float[] x, State state, Keep keep) {
        float[] from = state == null ? x : state.x;
        if (from != null && from.length != noise.size()) {
            throw usage("x must be as many numbers as the noise, " + noise.size() + ", got " + from.length + ".");
        }
        return () -> new Walk(denoise, noise, plan, from, state, keep);
    }

    private static final class Walk implements Iterator<State> {
        private final Denoiser denoise;
        private final Noise noise;
        private final Plan plan;
        private final Keep keep;
        private final float[] x;
        private final float[] z;
        private final Denoised[] ring; // what was found last, at `found` and before it
        private int found = -1;
        private int known; // how many of them hold something
        private int next; // row

        Walk(Denoiser denoise, Noise noise, Plan plan, float[] from, State state, Keep keep) {
            this.denoise = denoise;
            this.noise = noise;
            this.plan = plan;
            this.keep = keep;
            z = new float[noise.size()];
            x = from == null ? new float[z.length] : from.clone();
            int reach = 2; // the x_0 before must outlast an evaluation
            for (Row row : plan.rows) {
                reach = Math.max(reach, row.reach());
            }
            ring = new Denoised[reach];
            for (int k = 0; k < reach; k++) {
                ring[k] = new Denoised(z.length);
            }
            if (state != null) {
                known = Math.min(reach, Math.max(1, state.history.size()));
                found = known - 1;
                for (int age = 1; age < known; age++) {
                    ring[found - age] = new Denoised(state.history.get(age).x_0, state.history.get(age).eps);
                }
                ring[found] = new Denoised(state.x_0, state.eps);
                while (next < plan.rows.size() && plan.rows.get(next).i <= state.row.i) {
                    next++;
                }
            } else if (from == null) {
                noise.fill(0, x);
                if (plan.start != 1.0) {
                    scale((float) plan.start, x, x);
                }
            }
            if (keep != null && state == null) {
                keep.keep(x, 0, plan.rows.get(0).a);
            }
        }

        @Override
        public boolean hasNext() {
            return next < plan.rows.size();
        }

        @Override
        public State next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            Row row = plan.rows.get(next);
            if (row.reach() > known + 1) {
                throw usage("Row " + row.i + " reads " + row.reach() + " evaluations, got " + (known + 1)
                        + ". Go on from a state, whose history holds them.");
            }
            float[] x_0_before = known == 0 ? null : ring[found].x_0;
            found = (found + 1) % ring.length;
            known = Math.min(known + 1, ring.length);
            Denoised now = ring[found];
            denoise.denoise(x, row, x_0_before, now);
            // newest first, clean image before noise, then fresh noise: this order is fixed
            boolean isFirst = true;
            for (int age = 0; age < row.reach(); age++) {
                if (age < row.x_0.length) {
                    weigh(isFirst, row.x_0[age], aged(age).x_0);
                    isFirst = false;
                }
                if (age < row.eps.length) {
                    weigh(isFirst, row.eps[age], aged(age).eps);
                    isFirst = false;
                }
            }
            if (row.noise.length > 0) {
                addNoise(row, now.varianceFraction);
            }
            if (keep != null) {
                keep.keep(x, row.i, next + 1 < plan.rows.size() ? plan.rows.get(next + 1).a : 1.0);
            }
            refuseNonFinite(x, row, noise.images());
            int kept = plan.keptAfter(next++);
            List<Denoised> history = kept == 0 ? Collections.emptyList() : new ArrayList<>(kept);
            for (int age = 0; age < kept; age++) {
                history.add(aged(age));
            }
            return new State(row, x, now.x_0, now.eps, history);
        }

        private Denoised aged(int age) {
            return ring[(found - age + ring.length) % ring.length];
        }

        private void weigh(boolean isFirst, double weight, float[] values) {
            if (isFirst) {
                scale((float) weight, values, x);
            } else {
                add((float) weight, values);
            }
        }

        private static void scale(float weight, float[] values, float[] product) {
            for (int k = 0; k < product.length; k++) {
                product[k] = weight * values[k];
            }
        }

        private void add(float weight, float[] values) {
            for (int k = 0; k < x.length; k++) {
                x[k] += weight * values[k];
            }
        }

        private void addNoise(Row row, float[] fraction) {
            if (row.noise.length == 2 && fraction == null) {
                throw noLearnedVariance();
            }
            noise.fill(row.i, z);
            if (row.noise.length == 2) {
                float small = (float) row.noise[0];
                float ratio = (float) (row.noise[1] / row.noise[0]);
                for (int k = 0; k < x.length; k++) {
                    x[k] += small * (float) Math.pow(ratio, fraction[k]) * z[k];
                }
            } else {
                add((float) row.noise[0], z);
            }
        }
    }

    private static DdpmException noLearnedVariance() {
        return usage("variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'.");
    }

    /**
     * Returns pixels of images in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up; n (H, W, C) bytes, unsigned.
     *
     * @param x (n, C, H, W)
     * @param shape (C, H, W)
     */
    public static byte[] toUint8(float[] x, int[] shape) {
        int channels = shape[0];
        int plane = shape[1] * shape[2];
        byte[] pixels = new byte[x.length];
        for (int k = 0; k < x.length; k++) {
            float level = Math.max(0f, Math.min(255f, 127.5f * x[k] + 127.5f));
            int n = k / (channels * plane);
            int channel = k / plane % channels;
            pixels[(n * plane + k % plane) * channels + channel] = (byte) (int) (level + 0.5f);
        }
        return pixels;
    }

    /**
     * Returns images (n, C, H, W) of pixels, (n, H, W, C) unsigned bytes: pixel k is k / 127.5 - 1 (Ho et al. 2020, section
     * 3.3).
     *
     * @param shape (C, H, W)
     */
    public static float[] fromUint8(byte[] pixels, int[] shape) {
        int channels = shape[0];
        int plane = shape[1] * shape[2];
        float[] x = new float[pixels.length];
        for (int k = 0; k < x.length; k++) {
            int n = k / (channels * plane);
            int channel = k / plane % channels;
            x[k] = (float) ((pixels[(n * plane + k % plane) * channels + channel] & 0xFF) / 127.5 - 1.0);
        }
        return x;
    }

    /**
     * Samples images in one batch and returns them, (n, C, H, W); {@link #toUint8} makes pixels of them. One network
     * evaluation a row of the plan.
     *
     * @param progress told after every row; null for nobody
     * @throws DdpmException (USAGE) for what no image can be made from, (REFUSED) for a default sampler that is unknown
     *     here, (NOT_FINITE) at the row where a number is no longer finite
     * @throws CancellationException where progress says so
     */
    public static float[] sample(Model model, ModelSpec spec, Settings settings, Progress progress) {
        Plan plan = plan(spec, settings);
        long[] images = numbers(settings.first, settings.n, spec.stateShape());
        Guidance guided = guidanceFor(spec, settings.guidance);
        Noise noise = noiseStream(settings.seed, images, spec.stateShape(), SAMPLING);
        Denoiser denoise = denoiser(model, spec, told(spec, settings, settings.label, images), guided);
        return last(walk(denoise, noise, plan, null, null, null), plan, images, progress);
    }

    static Plan plan(ModelSpec spec, Settings settings) {
        return plan(spec, settings.sampler, settings.numSteps, settings.times, settings.plan, settings.eta,
                settings.variance);
    }

    /** Returns the numbers of a batch's images, once it is known that there is room for them. */
    static long[] numbers(long first, int n, int[] shape) {
        size(n, shape);
        long[] images = new long[n];
        Arrays.setAll(images, k -> first + k);
        return images;
    }

    /** Walks to the end and returns the last state; tells progress, and the number of an image that is not finite. */
    static float[] last(Iterable<State> states, Plan plan, long[] images, Progress progress) {
        float[] x = null;
        try {
            for (State state : states) {
                x = state.x;
                if (progress != null && !progress.step(state.row.i, plan.rows.size(), x, state.x_0)) {
                    throw new CancellationException(
                            "cancelled after step " + state.row.i + " of " + plan.rows.size());
                }
            }
        } catch (DdpmException error) {
            throw error.row == null ? error
                    : DdpmException.notFinite(error.row, error.index, "image " + images[error.index]);
        }
        return x;
    }

    /** Returns what a network is told of images by their numbers. */
    static Map<String, Object> told(ModelSpec spec, Settings settings, Object said, long[] numbers) {
        Input label = spec.label();
        Map<String, Object> given = new LinkedHashMap<>(settings.inputs == null ? Collections.emptyMap()
                : settings.inputs);
        if (said != null) {
            if (label == null) {
                throw usage("label does not apply to a network that is told no class.");
            }
            if (given.containsKey(label.name)) {
                throw usage("label must be left out beside the input " + shown(label.name) + ", which is the same.");
            }
            given.put(label.name, said);
        } else if (label != null) {
            given.putIfAbsent(label.name, label.classes);
        }
        for (Input one : spec.inputs) {
            if (one.isTold() && given.containsKey(one.name)) {
                given.put(one.name, one.told(given.get(one.name), numbers));
            }
        }
        return given; // what is unknown or missing the denoiser refuses
    }

    private static DdpmException usage(String message) {
        return new DdpmException(USAGE, message);
    }
}
