package ddpm;

import ddpm.OneCall.Pictures;
import ddpm.OneCall.Refused;
import ddpm.OneCall.Settings;
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

/** The program `sample` on a JVM: pictures of a one-call file, as one PNG. */
public final class Sample {
    private static final List<String> OPTIONS =
            Arrays.asList("--n", "--seed", "--first", "--label", "--steps", "--eta", "--times", "--plan", "--guidance",
                    "--image", "--mask", "--strength", "--out");

    private Sample() {}

    public static void main(String[] arguments) {
        try {
            run(arguments);
        } catch (Refused refused) {
            System.err.println(refused.getMessage());
            System.exit(refused.exitCode);
        } catch (IOException exception) {
            System.err.println(exception.getMessage());
            System.exit(5);
        } catch (UnsatisfiedLinkError | NoClassDefFoundError | ExceptionInInitializerError error) {
            System.err.println("ONNX Runtime does not start: " + error.getMessage() + ".");
            System.exit(5);
        }
    }

    private static void run(String[] arguments) throws IOException {
        Map<String, String> options = new TreeMap<>();
        for (int k = 0; k < arguments.length; k++) {
            boolean known = OPTIONS.contains(arguments[k]);
            if (!known && (arguments[k].startsWith("-") || options.containsKey("model"))) {
                throw usage("Unknown argument " + arguments[k] + ". There are " + String.join(", ", OPTIONS) + ".");
            }
            if (known && k + 1 == arguments.length) {
                throw usage(arguments[k] + " needs a value.");
            }
            options.put(known ? arguments[k] : "model", known ? arguments[++k] : arguments[k]);
        }
        if (!options.containsKey("model")) {
            throw usage("A model must be named. The options are " + String.join(", ", OPTIONS) + ".");
        }
        Settings settings = new Settings();
        settings.n = (int) number(options, "--n", 16);
        if (settings.n < 1 || settings.n > 1 << 20) {
            throw usage("--n must be 1 to 1048576, got " + settings.n + ".");
        }
        settings.seed = number(options, "--seed", 0);
        settings.first = number(options, "--first", 0);
        settings.labels = numbers(options, "--label");
        settings.steps = options.containsKey("--steps") ? (Integer) (int) number(options, "--steps", 0) : null;
        settings.eta = real(options, "--eta");
        settings.times = numbers(options, "--times");
        settings.plan = options.containsKey("--plan") ? (Integer) (int) number(options, "--plan", 0) : null;
        settings.guidance = real(options, "--guidance");
        settings.strength = real(options, "--strength");
        if (options.containsKey("--image")) { // the same picture for all images
            Pictures image = picture(options.get("--image"));
            byte[] copies = new byte[settings.n * image.pixels.length];
            for (int k = 0; k < copies.length; k++) {
                copies[k] = image.pixels[k % image.pixels.length];
            }
            settings.image = new Pictures(settings.n, image.height, image.width, image.channels, copies);
        }
        settings.mask = options.containsKey("--mask") ? picture(options.get("--mask")).pixels : null;
        long opened = System.nanoTime();
        try (OneCall model = OneCall.open(new File(options.get("model")), 0)) {
            double secondsLoad = (System.nanoTime() - opened) * 1e-9;
            Pictures pictures = model.pictures(settings, null);
            long finished = System.currentTimeMillis();
            write(grid(pictures), new File(options.getOrDefault("--out", "grid.png")).getAbsoluteFile());
            double seconds = (finished - ManagementFactory.getRuntimeMXBean().getStartTime()) * 1e-3;
            System.out.printf(Locale.ROOT, "{\"images\": %d, \"seconds_load\": %.3f, \"seconds\": %.3f}%n", settings.n,
                    secondsLoad, seconds);
        }
    }

    /** Returns the pixels of a picture, with one channel where it is grey and three where it is not. */
    private static Pictures picture(String path) {
        BufferedImage image;
        try {
            image = ImageIO.read(new File(path));
        } catch (IOException exception) {
            image = null;
        }
        if (image == null) {
            throw new Refused(3, path + " cannot be read as a picture.");
        }
        int width = image.getWidth();
        int channels = image.getRaster().getNumBands() == 1 ? 1 : 3; // of grey getRGB would take it for linear light
        byte[] pixels = new byte[image.getHeight() * width * channels];
        for (int k = 0; k < pixels.length; k++) {
            int pixel = k / channels;
            pixels[k] = (byte) (channels == 1 ? image.getRaster().getSample(pixel % width, pixel / width, 0)
                    : image.getRGB(pixel % width, pixel / width) >> 16 - 8 * (k % channels));
        }
        return new Pictures(1, image.getHeight(), width, channels, pixels);
    }

    /** Lays images out row by row, as near to a square as they allow; the rest is black. */
    private static BufferedImage grid(Pictures of) {
        int columns = (int) Math.ceil(Math.sqrt(of.n));
        int rows = (of.n + columns - 1) / columns;
        int type = of.channels == 1 ? BufferedImage.TYPE_BYTE_GRAY : BufferedImage.TYPE_3BYTE_BGR;
        BufferedImage page = new BufferedImage(columns * of.width, rows * of.height, type);
        int[] image = new int[of.height * of.width * of.channels];
        for (int k = 0; k < of.n; k++) {
            for (int j = 0; j < image.length; j++) {
                image[j] = of.pixels[k * image.length + j] & 0xFF;
            }
            page.getRaster().setPixels(k % columns * of.width, k / columns * of.height, of.width, of.height, image);
        }
        return page;
    }

    private static void write(BufferedImage page, File out) throws IOException {
        ImageIO.setUseCache(false);
        if (!out.getParentFile().isDirectory() || !ImageIO.write(page, "png", out)) {
            throw new IOException(out + " cannot be written. Choose another --out.");
        }
    }

    private static long number(Map<String, String> options, String name, long usual) {
        long[] numbers = numbers(options, name);
        return numbers == null ? usual : numbers[0];
    }

    private static long[] numbers(Map<String, String> options, String name) {
        String text = options.get(name);
        try {
            return text == null ? null : Arrays.stream(text.split(",", -1)).mapToLong(Long::parseLong).toArray();
        } catch (NumberFormatException exception) {
            throw usage(name + " must be integers such as 3, got " + text + ".");
        }
    }

    private static Float real(Map<String, String> options, String name) {
        try {
            return options.containsKey(name) ? Float.valueOf(options.get(name)) : null;
        } catch (NumberFormatException exception) {
            throw usage(name + " must be a number, got " + options.get(name) + ".");
        }
    }

    private static Refused usage(String message) {
        return new Refused(2, message);
    }
}
