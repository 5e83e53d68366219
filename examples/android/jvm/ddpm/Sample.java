package ddpm;

import static ddpm.DdpmException.Kind.BAD_FILE;
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
            "unet.onnx [--n 16] [--steps N] [--times T,T,...] [--sampler ddim|ddpm] [--eta E] [--plan NAME] [--seed 0] "
                    + "[--first 0] [--label NAME,...] [--guidance G] [--image x.png] [--mask mask.png] "
                    + "[--measure average:4|grey|mask] [--strength S] [--returns 0] [--jump 1] [--out grid.png]";
    private static final List<String> OPTIONS =
            Arrays.asList("--n", "--steps", "--times", "--sampler", "--eta", "--plan", "--seed", "--first", "--label",
                    "--guidance", "--image", "--mask", "--measure", "--strength", "--returns", "--jump", "--out");
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
            throw usage("--out must be a .png file in a folder that exists, got " + shown(out.getPath()) + ".");
        }

        long opened = System.nanoTime();
        try (OrtModel model = OrtModel.open(new File(options.get("model")), 0)) {
            double secondsLoad = (System.nanoTime() - opened) * 1e-9;
            ModelSpec spec = model.spec();
            int[] shape = spec.pictureShape();
            if (shape[0] != 1 && shape[0] != 3) {
                throw usage("The model's pictures must have 1 or 3 channels to be shown, got " + shape[0] + ".");
            }
            Edit settings = new Edit(); // of noise it is settings like any
            byte[] picture = given(options, settings, shape);
            settings.numSteps = options.containsKey("--steps")
                    ? (Integer) (int) integer(options, "--steps", 0, 1, Integer.MAX_VALUE) : null;
            settings.times = times(options.get("--times"));
            settings.sampler = options.get("--sampler");
            settings.eta = number(options, "--eta");
            settings.plan = options.get("--plan");
            settings.seed = seed;
            settings.label = options.containsKey("--label")
                    ? Arrays.asList(options.get("--label").split(",", -1)) : null;
            Double scale = number(options, "--guidance");
            settings.guidance = scale == null ? null : new Guidance(scale, null);

            byte[] pixels = new byte[Math.multiplyExact(n, shape[0] * shape[1] * shape[2])];
            for (int done = 0; done < n; done += BATCH) {
                settings.first = first + done;
                settings.n = Math.min(BATCH, n - done);
                byte[] batch = Ddpm.toUint8(picture == null ? Ddpm.sample(model, spec, settings, null)
                        : Given.edit(model, spec, picture, settings, null), shape);
                System.arraycopy(batch, 0, pixels, done * (pixels.length / n), batch.length);
            }
            long finished = System.currentTimeMillis();
            write(grid(pixels, n, shape), out);
            double seconds = (finished - ManagementFactory.getRuntimeMXBean().getStartTime()) * 1e-3;
            System.out.printf(Locale.ROOT, "{\"images\": %d, \"seconds_load\": %.3f, \"seconds\": %.3f}%n", n,
                    secondsLoad, seconds);
        } catch (ArithmeticException overflow) {
            throw usage("--n must be few enough for one picture, got " + n + ".");
        }
    }

    /** Reads what is given into the settings and returns the pixels of the picture; null where there is none. */
    private static byte[] given(Map<String, String> options, Edit settings, int[] shape) {
        for (String name : Arrays.asList("--mask", "--measure", "--strength", "--returns", "--jump")) {
            if (options.containsKey(name) && !options.containsKey("--image")) {
                throw usage(name + " needs an --image.");
            }
        }
        if (!options.containsKey("--image")) {
            return null;
        }
        settings.mask = options.containsKey("--mask") ? picture(options.get("--mask"), 1, shape) : null;
        settings.measure = options.get("--measure");
        settings.strength = number(options, "--strength");
        settings.returns = (int) integer(options, "--returns", 0, 0, 10_000);
        settings.jump = (int) integer(options, "--jump", 1, 1, 10_000);
        return picture(options.get("--image"), shape[0], shape);
    }

    /** Returns the pixels of a picture of the model's size, (H, W, channels); grey is ITU-R 601's, as in Python. */
    private static byte[] picture(String path, int channels, int[] shape) {
        BufferedImage image;
        try {
            image = ImageIO.read(new File(path));
        } catch (IOException exception) {
            image = null;
        }
        if (image == null) {
            throw new DdpmException(BAD_FILE, path + " cannot be read as a picture.");
        }
        int height = shape[1];
        int width = shape[2];
        if (image.getWidth() != width || image.getHeight() != height) {
            throw usage(path + " must have " + width + " x " + height + " pixels, got " + image.getWidth() + " x "
                    + image.getHeight() + ".");
        }
        byte[] pixels = new byte[height * width * channels];
        // getRGB would take a grey picture for linear light
        boolean isGrey = image.getRaster().getNumBands() == 1 && image.getType() == BufferedImage.TYPE_BYTE_GRAY;
        for (int k = 0; k < height * width; k++) {
            int rgb = isGrey ? image.getRaster().getSample(k % width, k / width, 0) * 0x010101
                    : image.getRGB(k % width, k / width);
            int red = rgb >> 16 & 0xFF;
            int green = rgb >> 8 & 0xFF;
            int blue = rgb & 0xFF;
            for (int channel = 0; channel < channels; channel++) {
                pixels[k * channels + channel] = (byte) (channels == 3 ? rgb >> 16 - 8 * channel
                        : red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16);
            }
        }
        return pixels;
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
            throw new DdpmException(ENVIRONMENT, out + " cannot be written: " + shown(exception.getMessage())
                    + ". Choose another --out.");
        }
    }

    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new TreeMap<>();
        for (int k = 0; k < arguments.length; k++) {
            boolean known = OPTIONS.contains(arguments[k]);
            if (!known && (arguments[k].startsWith("-") || options.containsKey("model"))) {
                throw usage("Unknown argument " + shown(arguments[k]) + ". Say " + USAGE_LINE + ".");
            }
            if (known && k + 1 == arguments.length) {
                throw usage(arguments[k] + " needs a value. Say " + USAGE_LINE + ".");
            }
            options.put(known ? arguments[k] : "model", known ? arguments[++k] : arguments[k]);
        }
        if (!options.containsKey("model")) {
            throw usage("A model must be named. Say " + USAGE_LINE + ".");
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
        throw usage(name + " must be an integer from " + least + " to " + most + ", got " + shown(text) + ".");
    }

    private static Double number(Map<String, String> options, String name) {
        String text = options.get(name);
        try {
            return text == null ? null : Double.valueOf(text);
        } catch (NumberFormatException exception) {
            throw usage(name + " must be a number, got " + shown(text) + ".");
        }
    }

    private static int[] times(String text) {
        try {
            return text == null ? null
                    : Arrays.stream(text.split(",", -1)).map(String::trim).mapToInt(Integer::parseInt).toArray();
        } catch (NumberFormatException exception) {
            throw usage("--times must be integers with commas between them, such as 980,960,0, got " + shown(text)
                    + ".");
        }
    }

    private static DdpmException usage(String message) {
        return new DdpmException(USAGE, message);
    }
}
