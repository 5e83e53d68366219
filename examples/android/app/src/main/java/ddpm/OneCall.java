package ddpm;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CancellationException;

/**
 * A one-call file, opened: a sampler, a slice or an edit of ddpm-export. Noise, steps and guidance are in the graph.
 *
 * <p>For one thread at a time. What the file leaves open is set in {@link Settings}; what it has fixed stays null.
 */
public final class OneCall implements AutoCloseable {
    private static final Set<String> CARRIED =
            Collections.unmodifiableSet(new TreeSet<>(Arrays.asList("x", "begin", "end", "history", "x_0_prev")));
    private static final long[] SCALAR = {};

    private final OrtEnvironment environment;
    private final OrtSession session;

    /** The names of the graph's inputs: those of {@link Settings} among them are open. */
    public final Set<String> inputs;

    private OneCall(OrtEnvironment environment, OrtSession session) {
        this.environment = environment;
        this.session = session;
        inputs = session.getInputNames();
    }

    /** Pixels of images, (n, height, width, channels) flat, one unsigned byte each. */
    public static final class Pictures {
        public final int n;
        public final int height;
        public final int width;
        public final int channels;
        public final byte[] pixels;

        public Pictures(int n, int height, int width, int channels, byte[] pixels) {
            this.n = n;
            this.height = height;
            this.width = width;
            this.channels = channels;
            this.pixels = pixels;
        }

        /** Level k is k / 127.5 - 1, (n, channels, height, width). */
        private float[] numbers() {
            float[] numbers = new float[pixels.length];
            int area = height * width;
            for (int k = 0; k < numbers.length; k++) {
                int image = k / (area * channels);
                int channel = k / area % channels;
                int level = pixels[(image * area + k % area) * channels + channel] & 0xFF;
                numbers[k] = (float) (level / 127.5 - 1.0);
            }
            return numbers;
        }
    }

    /** What an app says of its pictures. */
    public static final class Settings {
        /** How many images, numbered first and on; an image of a seed is the same whatever is made beside it. */
        public int n = 1;
        public long seed;
        public long first;
        /** Classes by index, which images take in turn by their numbers; of files that take y. */
        public long[] labels;
        public Integer steps;
        /** Of ddim: 0 (adds no noise) to 1. */
        public Float eta;
        /** The steps' own times, falling. */
        public long[] times;
        /** The number of one of the file's plans, in the order of their names, from 1 on; 0 for none. Its rows are steps. */
        public Integer plan;
        /** How strongly a class is followed: 1 is the network as it is. */
        public Float guidance;
        /** The first and the last time at which it is; null for all. */
        public float[] interval;
        /** Of an edit: the pictures, one for each of the n images. */
        public Pictures image;
        /** 255 where pixels are to be made, 0 where those of the image stay: (height, width), one for all. */
        public byte[] mask;
        /** 0 to begin with noise, to 1: how much noise the image is made anew from. */
        public Float strength;
    }

    /** Told of each step of a slice, with a preview, and at the end of other files; returns whether to go on. */
    public interface Progress {
        boolean step(int step, int steps, Pictures preview);
    }

    /** What an app is refused, in words for people; exitCode is that of a program: 2 usage, 3 bad file, 6 not finite. */
    public static final class Refused extends RuntimeException {
        private static final long serialVersionUID = 1L;
        public final int exitCode;

        public Refused(int exitCode, String message) {
            super(message);
            this.exitCode = exitCode;
        }

        /** The graph's checks are nodes that are called by what they ask for. */
        private static Refused run(OrtException exception) {
            String reason = String.valueOf(exception.getMessage());
            int name = reason.indexOf("Name:'");
            String node = name < 0 ? "" : reason.substring(name + 6, reason.indexOf('\'', name + 6));
            if (node.contains("NaN or infinity")) {
                return new Refused(6, node + ". Check the model with ddpm-check.");
            }
            return node.contains(" must be ") ? new Refused(2, node + ".")
                    : new Refused(3, "The graph does not run: " + reason);
        }
    }

    /** Opens the bytes of a file; threads is how many a run takes, 0 for what ONNX Runtime chooses. */
    public static OneCall open(byte[] model, int threads) {
        return open("The model", threads, (environment, options) -> environment.createSession(model, options));
    }

    /** Opens a file as its bytes above, with weights beside it if it has any there. */
    public static OneCall open(File model, int threads) {
        String path = model.getPath();
        return open(path, threads, (environment, options) -> environment.createSession(path, options));
    }

    private interface Opening {
        OrtSession session(OrtEnvironment environment, OrtSession.SessionOptions options) throws OrtException;
    }

    private static OneCall open(String what, int threads, Opening opening) {
        OneCall opened;
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL); // what fails is thrown
            OrtEnvironment environment = OrtEnvironment.getEnvironment();
            opened = new OneCall(environment, opening.session(environment, options));
        } catch (OrtException exception) {
            throw new Refused(3, what + ": ONNX Runtime cannot load it: " + exception.getMessage());
        }
        boolean isWhole = opened.session.getOutputNames().contains("num_steps") == opened.inputs.contains("begin");
        if (!opened.inputs.containsAll(Arrays.asList("seed", "first")) || !isWhole) {
            opened.close();
            throw new Refused(3, what + " is no one-call file that this host takes. Export the model with --format "
                    + "sampler, slice or edit; a slice without --open all.");
        }
        return opened;
    }

    /**
     * Makes pictures; progress may be null. Throws CancellationException where it said no, and Refused for what the file
     * or the graph refuses.
     */
    public Pictures pictures(Settings settings, Progress progress) {
        Map<String, OnnxTensor> given = new HashMap<>();
        OrtSession.Result before = null; // its tensors are the next slice's inputs
        try {
            feed(given, settings);
            if (!inputs.contains("begin")) {
                try (OrtSession.Result made = session.run(given)) {
                    return told(progress, 1, 1, images(made));
                }
            }
            // of step 0 only the number of rows counts
            Map<String, OnnxTensor> state = new HashMap<>();
            state.put("x", floats(new float[0], settings.n, 0, 0, 0));
            state.put("x_0_prev", floats(new float[0], settings.n, 0, 0, 0));
            state.put("history", floats(new float[0], 0, settings.n, 0, 0, 0));
            for (int step = 0;; step++) {
                state.put("begin", integers(new long[] {step}, SCALAR));
                state.put("end", integers(new long[] {step + 1}, SCALAR));
                state.keySet().retainAll(inputs);
                Map<String, OnnxTensor> all = new HashMap<>(given);
                all.putAll(state);
                OrtSession.Result made = session.run(all);
                if (before != null) {
                    before.close();
                }
                before = made;
                state.clear();
                state.put("x", tensor(made, "x_after"));
                state.put("x_0_prev", tensor(made, "x_0"));
                if (inputs.contains("history")) {
                    state.put("history", tensor(made, "history_after"));
                }
                int steps = (int) tensor(made, "num_steps").getLongBuffer().get(0);
                Pictures shown = told(progress, step + 1, steps, images(made));
                if (step + 1 >= steps) {
                    return shown;
                }
            }
        } catch (OrtException exception) {
            throw Refused.run(exception);
        } finally {
            given.values().forEach(OnnxTensor::close);
            if (before != null) {
                before.close();
            }
        }
    }

    private static Pictures told(Progress progress, int step, int steps, Pictures shown) {
        if (progress != null && !progress.step(step, steps, shown)) {
            throw new CancellationException("cancelled after step " + step + " of " + steps);
        }
        return shown;
    }

    /** Adds the inputs of a run, all but those that go from slice to slice. */
    private void feed(Map<String, OnnxTensor> given, Settings settings) throws OrtException {
        int n = settings.n;
        Map<String, Object> said = new HashMap<>();
        said.put("seed", settings.seed);
        said.put("first", settings.first);
        said.put("steps", settings.steps);
        said.put("eta", settings.eta);
        said.put("times", settings.times);
        said.put("plan", settings.plan);
        said.put("guidance", settings.guidance);
        said.put("guidance_interval", settings.interval);
        said.put("strength", settings.strength);
        if (inputs.contains("n")) {
            said.put("n", n);
        }
        if (settings.labels != null && settings.labels.length > 0) {
            long[] turn = new long[n];
            Arrays.setAll(turn, k -> settings.labels[(int) ((Math.max(settings.first, 0) + k) % settings.labels.length)]);
            said.put("y", turn);
        }
        Pictures image = settings.image;
        if (image != null) {
            int area = image.height * image.width;
            if (image.n != n || settings.mask != null && settings.mask.length != area) {
                throw new Refused(2, "There must be an image for each of " + n + ", and a mask must have their size.");
            }
            float[] mask = new float[n * image.channels * area];
            for (int k = 0; k < mask.length; k++) {
                mask[k] = settings.mask == null ? 1f : (settings.mask[k % area] & 0xFF) / 255f;
            }
            given.put("image", floats(image.numbers(), n, image.channels, image.height, image.width));
            given.put("mask", floats(mask, n, image.channels, image.height, image.width));
        }
        said.values().removeAll(Collections.singleton(null));
        Set<String> fixed = new TreeSet<>(said.keySet());
        fixed.addAll(given.keySet());
        fixed.removeAll(inputs);
        if (!fixed.isEmpty()) {
            String name = fixed.iterator().next();
            throw new Refused(2, name + " is fixed in this file. Export the model again with --open " + name
                    + ", where it has any.");
        }
        // what is open and has a value that stands for nothing
        said.putIfAbsent("times", new long[0]);
        said.putIfAbsent("plan", 0);
        said.putIfAbsent("eta", 0f);
        said.putIfAbsent("strength", 0f);
        said.putIfAbsent("guidance_interval", new float[] {0f, 1e9f});
        for (String name : inputs) {
            Object value = said.get(name);
            if (value instanceof long[]) {
                given.put(name, integers((long[]) value, ((long[]) value).length));
            } else if (value instanceof float[]) {
                given.put(name, floats((float[]) value, ((float[]) value).length));
            } else if (value instanceof Float) {
                given.put(name, floats(new float[] {(Float) value}, SCALAR));
            } else if (value != null) {
                given.put(name, integers(new long[] {((Number) value).longValue()}, SCALAR));
            } else if (!given.containsKey(name) && !CARRIED.contains(name)) {
                throw new Refused(2, name + " must be set: the file leaves it open.");
            }
        }
    }

    private static OnnxTensor tensor(OrtSession.Result made, String name) {
        return (OnnxTensor) made.get(name).get();
    }

    private static Pictures images(OrtSession.Result made) {
        OnnxTensor images = tensor(made, "images");
        long[] sizes = images.getInfo().getShape();
        byte[] pixels = new byte[images.getByteBuffer().remaining()];
        images.getByteBuffer().get(pixels);
        return new Pictures((int) sizes[0], (int) sizes[1], (int) sizes[2], (int) sizes[3], pixels);
    }

    private OnnxTensor integers(long[] values, long... shape) throws OrtException {
        return OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape);
    }

    private OnnxTensor floats(float[] values, long... shape) throws OrtException {
        return OnnxTensor.createTensor(environment, FloatBuffer.wrap(values), shape);
    }

    /** Frees the session; the runtime's environment, which an app shares, stays. */
    @Override
    public void close() {
        try {
            session.close();
        } catch (OrtException exception) {
            throw new Refused(3, "ONNX Runtime does not close: " + exception.getMessage());
        }
    }
}
