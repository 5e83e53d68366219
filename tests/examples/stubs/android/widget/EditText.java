package android.widget;

import android.text.Editable;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class EditText extends TextView {
    @Override
    public native Editable getText();
}
