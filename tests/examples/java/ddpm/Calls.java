package ddpm;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;

/**
 * Calls the core's functions for tests/examples/test_java.py, which knows what is right: a JSON object a line comes in
 * on stdin, a JSON object a line goes out. Floats travel as their bits, so that equality can be asked for.
 */
public final class Calls {
    private final Map<?, ?> call;

    private Calls(Map<?, ?> call) {
        this.call = call;
    }

    public static void main(String[] arguments) throws IOException, Json.Malformed {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Calls calls = new Calls((Map<?, ?>) Json.parse(line));
            try {
                out.println(calls.answer());
            } catch (DdpmException exception) {
                out.println("{\"error\": \"" + exception.kind + "\", \"message\": " + quoted(exception.getMessage())
                        + "}");
            } catch (CancellationException exception) {
                out.println("{\"error\": \"CANCELLED\", \"message\": " + quoted(exception.getMessage()) + "}");
            }
        }
        out.flush();
    }

    private String answer() {
        switch ((String) call.get("call")) {
            case "table":
                return "{\"table\": " + Arrays.toString(Ddpm.normalTable()) + ", \"sha256\": \"" + NormalTable.SHA256
                        + "\"}";
            case "philox":
                return philox();
            case "normals":
                float[] normals = new float[ints("words").length];
                Ddpm.normalsFromWords(ints("words"), normals.length, normals, 0);
                return "{\"bits\": " + bits(normals) + "}";
            case "noise":
                Noise noise = noise(integer("domain"));
                float[] z = new float[noise.size()];
                noise.fill(integer("draw"), z);
                return "{\"bits\": " + bits(z) + "}";
            case "spacing":
                int[] times = Ddpm.spacing((int) integer("num_train_timesteps"), (int) integer("num_steps"));
                return "{\"t\": " + Arrays.toString(times) + "}";
            case "coefficients":
                return coefficients();
            case "states":
                return states();
            case "sample":
                return sample();
            case "pixels":
                return "{\"levels\": " + levels(Ddpm.toUint8(floats(call.get("bits")), ints("shape"))) + "}";
            case "plan":
                return plan(plan(Ddpm.specFromJson((String) call.get("spec"))));
            case "fed":
                return fed();
            case "conditions":
                return conditions();
            case "given":
                return given();
            case "edit":
                return edit();
            case "crossfade":
                return "{\"bits\": " + bits(Given.crossfade(floats(call.get("first")), floats(call.get("last")),
                        (int) integer("count"))) + "}";
            case "returns":
                ModelSpec of = Ddpm.specFromJson((String) call.get("spec"));
                return plan(Given.withReturns(plan(of), (int) integer("returns"), (int) integer("jump")));
            case "times_below":
                double[] below = Given.timesBelow(doubles(call.get("times")), number("strength"), (int) integer("T"));
                return "{\"t\": " + Arrays.toString(below) + "}";
            case "spec":
                ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
                List<String> plans = new ArrayList<>();
                spec.plans.forEach((name, plan) -> plans.add(quoted(name) + ": " + plan(plan)));
                List<String> inputs = new ArrayList<>();
                spec.inputs.forEach(one -> inputs.add("[" + quoted(one.name) + ", " + quoted(one.kind) + ", "
                        + Arrays.toString(one.shape) + ", " + one.none + ", " + quoted(one.classes) + "]"));
                return "{\"name\": " + quoted(spec.name) + ", \"prediction\": \"" + spec.prediction
                        + "\", \"state_shape\": " + Arrays.toString(spec.stateShape()) + ", \"picture_shape\": "
                        + Arrays.toString(spec.pictureShape()) + ", \"T\": " + spec.numTrainTimesteps()
                        + ", \"last\": " + spec.alphasCumprod(spec.numTrainTimesteps() - 1) + ", \"clip_x_0\": "
                        + spec.clip_x_0 + ", \"variance\": \"" + spec.variance + "\", \"graph\": "
                        + quoted(spec.graph) + ", \"defaults\": [" + quoted(spec.defaults.sampler) + ", "
                        + spec.defaults.numSteps + ", " + spec.defaults.eta + ", "
                        + Arrays.toString(spec.defaults.times) + ", " + quoted(spec.defaults.plan) + ", "
                        + told(spec.defaults.guidance) + "], \"takes_guidance\": " + spec.takesGuidance()
                        + ", \"outputs\": "
                        + quoted(spec.outputs()) + ", \"inputs\": " + inputs + ", \"plans\": {"
                        + String.join(", ", plans) + "}, \"fractional_t\": " + spec.hasFractionalT + "}";
            case "allocated":
                return "{\"bytes\": " + allocated() + "}";
            default:
                throw new IllegalArgumentException("no such call: " + call.get("call"));
        }
    }

    private String philox() {
        int[] c = ints("counter");
        int[] k = ints("key");
        int[] words = new int[4];
        Ddpm.philox4x32_10(c[0], c[1], c[2], c[3], k[0], k[1], words);
        List<String> unsigned = new ArrayList<>();
        for (int word : words) {
            unsigned.add(Integer.toUnsignedString(word));
        }
        return "{\"words\": " + unsigned + "}";
    }

    /** Finds the coefficients of a prediction of v, by what they make of single ones. */
    private String coefficients() {
        ModelSpec v = Ddpm.specFromJson((String) call.get("spec"));
        Denoised found = new Denoised(1);
        Row row = new Row(1, 0, number("a"), new double[] {1}, new double[0], new double[0], false);
        Ddpm.denoiser((x_t, t, inputs, outputs) -> outputs.get("v")[0] = 0f, v, null, null)
                .denoise(new float[] {1f}, row, null, found);
        return "{\"bits\": " + bits(new float[] {found.x_0[0], found.eps[0]}) + "}";
    }

    private Plan plan(ModelSpec spec) {
        return Ddpm.plan(spec, (String) call.get("sampler"), integerOrNull("num_steps"),
                call.get("times") == null ? null : ints("times"), (String) call.get("plan"),
                call.get("eta") == null ? null : (Double) number("eta"), (String) call.get("variance"));
    }

    private static String plan(Plan plan) {
        List<String> rows = new ArrayList<>();
        for (Row row : plan.rows) {
            rows.add("[" + row.i + ", " + row.t + ", " + row.a + ", " + Arrays.toString(row.x_0) + ", "
                    + Arrays.toString(row.eps) + ", " + Arrays.toString(row.noise) + ", " + row.rawEps + "]");
        }
        return "{\"start\": " + plan.start + ", \"rows\": " + rows + "}";
    }

    /** Walks a plan: whole, from an x or from a state given; with again, once more from that state of its own. */
    private String states() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Noise noise = noise(Ddpm.SAMPLING);
        Denoiser denoise = Ddpm.denoiser(gaussian(spec), spec, null, null);
        Plan plan = plan(spec);
        float[] x = call.get("x") == null ? null : floats(call.get("x"));
        State from = call.get("state") == null ? null : state(plan, (Map<?, ?>) call.get("state"));
        List<String> told = new ArrayList<>();
        List<String> again = new ArrayList<>();
        for (State state : Ddpm.walk(denoise, noise, plan, x, from, null)) {
            told.add(told(state));
            if (call.get("again") != null && state.row.i == integer("again")) {
                from = state.copy();
            }
        }
        if (call.get("again") != null) {
            for (State state : Ddpm.walk(denoise, noise, plan, null, from, null)) {
                again.add(told(state));
            }
        }
        return "{\"states\": " + told + ", \"again\": " + again + "}";
    }

    private static String told(State state) {
        List<String> history = new ArrayList<>();
        for (Denoised found : state.history) {
            history.add("[" + bits(found.x_0) + ", " + bits(found.eps) + "]");
        }
        return "{\"i\": " + state.row.i + ", \"t\": " + state.row.t + ", \"a\": " + state.row.a + ", \"x\": "
                + bits(state.x) + ", \"x_0\": " + bits(state.x_0) + ", \"eps\": " + bits(state.eps)
                + ", \"history\": " + history + "}";
    }

    private static State state(Plan plan, Map<?, ?> values) {
        List<Denoised> history = new ArrayList<>();
        for (Object found : (List<?>) values.get("history")) {
            history.add(new Denoised(floats(((List<?>) found).get(0)), floats(((List<?>) found).get(1))));
        }
        return new State(plan.rows.get((int) (long) (Long) values.get("i") - 1), floats(values.get("x")),
                floats(values.get("x_0")), floats(values.get("eps")), history);
    }

    private static String told(Guidance guidance) {
        return guidance == null ? "null" : "[" + guidance.scale + ", " + Arrays.toString(guidance.interval) + "]";
    }

    private Guidance guidance() {
        Map<?, ?> said = (Map<?, ?>) call.get("guidance");
        return said == null ? null : new Guidance(((Number) said.get("scale")).doubleValue(),
                said.get("interval") == null ? null : doubles(said.get("interval")));
    }

    private Map<String, Object> inputs() {
        Map<String, Object> given = new LinkedHashMap<>();
        if (call.get("inputs") != null) {
            ((Map<?, ?>) call.get("inputs")).forEach((name, value) -> given.put((String) name,
                    name.equals("y") || !(value instanceof List) ? value : floats(value)));
        }
        return given;
    }

    /** Walks, or samples, with a model that mixes its inputs: x_t / 2 + previous / 4 + hint + label + w's first. */
    private String fed() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        List<String> names = new ArrayList<>();
        List<Integer> batches = new ArrayList<>();
        Model model = (x_t, t, inputs, outputs) -> {
            names.add(quoted(new ArrayList<>(inputs.keySet())));
            float[] previous = (float[]) inputs.get("x_0_prev");
            float[] hint = (float[]) inputs.get("hint");
            float[] w = (float[]) inputs.get("w");
            long[] y = (long[]) inputs.get("y");
            batches.add(y.length);
            for (int k = 0; k < x_t.length; k++) {
                int image = k / (x_t.length / y.length);
                outputs.get("eps")[k] = 0.5f * x_t[k] + 0.25f * previous[k] + hint[k] + y[image]
                        + w[image * w.length / y.length];
            }
            if (call.containsKey("poisoned")) { // the number of one that is not finite
                outputs.get("eps")[(int) integer("poisoned")] = Float.NaN;
            }
        };
        if (call.containsKey("n")) {
            float[] x = Ddpm.sample(model, spec, settings(), null);
            return "{\"bits\": " + bits(x) + ", \"batches\": " + batches + "}";
        }
        Denoiser denoise = Ddpm.denoiser(model, spec, inputs(), guidance());
        if (call.containsKey("only_bind")) {
            return "{}";
        }
        List<String> told = new ArrayList<>();
        for (State state : Ddpm.walk(denoise, noise(Ddpm.SAMPLING), plan(spec), null, null, null)) {
            told.add(told(state));
        }
        return "{\"states\": " + told + ", \"names\": " + names + "}";
    }

    /** Walks with the network of tests/golden/conditions.json: each image's label's, or one that guides itself. */
    private String conditions() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        double[] fractions = doubles(call.get("variance_fractions"));
        List<Model> models = new ArrayList<>();
        for (double mean : doubles(call.get("means"))) {
            models.add(gaussian(spec, mean));
        }
        List<Integer> batches = new ArrayList<>();
        Model model = (x_t, t, inputs, outputs) -> {
            long[] y = (long[]) inputs.get("y");
            float[] own = (float[]) inputs.get("guidance");
            batches.add(y.length);
            int size = x_t.length / y.length;
            for (int k = 0; k < y.length; k++) {
                float[] x = Arrays.copyOfRange(x_t, k * size, (k + 1) * size);
                Map<String, float[]> c = new LinkedHashMap<>();
                Map<String, float[]> u = new LinkedHashMap<>();
                c.put(spec.prediction, new float[size]);
                u.put(spec.prediction, new float[size]);
                models.get((int) y[k]).evaluate(x, t, inputs, c);
                models.get(3).evaluate(x, t, inputs, u);
                float[] said = own == null ? c.get(spec.prediction)
                        : Ddpm.combine(Arrays.asList(c, u), own[k]).get(spec.prediction);
                System.arraycopy(said, 0, outputs.get(spec.prediction), k * size, size);
                if (spec.hasVarianceFraction) {
                    float fraction = (float) fractions[(int) y[k]];
                    Arrays.fill(outputs.get("variance_fraction"), k * size, (k + 1) * size, fraction);
                }
            }
        };
        Denoiser denoise = Ddpm.denoiser(model, spec, inputs(), guidance());
        List<String> told = new ArrayList<>();
        for (State state : Ddpm.walk(denoise, noise(Ddpm.SAMPLING), plan(spec), null, null, null)) {
            told.add(told(state));
        }
        return "{\"states\": " + told + ", \"batches\": " + batches + "}";
    }

    /** Walks a plan with known pixels, or a measurement, from noise, a picture noised, or the picture itself. */
    private String given() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Noise noise = noise(Ddpm.SAMPLING);
        Denoiser denoise = Ddpm.denoiser(gaussian(spec), spec, null, null);
        Plan plan = plan(spec);
        float[] pictures = floats(call.get("pictures"));
        float[] mask = call.get("mask") == null ? null : floats(call.get("mask"));
        float[] x = null;
        if ("noised".equals(call.get("from"))) {
            float[] z = new float[noise.size()];
            noise.fill(0, z);
            x = Ddpm.noised(pictures, z, plan.rows.get(0).a);
        } else if ("picture".equals(call.get("from"))) {
            x = pictures;
        }
        Keep keep = null;
        if (call.get("measure") != null) {
            Measurement measurement = Given.measurementFromText((String) call.get("measure"), ints("shape"), mask);
            denoise = Given.measured(denoise, measurement, measurement.of(pictures));
        } else if (mask != null) {
            keep = Given.knownPixels(pictures, mask, noise(Given.DOMAIN));
        }
        List<String> told = new ArrayList<>();
        List<String> again = new ArrayList<>();
        State first = null;
        for (State state : Ddpm.walk(denoise, noise, plan, x, null, keep)) {
            told.add(told(state));
            first = first == null ? state.copy() : first;
        }
        for (State state : Ddpm.walk(denoise, noise, plan, null, first, keep)) {
            again.add(told(state));
        }
        return "{\"states\": " + told + ", \"again\": " + again + "}";
    }

    private String edit() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Edit edit = new Edit();
        settings(edit);
        edit.mask = call.get("mask") == null ? null : bytes(call.get("mask"));
        edit.measure = (String) call.get("measure");
        edit.strength = call.get("strength") == null ? null : (Double) number("strength");
        edit.returns = call.get("returns") == null ? 0 : (int) integer("returns");
        edit.jump = call.get("jump") == null ? 1 : (int) integer("jump");
        edit.between = call.get("between") != null;
        List<String> labels = new ArrayList<>();
        Model network = gaussian(spec);
        Model model = (x_t, t, inputs, outputs) -> {
            labels.add(Arrays.toString((long[]) inputs.get("y")));
            network.evaluate(x_t, t, inputs, outputs);
        };
        return "{\"bits\": " + bits(Given.edit(model, spec, bytes(call.get("pictures")), edit, null))
                + ", \"labels\": " + labels + "}";
    }

    private static byte[] bytes(Object values) {
        int[] levels = ints(values);
        byte[] bytes = new byte[levels.length];
        for (int k = 0; k < bytes.length; k++) {
            bytes[k] = (byte) levels[k];
        }
        return bytes;
    }

    private Settings settings() {
        return settings(new Settings());
    }

    private Settings settings(Settings settings) {
        settings.n = (int) integer("n");
        settings.numSteps = integerOrNull("num_steps");
        settings.times = call.get("times") == null ? null : ints("times");
        settings.sampler = (String) call.get("sampler");
        settings.eta = call.get("eta") == null ? null : (Double) number("eta");
        settings.variance = (String) call.get("variance");
        settings.plan = (String) call.get("plan");
        settings.seed = Long.parseLong((String) call.get("seed"));
        settings.first = integer("first");
        settings.label = call.get("label");
        settings.guidance = guidance();
        settings.inputs = inputs();
        return settings;
    }

    private String sample() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Model model = gaussian(spec);
        if (call.containsKey("poison")) { // a number that is not finite, in the last image, at one row
            int[] evaluations = {0};
            model = (x_t, t, inputs, outputs) -> {
                gaussian(spec).evaluate(x_t, t, inputs, outputs);
                if (++evaluations[0] == integer("poisoned_row")) {
                    float[] poisoned = outputs.get((String) call.get("poison"));
                    poisoned[poisoned.length - 1] = Float.POSITIVE_INFINITY;
                }
            };
        }
        List<String> told = new ArrayList<>();
        float[] x = Ddpm.sample(model, spec, settings(), (step, numSteps, now, x_0) -> {
            told.add("[" + step + ", " + numSteps + ", " + bits(now) + ", " + bits(x_0) + "]");
            return step < integer("stop_after");
        });
        return "{\"bits\": " + bits(x) + ", \"progress\": " + told + "}";
    }

    /** The best denoiser for pixels that are each N(mean, std^2); tests/golden/README.md. */
    private Model gaussian(ModelSpec spec) {
        return gaussian(spec, number("mean"));
    }

    private Model gaussian(ModelSpec spec, double mean) {
        double variance = number("std") * number("std");
        return (x_t, t, inputs, outputs) -> {
            float[] predicted = outputs.get(spec.prediction);
            float[] fraction = outputs.get("variance_fraction");
            double a = spec.alphasCumprod((int) t);
            double s = a * variance + 1 - a;
            double slope;
            double offset;
            switch (spec.prediction) {
                case "eps":
                    slope = Math.sqrt(1 - a) / s;
                    offset = 0;
                    break;
                case "x_0":
                    slope = Math.sqrt(a) * variance / s;
                    offset = mean;
                    break;
                default:
                    slope = Math.sqrt(a * (1 - a)) * (1 - variance) / s;
                    offset = -Math.sqrt(1 - a) * mean;
            }
            for (int k = 0; k < x_t.length; k++) {
                predicted[k] = (float) slope * (x_t[k] - (float) (Math.sqrt(a) * mean)) + (float) offset;
            }
            if (fraction != null) {
                for (int k = 0; k < x_t.length; k++) {
                    fraction[k] = call.get("fraction") == null ? (float) k / x_t.length : (float) number("fraction");
                }
            }
        };
    }

    /** Returns how many bytes ten rows take from the heap, once everything has been made. */
    private long allocated() {
        com.sun.management.ThreadMXBean threads =
                (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        long thread = Thread.currentThread().getId();
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Noise noise = noise(Ddpm.SAMPLING);
        Denoiser denoise = Ddpm.denoiser(gaussian(spec), spec, null, guidance());
        Iterator<State> states = Ddpm.walk(denoise, noise, plan(spec), null, null, null).iterator();
        for (int i = 0; i < 10; i++) {
            states.next();
        }
        long before = threads.getThreadAllocatedBytes(thread);
        for (int i = 0; i < 10; i++) {
            states.next();
        }
        return threads.getThreadAllocatedBytes(thread) - before;
    }

    private Noise noise(long domain) {
        List<?> numbers = (List<?>) call.get("images");
        long[] images = new long[numbers.size()];
        for (int b = 0; b < images.length; b++) {
            images[b] = (Long) numbers.get(b);
        }
        return Ddpm.noiseStream(Long.parseLong((String) call.get("seed")), images, ints("shape"), domain);
    }

    private long integer(String key) {
        return (Long) call.get(key);
    }

    private Integer integerOrNull(String key) {
        return call.get(key) == null ? null : (Integer) (int) integer(key);
    }

    private double number(String key) {
        return ((Number) call.get(key)).doubleValue();
    }

    /** Unsigned 32-bit words as Java's int. */
    private int[] ints(String key) {
        return ints(call.get(key));
    }

    private static int[] ints(Object values) {
        return ((List<?>) values).stream().mapToInt(value -> (int) (long) (Long) value).toArray();
    }

    private static double[] doubles(Object values) {
        return ((List<?>) values).stream().mapToDouble(value -> ((Number) value).doubleValue()).toArray();
    }

    private static float[] floats(Object values) {
        int[] bits = ints(values);
        float[] floats = new float[bits.length];
        for (int k = 0; k < floats.length; k++) {
            floats[k] = Float.intBitsToFloat(bits[k]);
        }
        return floats;
    }

    private static String bits(float[] values) {
        StringBuilder text = new StringBuilder("[");
        for (float value : values) {
            text.append(text.length() > 1 ? ", " : "").append(Integer.toUnsignedString(Float.floatToRawIntBits(value)));
        }
        return text.append("]").toString();
    }

    private static String levels(byte[] pixels) {
        List<Integer> levels = new ArrayList<>();
        for (byte pixel : pixels) {
            levels.add(pixel & 0xFF);
        }
        return levels.toString();
    }

    private static String quoted(List<String> texts) {
        List<String> quoted = new ArrayList<>();
        texts.forEach(text -> quoted.add(quoted(text)));
        return quoted.toString();
    }

    private static String quoted(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            quoted.append(String.format("\\u%04x", (int) c));
        }
        return quoted.append("\"").toString();
    }
}
