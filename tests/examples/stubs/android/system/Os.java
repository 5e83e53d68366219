package android.system;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public final class Os {
    public static native void setenv(String name, String value, boolean overwrite);
}
