package ddpm;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
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
                return "{\"levels\": " + levels(Ddpm.toUint8(floats("bits"), ints("shape"))) + "}";
            case "spec":
                ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
                return "{\"name\": " + quoted(spec.name) + ", \"prediction\": \"" + spec.prediction
                        + "\", \"image_shape\": " + Arrays.toString(spec.imageShape()) + ", \"T\": "
                        + spec.numTrainTimesteps() + ", \"last\": " + spec.alphasCumprod(spec.numTrainTimesteps() - 1)
                        + ", \"clip_x_0\": " + spec.clip_x_0 + ", \"variance\": \"" + spec.variance
                        + "\", \"defaults\": [" + quoted(spec.defaultSampler) + ", " + spec.defaultNumSteps + ", "
                        + spec.defaultEta + "], \"outputs\": " + spec.outputs().size() + "}";
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

    /** Finds a step's coefficients as what one number each in comes out as: the samplers have no other door. */
    private String coefficients() {
        List<Step> step = Collections.singletonList(
                new Step((int) integer("i"), (int) integer("t"), number("a"), number("a_prev")));
        float[] read = new float[3];
        for (int k = 0; k < 3; k++) {
            Denoiser.Denoised one = new Denoiser.Denoised(1, false);
            one.x_0[0] = k == 0 ? 1f : 0f;
            one.eps[0] = k == 1 ? 1f : 0f;
            Noise impulse = constant(k == 2 ? 1f : 0f);
            String variance = (String) call.get("variance");
            Iterable<State> states = variance.equals("fixed_small")
                    ? Ddpm.ddim((x_t, now) -> one, impulse, step, null, number("eta"))
                    : Ddpm.ddpm((x_t, now) -> one, impulse, step, null, variance);
            read[k] = states.iterator().next().x[0];
        }
        ModelSpec v = Ddpm.specFromJson((String) call.get("spec"));
        Denoiser.Denoised found = Ddpm.denoiser((x_t, t, predicted, fraction) -> predicted[0] = 0f, v, 1)
                .denoise(new float[] {1f}, step.get(0));
        return "{\"noise_std\": " + Ddpm.noiseStd(step.get(0), number("eta")) + ", \"bits\": "
                + bits(new float[] {found.x_0[0], found.eps[0], read[0], read[1], read[2]}) + "}";
    }

    private static Noise constant(float value) {
        return new Noise() {
            @Override
            public int size() {
                return 1;
            }

            @Override
            public void fill(long draw, float[] z) {
                z[0] = value;
            }
        };
    }

    private String states() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Noise noise = noise(Ddpm.SAMPLING);
        Denoiser denoise = Ddpm.denoiser(gaussian(spec), spec, noise.size() / pixels(spec));
        List<Step> steps = call.containsKey("times")
                ? Ddpm.trajectory(spec, ints("times"))
                : Ddpm.trajectory(spec, (int) integer("num_steps"));
        steps = steps.subList((int) integer("begin"), steps.size());
        float[] x = call.get("x") == null ? null : floats("x");
        Iterable<State> states = call.get("sampler").equals("ddim")
                ? Ddpm.ddim(denoise, noise, steps, x, number("eta"))
                : Ddpm.ddpm(denoise, noise, steps, x, (String) call.get("variance"));
        List<String> told = new ArrayList<>();
        for (State state : states) {
            told.add("{\"i\": " + state.step.i + ", \"t\": " + state.step.t + ", \"a\": " + state.step.a
                    + ", \"a_prev\": " + state.step.a_prev + ", \"x\": " + bits(state.x) + ", \"x_0\": "
                    + bits(state.x_0) + ", \"eps\": " + bits(state.eps) + "}");
        }
        return "{\"states\": " + told + "}";
    }

    private String sample() {
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Network network = gaussian(spec);
        if (call.containsKey("poison")) { // a number that is not finite, in the step before the last number
            network = (x_t, t, predicted, fraction) -> {
                gaussian(spec).evaluate(x_t, t, predicted, fraction);
                float[] poisoned = call.get("poison").equals("fraction") ? fraction : predicted;
                poisoned[poisoned.length - 1] = Float.POSITIVE_INFINITY;
            };
        }
        List<String> told = new ArrayList<>();
        float[] x = Ddpm.sample(network, spec, Long.parseLong((String) call.get("seed")), integer("first"),
                (int) integer("n"), (int) integer("num_steps"), (String) call.get("sampler"), number("eta"),
                (step, numSteps, now, x_0) -> {
                    told.add("[" + step + ", " + numSteps + ", " + bits(now) + ", " + bits(x_0) + "]");
                    return step < integer("stop_after");
                });
        return "{\"bits\": " + bits(x) + ", \"progress\": " + told + "}";
    }

    /** The best denoiser for pixels that are each N(mean, std^2); tests/golden/README.md. */
    private Network gaussian(ModelSpec spec) {
        double mean = number("mean");
        double variance = number("std") * number("std");
        return (x_t, t, predicted, fraction) -> {
            double a = spec.alphasCumprod((int) t[0]);
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
                    fraction[k] = (float) k / x_t.length;
                }
            }
        };
    }

    /** Returns how many bytes ten steps take from the heap, once everything has been made. */
    private long allocated() {
        com.sun.management.ThreadMXBean threads =
                (com.sun.management.ThreadMXBean) ManagementFactory.getThreadMXBean();
        long thread = Thread.currentThread().getId();
        ModelSpec spec = Ddpm.specFromJson((String) call.get("spec"));
        Noise noise = noise(Ddpm.SAMPLING);
        Denoiser denoise = Ddpm.denoiser(gaussian(spec), spec, noise.size() / pixels(spec));
        Iterator<State> states =
                Ddpm.ddpm(denoise, noise, Ddpm.trajectory(spec, 20), null, (String) call.get("variance")).iterator();
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

    private static int pixels(ModelSpec spec) {
        int[] shape = spec.imageShape();
        return shape[0] * shape[1] * shape[2];
    }

    private long integer(String key) {
        return (Long) call.get(key);
    }

    private double number(String key) {
        return ((Number) call.get(key)).doubleValue();
    }

    /** Unsigned 32-bit words as Java's int. */
    private int[] ints(String key) {
        List<?> values = (List<?>) call.get(key);
        int[] ints = new int[values.size()];
        for (int k = 0; k < ints.length; k++) {
            ints[k] = (int) (long) (Long) values.get(k);
        }
        return ints;
    }

    private float[] floats(String key) {
        int[] bits = ints(key);
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

    private static String quoted(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            quoted.append(String.format("\\u%04x", (int) c));
        }
        return quoted.append("\"").toString();
    }
}
