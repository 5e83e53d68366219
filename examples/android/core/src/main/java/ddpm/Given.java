package ddpm;

import static ddpm.DdpmException.Kind.USAGE;
import static ddpm.DdpmException.shown;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.DoubleStream;

/**
 * Given something: pixels that are known, a measurement, a picture to start from, two to go between. As in Python's
 * given.py and editing.py; docs/given.md says what each is good for, docs/format.md fixes every number.
 */
public final class Given {
    /** The noise domain of known pixels. */
    public static final long DOMAIN = 1;

    private Given() {}

    /**
     * Returns what puts known pixels into every state of a walk (replacement: Song et al. 2021, appendix I.2). Until the
     * picture, whatever is not wholly known is made: a mixture of two noises would have too little of it. The picture is
     * mask x + (1 - mask) known.
     *
     * @param known (B, C, H, W) in [-1, 1]
     * @param mask 0 where a pixel is known, 1 where it is to be made: (H, W), (C, H, W) or as known
     * @param noise of the known pixels, draw i after row i, from {@link #DOMAIN}
     */
    public static Keep knownPixels(float[] known, float[] mask, Noise noise) {
        float[] z = new float[known.length];
        return (x, draw, a) -> {
            if (a == 1.0) {
                for (int k = 0; k < x.length; k++) {
                    float made = mask[k % mask.length];
                    x[k] = made * x[k] + (1f - made) * known[k];
                }
                return;
            }
            noise.fill(draw, z);
            float[] kept = Ddpm.noised(known, z, a);
            for (int k = 0; k < x.length; k++) {
                x[k] = mask[k % mask.length] > 0f ? x[k] : kept[k];
            }
        };
    }

    /**
     * Returns a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023, eq. 13).
     * After clipping, which is not repeated; eps is then what leads from this x_0 to x_t. Costs what denoise does.
     */
    public static Denoiser measured(Denoiser denoise, Measurement measurement, float[] y) {
        float[] target = measurement.back(y);
        return (x_t, row, x_0_before, found) -> {
            denoise.denoise(x_t, row, x_0_before, found);
            float[] seen = measurement.back(measurement.of(found.x_0));
            float signal = (float) Math.sqrt(row.a);
            float perNoise = (float) (1.0 / Math.sqrt(1.0 - row.a));
            for (int k = 0; k < x_t.length; k++) {
                found.x_0[k] = target[k] + (found.x_0[k] - seen[k]);
                found.eps[k] = (x_t[k] - signal * found.x_0[k]) * perNoise;
            }
        };
    }

    /** Returns the means of squares of size x size pixels of images of a shape (C, H, W). */
    public static Measurement average(int size, int[] shape) {
        int width = shape[2];
        return new Means(size * size) {
            @Override
            int place(int k) {
                return k / width / size * (width / size) + k % width / size; // all planes are whole squares high
            }
        };
    }

    /** Returns the mean of the channels of images of a shape (C, H, W). */
    public static Measurement grey(int[] shape) {
        int plane = shape[1] * shape[2];
        return new Means(shape[0]) {
            @Override
            int place(int k) {
                return k / (count * plane) * plane + k % plane;
            }
        };
    }

    /** Means of count numbers each. */
    private abstract static class Means implements Measurement {
        final int count;

        Means(int count) {
            this.count = count;
        }

        /** Returns the place of the mean that number k is part of. */
        abstract int place(int k);

        @Override
        public float[] of(float[] x) {
            float[] means = new float[x.length / count];
            for (int k = 0; k < x.length; k++) {
                means[place(k)] += x[k];
            }
            for (int k = 0; k < means.length; k++) {
                means[k] /= count;
            }
            return means;
        }

        @Override
        public float[] back(float[] y) {
            float[] x = new float[y.length * count];
            for (int k = 0; k < x.length; k++) {
                x[k] = y[place(k)];
            }
            return x;
        }
    }

    /** Returns the pixels that are known, 0 in their mask as in {@link #knownPixels}; values between weigh them. */
    public static Measurement masked(float[] mask) {
        return new Measurement() {
            @Override
            public float[] of(float[] x) {
                float[] y = new float[x.length];
                for (int k = 0; k < x.length; k++) {
                    y[k] = (1f - mask[k % mask.length]) * x[k];
                }
                return y;
            }

            @Override
            public float[] back(float[] y) {
                return y;
            }
        };
    }

    /**
     * Returns the measurement that average:4, grey or mask names, of images of a shape (C, H, W).
     *
     * @param mask of the third; otherwise null
     * @throws DdpmException (USAGE) for another name, for squares that do not fill the image, for a mask that is null
     */
    public static Measurement measurementFromText(String text, int[] shape, float[] mask) {
        if (text.matches("average:[0-9]{1,9}")) {
            int size = Integer.parseInt(text.substring("average:".length()));
            if (size < 1 || shape[1] % size != 0 || shape[2] % size != 0) {
                throw usage("measure average:K must divide " + shape[1] + " x " + shape[2] + " pixels, got "
                        + shown(text) + ".");
            }
            return average(size, shape);
        }
        switch (text) {
            case "grey":
                return grey(shape);
            case "mask":
                if (mask == null) {
                    throw usage("measure mask needs a mask.");
                }
                return masked(mask);
            default:
                throw usage("measure must be average:K, grey or mask, got " + shown(text) + ".");
        }
    }

    /**
     * Returns (1 - s) first + s last for count shares s from 0 to 1, (count, C, H, W), of pictures (C, H, W). Noised
     * with one noise these are the states that Ho et al. 2020 interpolate between (section 4.3): it is linear.
     *
     * @throws DdpmException (USAGE) for a count below 2
     */
    public static float[] crossfade(float[] first, float[] last, int count) {
        if (count < 2) {
            throw usage("There must be at least 2 images from one end to the other, got " + count + ".");
        }
        float[] between = new float[count * first.length];
        for (int k = 0; k < between.length; k++) {
            float share = (float) ((double) (k / first.length) / (count - 1));
            between[k] = (1f - share) * first[k % first.length] + share * last[k % first.length];
        }
        return between;
    }

    /**
     * Returns a plan that goes jump rows back, `returns` times from each place (RePaint: Lugmayr et al. 2022). The places
     * are jump rows apart, the last one before the last row. Going back adds noise, so it is merged into the row before.
     * Costs about 1 + returns times the evaluations.
     *
     * @throws DdpmException (USAGE) for returns below 0, for a jump that does not fit the plan, and for a plan whose rows
     *     look back or weigh a learned variance
     */
    public static Plan withReturns(Plan plan, int returns, int jump) {
        List<Row> rows = plan.rows;
        int most = rows.size() - 1;
        if (returns < 0) {
            throw usage("returns must be 0 or more, got " + returns + ".");
        }
        int[] left = new int[rows.size() + 1]; // by the rows that lie behind, of those given
        if (returns > 0) {
            if (jump < 1 || jump > most) {
                throw usage("jump must be between 1 and " + most + ", below the plan's rows, got " + jump + ".");
            }
            if (plan.needsLearnedVariance() || rows.stream().anyMatch(row -> row.reach() > 1)) {
                throw usage("returns need a sampler that does not look back and has a fixed variance. Choose ddim.");
            }
            for (int place = most; place >= jump; place -= jump) {
                left[place] = returns;
            }
        }
        List<Row> walked = new ArrayList<>();
        int place = 0;
        while (place < rows.size()) {
            Row row = rows.get(place++);
            double r = 1.0; // no way back
            if (left[place] > 0) {
                left[place]--;
                r = Math.sqrt(rows.get(place - jump).a / rows.get(place).a);
                place -= jump;
            }
            walked.add(andBack(row, r, walked.size() + 1));
        }
        return new Plan(walked, plan.start);
    }

    /** Returns a row of another number, after which noise carries what it leaves back: r = sqrt(a_u / a_s) of it. */
    private static Row andBack(Row row, double r, int i) {
        double[] noise = row.noise;
        if (r != 1.0) {
            double std = noise.length == 0 ? 0.0 : noise[0];
            noise = new double[] {Math.sqrt(r * r * std * std + 1.0 - r * r)};
        }
        return new Row(i, row.t, row.a, scaled(row.x_0, r), scaled(row.eps, r), noise, row.rawEps);
    }

    private static double[] scaled(double[] weights, double r) {
        return DoubleStream.of(weights).map(weight -> r * weight).toArray();
    }

    /**
     * Returns the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022).
     *
     * @throws DdpmException (USAGE) for a strength outside 0..1, and for one below which there is no time
     */
    public static double[] timesBelow(double[] times, double strength, int numTrainTimesteps) {
        if (!(strength > 0.0 && strength <= 1.0)) {
            throw usage("strength must be above 0 and at most 1, got " + strength + ".");
        }
        double end = Math.floor(strength * numTrainTimesteps + 0.5);
        double[] below = DoubleStream.of(times).filter(t -> t < end).toArray();
        if (below.length == 0) {
            throw usage("strength must reach the lowest time, t = "
                    + Guidance.text(DoubleStream.of(times).min().orElse(0.0)) + " of " + numTrainTimesteps + ", got "
                    + strength + ".");
        }
        return below;
    }

    /** Returns the rows from a share of the training times on; of ddim and ddpm they are the rows of those times. */
    private static Plan planBelow(Plan plan, double strength, int numTrainTimesteps) {
        double[] times = plan.rows.stream().mapToDouble(row -> row.t).toArray();
        double highest = DoubleStream.of(timesBelow(times, strength, numTrainTimesteps)).max().getAsDouble();
        List<Row> left = new ArrayList<>();
        for (Row row : plan.rows) {
            if (!left.isEmpty() || row.t <= highest) {
                left.add(andBack(row, 1.0, left.size() + 1));
                if (row.reach() > left.size()) {
                    throw usage("strength does not apply to a plan whose rows look back beyond it.");
                }
            }
        }
        return new Plan(left, 1.0);
    }

    /**
     * Returns images made from pictures, (n, C, H, W), in one batch, as {@link Ddpm#sample} does.
     *
     * @param images (m, H, W, C) unsigned bytes, of each of which n are made: image k, counted from first, is of picture
     *     k / n. They have to be given with a mask, a measure or a strength. The label of pictures is none, where the
     *     network knows that, unless one is given
     * @param progress told after every row; null for nobody
     * @throws DdpmException (USAGE) for what does not fit the model or goes with nothing, and what sample throws
     */
    public static float[] edit(Model model, ModelSpec spec, byte[] images, Edit settings, Progress progress) {
        refuseWhatDoesNotGoTogether(settings);
        int[] shape = spec.stateShape();
        int size = shape[0] * shape[1] * shape[2];
        int plane = shape[1] * shape[2];
        int count = images.length / size;
        if (count < 1 || images.length % size != 0) {
            throw usage("images must be uint8 (m, " + shape[1] + ", " + shape[2] + ", " + shape[0] + "), got "
                    + images.length + " numbers.");
        }
        if (settings.between && count != 2) {
            throw usage("between needs 2 images, got " + count + ".");
        }
        byte[] mask = settings.mask;
        if (mask != null && mask.length != plane && mask.length != count * plane) {
            throw usage("mask must be uint8 (" + shape[1] + ", " + shape[2] + "), or one for each picture, got "
                    + mask.length + " numbers.");
        }

        if (settings.n < 1) {
            throw usage("n must be at least 1, got " + settings.n + ".");
        }
        float[] known = Ddpm.fromUint8(images, shape);
        if (settings.between) {
            known = crossfade(Arrays.copyOf(known, size), Arrays.copyOfRange(known, size, 2 * size), settings.n);
        }
        int ways = settings.between ? 1 : settings.n;
        long[] numbers = Ddpm.numbers(settings.first, Math.multiplyExact(known.length / size, ways), shape);
        long[] whose = numbers.clone(); // what is between has one noise, and is told alike
        float[] pictures = new float[numbers.length * size];
        float[] made = mask == null ? null : new float[pictures.length];
        for (int k = 0; k < numbers.length; k++) {
            whose[k] = settings.between ? numbers[0] : numbers[k];
            System.arraycopy(known, k / ways * size, pictures, k * size, size);
            for (int j = 0; j < size && mask != null; j++) {
                made[k * size + j] = (mask[(k / ways * plane + j % plane) % mask.length] & 0xFF) / 255f;
            }
        }

        Plan plan = Ddpm.plan(spec, settings);
        plan = settings.strength == null ? plan : planBelow(plan, settings.strength, spec.numTrainTimesteps());
        plan = settings.returns == 0 ? plan : withReturns(plan, settings.returns, settings.jump);
        Denoiser denoise = Ddpm.denoiser(model, spec, Ddpm.told(spec, settings, tellingNothing(spec, settings), whose),
                Ddpm.guidanceFor(spec, settings.guidance));
        Noise noise = Ddpm.noiseStream(settings.seed, whose, shape, Ddpm.SAMPLING);
        float[] x = null;
        if (settings.strength != null) {
            float[] z = new float[pictures.length];
            noise.fill(0, z);
            x = Ddpm.noised(pictures, z, plan.rows.get(0).a);
        }
        Keep keep = null;
        if (settings.measure != null) {
            Measurement measurement = measurementFromText(settings.measure, shape, made);
            denoise = measured(denoise, measurement, measurement.of(pictures));
        } else if (made != null) {
            keep = knownPixels(pictures, made, Ddpm.noiseStream(settings.seed, whose, shape, DOMAIN));
        }
        return Ddpm.last(Ddpm.walk(denoise, noise, plan, x, null, keep), plan, numbers, progress);
    }

    private static void refuseWhatDoesNotGoTogether(Edit settings) {
        boolean isLone = settings.mask == null && settings.measure == null;
        if (settings.returns != 0 && isLone) {
            throw usage("returns need a mask or a measure.");
        }
        if (settings.between && (settings.strength == null || !isLone)) {
            throw usage("between needs a strength, and nothing else besides.");
        }
        if (isLone && settings.strength == null) {
            throw usage("A picture needs a mask, a measure or a strength.");
        }
        if (settings.measure != null && !settings.measure.equals("mask") && settings.mask != null) {
            throw usage("mask does not apply to measure " + settings.measure + ".");
        }
    }

    /** Returns the label that is said, else no class: of a picture it is not known, and every one is wrong. */
    private static Object tellingNothing(ModelSpec spec, Edit settings) {
        Input label = spec.label();
        boolean isSaid = label != null && settings.inputs != null && settings.inputs.containsKey(label.name);
        return settings.label != null || label == null || label.none == null || isSaid ? settings.label
                : (Object) label.none.longValue();
    }

    private static DdpmException usage(String message) {
        return new DdpmException(USAGE, message);
    }
}
