package ddpm;

/** What a step leaves. The arrays, (B, C, H, W) each, are the sampler's own: the next step overwrites them. */
public final class State {
    public final Step step;
    /** The images after the step: from a copy of them a sampler can go on. */
    public final float[] x;
    /** The denoiser's clean images before it. */
    public final float[] x_0;
    /** The denoiser's noise before it. */
    public final float[] eps;

    State(Step step, float[] x, float[] x_0, float[] eps) {
        this.step = step;
        this.x = x;
        this.x_0 = x_0;
        this.eps = eps;
    }
}
