package ai.onnxruntime;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public interface OnnxValue extends AutoCloseable {
    @Override
    void close();
}
