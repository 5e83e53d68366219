package ddpm;

/** From a noisy image to what a network says is in it; one network evaluation a call. */
public interface Denoiser {
    /**
     * Finds (x_0, eps) of x_t in a row.
     *
     * @param x_0_before the clean images that the evaluation before found; null before the first
     * @param found receives them
     */
    void denoise(float[] x_t, Row row, float[] x_0_before, Denoised found);
}
