package ai.onnxruntime;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public enum OnnxJavaType {
    UINT8
}
