package ddpm;

import static ddpm.DdpmException.Kind.BAD_FILE;
import static ddpm.DdpmException.Kind.REFUSED;
import static ddpm.DdpmException.shown;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/**
 * The numbers that travel inside a model file (docs/format.md, section 1). What is missing, unknown or out of range is
 * refused; nothing is guessed.
 */
public final class ModelSpec {
    /** The key of a model's metadata under which its spec lies, as JSON. */
    public static final String METADATA_KEY = "ddpm_export";

    static final String VARIANCE_FRACTION = "variance_fraction";
    static final String GUIDANCE = "guidance";

    private static final List<String> UNDERSTOOD =
            Arrays.asList(VARIANCE_FRACTION, "fractional_t", GUIDANCE, "inputs", "plan", "raw_eps", "times");
    private static final List<String> GRAPHS = Arrays.asList("sampler", "slice", "edit");
    private static final String FORMAT = "ddpm-export/1";
    private static final List<String> PREDICTIONS = Arrays.asList("eps", "x_0", "v");
    static final List<String> VARIANCES = Arrays.asList("fixed_small", "fixed_large", "learned");
    private static final List<String> REQUIRED =
            Arrays.asList("name", "prediction", "image_shape", "alphas_cumprod", "clip_x_0", "variance", "value_range",
                    "defaults", "noise", "requires");
    private static final int MAX_JSON_BYTES = 256 * 1024;
    private static final int MAX_PIXELS = 1 << 26; // numbers in one image: a header alone must not fill the memory

    /** How a model is sampled where the user says nothing. */
    public static final class Defaults {
        public final String sampler;
        public final int numSteps;
        public final double eta;
        /** In place of numSteps evenly spaced ones, or null; not to be changed. */
        public final int[] times;
        /** The name of one of the plans, in place of all else, or null. */
        public final String plan;
        /** Of a network that takes any, or null for a scale of 1. */
        public final Guidance guidance;

        Defaults(String sampler, int numSteps, double eta, int[] times, String plan, Guidance guidance) {
            this.sampler = sampler;
            this.numSteps = numSteps;
            this.eta = eta;
            this.times = times;
            this.plan = plan;
            this.guidance = guidance;
        }
    }

    /** A short name, for people. */
    public final String name;
    /** What the network predicts: eps, x_0 or v. */
    public final String prediction;
    /** The bound on |x_0|, or null. */
    public final Double clip_x_0;
    /** Of the ddpm sampler: fixed_small, fixed_large or learned. */
    public final String variance;
    public final Defaults defaults;
    /** Null of a denoiser, else which graph around one the file holds: sampler or slice. */
    public final String graph;
    /** What the network is told besides x_t and t. */
    public final List<Input> inputs;
    /** Solvers as tables of numbers, by name. */
    public final Map<String, Plan> plans;
    /** Whether the network has a second output, variance_fraction. */
    public final boolean hasVarianceFraction;
    /** Whether the graph's t is float32, not int64. */
    public final boolean hasFractionalT;

    private final boolean hasGuidance; // in what it requires
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

    /** Returns (C, H, W) of what is sampled, a copy. */
    public int[] stateShape() {
        return imageShape.clone();
    }

    /** Returns (C, H, W) of the pictures; that of the state for models that work on pixels. */
    public int[] pictureShape() {
        return stateShape();
    }

    /** Returns the names of the network's outputs, in order. */
    public List<String> outputs() {
        List<String> outputs = new ArrayList<>(Collections.singletonList(prediction));
        if (hasVarianceFraction) {
            outputs.add(VARIANCE_FRACTION);
        }
        return outputs;
    }

    /** Returns the input that says which class is wanted; null where the network is told none. */
    public Input label() {
        return inputs.stream().filter(one -> one.kind.equals("label")).findFirst().orElse(null);
    }

    /** Returns whether its predictions can be guided: it knows "no class", or takes guidance in its graph. */
    public boolean takesGuidance() {
        Input label = label();
        boolean can = guidesItself() || label != null && label.none != null;
        return can && (graph == null || hasGuidance); // a graph combines only where it says so
    }

    /** Returns whether the scale of guidance is an input of the network, which then combines by itself. */
    boolean guidesItself() {
        return inputs.stream().anyMatch(Input::isOwnGuidance);
    }

    /** Reads and validates a spec; see {@link Ddpm#specFromJson}. */
    static ModelSpec fromJson(String json) {
        if (json.getBytes(StandardCharsets.UTF_8).length > MAX_JSON_BYTES) {
            throw new DdpmException(BAD_FILE, "The model's spec must have at most " + MAX_JSON_BYTES + " bytes, got "
                    + json.getBytes(StandardCharsets.UTF_8).length + ".");
        }
        Object value;
        try {
            value = Json.parse(json);
        } catch (Json.Malformed malformed) {
            throw new DdpmException(BAD_FILE, "The model's spec is not JSON: " + malformed.getMessage() + ".");
        }
        if (!(value instanceof Map)) {
            throw new DdpmException(BAD_FILE, "The model's spec must be a JSON object, got " + shown(value) + ".");
        }
        return new ModelSpec((Map<?, ?>) value);
    }

    private ModelSpec(Map<?, ?> values) {
        checkFormat(values.get("format"));
        for (String key : REQUIRED) {
            if (!values.containsKey(key)) {
                throw new DdpmException(BAD_FILE, "The model's spec must have " + key + ", which it lacks.");
            }
        }
        List<?> shape = list(values, "image_shape");
        List<?> alphas = list(values, "alphas_cumprod");
        List<?> range = list(values, "value_range");
        List<?> requires = list(values, "requires");
        checkRequires(requires); // before what a newer one may have changed is read
        Object said = values.get("defaults");
        List<String> wanted = Arrays.asList("sampler", "num_steps", "eta");
        if (!(said instanceof Map) || !((Map<?, ?>) said).keySet().containsAll(wanted)) {
            throw bad("defaults", said, "an object with " + String.join(", ", wanted));
        }
        Object times = ((Map<?, ?>) said).get("times");
        if (times != null && !(times instanceof List)) {
            throw bad("defaults.times", times, "a list");
        }
        List<?> inputs = (List<?>) container(values, "inputs", Collections.emptyList());
        inputs.forEach(Input::checkParts);
        hasFractionalT = requires.contains("fractional_t");
        Object guided = ((Map<?, ?>) said).get(GUIDANCE);
        Guidance guidance = guided == null ? null : Guidance.fromJson(guided);
        Map<String, Plan> plans = new LinkedHashMap<>();
        ((Map<?, ?>) container(values, "plans", Collections.emptyMap())).forEach((name, plan) -> plans.put(
                (String) name, Plan.fromJson((String) name, plan, alphas.size(), hasFractionalT)));
        this.plans = Collections.unmodifiableMap(plans);
        hasVarianceFraction = requires.contains(VARIANCE_FRACTION);
        hasGuidance = requires.contains(GUIDANCE);
        Object graph = values.get("graph");
        if (graph != null && !GRAPHS.contains(graph)) {
            throw tooNew("the graph", graph, "a denoiser, sampler, slice and edit");
        }
        this.graph = (String) graph;

        Object name = values.get("name");
        if (!(name instanceof String) || ((String) name).codePointCount(0, ((String) name).length()) > 200) {
            throw bad("name", name, "a short string");
        }
        this.name = (String) name;
        prediction = oneOf(values, "prediction", PREDICTIONS);
        variance = oneOf(values, "variance", VARIANCES);
        if (variance.equals("learned") && !hasVarianceFraction) {
            throw bad("variance", variance, "fixed unless requires has " + VARIANCE_FRACTION);
        }
        if (!Ddpm.NOISE_TAG.equals(values.get("noise"))) {
            throw tooNew("the noise", values.get("noise"), Ddpm.NOISE_TAG);
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

        defaults = defaults((Map<?, ?>) said, guidance);

        Object source = values.get("source");
        Object golden = values.get("golden");
        if (values.containsKey("source") && !(source instanceof Map) || golden != null && !(golden instanceof Map)) {
            throw bad("source and golden", "another value", "objects");
        }
        List<Input> checked = new ArrayList<>();
        Set<String> names = new HashSet<>();
        for (Object one : inputs) {
            checked.add(Input.fromJson((Map<?, ?>) one, imageShape));
            names.add(checked.get(checked.size() - 1).name);
        }
        this.inputs = Collections.unmodifiableList(checked);
        if (names.size() < checked.size() || checked.isEmpty() == requires.contains("inputs")) {
            throw new DdpmException(BAD_FILE,
                    "In the model's spec, inputs must have different names, and requires must name inputs if there are "
                            + "any.");
        }
        checkPlans(requires);
        if (defaults.guidance != null && !takesGuidance()) {
            throw new DdpmException(BAD_FILE,
                    "In the model's spec, defaults.guidance needs a label that may be none, and has none.");
        }
        checkNamed("times", defaults.times != null, requires);
        checkNamed("plan", defaults.plan != null, requires);
        checkNamed(GUIDANCE, defaults.guidance != null, requires);
    }

    private Defaults defaults(Map<?, ?> said, Guidance guidance) {
        Object sampler = said.get("sampler");
        if (!(sampler instanceof String)) {
            throw bad("defaults.sampler", sampler, "a sampler's name");
        }
        Object numSteps = said.get("num_steps");
        if (!(numSteps instanceof Long) || (Long) numSteps < 1 || (Long) numSteps > alphasCumprod.length) {
            throw bad("defaults.num_steps", numSteps, "1 to " + alphasCumprod.length);
        }
        Object eta = said.get("eta");
        if (!isNumber(eta) || !(number(eta) >= 0 && number(eta) <= 1)) {
            throw bad("defaults.eta", eta, "a number from 0 to 1");
        }
        Object plan = said.get("plan");
        if (plan != null && !plans.containsKey(plan)) {
            throw new DdpmException(BAD_FILE, "The model's default plan, " + shown(plan) + ", is not among its plans.");
        }
        return new Defaults((String) sampler, ((Long) numSteps).intValue(), number(eta),
                times((List<?>) said.get("times")), (String) plan, guidance);
    }

    private int[] times(List<?> values) {
        if (values == null) {
            return null;
        }
        int[] times = new int[values.size()];
        long before = alphasCumprod.length;
        for (int k = 0; k < times.length || k == 0; k++) {
            Object t = k < times.length ? values.get(k) : null;
            if (!(t instanceof Long) || (Long) t < 0 || (Long) t >= before) {
                throw bad("defaults.times", values,
                        "strictly falling integers from " + (alphasCumprod.length - 1) + " to 0");
            }
            before = (Long) t;
            times[k] = (int) before;
        }
        return times;
    }

    private void checkPlans(List<?> requires) {
        for (Map.Entry<String, Plan> entry : plans.entrySet()) {
            if (entry.getValue().needsLearnedVariance() && !hasVarianceFraction) {
                throw new DdpmException(BAD_FILE, "Plan " + entry.getKey()
                        + " needs a learned variance, which the network does not have.");
            }
            if (entry.getValue().rawEps() && !requires.contains("raw_eps")) {
                throw new DdpmException(BAD_FILE, "Plan " + entry.getKey()
                        + " has raw_eps, so that requires must name it, got " + shown(requires) + ".");
            }
            if (prediction.equals("eps") && !entry.getValue().rows.stream().allMatch(row -> row.a > 0)) {
                throw new DdpmException(BAD_FILE,
                        "Plan " + entry.getKey() + " must keep a above 0, since the network predicts eps.");
            }
        }
    }

    private static void checkNamed(String name, boolean needed, List<?> requires) {
        if (needed && !requires.contains(name)) {
            throw new DdpmException(BAD_FILE,
                    "In the model's spec, requires must name '" + name + "', got "
                            + requires.stream().map(DdpmException::shown).collect(Collectors.joining(", ", "[", "]"))
                            + ".");
        }
    }

    private static void checkFormat(Object format) {
        if (!(format instanceof String) || !((String) format).startsWith("ddpm-export/")) {
            throw bad("format", format, "'" + FORMAT + "'");
        }
        if (!((String) format).matches("(?s)ddpm-export/1([./].*)?")) {
            throw tooNew("the format", format, FORMAT);
        }
    }

    private static void checkRequires(List<?> requires) {
        for (Object entry : requires) {
            if (!(entry instanceof String)) {
                throw bad("requires", requires, "a list of names");
            }
        }
        for (Object entry : requires) {
            if (!UNDERSTOOD.contains(entry)) {
                throw tooNew("a reader of", entry, String.join(", ", UNDERSTOOD));
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

    private static Object container(Map<?, ?> values, String key, Object usual) {
        Object value = values.containsKey(key) ? values.get(key) : usual;
        if (!(usual instanceof List ? value instanceof List : value instanceof Map)) {
            throw bad(key, value, usual instanceof List ? "a list" : "an object");
        }
        return value;
    }

    static boolean isNumber(Object value) {
        return value instanceof Long || value instanceof Double && !((Double) value).isInfinite();
    }

    static double number(Object value) {
        return ((Number) value).doubleValue();
    }

    private static DdpmException bad(String where, Object got, String expected) {
        return new DdpmException(BAD_FILE,
                "In the model's spec, " + where + " must be " + expected + ", got " + shown(got) + ".");
    }

    static DdpmException unusable(String reason) {
        return new DdpmException(BAD_FILE, "The model's spec cannot be used: " + reason + ".");
    }

    private static DdpmException tooNew(String what, Object got, String known) {
        return new DdpmException(REFUSED, "The model needs " + what + " " + shown(got) + ", and this version knows "
                + known + ". Install a newer one.");
    }
}
