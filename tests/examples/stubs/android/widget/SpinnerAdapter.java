package android.widget;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public interface SpinnerAdapter {}
