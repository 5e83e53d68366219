package ddpm;

/** From a noisy image to what a network says is in it; one network evaluation a call. */
public interface Denoiser {
    /** Returns (x_0, eps) of x_t at a step: arrays that the next call overwrites. */
    Denoised denoise(float[] x_t, Step step);

    /** A network's word on noisy images, each (B, C, H, W): the clean images and the noise in them. */
    final class Denoised {
        public final float[] x_0;
        public final float[] eps;
        /** Where between the logarithms of the step's two variances its own lies (Nichol and Dhariwal 2021, eq. 15). */
        public final float[] varianceFraction;

        /** Makes room for size numbers each; varianceFraction stays null where the network has learned none. */
        public Denoised(int size, boolean hasVarianceFraction) {
            x_0 = new float[size];
            eps = new float[size];
            varianceFraction = hasVarianceFraction ? new float[size] : null;
        }
    }
}
