package ddpm;

/** A denoising network: one evaluation for a batch of images at one time. */
public interface Network {
    /**
     * Predicts from noisy images what the spec names: eps, x_0 or v.
     *
     * @param x_t noisy images, (B, C, H, W) in that order, about in [-1, 1] plus noise; not to be changed
     * @param t B times, all the same, 0-based; not to be changed
     * @param predicted receives the prediction, as many numbers as x_t
     * @param varianceFraction receives the second output of a network that learned its variances; null for others
     */
    void evaluate(float[] x_t, long[] t, float[] predicted, float[] varianceFraction);
}
