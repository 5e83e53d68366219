package ai.onnxruntime;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public class OrtException extends Exception {
    private static final long serialVersionUID = 1L;

    public OrtException(String message) {
        super(message);
    }
}
