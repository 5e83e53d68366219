package android.widget;

import android.view.View;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class ProgressBar extends View {
    public native int getMax();

    public native void setMax(int max);

    public native int getProgress();

    public native void setProgress(int progress);
}
