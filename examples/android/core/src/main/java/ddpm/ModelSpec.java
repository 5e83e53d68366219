package ddpm;

import static ddpm.DdpmException.Kind.BAD_FILE;
import static ddpm.DdpmException.Kind.REFUSED;
import static ddpm.DdpmException.shown;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * The numbers that travel inside a model file (docs/format.md, section 1). What is missing, unknown or out of range is
 * refused; nothing is guessed.
 */
public final class ModelSpec {
    /** The key of a model's metadata under which its spec lies, as JSON. */
    public static final String METADATA_KEY = "ddpm_export";

    static final String VARIANCE_FRACTION = "variance_fraction";

    private static final String FORMAT = "ddpm-export/1";
    private static final List<String> PREDICTIONS = Arrays.asList("eps", "x_0", "v");
    private static final List<String> VARIANCES = Arrays.asList("fixed_small", "fixed_large", "learned");
    private static final List<String> REQUIRED =
            Arrays.asList("name", "prediction", "image_shape", "alphas_cumprod", "clip_x_0", "variance", "value_range",
                    "defaults", "noise", "requires");
    private static final int MAX_JSON_BYTES = 256 * 1024;
    private static final int MAX_PIXELS = 1 << 26; // numbers in one image: a header alone must not fill the memory

    /** A short name, for people. */
    public final String name;
    /** What the network predicts: eps, x_0 or v. */
    public final String prediction;
    /** The bound on |x_0|, or null. */
    public final Double clip_x_0;
    /** Of the ddpm sampler: fixed_small, fixed_large or learned. */
    public final String variance;
    /** What is used when the user says nothing. */
    public final String defaultSampler;
    public final int defaultNumSteps;
    public final double defaultEta;
    /** Whether the network has a second output, variance_fraction. */
    public final boolean hasVarianceFraction;

    private final int[] imageShape;
    private final double[] alphasCumprod;

    /** Returns T. */
    public int numTrainTimesteps() {
        return alphasCumprod.length;
    }

    /** Returns alphas_cumprod[t], t in 0..T-1. */
    public double alphasCumprod(int t) {
        return alphasCumprod[t];
    }

    /** Returns (C, H, W), a copy. */
    public int[] imageShape() {
        return imageShape.clone();
    }

    /** Returns the names of the network's outputs, in order. */
    public List<String> outputs() {
        List<String> outputs = new ArrayList<>(Collections.singletonList(prediction));
        if (hasVarianceFraction) {
            outputs.add(VARIANCE_FRACTION);
        }
        return outputs;
    }

    /** Reads and validates a spec; see {@link Ddpm#specFromJson}. */
    static ModelSpec fromJson(String json) {
        if (json.getBytes(StandardCharsets.UTF_8).length > MAX_JSON_BYTES) {
            throw bad("size", json.length(), "at most " + MAX_JSON_BYTES + " bytes");
        }
        Object value;
        try {
            value = Json.parse(json);
        } catch (Json.Malformed malformed) {
            throw new DdpmException(BAD_FILE, "spec: not JSON", malformed.getMessage(), "one object",
                    "export the model again");
        }
        if (!(value instanceof Map)) {
            throw bad("it", value, "an object");
        }
        return new ModelSpec((Map<?, ?>) value);
    }

    private ModelSpec(Map<?, ?> values) {
        checkFormat(values.get("format"));
        for (String key : REQUIRED) {
            if (!values.containsKey(key)) {
                throw bad("a key", "no " + key, "all of " + String.join(", ", REQUIRED));
            }
        }
        List<?> shape = list(values, "image_shape");
        List<?> alphas = list(values, "alphas_cumprod");
        List<?> range = list(values, "value_range");
        List<?> requires = list(values, "requires");
        Object defaults = values.get("defaults");
        List<String> wanted = Arrays.asList("sampler", "num_steps", "eta");
        if (!(defaults instanceof Map) || !((Map<?, ?>) defaults).keySet().containsAll(wanted)) {
            throw bad("defaults", defaults, "an object with " + String.join(", ", wanted));
        }
        checkRequires(requires);
        hasVarianceFraction = requires.contains(VARIANCE_FRACTION);

        Object name = values.get("name");
        if (!(name instanceof String) || ((String) name).codePointCount(0, ((String) name).length()) > 200) {
            throw bad("name", name, "a short string");
        }
        this.name = (String) name;
        prediction = oneOf(values, "prediction", PREDICTIONS);
        variance = oneOf(values, "variance", VARIANCES);
        if (variance.equals("learned") && !hasVarianceFraction) {
            throw bad("variance", variance, "'" + VARIANCE_FRACTION + "' among requires");
        }
        if (!Ddpm.NOISE_TAG.equals(values.get("noise"))) {
            throw new DdpmException(REFUSED, "spec: unknown noise", shown(values.get("noise")),
                    "'" + Ddpm.NOISE_TAG + "'", "install a newer version");
        }
        imageShape = imageShape(shape);
        if (range.size() != 2 || !isNumber(range.get(0)) || number(range.get(0)) != -1.0
                || !isNumber(range.get(1)) || number(range.get(1)) != 1.0) {
            throw bad("value_range", range, "[-1, 1]");
        }
        Object clip = values.get("clip_x_0");
        if (clip != null && !(isNumber(clip) && number(clip) > 0)) {
            throw bad("clip_x_0", clip, "a positive number or null");
        }
        clip_x_0 = clip == null ? null : (Double) number(clip);
        alphasCumprod = alphasCumprod(alphas, !prediction.equals("eps"));

        Object sampler = ((Map<?, ?>) defaults).get("sampler");
        if (!(sampler instanceof String)) {
            throw bad("defaults.sampler", sampler, "a sampler's name");
        }
        defaultSampler = (String) sampler;
        Object numSteps = ((Map<?, ?>) defaults).get("num_steps");
        if (!(numSteps instanceof Long) || (Long) numSteps < 1 || (Long) numSteps > alphasCumprod.length) {
            throw bad("defaults.num_steps", numSteps, "1 to " + alphasCumprod.length);
        }
        defaultNumSteps = ((Long) numSteps).intValue();
        Object eta = ((Map<?, ?>) defaults).get("eta");
        if (!isNumber(eta) || !(number(eta) >= 0 && number(eta) <= 1)) {
            throw bad("defaults.eta", eta, "a number from 0 to 1");
        }
        defaultEta = number(eta);

        Object source = values.get("source");
        Object golden = values.get("golden");
        if (values.containsKey("source") && !(source instanceof Map) || golden != null && !(golden instanceof Map)) {
            throw bad("source or golden", "another value", "objects");
        }
    }

    private static void checkFormat(Object format) {
        if (!(format instanceof String) || !((String) format).startsWith("ddpm-export/")) {
            throw bad("format", format, "'" + FORMAT + "'");
        }
        if (!((String) format).matches("(?s)ddpm-export/1([./].*)?")) {
            throw new DdpmException(REFUSED, "spec: unknown format", shown(format), "'" + FORMAT + "'",
                    "install a newer version");
        }
    }

    private static void checkRequires(List<?> requires) {
        for (Object entry : requires) {
            if (!(entry instanceof String)) {
                throw bad("requires", requires, "a list of names");
            }
        }
        for (Object entry : requires) {
            if (!entry.equals(VARIANCE_FRACTION)) {
                throw new DdpmException(REFUSED, "spec: asks for what this version cannot do",
                        "requires " + shown(entry), "at most '" + VARIANCE_FRACTION + "'", "install a newer version");
            }
        }
    }

    private static int[] imageShape(List<?> shape) {
        int[] sizes = new int[3];
        long pixels = shape.size() == 3 ? 1 : 0;
        for (int k = 0; k < 3 && pixels > 0; k++) {
            Object size = shape.get(k);
            boolean usable = size instanceof Long && (Long) size > 0 && (Long) size <= MAX_PIXELS / pixels;
            pixels = usable ? pixels * (Long) size : 0;
            sizes[k] = usable ? ((Long) size).intValue() : 0;
        }
        if (pixels == 0) {
            throw bad("image_shape", shape,
                    "three positive integers [C, H, W] with a product of at most " + MAX_PIXELS);
        }
        return sizes;
    }

    private static double[] alphasCumprod(List<?> values, boolean lastMayBeZero) {
        double[] alphas = new double[values.size()];
        double before = 1.0;
        for (int t = 0; t < alphas.length; t++) {
            Object value = values.get(t);
            if (!isNumber(value) || number(value) >= before) {
                throw bad("alphas_cumprod[" + t + "]", value, "numbers that strictly fall within (0, 1)");
            }
            alphas[t] = before = number(value);
        }
        if (alphas.length == 0) {
            throw bad("alphas_cumprod", values, "at least one number");
        }
        if (before < 0 || before == 0 && !lastMayBeZero) {
            throw bad("alphas_cumprod", before, "a last value above 0 (0 itself only with x_0 or v)");
        }
        return alphas;
    }

    private static String oneOf(Map<?, ?> values, String key, List<String> known) {
        Object value = values.get(key);
        if (!known.contains(value)) {
            throw bad(key, value, "one of " + String.join(", ", known));
        }
        return (String) value;
    }

    private static List<?> list(Map<?, ?> values, String key) {
        Object list = values.get(key);
        if (!(list instanceof List)) {
            throw bad(key, list, "a list");
        }
        for (Object entry : (List<?>) list) {
            if (entry == null || entry instanceof List || entry instanceof Map) {
                throw bad(key, list, "a list of numbers or names");
            }
        }
        return (List<?>) list;
    }

    private static boolean isNumber(Object value) {
        return value instanceof Long || value instanceof Double && !((Double) value).isInfinite();
    }

    private static double number(Object value) {
        return ((Number) value).doubleValue();
    }

    private static DdpmException bad(String where, Object got, String expected) {
        return new DdpmException(BAD_FILE, "spec: " + where + " is not usable", shown(got), expected,
                "export the model again");
    }
}
