package android.widget;

import android.view.View;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class TextView extends View {
    public native CharSequence getText();

    public final native void setText(CharSequence text);
}
