package ddpm;

/** What stops the work, told in one line: what is wrong and the value seen, then what helps. */
public final class DdpmException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** What went wrong, with the exit code that a program ends with. */
    public enum Kind {
        /** An argument is out of its range, or two contradict each other. */
        USAGE(2),
        /** A file is missing, broken, foreign or hostile. */
        BAD_FILE(3),
        /** A sound file asks for what this reader cannot do. */
        REFUSED(4),
        /** A library or a folder is missing. */
        ENVIRONMENT(5),
        /** An image became infinite or NaN. */
        NOT_FINITE(6);

        public final int exitCode;

        Kind(int exitCode) {
            this.exitCode = exitCode;
        }
    }

    public final Kind kind;
    /** Of NOT_FINITE: the row, and the place of the image in its batch. */
    transient Row row;
    int index;

    public DdpmException(Kind kind, String message) {
        super(message);
        this.kind = kind;
    }

    /** Returns the error for an image of a batch that is no longer finite after, or in, a row. */
    static DdpmException notFinite(Row row, int index, String image) {
        DdpmException error = new DdpmException(Kind.NOT_FINITE, "At step " + row.i + " (t = "
                + (row.t == Math.rint(row.t) ? String.valueOf((long) row.t) : String.valueOf(row.t)) + "), " + image
                + " became NaN or infinite. Run ddpm-check on the model.");
        error.row = row;
        error.index = index;
        return error;
    }

    /** Returns a value as text for an error: strings in quotes, one line, at most 80 characters. */
    public static String shown(Object value) {
        String text = value instanceof String ? "'" + value + "'" : String.valueOf(value);
        StringBuilder safe = new StringBuilder();
        for (int k = 0; k < Math.min(text.length(), 80); k++) {
            char c = text.charAt(k);
            safe.append(Character.isISOControl(c) || c == '\u2028' || c == '\u2029' ? '?' : c);
        }
        return text.length() <= 80 ? safe.toString() : safe.substring(0, 77) + "...";
    }
}
