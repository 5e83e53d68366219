package ddpm;

import static ddpm.DdpmException.shown;
import static ddpm.ModelSpec.isNumber;
import static ddpm.ModelSpec.number;
import static ddpm.ModelSpec.unusable;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * How strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it. Ranges are
 * checked where it is used.
 */
public final class Guidance {
    private static final double MAX_SCALE = 100;

    /**
     * 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it is, and both cost
     * one evaluation.
     */
    public final double scale;
    /**
     * Low and high, the times t that are guided, both ends among them; at others the scale is 1 (Kynkaanniemi et al.
     * 2024). Null guides at all of them; not to be changed.
     */
    public final double[] interval;

    public Guidance(double scale, double[] interval) {
        this.scale = scale;
        this.interval = interval;
    }

    /** Returns the scale at a time. */
    public double at(double t) {
        return interval == null || interval[0] <= t && t <= interval[1] ? scale : 1.0;
    }

    /** Returns what is wrong with a scale or an interval out of its range; null where nothing is. */
    String trouble() {
        if (!(scale >= 0 && scale <= MAX_SCALE)) {
            return badScale(text(scale));
        }
        return interval == null || isInterval(interval) ? null
                : badInterval(Arrays.stream(interval).mapToObj(Guidance::text).collect(Collectors.toList()));
    }

    private static boolean isInterval(double[] times) {
        return times.length == 2 && 0 <= times[0] && times[0] <= times[1] && times[1] <= Double.MAX_VALUE;
    }

    private static String badScale(String got) {
        return "guidance must be a number from 0 to " + text(MAX_SCALE) + ", got " + got;
    }

    private static String badInterval(Object got) {
        return "the interval of guidance must be two times, the lower first, from 0 on, got "
                + shown(got).replaceFirst("^\\[(.*)]$", "($1)");
    }

    /** Returns a number as people write it: 2 for 2.0. */
    static String text(double value) {
        return value == (long) value ? String.valueOf((long) value) : String.valueOf(value);
    }

    /** Reads the guidance of a file. */
    static Guidance fromJson(Object values) {
        if (!(values instanceof Map) || !((Map<?, ?>) values).containsKey("scale")) {
            throw unusable("guidance must be an object with scale, got " + shown(values));
        }
        Object scale = ((Map<?, ?>) values).get("scale");
        if (!isNumber(scale)) {
            throw unusable(badScale(shown(scale)));
        }
        Object times = ((Map<?, ?>) values).get("interval");
        if (times != null && !(times instanceof List && ((List<?>) times).stream().allMatch(ModelSpec::isNumber))) {
            throw unusable(badInterval(times));
        }
        Guidance guidance = new Guidance(number(scale),
                times == null ? null : ((List<?>) times).stream().mapToDouble(ModelSpec::number).toArray());
        if (guidance.trouble() != null) {
            throw unusable(guidance.trouble());
        }
        return guidance;
    }
}
