package ddpm;

/** One network evaluation and the state after it: x = sum x_0[j] x_0^(j) + sum eps[j] eps^(j) + noise z. */
public final class Row {
    /** Its number, from 1, and its noise draw. */
    public final int i;
    /** What the network is told. */
    public final double t;
    /** alphas_cumprod there. */
    public final double a;
    /** The weights of the clean images found, newest first; not to be changed, as the next two. */
    public final double[] x_0;
    /** The weights of the noises found, newest first. */
    public final double[] eps;
    /**
     * None; a standard deviation; or small and large, where the network learned its variance: small^(1-f) large^f, with
     * its variance_fraction f, pixel by pixel.
     */
    public final double[] noise;
    /** Whether eps stays as before where x_0 is clipped; of all rows of a plan, or of none. */
    public final boolean rawEps;

    public Row(int i, double t, double a, double[] x_0, double[] eps, double[] noise, boolean rawEps) {
        this.i = i;
        this.t = t;
        this.a = a;
        this.x_0 = x_0;
        this.eps = eps;
        this.noise = noise;
        this.rawEps = rawEps;
    }

    /** Returns how many evaluations the row reads, its own among them. */
    public int reach() {
        return Math.max(x_0.length, eps.length);
    }
}
