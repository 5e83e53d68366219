package ddpm;

import java.util.Map;

/** All that decides the images besides the model; what is null is the file's default. */
public class Settings {
    /** How many images, in one batch. */
    public int n = 16;
    /** 1 to T. */
    public Integer numSteps;
    /** Falling, in place of numSteps evenly spaced ones. */
    public int[] times;
    /** ddim or ddpm. */
    public String sampler;
    /** Of ddim: 0 (adds no noise) to 1. */
    public Double eta;
    /** Of ddpm: fixed_small, fixed_large or learned. */
    public String variance;
    /** The name of a plan that the file carries, in place of the five above. */
    public String plan;
    /** 0 to 2^63 - 1. */
    public long seed;
    /** The number of the first image, of 2^32. */
    public long first;
    /**
     * A class by its name or index, as text too, or none (String, Integer, Long), or a List of them, which images take
     * in turn: image k number k mod their count. Null: every class in turn.
     */
    public Object label;
    /** As of {@link Ddpm#denoiser}. */
    public Guidance guidance;
    /** What else the network is told, by name: values for one image or for several, which images take in turn, too. */
    public Map<String, ?> inputs;
}
