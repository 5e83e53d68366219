package ai.onnxruntime;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public abstract class OnnxTensorLike implements OnnxValue {
    final TensorInfo info;

    OnnxTensorLike(TensorInfo info) {
        this.info = info;
    }

    public TensorInfo getInfo() {
        return info;
    }
}
