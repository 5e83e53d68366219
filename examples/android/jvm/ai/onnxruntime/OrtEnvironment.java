package ai.onnxruntime;

import java.nio.charset.StandardCharsets;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public class OrtEnvironment {
    private static final OrtEnvironment INSTANCE = new OrtEnvironment();

    static {
        System.loadLibrary("onnxruntime_standin");
    }

    private OrtEnvironment() {}

    public static OrtEnvironment getEnvironment() {
        return INSTANCE;
    }

    public OrtSession createSession(String modelPath, OrtSession.SessionOptions options) throws OrtException {
        return new OrtSession(modelPath.getBytes(StandardCharsets.UTF_8), null, options);
    }

    public OrtSession createSession(byte[] modelArray, OrtSession.SessionOptions options) throws OrtException {
        return new OrtSession(null, modelArray, options);
    }
}
