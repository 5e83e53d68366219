package android.widget;

import android.content.Context;
import java.util.List;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class ArrayAdapter<T> implements SpinnerAdapter {
    public ArrayAdapter(Context context, int resource, List<T> objects) {}
}
