package android;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public final class R {
    public static final class layout {
        public static final int simple_spinner_dropdown_item = 0x01090009;
    }
}
