package android.graphics;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public final class Bitmap {
    public enum Config {
        ARGB_8888
    }

    public static native Bitmap createBitmap(int[] colors, int width, int height, Config config);
}
