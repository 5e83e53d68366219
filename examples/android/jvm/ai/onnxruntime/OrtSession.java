package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public class OrtSession implements AutoCloseable {
    private final long handle;
    private final Set<String> inputNames;
    private final Set<String> outputNames;
    private boolean closed;

    OrtSession(byte[] path, byte[] model, SessionOptions options) throws OrtException {
        options.checkOpen();
        handle = open(path, model, options.intraOpNumThreads, options.logLevel.ordinal());
        inputNames = texts(names(handle, true));
        outputNames = texts(names(handle, false));
    }

    public Set<String> getInputNames() {
        checkOpen();
        return inputNames;
    }

    public Set<String> getOutputNames() {
        checkOpen();
        return outputNames;
    }

    public Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException {
        checkOpen();
        byte[][] names = new byte[inputs.size()][];
        Buffer[] data = new Buffer[inputs.size()];
        long[][] shapes = new long[inputs.size()][];
        int k = 0;
        for (Map.Entry<String, ? extends OnnxTensorLike> entry : inputs.entrySet()) {
            OnnxTensor tensor = (OnnxTensor) entry.getValue();
            tensor.checkOpen();
            names[k] = entry.getKey().getBytes(StandardCharsets.UTF_8);
            data[k] = tensor.data;
            shapes[k++] = tensor.info.getShape();
        }
        byte[][] outputs = new byte[outputNames.size()][];
        k = 0;
        for (String name : outputNames) {
            outputs[k++] = name.getBytes(StandardCharsets.UTF_8);
        }
        return new Result(outputNames, run(handle, names, data, shapes, outputs));
    }

    @Override
    public void close() throws OrtException {
        checkOpen();
        closed = true;
        release(handle);
    }

    private void checkOpen() {
        if (closed) {
            throw new IllegalStateException("a closed session is used");
        }
    }

    private static String text(byte[] utf8) {
        return new String(utf8, StandardCharsets.UTF_8);
    }

    private static Set<String> texts(byte[][] all) {
        Set<String> texts = new LinkedHashSet<>();
        for (byte[] one : all) {
            texts.add(text(one));
        }
        return Collections.unmodifiableSet(texts);
    }

    private static native long open(byte[] path, byte[] model, int threads, int logLevel) throws OrtException;

    private static native byte[][] names(long handle, boolean ofInputs) throws OrtException;

    /** Returns for each output its bytes, and its type as ONNX numbers it followed by its shape: two entries each. */
    private static native Object[] run(long handle, byte[][] inputNames, Buffer[] inputs, long[][] inputShapes,
            byte[][] outputNames) throws OrtException;

    private static native void release(long handle) throws OrtException;

    /** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
    public static class SessionOptions implements AutoCloseable {
        int intraOpNumThreads;
        OrtLoggingLevel logLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_WARNING;
        private boolean closed;

        public void setIntraOpNumThreads(int numThreads) throws OrtException {
            checkOpen();
            intraOpNumThreads = numThreads;
        }

        public void setSessionLogLevel(OrtLoggingLevel logLevel) throws OrtException {
            checkOpen();
            this.logLevel = logLevel;
        }

        void checkOpen() {
            if (closed) {
                throw new IllegalStateException("closed options are used");
            }
        }

        @Override
        public void close() {
            checkOpen();
            closed = true;
        }
    }

    /** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
    public static class Result implements AutoCloseable {
        private final Map<String, OnnxTensor> values = new LinkedHashMap<>();

        Result(Set<String> names, Object[] made) throws OrtException {
            int k = 0;
            for (String name : names) {
                byte[] bytes = (byte[]) made[k];
                long[] header = (long[]) made[k + 1]; // the type, then the shape
                ByteBuffer data = OnnxTensor.direct(bytes.length);
                data.put(bytes).rewind();
                Buffer typed = header[0] == 1 ? data.asFloatBuffer() : header[0] == 7 ? data.asLongBuffer() : data;
                values.put(name, new OnnxTensor(typed, Arrays.copyOfRange(header, 1, header.length)));
                k += 2;
            }
        }

        public Optional<OnnxValue> get(String key) {
            return Optional.ofNullable(values.get(key));
        }

        @Override
        public void close() {
            values.values().forEach(OnnxTensor::close);
        }
    }
}
