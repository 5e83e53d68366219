package ddpm;

import static ddpm.DdpmException.Kind.ENVIRONMENT;
import static ddpm.DdpmException.Kind.USAGE;
import static ddpm.DdpmException.shown;

import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import javax.imageio.ImageIO;

/** The program `sample` on a JVM: pictures from a model file, as one PNG. */
public final class Sample {
    private static final String USAGE_LINE =
            "unet.onnx [--n 16] [--steps N] [--sampler ddim|ddpm] [--eta E] [--seed 0] [--first 0] [--out grid.png]";
    private static final List<String> OPTIONS =
            Arrays.asList("--n", "--steps", "--sampler", "--eta", "--seed", "--first", "--out");
    private static final int BATCH = 16;

    private Sample() {}

    public static void main(String[] arguments) {
        try {
            run(arguments);
        } catch (DdpmException exception) {
            System.err.println(exception.getMessage());
            System.exit(exception.kind.exitCode);
        }
    }

    private static void run(String[] arguments) {
        Map<String, String> options = options(arguments);
        int n = (int) integer(options, "--n", 16, 1, 1_000_000);
        long seed = integer(options, "--seed", 0, 0, Long.MAX_VALUE);
        long first = integer(options, "--first", 0, 0, (1L << 32) - n);
        File out = new File(options.getOrDefault("--out", "grid.png")).getAbsoluteFile();
        if (!out.getName().endsWith(".png") || !out.getParentFile().isDirectory()) {
            throw usage("--out: cannot be written", shown(out.getPath()), "a .png file in a folder that exists",
                    "change it");
        }

        long opened = System.nanoTime();
        try (OrtNetwork network = OrtNetwork.open(new File(options.get("model")), 0)) {
            double secondsLoad = (System.nanoTime() - opened) * 1e-9;
            ModelSpec spec = network.spec();
            int[] shape = spec.imageShape();
            if (shape[0] != 1 && shape[0] != 3) {
                throw usage("the model: its pictures cannot be shown", shape[0] + " channels", "1 or 3",
                        "use another model");
            }
            int numSteps = (int) integer(options, "--steps", spec.defaultNumSteps, 1, spec.numTrainTimesteps());
            String sampler = options.getOrDefault("--sampler", spec.defaultSampler);
            double eta = number(options, "--eta", sampler.equals("ddim") ? spec.defaultEta : 0.0);

            byte[] pixels = new byte[Math.multiplyExact(n, shape[0] * shape[1] * shape[2])];
            for (int done = 0; done < n; done += BATCH) {
                float[] images = Ddpm.sample(network, spec, seed, first + done, Math.min(BATCH, n - done), numSteps,
                        sampler, eta, null);
                byte[] batch = Ddpm.toUint8(images, shape);
                System.arraycopy(batch, 0, pixels, done * (pixels.length / n), batch.length);
            }
            long finished = System.currentTimeMillis();
            write(grid(pixels, n, shape), out);
            double seconds = (finished - ManagementFactory.getRuntimeMXBean().getStartTime()) * 1e-3;
            System.out.printf(Locale.ROOT, "{\"images\": %d, \"seconds_load\": %.3f, \"seconds\": %.3f}%n", n,
                    secondsLoad, seconds);
        } catch (ArithmeticException overflow) {
            throw usage("--n: too many for one picture", n, "fewer", "lower it");
        }
    }

    /** Lays n images, (H, W, C) bytes each, out row by row, as near to a square as they allow; the rest is black. */
    static BufferedImage grid(byte[] pixels, int n, int[] shape) {
        int channels = shape[0];
        int height = shape[1];
        int width = shape[2];
        int columns = (int) Math.ceil(Math.sqrt(n));
        int rows = (n + columns - 1) / columns;
        int type = channels == 1 ? BufferedImage.TYPE_BYTE_GRAY : BufferedImage.TYPE_3BYTE_BGR;
        BufferedImage page = new BufferedImage(columns * width, rows * height, type);
        int[] image = new int[height * width * channels];
        for (int k = 0; k < n; k++) {
            for (int j = 0; j < image.length; j++) {
                image[j] = pixels[k * image.length + j] & 0xFF;
            }
            page.getRaster().setPixels(k % columns * width, k / columns * height, width, height, image);
        }
        return page;
    }

    static void write(BufferedImage page, File out) {
        try {
            ImageIO.setUseCache(false);
            if (!ImageIO.write(page, "png", out)) {
                throw new IOException("this Java writes no PNG");
            }
        } catch (IOException exception) {
            throw new DdpmException(ENVIRONMENT, out + ": cannot be written", shown(exception.getMessage()),
                    "a writable folder with room", "choose another --out");
        }
    }

    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new TreeMap<>();
        for (int k = 0; k < arguments.length; k++) {
            boolean known = OPTIONS.contains(arguments[k]);
            if (!known && (arguments[k].startsWith("-") || options.containsKey("model"))) {
                throw usage("sample: unknown argument", shown(arguments[k]), USAGE_LINE, "leave it out");
            }
            if (known && k + 1 == arguments.length) {
                throw usage(arguments[k] + ": no value", "nothing", USAGE_LINE, "add one");
            }
            options.put(known ? arguments[k] : "model", known ? arguments[++k] : arguments[k]);
        }
        if (!options.containsKey("model")) {
            throw usage("sample: no model", "nothing", USAGE_LINE, "name a file");
        }
        return options;
    }

    private static long integer(Map<String, String> options, String name, long usual, long least, long most) {
        String text = options.get(name);
        try {
            long value = text == null ? usual : Long.parseLong(text);
            if (value >= least && value <= most) {
                return value;
            }
        } catch (NumberFormatException told) {
            // below, as one out of range
        }
        throw usage(name + ": out of range", shown(text), "an integer from " + least + " to " + most,
                "pick one in that range");
    }

    private static double number(Map<String, String> options, String name, double usual) {
        String text = options.get(name);
        try {
            return text == null ? usual : Double.parseDouble(text);
        } catch (NumberFormatException exception) {
            throw usage(name + ": not a number", shown(text), "one such as 0.5", "correct it");
        }
    }

    private static DdpmException usage(String where, Object got, String expected, String action) {
        return new DdpmException(USAGE, where, String.valueOf(got), expected, action);
    }
}
