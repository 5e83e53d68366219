package ddpm;

import java.util.ArrayList;
import java.util.List;

/** What a row leaves. The arrays, (B, C, H, W) each, are those of the walk: the next row overwrites them. */
public final class State {
    public final Row row;
    /** The images after the row. */
    public final float[] x;
    /** The denoiser's clean images before it. */
    public final float[] x_0;
    /** The denoiser's noise before it. */
    public final float[] eps;
    /** What later rows read of what was found, newest first. */
    public final List<Denoised> history;

    public State(Row row, float[] x, float[] x_0, float[] eps, List<Denoised> history) {
        this.row = row;
        this.x = x;
        this.x_0 = x_0;
        this.eps = eps;
        this.history = history;
    }

    /** Returns a state with arrays of its own, to be kept; {@link Ddpm#walk} goes on from it exactly. */
    public State copy() {
        List<Denoised> kept = new ArrayList<>(history.size());
        for (Denoised found : history) {
            kept.add(new Denoised(found.x_0, found.eps));
        }
        return new State(row, x.clone(), x_0.clone(), eps.clone(), kept);
    }
}
