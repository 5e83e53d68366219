package ddpm;

/** One step of a trajectory. */
public final class Step {
    /** Its noise draw, from 1. */
    public final int i;
    /** The time, 0-based. */
    public final int t;
    /** alphas_cumprod[t]. */
    public final double a;
    /** alphas_cumprod of the next time, 1 at the end. */
    public final double a_prev;

    public Step(int i, int t, double a, double a_prev) {
        this.i = i;
        this.t = t;
        this.a = a;
        this.a_prev = a_prev;
    }
}
