package ddpm;

/** What changes every state of a walk, the first among them: puts in what is known. */
public interface Keep {
    /**
     * Changes a state in place.
     *
     * @param x (B, C, H, W)
     * @param draw the state's noise draw: 0, or the number of the row before it
     * @param a alphas_cumprod there; 1 of the picture
     */
    void keep(float[] x, int draw, double a);
}
