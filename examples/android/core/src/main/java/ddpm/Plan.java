package ddpm;

import static ddpm.ModelSpec.isNumber;
import static ddpm.ModelSpec.number;
import static ddpm.ModelSpec.unusable;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** A solver as a table of numbers: the rows from noise to picture. The first state is start times noise draw 0. */
public final class Plan {
    static final int MAX_ROWS = 10_000;
    static final int MAX_REACH = 16; // how many evaluations a row may read, its own among them

    public final List<Row> rows;
    public final double start;

    public Plan(List<Row> rows, double start) {
        this.rows = Collections.unmodifiableList(new ArrayList<>(rows));
        this.start = start;
    }

    /** Returns whether any row's noise depends on variance_fraction. */
    public boolean needsLearnedVariance() {
        return rows.stream().anyMatch(row -> row.noise.length == 2);
    }

    /** Returns whether the noises found stay as before where clean images are clipped. */
    public boolean rawEps() {
        return rows.stream().anyMatch(row -> row.rawEps);
    }

    /** Returns how many of the evaluations up to rows.get(k), newest first, later rows read. */
    int keptAfter(int k) {
        int kept = 0;
        for (int ahead = 1; ahead < MAX_REACH && k + ahead < rows.size(); ahead++) {
            kept = Math.max(kept, rows.get(k + ahead).reach() - ahead);
        }
        return kept;
    }

    /** Reads a plan of a file and checks all that walking it relies on. */
    static Plan fromJson(String name, Object values, int numTrainTimesteps, boolean fractionalT) {
        if (!name.matches("[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")) {
            throw unusable("a plan's name must be 1 to 64 letters, digits and ._+-, starting with a letter or digit");
        }
        if (!(values instanceof Map) || !(((Map<?, ?>) values).get("rows") instanceof List)) {
            throw unusable("plan " + name + " must be an object with a list of rows");
        }
        Map<?, ?> plan = (Map<?, ?>) values;
        Object start = plan.containsKey("start") ? plan.get("start") : (Object) 1.0;
        if (!isNumber(start) || !(number(start) > 0)) {
            throw unusable("the start of plan " + name + " must be a positive number");
        }
        Object rawEps = plan.containsKey("raw_eps") ? plan.get("raw_eps") : (Object) false;
        if (!(rawEps instanceof Boolean)) {
            throw unusable("raw_eps of plan " + name + " must be true or false");
        }
        List<?> rows = (List<?>) plan.get("rows");
        if (rows.isEmpty() || rows.size() > MAX_ROWS) {
            throw unusable("plan " + name + " must have 1 to " + MAX_ROWS + " rows, not " + rows.size());
        }
        List<Row> read = new ArrayList<>(rows.size());
        for (Object row : rows) {
            read.add(row(read.size() + 1, row, "row " + (read.size() + 1) + " of plan " + name + ": ",
                    numTrainTimesteps, fractionalT, (Boolean) rawEps));
        }
        return new Plan(read, number(start));
    }

    private static Row row(int i, Object values, String where, int numTrainTimesteps, boolean fractionalT,
            boolean rawEps) {
        if (!(values instanceof List) || ((List<?>) values).size() != 5) {
            throw unusable(where + "it must be [t, a, x_0, eps, noise]");
        }
        List<?> parts = (List<?>) values;
        Object t = parts.get(0);
        if (!isNumber(t) || !(number(t) >= 0 && number(t) <= numTrainTimesteps - 1)
                || !(fractionalT || t instanceof Long)) {
            throw unusable(where + "t must be " + (fractionalT ? "a number" : "an integer") + " from 0 to "
                    + (numTrainTimesteps - 1));
        }
        Object a = parts.get(1);
        if (!isNumber(a) || !(number(a) >= 0 && number(a) < 1)) {
            throw unusable(where + "a must be a number from 0 to below 1");
        }
        double[][] lists = new double[3][];
        for (int k = 0; k < 3; k++) {
            Object list = parts.get(2 + k);
            if (!(list instanceof List) || !((List<?>) list).stream().allMatch(ModelSpec::isNumber)) {
                throw unusable(where + "x_0, eps and noise must be lists of finite numbers");
            }
            lists[k] = ((List<?>) list).stream().mapToDouble(ModelSpec::number).toArray();
        }
        Row row = new Row(i, number(t), number(a), lists[0], lists[1], lists[2], rawEps);
        int most = Math.min(i, MAX_REACH);
        if (row.reach() < 1 || row.reach() > most) {
            throw unusable(where + "it must read 1 to " + most + " evaluations, not " + row.reach());
        }
        boolean positive = true;
        for (double std : row.noise) {
            positive &= std > 0;
        }
        if (row.noise.length > 2 || !positive) {
            throw unusable(where + "noise must be empty, one positive number, or two of them, small and large");
        }
        return row;
    }
}
