package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public class OnnxTensor extends OnnxTensorLike {
    final Buffer data; // direct, in native order
    private boolean closed;

    OnnxTensor(Buffer data, long[] shape) throws OrtException {
        super(new TensorInfo(shape.clone()));
        data.rewind();
        long size = 1;
        for (long extent : shape) {
            size *= extent;
        }
        if (data.remaining() != size) {
            throw new OrtException("a buffer of " + size + " numbers is needed");
        }
        this.data = data;
    }

    public static OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape) throws OrtException {
        return new OnnxTensor(direct(4L * data.remaining()).asFloatBuffer().put(data), shape);
    }

    public static OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape) throws OrtException {
        return new OnnxTensor(direct(8L * data.remaining()).asLongBuffer().put(data), shape);
    }

    public ByteBuffer getByteBuffer() {
        checkOpen();
        return ((ByteBuffer) data).duplicate();
    }

    public LongBuffer getLongBuffer() {
        checkOpen();
        return ((LongBuffer) data).duplicate();
    }

    static ByteBuffer direct(long bytes) {
        return ByteBuffer.allocateDirect(Math.toIntExact(bytes)).order(ByteOrder.nativeOrder());
    }

    void checkOpen() {
        if (closed) {
            throw new IllegalStateException("a closed tensor is used");
        }
    }

    @Override
    public void close() {
        checkOpen();
        closed = true;
    }
}
