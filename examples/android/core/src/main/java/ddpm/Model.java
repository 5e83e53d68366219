package ddpm;

import java.util.Map;

/** A denoising network: one evaluation for a batch of images at one time. */
public interface Model {
    /**
     * Says what the spec names of noisy images.
     *
     * @param x_t noisy images, (B, C, H, W) in that order, about in [-1, 1] plus noise; not to be changed
     * @param t the time of all of them, 0-based; a whole number unless the spec has fractional_t
     * @param inputs what else it is told, by the names of the spec's inputs: long[B] for a label, float[] of B times
     *     the input's shape for all others; not to be changed
     * @param outputs receives, by the names of the spec's outputs, as many numbers as x_t each
     */
    void evaluate(float[] x_t, double t, Map<String, Object> inputs, Map<String, float[]> outputs);
}
