package ddpm;

import static ddpm.DdpmException.Kind.USAGE;
import static ddpm.DdpmException.shown;
import static ddpm.ModelSpec.isNumber;
import static ddpm.ModelSpec.number;
import static ddpm.ModelSpec.unusable;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** What a network is told besides x_t and t, as data. */
public final class Input {
    private static final List<String> KINDS = Arrays.asList("label", "vector", "image", "previous");
    private static final String OWN_GUIDANCE = ModelSpec.GUIDANCE; // the scale, of a network that guides itself
    private static final String NO_CLASS = "none"; // as users call it, unless a class has that name
    private static final int MAX_CLASSES = 4096;
    private static final int MAX_NUMBERS = 1 << 26;

    public final String name;
    /**
     * label, an index for each image; vector, D floats; image, (C', H', W') floats; previous, the clean image that the
     * evaluation before found, zeros at first.
     */
    public final String kind;
    /** Without the batch, empty of a label; not to be changed. */
    public final int[] shape;
    /** The number that fills it where nothing is said, the index of "no class" of a label; null: has to be given. */
    public final Double none;
    /** The names of a label's values, from 0 on. */
    public final List<String> classes;

    private Input(String name, String kind, int[] shape, Double none, List<String> classes) {
        this.name = name;
        this.kind = kind;
        this.shape = shape;
        this.none = none;
        this.classes = classes;
    }

    /** Returns how many numbers it has for one image. */
    public int size() {
        return (int) product(shape);
    }

    /** Returns whether whoever samples says it; the walk feeds a previous, and guidance its own scale. */
    public boolean isTold() {
        return !kind.equals("previous") && !isOwnGuidance();
    }

    /** Returns whether it is the scale of guidance, of a network that guides itself. */
    boolean isOwnGuidance() {
        return name.equals(OWN_GUIDANCE);
    }

    /** Refuses what lacks a part of an input, before it is known what this version understands. */
    static void checkParts(Object values) {
        if (!(values instanceof Map)
                || !((Map<?, ?>) values).keySet().containsAll(Arrays.asList("name", "kind", "shape", "none"))) {
            throw unusable("an input must be an object with name, kind, shape and none");
        }
        Map<?, ?> parts = (Map<?, ?>) values;
        if (!(parts.get("shape") instanceof List) || !(classesOf(parts) instanceof List)) {
            throw unusable("shape and classes of an input must be lists");
        }
    }

    private static Object classesOf(Map<?, ?> parts) {
        return parts.containsKey("classes") ? parts.get("classes") : Collections.emptyList();
    }

    /** Reads an input of a file whose parts are checked. */
    static Input fromJson(Map<?, ?> parts, int[] stateShape) {
        Object name = parts.get("name");
        if (!(name instanceof String) || !((String) name).matches("(?!(x_t|t)$)[A-Za-z_][A-Za-z0-9_]*")) {
            throw unusable("an input's name must be an identifier other than x_t and t, not " + shown(name));
        }
        String where = "input " + shown(name);
        Object kind = parts.get("kind");
        if (!KINDS.contains(kind)) {
            throw unusable("the kind of " + where + " must be one of " + String.join(", ", KINDS) + ", not "
                    + shown(kind));
        }
        boolean isLabel = kind.equals("label");
        boolean isPrevious = kind.equals("previous");
        if (name.equals("y") != isLabel || name.equals("x_0_prev") != isPrevious) {
            throw unusable("the name " + (name.equals("y") || isLabel ? "y is kept for the kind label"
                    : "x_0_prev is kept for the kind previous") + ", and the only one that it may have");
        }
        List<?> sizes = (List<?>) parts.get("shape");
        boolean isOwn = kind.equals("vector") && sizes.equals(Collections.singletonList(1L))
                && isNumber(parts.get("none")) && number(parts.get("none")) == 1.0;
        if (name.equals(OWN_GUIDANCE) && !isOwn) {
            throw unusable(where + " must be a vector of one number, whose none is 1");
        }
        int[] shape = new int[sizes.size()];
        for (int k = 0; k < shape.length; k++) {
            Object size = sizes.get(k);
            boolean usable = size instanceof Long && (Long) size > 0 && (Long) size <= MAX_NUMBERS;
            shape[k] = usable ? (int) (long) (Long) size : 0;
            if (!usable || product(Arrays.copyOf(shape, k + 1)) > MAX_NUMBERS) {
                throw unusable("the shape of " + where + " must be positive integers with a product of at most "
                        + MAX_NUMBERS);
            }
        }
        if (shape.length != (isLabel ? 0 : kind.equals("vector") ? 1 : 3)
                || isPrevious && !Arrays.equals(shape, stateShape)) {
            throw unusable("the shape of " + where + ", a " + kind + ", does not fit it: " + Arrays.toString(shape));
        }
        List<?> classes = (List<?>) classesOf(parts);
        Object none = parts.get("none");
        if (isLabel) {
            if (classes.isEmpty() || classes.size() > MAX_CLASSES
                    || !classes.stream().allMatch(one -> one instanceof String)) {
                throw unusable("the classes of " + where + " must be 1 to " + MAX_CLASSES + " names");
            }
            if (new HashSet<>(classes).size() < classes.size()) {
                throw unusable("the classes of " + where + " must have different names");
            }
            if (none != null && !(none instanceof Long && (Long) none >= 0 && (Long) none <= classes.size())) {
                throw unusable("none of " + where + " must be null or an index from 0 to " + classes.size());
            }
        } else if (!classes.isEmpty()) {
            throw unusable("only a label has classes, " + where + " is a " + kind);
        } else if (none != null && !isNumber(none)) {
            throw unusable("none of " + where + " must be null or a finite number");
        }
        String[] names = classes.stream().map(String::valueOf).toArray(String[]::new);
        return new Input((String) name, (String) kind, shape, none == null ? null : (Double) number(none),
                Collections.unmodifiableList(Arrays.asList(names)));
    }

    private static long product(int[] shape) {
        long product = 1;
        for (int size : shape) {
            product *= size;
        }
        return product;
    }

    /**
     * Returns the arrays of a network's inputs for a batch: what was given, and what stands for nothing; zeros for one
     * of kind previous.
     *
     * @throws DdpmException (USAGE) for an input that is unknown, missing or does not fit
     */
    static Map<String, Object> bound(List<Input> inputs, Map<String, ?> given, int batch) {
        List<String> named = inputs.stream().filter(Input::isTold).map(one -> one.name).collect(Collectors.toList());
        for (String name : given.keySet()) {
            if (!named.contains(name)) {
                throw usage("The model has no input " + shown(name) + "; it has "
                        + (named.isEmpty() ? "none" : String.join(", ", named)) + ".");
            }
        }
        Map<String, Object> values = new LinkedHashMap<>();
        for (Input one : inputs) {
            if (one.kind.equals("previous")) {
                values.put(one.name, new float[batch * one.size()]);
            } else if (given.containsKey(one.name)) {
                values.put(one.name, one.batchOf(given.get(one.name), batch));
            } else if (one.none != null) {
                values.put(one.name, one.filled(batch));
            } else {
                throw usage("Input " + shown(one.name) + ", of kind " + one.kind + " and shape " + tuple(one.shape)
                        + ", must be given.");
            }
        }
        return values;
    }

    private Object filled(int batch) {
        if (kind.equals("label")) {
            long[] labels = new long[batch];
            Arrays.fill(labels, none.longValue());
            return labels;
        }
        float[] values = new float[batch * size()];
        Arrays.fill(values, none.floatValue());
        return values;
    }

    /** Returns a value for each image, long[] of a label and float[] of others, from one for all or one for each. */
    private Object batchOf(Object given, int batch) {
        long[] places = new long[batch];
        Arrays.setAll(places, k -> k);
        return inTurn(checked(given, batch), places);
    }

    /**
     * Returns what images are told by their numbers: image k the (k mod K)-th of the K values given, be it one.
     *
     * @throws DdpmException (USAGE) for what does not fit
     */
    Object told(Object given, long[] numbers) {
        Object each = inTurn(checked(given, null), numbers);
        return each instanceof float[] ? each : Arrays.stream((long[]) each).boxed().collect(Collectors.toList());
    }

    private Object inTurn(Object values, long[] numbers) {
        if (values instanceof long[]) {
            long[] labels = (long[]) values;
            return Arrays.stream(numbers).map(number -> labels[(int) (number % labels.length)]).toArray();
        }
        float[] all = (float[]) values;
        int size = size();
        float[] each = new float[numbers.length * size];
        for (int k = 0; k < numbers.length; k++) {
            System.arraycopy(all, (int) (numbers[k] % (all.length / size)) * size, each, k * size, size);
        }
        return each;
    }

    /** Returns one value, or count of them, null for any count, one after the other. */
    private Object checked(Object given, Integer count) {
        if (kind.equals("label")) {
            List<?> labels = given instanceof List ? (List<?>) given : Collections.singletonList(given);
            if (given instanceof List && (count == null ? labels.isEmpty() : labels.size() != count)) {
                throw misshapen("int64 (" + labels.size() + ",)", count);
            }
            return labels.stream().mapToLong(this::label).toArray();
        }
        boolean isOne = given instanceof Number && kind.equals("vector") && size() == 1; // as a plain number
        if (!isOne && !(given instanceof float[])) {
            throw misshapen(shown(given), count);
        }
        float[] values = isOne ? new float[] {((Number) given).floatValue()} : (float[]) given;
        boolean isSeveral = count == null ? values.length > 0 && values.length % size() == 0
                : values.length == (long) count * size();
        if (!isSeveral && values.length != size()) {
            throw misshapen("float32 (" + values.length + ",)", count);
        }
        for (float value : values) {
            if (!Ddpm.isFinite(value)) {
                throw usage("Input " + shown(name) + " must be finite in float32, got NaN, infinity or beyond.");
            }
        }
        return values;
    }

    /** Returns the index of a class that is given by its name, by its index, as text too, or as none. */
    private long label(Object given) {
        Object label = given;
        if (given instanceof String) {
            if (classes.contains(given)) {
                return classes.indexOf(given);
            }
            if (given.equals(NO_CLASS)) {
                if (none == null) {
                    throw usage("Input " + shown(name)
                            + " cannot be none, since the network was always told a class.");
                }
                return none.longValue();
            }
            label = ((String) given).matches("[0-9]{1,9}") ? (Object) Long.valueOf((String) given) : given;
        }
        if (label instanceof Integer || label instanceof Long) {
            long index = ((Number) label).longValue();
            if (index >= 0 && index < classes.size() || none != null && index == none) {
                return index;
            }
        }
        String names = String.join(", ", classes.subList(0, Math.min(20, classes.size())));
        throw usage("Input " + shown(name) + " must be one of " + names + (classes.size() > 20 ? ", ..." : "")
                + " or its index from 0 to " + (classes.size() - 1) + ", got " + shown(String.valueOf(given)) + ".");
    }

    private DdpmException misshapen(String got, Integer count) {
        List<Object> several = new ArrayList<>();
        several.add(count == null ? "K" : count);
        Arrays.stream(shape).forEach(several::add);
        return usage("Input " + shown(name) + " must have shape " + tuple(shape) + " or " + tuple(several) + ", got "
                + got + ".");
    }

    private static String tuple(int[] shape) {
        return tuple(Arrays.stream(shape).boxed().collect(Collectors.toList()));
    }

    private static String tuple(List<?> sizes) {
        String text = sizes.toString();
        return "(" + text.substring(1, text.length() - 1) + (sizes.size() == 1 ? ",)" : ")");
    }

    private static DdpmException usage(String message) {
        return new DdpmException(USAGE, message);
    }
}
