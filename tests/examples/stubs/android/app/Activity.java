package android.app;

import android.content.Context;
import android.content.res.AssetManager;
import android.content.res.Resources;
import android.os.Bundle;
import android.view.View;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public class Activity extends Context {
    protected native void onCreate(Bundle savedInstanceState);

    protected native void onDestroy();

    public native void setContentView(int layoutResID);

    public native <T extends View> T findViewById(int id);

    public final native void runOnUiThread(Runnable action);

    public final native String getString(int resId);

    public final native String getString(int resId, Object... formatArgs);

    public native AssetManager getAssets();

    public native Resources getResources();
}
