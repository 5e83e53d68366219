package ddpm;

/** Told after every step. */
public interface Progress {
    /**
     * Returns whether to go on; false cancels.
     *
     * @param step 1 to numSteps
     * @param x the images after the step, (B, C, H, W); the next step overwrites them
     * @param x_0 the clean images that the network saw: the preview; overwritten, too
     */
    boolean step(int step, int numSteps, float[] x, float[] x_0);
}
