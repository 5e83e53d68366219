package ddpm;

import static ddpm.DdpmException.Kind.BAD_FILE;
import static ddpm.DdpmException.Kind.ENVIRONMENT;
import static ddpm.DdpmException.Kind.REFUSED;
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
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * A model file in ONNX Runtime, by its Java interface: the only file that names ai.onnxruntime (1.17 or later, for the
 * outputs in buffers of our own). The same on Android and on a JVM. Used by one thread at a time.
 */
public final class OrtModel implements Model, AutoCloseable {
    private final OrtEnvironment environment;
    private final OrtSession.SessionOptions options; // lives as long as the session, as ONNX Runtime asks
    private final OrtSession session;
    private final ModelSpec spec;

    /** The buffers of the last batch size, which ONNX Runtime reads and writes in place. */
    private int batch;
    private final Map<String, Buffer> buffers = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();

    /**
     * Opens a file.
     *
     * @param threads of one evaluation; 0 leaves it to ONNX Runtime
     * @throws DdpmException (BAD_FILE) for a file that is no denoiser of this format, (REFUSED) for one that needs a
     *     newer reader, (ENVIRONMENT) where ONNX Runtime does not start
     */
    public static OrtModel open(File file, int threads) {
        if (!file.isFile()) {
            throw new DdpmException(BAD_FILE, file + ": no such file.");
        }
        return new OrtModel(file.getPath(), null, threads);
    }

    /** Opens a file's bytes, as an Android app has them from its assets; as above. They are not needed afterwards. */
    public static OrtModel open(byte[] model, int threads) {
        return new OrtModel("the model", model, threads);
    }

    private OrtModel(String name, byte[] model, int threads) {
        try {
            environment = OrtEnvironment.getEnvironment();
            options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(threads);
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL); // what matters is thrown
        } catch (OrtException | LinkageError | RuntimeException exception) {
            throw new DdpmException(ENVIRONMENT, "ONNX Runtime does not start: " + shown(exception.toString())
                    + ". Add onnxruntime-android, or on a JVM onnxruntime, to the dependencies.");
        }
        try {
            session = model == null
                    ? environment.createSession(name, options)
                    : environment.createSession(model, options);
        } catch (OrtException exception) {
            options.close();
            throw new DdpmException(BAD_FILE, name + ": ONNX Runtime cannot load it: "
                    + shown(exception.getMessage()) + ". Export or copy it again.");
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
            throw new DdpmException(BAD_FILE, name + ": its metadata cannot be read: "
                    + shown(exception.getMessage()) + ". Copy the file again.");
        }
        if (json == null) {
            throw new DdpmException(BAD_FILE, name + ": an ONNX model without metadata '" + ModelSpec.METADATA_KEY
                    + "'. Export the checkpoint with ddpm-export.");
        }
        return Ddpm.specFromJson(json);
    }

    private void checkSignature(String name) {
        if (spec.graph != null) {
            throw new DdpmException(REFUSED, name + ": a one-call " + spec.graph + ", which shows no network. Run the "
                    + ".onnx that it was made from.");
        }
        Set<String> wanted = new LinkedHashSet<>(Arrays.asList("x_t", "t"));
        spec.inputs.forEach(one -> wanted.add(one.name));
        if (!session.getInputNames().equals(wanted) || !session.getOutputNames().containsAll(spec.outputs())) {
            throw new DdpmException(BAD_FILE, name + ": inputs must be " + wanted + " and outputs " + spec.outputs()
                    + ", got " + shown(session.getInputNames()) + " and " + shown(session.getOutputNames())
                    + ". Export the model again, with --format onnx.");
        }
    }

    /** Returns the spec that travels in the file. */
    public ModelSpec spec() {
        return spec;
    }

    /** As {@link Model}; throws DdpmException (BAD_FILE) where the graph does not run. */
    @Override
    public void evaluate(float[] x_t, double t, Map<String, Object> told, Map<String, float[]> said) {
        int[] shape = spec.stateShape();
        int images = x_t.length / (shape[0] * shape[1] * shape[2]);
        try {
            if (images != batch) {
                makeBuffers(images, shape);
            }
            fill("x_t", x_t);
            for (int k = 0; k < images; k++) {
                if (spec.hasFractionalT) {
                    ((FloatBuffer) buffers.get("t")).put(k, (float) t);
                } else {
                    ((LongBuffer) buffers.get("t")).put(k, (long) t);
                }
            }
            told.forEach(this::fill);
            session.run(inputs, Collections.emptySet(), outputs).close(); // closes none of ours
            said.forEach((name, values) -> ((FloatBuffer) start(name)).get(values));
        } catch (OrtException exception) {
            throw new DdpmException(BAD_FILE, "The graph does not run on " + images + " images of "
                    + Arrays.toString(shape) + ": " + shown(exception.getMessage()) + ". Export the model again.");
        }
    }

    private void fill(String name, Object values) {
        Buffer buffer = start(name);
        if (values instanceof long[]) {
            ((LongBuffer) buffer).put((long[]) values);
        } else {
            ((FloatBuffer) buffer).put((float[]) values);
        }
    }

    /** Goes back to a buffer's start; by the base type, whose method every version of Android has. */
    private Buffer start(String name) {
        Buffer buffer = buffers.get(name);
        buffer.clear();
        return buffer;
    }

    private void makeBuffers(int images, int[] shape) throws OrtException {
        closeTensors();
        inputs.put("x_t", floats("x_t", images, shape));
        inputs.put("t", spec.hasFractionalT ? floats("t", images) : longs("t", images));
        for (Input one : spec.inputs) {
            inputs.put(one.name, one.kind.equals("label") ? longs(one.name, images)
                    : floats(one.name, images, one.shape));
        }
        for (String name : spec.outputs()) {
            outputs.put(name, floats(name, images, shape));
        }
        batch = images;
    }

    private OnnxTensor floats(String name, int images, int... shape) throws OrtException {
        long[] sizes = new long[shape.length + 1];
        sizes[0] = images;
        int size = images;
        for (int k = 0; k < shape.length; k++) {
            sizes[k + 1] = shape[k];
            size = Math.multiplyExact(size, shape[k]);
        }
        FloatBuffer buffer = direct(Math.multiplyExact(4, size)).asFloatBuffer();
        buffers.put(name, buffer);
        return OnnxTensor.createTensor(environment, buffer, sizes);
    }

    private OnnxTensor longs(String name, int images) throws OrtException {
        LongBuffer buffer = direct(8 * images).asLongBuffer();
        buffers.put(name, buffer);
        return OnnxTensor.createTensor(environment, buffer, new long[] {images});
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
            throw new DdpmException(ENVIRONMENT, "ONNX Runtime does not close: " + shown(exception.getMessage()) + ".");
        }
        options.close();
    }
}
