package android.content.res;

import java.io.IOException;
import java.io.InputStream;

/** Android's class of this name, with the few signatures that the sample app calls: to compile it, not to run it. */
public final class AssetManager {
    public native InputStream open(String fileName) throws IOException;
}
