package ddpm;

/** The noise of some images as a function of the draw: draw 0 is x_T, draw i belongs to row i. */
public interface Noise {
    /** Returns how many images it is for. */
    int images();

    /** Returns how many numbers one draw has: images times C times H times W. */
    int size();

    /**
     * Fills in one draw.
     *
     * @param draw 0 to 2^32 - 1
     * @param z receives (B, C, H, W) standard normals, size() of them
     */
    void fill(long draw, float[] z);
}
