package ddpm;

/** What a network's output says of noisy images, each (B, C, H, W): the clean images and the noise in them. */
public final class Denoised {
    public final float[] x_0;
    public final float[] eps;
    /**
     * Where between the logarithms of a row's small and large noise its own lies (Nichol and Dhariwal 2021, eq. 15):
     * 0 small, 1 large. Null where the network has learned none.
     */
    public float[] varianceFraction;

    /** Makes room for size numbers each. */
    public Denoised(int size) {
        x_0 = new float[size];
        eps = new float[size];
    }

    /** Copies what was found. */
    public Denoised(float[] x_0, float[] eps) {
        this.x_0 = x_0.clone();
        this.eps = eps.clone();
    }
}
