// ddpm_sample - images from a denoiser file, as a grid: ddpm_sample unet.onnx --n 16 --steps 50 --seed 7 --out grid.png;
// of a model whose states are no pictures the numbers, float32 (n, *shape): --out x.npy
//
// Prints one line of JSON: how many images, the seconds that opening the file took, and those until the images exist.
// Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <unistd.h>
#endif

#include "grid_png.hpp"
#include "no_telemetry.hpp"
#include "npy.hpp"
#include "onnx_model.hpp"
#include "printable.hpp"

namespace {

constexpr char usage[] =
    "usage: ddpm_sample MODEL.onnx [--n 16] [--steps N | --times 999,500,0] [--sampler ddim|ddpm] [--eta 0..1]\n"
    "                   [--plan NAME] [--seed 0] [--first 0] [--label NAME,...] [--guidance 0..100]\n"
    "                   [--guidance-interval 100,800] [--input NAME=0.1,0.2|X.png]... [--out grid.png]\n"
    "                   [--image X.png [--mask M.png] [--measure average:K|grey|mask] [--strength 0..1]\n"
    "                    [--returns 0 [--jump 1]] | --between A.png B.png --strength 0..1]\n"
    "--plan is one that the file carries, in place of steps, times, sampler and eta.\n"
    "--label takes classes by name or index, or none, which images take in turn; without it they take every class.\n"
    "--guidance-interval is the times that are guided. --input tells the network numbers, for all images or in turn, or\n"
    "a picture of the input's size.\n"
    "--image is a picture to begin with, of the model's size, of which --n are made, 1 unless given: where the mask is\n"
    "white, with what is measured, or from so much noise; --between makes 9 from one picture to another.\n"
    "Of a model whose states are no pictures --out is an .npy of its numbers.\n"
    "What is left out is the file's own. Same seed, same images, on every machine.\n";
constexpr std::int64_t most_between = 4096;
constexpr std::int64_t batch_limit = 16;  // images at a time: memory, never the images

volatile std::sig_atomic_t interrupted = 0;

struct Options {
    std::string model, out = "grid.png";
    std::optional<std::string> label;
    std::optional<std::array<double, 2>> interval;
    std::optional<std::int64_t> n;
    std::string image, mask;
    std::map<std::string, std::string> pictures;  // for inputs of the network, by name
    std::vector<std::string> between;  // two, or none
    ddpm::Given given;
    ddpm::Settings settings;

    bool is_given() const {
        return !image.empty() || !mask.empty() || !between.empty() || given.measure || given.strength ||
               given.returns != 0;
    }
};

template <class T>
T number_from(const std::string& option, const std::string& text) {
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    T value{};
    if (!(stream >> value) || !stream.eof()) {
        throw ddpm::Error(ddpm::Code::usage, option + " must be a number within 64 bits, got " +
                                                 ddpm::detail::in_quotes(text) + ".");
    }
    return value;
}

std::vector<std::string> words_of(const std::string& text) {
    std::vector<std::string> words;
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        words.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return words;
}

// Return the labels of an option: a class, whose name may have commas, or several with commas between them.
std::optional<ddpm::InputValue> labels_from(const std::optional<std::string>& text, const ddpm::ModelSpec& spec) {
    const ddpm::Input* label = text ? spec.label() : nullptr;
    if (!text || (label && std::count(label->classes.begin(), label->classes.end(), *text) > 0)) {
        return text;
    }
    std::vector<std::string> names = words_of(*text);
    for (std::string& name : names) {
        name.erase(0, name.find_first_not_of(' '));
        name.erase(name.find_last_not_of(' ') + 1);
    }
    return names;
}

std::string named(const std::string& option, const std::string& path) {
    if (path.empty()) {
        throw ddpm::Error(ddpm::Code::usage, option + " must name a picture.");
    }
    return path;
}

template <class T>
std::vector<T> numbers_from(const std::string& option, const std::string& text) {
    std::vector<T> numbers;
    for (const std::string& word : words_of(text)) {
        numbers.push_back(number_from<T>(option, word));
    }
    return numbers;
}

std::array<double, 2> interval_from(const std::string& option, const std::string& text) {
    const std::vector<double> times = numbers_from<double>(option, text);
    if (times.size() != 2) {
        throw ddpm::Error(ddpm::Code::usage,
                          option + " must be two times, such as 100,800, got " + ddpm::detail::in_quotes(text) + ".");
    }
    return {times[0], times[1]};
}

// Add what NAME=NUMBERS or NAME=X.png says of an input that is no label.
void add_input(Options& options, const std::string& option, const std::string& text) {
    const std::size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
        throw ddpm::Error(ddpm::Code::usage,
                          option + " must be given as NAME=NUMBERS or NAME=X.png, got " +
                              ddpm::detail::in_quotes(text) + ".");
    }
    const std::string name = text.substr(0, equals), said = text.substr(equals + 1), ending = ".png";
    options.pictures.erase(name);
    options.settings.inputs.erase(name);
    if (said.size() > ending.size() && said.compare(said.size() - ending.size(), ending.size(), ending) == 0) {
        options.pictures[name] = said;
    } else {
        options.settings.inputs[name] = numbers_from<float>(option, said);
    }
}

// Return the guidance that options say: a scale, and an interval of that or of the file's own.
std::optional<ddpm::Guidance> guidance_from(const Options& options, const ddpm::ModelSpec& spec) {
    std::optional<ddpm::Guidance> guidance = options.settings.guidance;
    if (options.interval) {
        guidance = guidance ? guidance : spec.defaults.guidance;
        if (!guidance) {
            throw ddpm::Error(ddpm::Code::usage, "--guidance-interval needs --guidance, since the model has no "
                                                 "guidance of its own.");
        }
        guidance->interval = options.interval;
    }
    return guidance;
}

Options options_from(const std::vector<std::string>& arguments) {
    Options options;
    ddpm::Settings& settings = options.settings;
    for (std::size_t k = 0; k < arguments.size(); ++k) {
        const std::string& option = arguments[k];
        if (option.compare(0, 2, "--") != 0) {
            if (!options.model.empty()) {
                throw ddpm::Error(ddpm::Code::usage, "There must be one MODEL, got " +
                                                         ddpm::detail::in_quotes(option) + " as a second one.");
            }
            options.model = option;
            continue;
        }
        const std::string value = k + 1 < arguments.size() ? arguments[++k] : "";
        if (option == "--n") {
            options.n = number_from<std::int64_t>(option, value);
        } else if (option == "--steps") {
            settings.num_steps = number_from<std::int64_t>(option, value);
        } else if (option == "--times") {
            settings.times = numbers_from<std::int64_t>(option, value);
        } else if (option == "--plan") {
            settings.plan = value;
        } else if (option == "--sampler") {
            settings.sampler = value;
        } else if (option == "--eta") {
            settings.eta = number_from<double>(option, value);
        } else if (option == "--seed") {
            settings.seed = number_from<std::int64_t>(option, value);
        } else if (option == "--first") {
            settings.first = number_from<std::int64_t>(option, value);
        } else if (option == "--label") {
            options.label = value;
        } else if (option == "--guidance") {
            settings.guidance = ddpm::Guidance{number_from<double>(option, value)};
        } else if (option == "--guidance-interval") {
            options.interval = interval_from(option, value);
        } else if (option == "--input") {
            add_input(options, option, value);
        } else if (option == "--image" || option == "--mask") {
            (option == "--image" ? options.image : options.mask) = named(option, value);
        } else if (option == "--between") {
            options.between = {named(option, value), named(option, k + 1 < arguments.size() ? arguments[++k] : "")};
        } else if (option == "--measure") {
            options.given.measure = value;
        } else if (option == "--strength") {
            options.given.strength = number_from<double>(option, value);
        } else if (option == "--returns") {
            options.given.returns = number_from<std::int64_t>(option, value);
        } else if (option == "--jump") {
            options.given.jump = number_from<std::int64_t>(option, value);
        } else if (option == "--out") {
            options.out = value;
        } else {
            throw ddpm::Error(ddpm::Code::usage,
                              "There is no option " + ddpm::detail::in_quotes(option) + ". See --help.");
        }
    }
    if (!options.image.empty() && !options.between.empty()) {
        throw ddpm::Error(ddpm::Code::usage, "Of --image and --between there must be only one.");
    }
    settings.n = options.n.value_or(!options.between.empty() ? 9 : options.is_given() ? 1 : 16);
    if (options.model.empty()) {
        throw ddpm::Error(ddpm::Code::usage, "MODEL is missing. See --help.");
    }
    return options;
}

// Find out before the work whether its result can be kept.
void check_writable(const std::string& out) {
    const std::string beside = out + ".part";
    const bool is_writable = can_be_replaced(out) && std::ofstream(beside).good();
    std::error_code problem;
    std::filesystem::remove(beside, problem);
    if (!is_writable) {
        throw ddpm::Error(ddpm::Code::environment,
                          out + ": cannot be written. Choose another --out.");
    }
}

template <class Fits>
std::vector<std::uint8_t> pixels_of(const std::string& path, std::int64_t channels, const Fits& fits) {
    try {
        return read_png(path, static_cast<std::size_t>(channels), fits);
    } catch (const ddpm::Error&) {
        throw;
    } catch (const std::runtime_error& problem) {
        throw ddpm::Error(ddpm::Code::bad_file, problem.what());
    }
}

void refuse_size(const std::string& path, std::size_t width, std::size_t height, std::size_t w, std::size_t h) {
    throw ddpm::Error(ddpm::Code::usage, path + " must have " + std::to_string(width) + " x " + std::to_string(height) +
                                             " pixels, got " + std::to_string(w) + " x " + std::to_string(h) + ".");
}

// Return a picture's pixels (H, W, C); what is measured may be as small as its measurement.
std::vector<std::uint8_t> pixels_from(const std::string& path, std::int64_t channels, const ddpm::ModelSpec& spec,
                                      const std::optional<std::string>& measure) {
    const std::size_t height = static_cast<std::size_t>(ddpm::detail::picture_shape(spec.state_shape)[1]),
                      width = static_cast<std::size_t>(spec.state_shape[2]);
    std::vector<float> measured;
    if (measure) {
        ddpm::measurement_from_text(*measure, spec.state_shape, std::vector<float>(width * height))
            .of(std::vector<float>(spec.image_size()), measured);
    }
    const auto fits = [&](std::size_t w, std::size_t h) {
        const bool is_measured = w * height == h * width && w <= width &&
                                 w * h * static_cast<std::size_t>(channels) == measured.size();
        if ((w != width || h != height) && !is_measured) {
            refuse_size(path, width, height, w, h);
        }
    };
    return pixels_of(path, channels, fits);
}

// Return the numbers of a picture for an input of the network, of the size that the input has.
std::vector<float> told_picture(const std::string& name, const std::string& path, const ddpm::ModelSpec& spec) {
    const std::vector<ddpm::Input> asked = spec.asked_inputs();
    const auto known = std::find_if(asked.begin(), asked.end(), [&](const ddpm::Input& one) {
        return one.name == name && one.kind == ddpm::Kind::image && one.shape.size() == 3 && (one.shape[0] == 1 || one.shape[0] == 3);
    });
    if (known == asked.end()) {
        throw ddpm::Error(ddpm::Code::usage, "--input " + ddpm::detail::in_quotes(name) +
                                                 " must be an image of 1 or 3 channels to be given as a picture.");
    }
    const auto height = static_cast<std::size_t>(known->shape[1]), width = static_cast<std::size_t>(known->shape[2]);
    const auto fits = [&](std::size_t w, std::size_t h) {
        if (w != width || h != height) {
            refuse_size(path, width, height, w, h);
        }
    };
    return ddpm::from_uint8(pixels_of(path, known->shape[0], fits), {known->shape[0], known->shape[1], known->shape[2]});
}

// Return a picture as a state (C, H, W), of the size that it has.
std::vector<float> picture_from(const std::string& path, const ddpm::ModelSpec& spec,
                                const std::optional<std::string>& measure = {}) {
    const std::vector<std::uint8_t> pixels = pixels_from(path, spec.state_shape[0], spec, measure);
    const auto area = static_cast<std::int64_t>(pixels.size()) / spec.state_shape[0];
    return ddpm::from_uint8(pixels, {spec.state_shape[0], 1, area});
}

// Return what an option's pictures are, for all images.
ddpm::Given given_from(const Options& options, const ddpm::ModelSpec& spec) {
    ddpm::Given given = options.given;
    if (!options.image.empty()) {
        given.images = picture_from(options.image, spec, given.measure);
    }
    if (!options.between.empty()) {
        given.between = true;
        const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(options.settings.n, 0, most_between));
        given.images = ddpm::crossfade(picture_from(options.between[0], spec), picture_from(options.between[1], spec),
                                       count);
    }
    if (!options.mask.empty()) {
        for (const std::uint8_t level : pixels_from(options.mask, 1, spec, {})) {
            given.mask.push_back(static_cast<float>(level) / 255.0f);
        }
    }
    return given;
}

double seconds_since(std::chrono::steady_clock::time_point then) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

void run(const Options& options, std::chrono::steady_clock::time_point start) {
    check_writable(options.out);
    const auto before_load = std::chrono::steady_clock::now();
    OnnxModel model(options.model);
    const double seconds_load = seconds_since(before_load);
    const ddpm::ModelSpec& spec = model.spec();
    const ddpm::Shape& shape = spec.result_shape();
    const auto channels = static_cast<std::size_t>(shape[0]);
    const std::string ending = ".npy";
    const bool is_npy = options.out.size() > ending.size() &&
                        options.out.compare(options.out.size() - ending.size(), ending.size(), ending) == 0;
    if (!spec.is_picture() && !is_npy) {
        throw ddpm::Error(ddpm::Code::usage, options.out + ": numbers that are no pictures need an --out such as x.npy.");
    }
    if (spec.is_picture() && channels != 1 && channels != 3) {
        throw ddpm::Error(ddpm::Code::usage, options.out + ": a PNG has 1 or 3 channels, got " +
                                                 std::to_string(channels) + ". Use ddpm-run with .npy.");
    }
    ddpm::Settings all = options.settings;
    all.stages = std::ref(model);
    all.label = labels_from(options.label, spec);
    all.guidance = guidance_from(options, spec);
    for (const auto& [name, path] : options.pictures) {
        all.inputs[name] = told_picture(name, path, spec);
    }
    ddpm::check_image_numbers(all.first, all.n);  // before the first batch
    if (!options.between.empty() && all.n > most_between) {
        throw ddpm::Error(ddpm::Code::usage, "--n must be at most " + std::to_string(most_between) +
                                                 " with --between, got " + std::to_string(all.n) + ".");
    }
    const bool is_given = options.is_given();
    if (is_given && (spec.units || !spec.stages.empty())) {
        throw ddpm::Error(ddpm::Code::usage, "A model with stages or units takes no picture to begin with here. Use ddpm-edit.");
    }
    const ddpm::Given given = is_given ? given_from(options, spec) : ddpm::Given();
    const bool is_watched = isatty(fileno(stderr)) != 0;
    std::vector<std::uint8_t> pixels;
    std::vector<float> numbers;
    for (std::int64_t done = 0; done < all.n; done += batch_limit) {
        ddpm::Settings part = all;
        part.n = std::min(batch_limit, all.n - done);
        ddpm::Given of_part = given;
        if (given.between) {  // all with the noise of the first image
            const auto size = static_cast<std::ptrdiff_t>(spec.image_size());
            of_part.images = {given.images.begin() + done * size, given.images.begin() + (done + part.n) * size};
        } else {
            part.first = all.first + done;
        }
        const auto progress = [&](std::size_t step, std::size_t num_steps, const float*, const float*) {
            if (is_watched) {
                const char* const end = step == num_steps && done + part.n == all.n ? "\n" : "";
                std::fprintf(stderr, "\rimages %lld-%lld, step %zu of %zu%s", static_cast<long long>(part.first),
                             static_cast<long long>(part.first + part.n - 1), step, num_steps, end);
            }
            return interrupted == 0;
        };
        const std::vector<float> last = is_given ? ddpm::edit(std::ref(model), spec, of_part, part, progress)
                                                 : ddpm::sample(std::ref(model), spec, part, progress);
        const std::vector<float> x = model.decoded(last);
        if (!spec.is_picture()) {
            numbers.insert(numbers.end(), x.begin(), x.end());
            continue;
        }
        const std::vector<std::uint8_t> images = ddpm::to_uint8(x, shape);
        pixels.insert(pixels.end(), images.begin(), images.end());
    }
    const double seconds = seconds_since(start);
    if (spec.is_picture()) {
        write_grid_png(options.out, pixels.data(), static_cast<std::size_t>(all.n),
                       static_cast<std::size_t>(shape[1]), static_cast<std::size_t>(shape[2]), channels);
    } else {
        write_npy(options.out, numbers.data(), OnnxModel::with_batch(static_cast<std::size_t>(all.n), shape));
    }
    std::printf("{\"images\": %lld, \"seconds_load\": %.6f, \"seconds\": %.6f}\n", static_cast<long long>(all.n),
                seconds_load, seconds);
}

int failed(ddpm::Code code, const char* line) {
    std::fprintf(stderr, "error: %s\n", printable(line).c_str());
    return static_cast<int>(code);
}

}  // namespace

int main(int argc, char** argv) {
    turn_off_telemetry();
    std::cerr.setstate(std::ios::failbit);  // where Debian's ONNX Runtime writes 1,134 lines; this program does not
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
        std::fputs(usage, stdout);
        return 0;
    }
    std::signal(SIGINT, [](int) { interrupted = 1; });
    try {
        run(options_from(arguments), start);
        return 0;
    } catch (const ddpm::Error& problem) {
        return failed(problem.code, problem.what());
    } catch (const std::bad_alloc&) {
        return failed(ddpm::Code::environment,
                      "There is not enough memory for the images. Try a smaller --n.");
    } catch (const std::exception& problem) {  // of the PNG, or of ONNX Runtime's start
        return failed(ddpm::Code::environment, problem.what());
    }
}
