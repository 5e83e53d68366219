package ddpm;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A strict reader of JSON (RFC 8259): Map, List, String, Boolean, null, Long for integers that fit and Double for other
 * numbers. It is here because a plain JVM has none.
 */
final class Json {
    private static final int MAX_NESTING = 32;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Says why a text is not JSON; never reaches a caller of the core. */
    static final class Malformed extends Exception {
        private static final long serialVersionUID = 1L;

        Malformed(String reason, int at) {
            super(reason + " at character " + at);
        }
    }

    /** Reads one value and nothing after it; at most 32 levels deep. */
    static Object parse(String text) throws Malformed {
        Json json = new Json(text);
        Object value = json.value(1);
        json.skipSpace();
        if (json.at < text.length()) {
            throw json.malformed("something after the end");
        }
        return value;
    }

    private Malformed malformed(String reason) {
        return new Malformed(reason, at);
    }

    private void skipSpace() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    /** Skips space and returns the next character without taking it; 0 at the end. */
    private char peek() {
        skipSpace();
        return at < text.length() ? text.charAt(at) : 0;
    }

    private void take(char wanted) throws Malformed {
        if (peek() != wanted) {
            throw malformed("no '" + wanted + "'");
        }
        at++;
    }

    private boolean takeIf(char wanted) {
        boolean found = peek() == wanted;
        at += found ? 1 : 0;
        return found;
    }

    private Object value(int level) throws Malformed {
        if (level > MAX_NESTING) {
            throw malformed("more than " + MAX_NESTING + " levels");
        }
        switch (peek()) {
            case '{':
                return object(level);
            case '[':
                return array(level);
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private Object word(String word, Object value) throws Malformed {
        if (!text.startsWith(word, at)) {
            throw malformed("no value");
        }
        at += word.length();
        return value;
    }

    private Map<String, Object> object(int level) throws Malformed {
        Map<String, Object> members = new LinkedHashMap<>();
        take('{');
        if (takeIf('}')) {
            return members;
        }
        do {
            if (peek() != '"') {
                throw malformed("no name");
            }
            String name = string();
            take(':');
            members.put(name, value(level + 1));
        } while (takeIf(','));
        take('}');
        return members;
    }

    private List<Object> array(int level) throws Malformed {
        List<Object> values = new ArrayList<>();
        take('[');
        if (takeIf(']')) {
            return values;
        }
        do {
            values.add(value(level + 1));
        } while (takeIf(','));
        take(']');
        return values;
    }

    private String string() throws Malformed {
        StringBuilder string = new StringBuilder();
        at++; // the opening quote
        while (true) {
            char c = next();
            if (c == '"') {
                return string.toString();
            }
            if (c < ' ') {
                throw malformed("a control character in a string");
            }
            string.append(c == '\\' ? escaped() : c);
        }
    }

    private char next() throws Malformed {
        if (at >= text.length()) {
            throw malformed("an open string");
        }
        return text.charAt(at++);
    }

    private char escaped() throws Malformed {
        char c = next();
        int plain = "\"\\/bfnrt".indexOf(c);
        if (plain >= 0) {
            return "\"\\/\b\f\n\r\t".charAt(plain);
        }
        if (c != 'u') {
            throw malformed("an unknown escape");
        }
        int code = 0;
        for (int k = 0; k < 4; k++) {
            char digit = next();
            int hex = digit < 128 ? Character.digit(digit, 16) : -1; // other scripts have digits, too
            if (hex < 0) {
                throw malformed("an unknown escape");
            }
            code = 16 * code + hex;
        }
        return (char) code;
    }

    private boolean takeDigits() {
        int start = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
            at++;
        }
        return at > start;
    }

    private boolean takeHere(String any) {
        boolean found = at < text.length() && any.indexOf(text.charAt(at)) >= 0;
        at += found ? 1 : 0;
        return found;
    }

    private Object number() throws Malformed {
        int start = at;
        takeHere("-");
        boolean valid = takeHere("0") || takeDigits();
        int wholeEnd = at;
        if (valid && takeHere(".")) {
            valid = takeDigits();
        }
        if (valid && takeHere("eE")) {
            takeHere("+-");
            valid = takeDigits();
        }
        if (!valid) {
            throw malformed("no value");
        }
        String number = text.substring(start, at);
        if (at > wholeEnd) {
            double value = Double.parseDouble(number);
            if (Double.isInfinite(value)) {
                throw malformed("a number beyond every double");
            }
            return value;
        }
        try {
            return Long.parseLong(number);
        } catch (NumberFormatException beyondLong) {
            return Double.parseDouble(number);
        }
    }
}
