package ddpm;

import static ddpm.DdpmException.Kind.BAD_FILE;
import static ddpm.DdpmException.Kind.ENVIRONMENT;
import static ddpm.DdpmException.shown;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A model file in ONNX Runtime, by its Java interface: the only file that names ai.onnxruntime (1.17 or later, for the
 * outputs in buffers of our own). The same on Android and on a JVM. Used by one thread at a time.
 */
public final class OrtNetwork implements Network, AutoCloseable {
    private final OrtEnvironment environment;
    private final OrtSession.SessionOptions options; // lives as long as the session, as ONNX Runtime asks
    private final OrtSession session;
    private final ModelSpec spec;

    /** The buffers of the last batch size, which ONNX Runtime reads and writes in place. */
    private int batch;
    private FloatBuffer x;
    private LongBuffer times;
    private FloatBuffer[] results;
    private final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();

    /**
     * Opens a file.
     *
     * @param threads of one evaluation; 0 leaves it to ONNX Runtime
     * @throws DdpmException (BAD_FILE) for a file that is no denoiser of this format, (REFUSED) for one that needs a
     *     newer reader, (ENVIRONMENT) where ONNX Runtime does not start
     */
    public static OrtNetwork open(File file, int threads) {
        if (!file.isFile()) {
            throw new DdpmException(BAD_FILE, file + ": no such file", "nothing", "a model", "check the path");
        }
        return new OrtNetwork(file.getPath(), null, threads);
    }

    /** Opens a file's bytes, as an Android app has them from its assets; as above. They are not needed afterwards. */
    public static OrtNetwork open(byte[] model, int threads) {
        return new OrtNetwork("the model", model, threads);
    }

    private OrtNetwork(String name, byte[] model, int threads) {
        try {
            environment = OrtEnvironment.getEnvironment();
            options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(threads);
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL); // what matters is thrown
        } catch (OrtException | LinkageError | RuntimeException exception) {
            throw new DdpmException(ENVIRONMENT, "ONNX Runtime: does not start", shown(exception.toString()),
                    "its native library", "add onnxruntime-android, or on a JVM onnxruntime, to the dependencies");
        }
        try {
            session = model == null
                    ? environment.createSession(name, options)
                    : environment.createSession(model, options);
        } catch (OrtException exception) {
            options.close();
            throw new DdpmException(BAD_FILE, name + ": ONNX Runtime cannot load it", shown(exception.getMessage()),
                    "a sound ONNX file", "export or copy it again");
        }
        try {
            spec = spec(name);
            checkSignature(name);
        } catch (DdpmException refusal) {
            close();
            throw refusal;
        }
    }

    private ModelSpec spec(String name) {
        String json;
        try {
            json = session.getMetadata().getCustomMetadata().get(ModelSpec.METADATA_KEY);
        } catch (OrtException exception) {
            throw new DdpmException(BAD_FILE, name + ": damaged", shown(exception.getMessage()), "metadata",
                    "copy the file again");
        }
        if (json == null) {
            throw new DdpmException(BAD_FILE, name + ": not a file of ddpm-export",
                    "an ONNX model without metadata '" + ModelSpec.METADATA_KEY + "'", "one",
                    "export the checkpoint with ddpm-export");
        }
        return Ddpm.specFromJson(json);
    }

    private void checkSignature(String name) {
        List<String> wanted = spec.outputs();
        if (!session.getInputNames().equals(new HashSet<>(Arrays.asList("x_t", "t")))
                || !session.getOutputNames().containsAll(wanted)) {
            throw new DdpmException(BAD_FILE, name + ": not a denoiser",
                    "inputs " + shown(session.getInputNames()) + " and outputs " + shown(session.getOutputNames()),
                    "inputs x_t and t, outputs " + wanted, "export it with --format onnx");
        }
    }

    /** Returns the spec that travels in the file. */
    public ModelSpec spec() {
        return spec;
    }

    /** As {@link Network}; throws DdpmException (BAD_FILE) where the graph does not run. */
    @Override
    public void evaluate(float[] x_t, long[] t, float[] predicted, float[] varianceFraction) {
        try {
            if (t.length != batch) {
                makeBuffers(t.length);
            }
            refill(x).put(x_t);
            refill(times).put(t);
            session.run(inputs, Collections.emptySet(), outputs).close(); // closes none of ours
            refill(results[0]).get(predicted);
            if (varianceFraction != null) {
                refill(results[1]).get(varianceFraction);
            }
        } catch (OrtException exception) {
            throw new DdpmException(BAD_FILE, "the graph does not run", shown(exception.getMessage()),
                    "values of shape " + t.length + " x " + Arrays.toString(spec.imageShape()),
                    "export the model again");
        }
    }

    /** Goes back to a buffer's start; by the base type, whose method every version of Android has. */
    private static <B extends Buffer> B refill(B buffer) {
        buffer.clear();
        return buffer;
    }

    private void makeBuffers(int images) throws OrtException {
        closeTensors();
        int[] shape = spec.imageShape();
        long[] imagesShape = {images, shape[0], shape[1], shape[2]};
        int size = images * shape[0] * shape[1] * shape[2];
        x = floats(size);
        times = direct(8 * images).asLongBuffer();
        inputs.put("x_t", OnnxTensor.createTensor(environment, x, imagesShape));
        inputs.put("t", OnnxTensor.createTensor(environment, times, new long[] {images}));
        results = new FloatBuffer[spec.outputs().size()];
        for (int k = 0; k < results.length; k++) {
            results[k] = floats(size);
            outputs.put(spec.outputs().get(k), OnnxTensor.createTensor(environment, results[k], imagesShape));
        }
        batch = images;
    }

    private static FloatBuffer floats(int size) {
        return direct(Math.multiplyExact(4, size)).asFloatBuffer();
    }

    private static ByteBuffer direct(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }

    private void closeTensors() {
        batch = 0;
        for (Map<String, OnnxTensor> tensors : Arrays.asList(inputs, outputs)) {
            for (OnnxTensor tensor : tensors.values()) {
                tensor.close();
            }
            tensors.clear();
        }
    }

    /** Frees the session; the runtime's environment, which an app shares, stays. */
    @Override
    public void close() {
        closeTensors();
        try {
            session.close();
        } catch (OrtException exception) {
            throw new DdpmException(ENVIRONMENT, "ONNX Runtime: does not close", shown(exception.getMessage()),
                    "an open session", "close it once");
        }
        options.close();
    }
}
