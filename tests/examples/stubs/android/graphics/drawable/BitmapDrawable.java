package android.graphics.drawable;

import android.content.res.Resources;
import android.graphics.Bitmap;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class BitmapDrawable extends Drawable {
    public BitmapDrawable(Resources res, Bitmap bitmap) {}

    @Override
    public native void setFilterBitmap(boolean filter);
}
