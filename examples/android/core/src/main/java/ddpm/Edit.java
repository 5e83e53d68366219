package ddpm;

/** What an edit is given besides what decides any batch; {@link Given#edit} makes images of it. */
public final class Edit extends Settings {
    /** (H, W), or one for each picture: 255 where pixels are to be made, 0 where they are known, between them blended. */
    public byte[] mask;
    /** average:K, grey or mask. */
    public String measure;
    /** Above 0 to 1: the share of the training times from which on noise is added and taken away again. */
    public Double strength;
    /** How often to go back (RePaint), with a mask or a measurement. */
    public int returns;
    /** How many rows to go back. */
    public int jump = 1;
    /** Makes n images from the first of two pictures to the second, all with the noise of one; needs a strength. */
    public boolean between;

    /** One image of each picture, until n says otherwise. */
    public Edit() {
        n = 1;
    }
}
