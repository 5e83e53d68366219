package ddpm;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;

/** Pictures by one call, `unet.sampler.onnx 16 50 7 grid.png` (n, steps, seed): the sampler is in the file. */
public final class OneCall {
    private OneCall() {}

    public static void main(String[] arguments) throws OrtException {
        int n = Integer.parseInt(arguments[1]);
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        OrtSession session = environment.createSession(arguments[0], new OrtSession.SessionOptions());
        ModelSpec spec = Ddpm.specFromJson(
                session.getMetadata().getCustomMetadata().get(ModelSpec.METADATA_KEY));
        int[] shape = spec.pictureShape(); // (C, H, W)

        Map<String, OnnxTensor> inputs = new HashMap<>();
        long[] scalar = {};
        long[] integers = {Long.parseLong(arguments[3]), 0, n, Long.parseLong(arguments[2])};
        String[] names = {"seed", "first", "n", "steps"};
        for (int k = 0; k < names.length; k++) {
            inputs.put(names[k], OnnxTensor.createTensor(environment, LongBuffer.wrap(integers, k, 1).slice(), scalar));
        }
        inputs.put("eta", OnnxTensor.createTensor(environment, FloatBuffer.wrap(new float[] {0f}), scalar));
        long[] none = {0}; // times: evenly spaced steps
        inputs.put("times", OnnxTensor.createTensor(environment, LongBuffer.allocate(0), none));
        if (!spec.plans.isEmpty()) { // none of the file's own
            inputs.put("plan", OnnxTensor.createTensor(environment, LongBuffer.wrap(new long[] {0}), scalar));
        }
        if (spec.label() != null) { // every class in turn
            long[] labels = new long[n];
            Arrays.setAll(labels, k -> k % spec.label().classes.size());
            inputs.put("y", OnnxTensor.createTensor(environment, LongBuffer.wrap(labels), new long[] {n}));
        }
        if (spec.takesGuidance()) { // the file's own, or none: a scale of 1
            Guidance guidance = Ddpm.guidanceFor(spec, null);
            double[] interval = guidance.interval == null ? new double[] {0, spec.numTrainTimesteps() - 1}
                    : guidance.interval;
            float[] scale = {(float) guidance.scale};
            float[] times = {(float) interval[0], (float) interval[1]};
            inputs.put("guidance", OnnxTensor.createTensor(environment, FloatBuffer.wrap(scale), scalar));
            inputs.put("guidance_interval",
                    OnnxTensor.createTensor(environment, FloatBuffer.wrap(times), new long[] {2}));
        }
        ByteBuffer images = ByteBuffer.allocateDirect(n * shape[0] * shape[1] * shape[2]);
        long[] imagesShape = {n, shape[1], shape[2], shape[0]};
        OnnxTensor output = OnnxTensor.createTensor(environment, images, imagesShape, OnnxJavaType.UINT8);
        session.run(inputs, Collections.emptySet(), Collections.singletonMap("images", output)).close();

        byte[] pixels = new byte[images.capacity()];
        images.get(pixels);
        Sample.write(Sample.grid(pixels, n, shape), new File(arguments[4]));
    }
}
