package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
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

    public OnnxModelMetadata getMetadata() throws OrtException {
        checkOpen();
        Map<String, String> metadata = new LinkedHashMap<>();
        for (byte[] key : metadataKeys(handle)) {
            metadata.put(text(key), text(metadataValue(handle, key)));
        }
        return new OnnxModelMetadata(Collections.unmodifiableMap(metadata));
    }

    /** Writes the pinned outputs in place; unlike ONNX Runtime's, this one makes no others. */
    public Result run(Map<String, ? extends OnnxTensorLike> inputs, Set<String> requestedOutputs,
            Map<String, ? extends OnnxValue> pinnedOutputs) throws OrtException {
        checkOpen();
        if (!requestedOutputs.isEmpty()) {
            throw new OrtException("this stand-in has pinned outputs only");
        }
        Values in = new Values(inputs);
        Values out = new Values(pinnedOutputs);
        run(handle, in.names, in.data, in.shapes, out.names, out.data, out.shapes);
        return new Result();
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

    /** The parts of some tensors, side by side, as native code takes them. */
    private static final class Values {
        final byte[][] names;
        final Buffer[] data;
        final long[][] shapes;

        Values(Map<String, ? extends OnnxValue> tensors) {
            names = new byte[tensors.size()][];
            data = new Buffer[tensors.size()];
            shapes = new long[tensors.size()][];
            int k = 0;
            for (Map.Entry<String, ? extends OnnxValue> entry : tensors.entrySet()) {
                OnnxTensor tensor = (OnnxTensor) entry.getValue();
                tensor.checkOpen();
                names[k] = entry.getKey().getBytes(StandardCharsets.UTF_8);
                data[k] = tensor.data;
                shapes[k++] = tensor.shape;
            }
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

    private static native byte[][] metadataKeys(long handle) throws OrtException;

    private static native byte[] metadataValue(long handle, byte[] key) throws OrtException;

    private static native void run(long handle, byte[][] inputNames, Buffer[] inputs, long[][] inputShapes,
            byte[][] outputNames, Buffer[] outputs, long[][] outputShapes) throws OrtException;

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
        @Override
        public void close() {}
    }
}
