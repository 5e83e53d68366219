package ai.onnxruntime;

import java.util.Map;

/** Stand-in for ONNX Runtime's class: the few signatures that the programs here call; see README.md. */
public final class OnnxModelMetadata {
    private final Map<String, String> customMetadata;

    OnnxModelMetadata(Map<String, String> customMetadata) {
        this.customMetadata = customMetadata;
    }

    public Map<String, String> getCustomMetadata() {
        return customMetadata;
    }
}
