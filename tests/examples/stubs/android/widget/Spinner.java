package android.widget;

import android.view.View;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class Spinner extends View {
    public native SpinnerAdapter getAdapter();

    public native void setAdapter(SpinnerAdapter adapter);

    public native int getSelectedItemPosition();
}
