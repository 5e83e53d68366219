package android.widget;

import android.graphics.drawable.Drawable;
import android.view.View;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class ImageView extends View {
    public native void setImageDrawable(Drawable drawable);
}
