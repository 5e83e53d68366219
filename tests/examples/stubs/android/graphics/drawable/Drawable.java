package android.graphics.drawable;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public abstract class Drawable {
    public native boolean isFilterBitmap();

    public native void setFilterBitmap(boolean filter);
}
