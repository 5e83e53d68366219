// ddpm_sample - images from a denoiser file, as a grid: ddpm_sample unet.onnx --n 16 --steps 50 --seed 7 --out grid.png
//
// Prints one line of JSON: how many images, the seconds that opening the file took, and those until the images exist.
// Exit codes: 0 done, 2 usage, 3 bad file, 4 model refused, 5 environment, 6 not finite, 130 interrupted.

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <unistd.h>
#endif

#include "grid_png.hpp"
#include "no_telemetry.hpp"
#include "onnx_model.hpp"
#include "printable.hpp"

namespace {

constexpr char usage[] =
    "usage: ddpm_sample MODEL.onnx [--n 16] [--steps N | --times 999,500,0] [--sampler ddim|ddpm] [--eta 0..1]\n"
    "                   [--plan NAME] [--seed 0] [--first 0] [--label NAME,...] [--guidance 0..100] [--out grid.png]\n"
    "--plan is one that the file carries, in place of steps, times, sampler and eta.\n"
    "--label takes classes by name or index, or none, which images take in turn; without it they take every class.\n"
    "What is left out is the file's own. Same seed, same images, on every machine.\n";
constexpr std::int64_t batch_limit = 16;  // images at a time: memory, never the images

volatile std::sig_atomic_t interrupted = 0;

struct Options {
    std::string model, out = "grid.png";
    std::optional<std::string> label;
    ddpm::Settings settings;
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

std::vector<std::int64_t> times_from(const std::string& option, const std::string& text) {
    std::vector<std::int64_t> times;
    for (const std::string& word : words_of(text)) {
        times.push_back(number_from<std::int64_t>(option, word));
    }
    return times;
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
            settings.n = number_from<std::int64_t>(option, value);
        } else if (option == "--steps") {
            settings.num_steps = number_from<std::int64_t>(option, value);
        } else if (option == "--times") {
            settings.times = times_from(option, value);
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
        } else if (option == "--out") {
            options.out = value;
        } else {
            throw ddpm::Error(ddpm::Code::usage,
                              "There is no option " + ddpm::detail::in_quotes(option) + ". See --help.");
        }
    }
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

double seconds_since(std::chrono::steady_clock::time_point then) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

void run(const Options& options, std::chrono::steady_clock::time_point start) {
    check_writable(options.out);
    const auto before_load = std::chrono::steady_clock::now();
    OnnxModel model(options.model);
    const double seconds_load = seconds_since(before_load);
    const ddpm::ModelSpec& spec = model.spec();
    const auto channels = static_cast<std::size_t>(spec.image_shape[0]);
    if (channels != 1 && channels != 3) {
        throw ddpm::Error(ddpm::Code::usage, options.out + ": a PNG has 1 or 3 channels, got " +
                                                 std::to_string(channels) + ". Use ddpm-run with .npy.");
    }
    ddpm::Settings all = options.settings;
    all.label = labels_from(options.label, spec);
    ddpm::check_image_numbers(all.first, all.n);  // before the first batch
    const bool is_watched = isatty(fileno(stderr)) != 0;
    std::vector<std::uint8_t> pixels;
    for (std::int64_t done = 0; done < all.n; done += batch_limit) {
        ddpm::Settings part = all;
        part.first = all.first + done;
        part.n = std::min(batch_limit, all.n - done);
        const auto progress = [&](std::size_t step, std::size_t num_steps, const float*, const float*) {
            if (is_watched) {
                const char* const end = step == num_steps && done + part.n == all.n ? "\n" : "";
                std::fprintf(stderr, "\rimages %lld-%lld, step %zu of %zu%s", static_cast<long long>(part.first),
                             static_cast<long long>(part.first + part.n - 1), step, num_steps, end);
            }
            return interrupted == 0;
        };
        const std::vector<float> x = ddpm::sample(std::ref(model), spec, part, progress);
        const std::vector<std::uint8_t> images = ddpm::to_uint8(x, spec.image_shape);
        pixels.insert(pixels.end(), images.begin(), images.end());
    }
    const double seconds = seconds_since(start);
    write_grid_png(options.out, pixels.data(), static_cast<std::size_t>(all.n),
                   static_cast<std::size_t>(spec.image_shape[1]), static_cast<std::size_t>(spec.image_shape[2]),
                   channels);
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
