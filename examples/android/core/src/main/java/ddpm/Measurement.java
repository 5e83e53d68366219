package ddpm;

/** A linear measurement y = A x of images x, (B, C, H, W), and the way back. */
public interface Measurement {
    /** Returns A x. */
    float[] of(float[] x);

    /** Returns A+ y, A+ being the pseudo-inverse of A. */
    float[] back(float[] y);
}
