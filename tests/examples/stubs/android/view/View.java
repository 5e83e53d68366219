package android.view;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class View {
    public static final int VISIBLE = 0;

    public interface OnClickListener {
        void onClick(View v);
    }

    public native void setOnClickListener(OnClickListener l);

    public native int getVisibility();

    public native void setVisibility(int visibility);

    public native boolean isEnabled();

    public native void setEnabled(boolean enabled);

    public native CharSequence getContentDescription();

    public native void setContentDescription(CharSequence contentDescription);
}
