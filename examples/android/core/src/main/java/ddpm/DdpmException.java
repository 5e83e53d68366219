package ddpm;

/** What stops the work, told in one line: where, what, got, expected, what to do. */
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

    public DdpmException(Kind kind, String where, String got, String expected, String action) {
        super(where + ". got " + got + ", expected " + expected + ". Do " + action + ".");
        this.kind = kind;
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
