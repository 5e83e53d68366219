// The C++ core against the golden files, and what no golden file says. `core check GOLDEN_FOLDER` tests everything that
// needs no other language; the other commands print what test_cpp.py compares. Exit code 1 where something is wrong.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <random>

#include "ddpm.hpp"

namespace {

std::size_t allocations = 0;
int failures = 0;

}  // namespace

// not inlined: g++ would see free() meet its own operator new, and warn
__attribute__((noinline)) void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) {
        return memory;
    }
    throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using ddpm::json::Array;
using ddpm::json::Value;

#define EXPECT(condition, where) expect(condition, __LINE__, #condition, where)

void expect(bool holds, int line, const char* condition, std::string_view where) {
    if (!holds) {
        ++failures;
        std::cerr << line << ": " << where << ": not so: " << condition << "\n";
    }
}

std::string text_of_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::cerr << path << ": cannot be read\n";
        std::exit(1);
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

const Value& at(const Value& value, const char* key) {
    const Value* found = value.find(key);
    if (found == nullptr) {
        std::cerr << "golden: no key " << key << "\n";
        std::exit(1);
    }
    return *found;
}

double number(const Value& value) { return std::get<ddpm::json::Number>(value.held).value; }
double number(const Value& value, const char* key) { return number(at(value, key)); }
std::string string(const Value& value, const char* key) { return std::get<std::string>(at(value, key).held); }
const Array& array(const Value& value, const char* key) { return std::get<Array>(at(value, key).held); }

template <class T>
std::vector<T> numbers(const Value& value, const char* key) {
    std::vector<T> result;
    for (const Value& element : array(value, key)) {
        result.push_back(static_cast<T>(number(element)));
    }
    return result;
}

template <class T, std::size_t N>
std::array<T, N> fixed(const Value& value, const char* key) {
    const std::vector<T> all = numbers<T>(value, key);
    std::array<T, N> result{};
    std::copy_n(all.begin(), N, result.begin());
    return result;
}

std::uint32_t bits(float value) {
    std::uint32_t result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

// Return the code of the error that `work` ends with, 0 for none.
template <class Work>
int code_of(Work work) {
    try {
        work();
        return 0;
    } catch (const ddpm::Error& error) {
        EXPECT(std::strchr(error.what(), '\n') == nullptr, error.what());
        for (const char* part : {": ", " got ", ", expected ", " Do "}) {
            EXPECT(std::strstr(error.what(), part) != nullptr, error.what());
        }
        return static_cast<int>(error.code);
    }
}

// ------------------------------------------------------------------------------------------------ the golden files

Value golden(const std::string& folder, const char* name) {
    return ddpm::json::parse(text_of_file(folder + "/" + name + ".json"));
}

Array cases(const std::string& folder, const char* name) { return array(golden(folder, name), "cases"); }

void check_philox(const std::string& folder) {
    for (const Value& one : cases(folder, "philox")) {
        const auto words =
            ddpm::philox4x32_10(fixed<std::uint32_t, 4>(one, "counter"), fixed<std::uint32_t, 2>(one, "key"));
        EXPECT((words == fixed<std::uint32_t, 4>(one, "words")), "philox");
    }
}

void check_normals(const std::string& folder) {
    const Value data = golden(folder, "normals");
    for (const Value& one : array(data, "cases")) {
        const auto word = static_cast<std::uint32_t>(number(one, "word"));
        float normal;
        ddpm::normals_from_words(&word, 1, &normal);
        EXPECT(bits(normal) == number(one, "bits"), std::to_string(word));
        EXPECT(normal * 0x1p20f == number(one, "z"), std::to_string(word));
    }
    const auto row = numbers<std::int32_t>(data, "table_first_row");
    EXPECT(std::equal(row.begin(), row.end(), ddpm::normal_table), "table");
    EXPECT(ddpm::noise_tag == string(data, "noise"), "tag");
}

ddpm::Noise noise_of(const Value& one) {
    return ddpm::noise_stream(std::stoll(string(one, "seed")), {static_cast<std::int64_t>(number(one, "image"))},
                              fixed<std::int64_t, 3>(one, "shape"), static_cast<std::uint32_t>(number(one, "domain")));
}

void check_noise(const std::string& folder) {
    for (const Value& one : cases(folder, "noise")) {
        const ddpm::Noise noise = noise_of(one);
        std::vector<float> z(noise.image_size());
        noise(static_cast<std::uint32_t>(number(one, "draw")), z.data());
        const auto first = numbers<std::uint32_t>(one, "first_bits"), last = numbers<std::uint32_t>(one, "last_bits");
        for (std::size_t k = 0; k < first.size(); ++k) {
            EXPECT(bits(z[k]) == first[k], string(one, "seed"));
        }
        for (std::size_t k = 0; k < last.size(); ++k) {
            EXPECT(bits(z[z.size() - last.size() + k]) == last[k], string(one, "seed"));
        }
    }
}

void check_time_grids(const std::string& folder) {
    for (const Value& one : cases(folder, "time_grids")) {
        const auto T = static_cast<std::int64_t>(number(one, "num_train_timesteps"));
        const auto n = static_cast<std::int64_t>(number(one, "num_steps"));
        EXPECT(ddpm::spacing(T, n) == numbers<std::int64_t>(one, "t"), std::to_string(T));
    }
}

void check_coefficients(const std::string& folder) {
    for (const Value& one : cases(folder, "coefficients")) {
        const ddpm::Step step{static_cast<std::uint32_t>(number(one, "i")), static_cast<std::int64_t>(number(one, "t")),
                              number(one, "a"), number(one, "a_prev")};
        const bool large = string(one, "variance") == "fixed_large";
        const ddpm::Coefficients c = ddpm::coefficients(
            step, number(one, "eta"), large ? ddpm::Variance::fixed_large : ddpm::Variance::fixed_small);
        const std::pair<const char*, double> found[] = {{"sqrt_a", c.sqrt_a},
                                                        {"sqrt_1_minus_a", c.sqrt_1_minus_a},
                                                        {"sqrt_a_prev", c.sqrt_a_prev},
                                                        {"c_eps", c.c_eps},
                                                        {"c_noise", c.c_noise}};
        for (const auto& [name, value] : found) {
            EXPECT(std::abs(value - number(one, name)) <= 1e-14 * std::abs(number(one, name)), name);
            const double apart = bits(static_cast<float>(value)) - number(at(one, "bits"), name);
            EXPECT(std::abs(apart) <= 1.0, name);  // one unit in the last place
        }
    }
}

// Return the best denoiser for pixels that are each N(mean, std^2), as tests/golden/README.md writes it.
ddpm::Model gaussian_model(const ddpm::ModelSpec& spec, double mean, double std) {
    return [&spec, mean, std](const ddpm::Evaluation& asked) {
        const double a = spec.alphas_cumprod[static_cast<std::size_t>(asked.t)], s = a * std * std + 1.0 - a;
        double slope = std::sqrt(1.0 - a) / s, offset = 0.0;
        if (spec.prediction == ddpm::Prediction::x_0) {
            slope = std::sqrt(a) * std * std / s, offset = mean;
        } else if (spec.prediction == ddpm::Prediction::v) {
            slope = std::sqrt(a * (1.0 - a)) * (1.0 - std * std) / s, offset = -std::sqrt(1.0 - a) * mean;
        }
        const auto shift = static_cast<float>(std::sqrt(a) * mean);
        for (std::size_t k = 0; k < asked.batch * spec.image_size(); ++k) {
            asked.prediction[k] = static_cast<float>(slope) * (asked.x_t[k] - shift) + static_cast<float>(offset);
            if (asked.variance_fraction != nullptr) {
                asked.variance_fraction[k] = 0.25f;
            }
        }
    };
}

void expect_near(const std::vector<float>& found, const Value& state, const char* key, double tolerance) {
    const std::vector<float> expected = numbers<float>(state, key);
    EXPECT(found.size() == expected.size(), key);
    for (std::size_t k = 0; k < expected.size(); ++k) {
        EXPECT(std::abs(found[k] - expected[k]) <= tolerance, key);
    }
}

ddpm::ModelSpec spec_of(const Value& data, const Value& one) {
    ddpm::ModelSpec spec;
    const std::string prediction = string(one, "prediction");
    spec.prediction = prediction == "eps"   ? ddpm::Prediction::eps
                      : prediction == "x_0" ? ddpm::Prediction::x_0
                                            : ddpm::Prediction::v;
    spec.image_shape = fixed<std::int64_t, 3>(data, "shape");
    spec.alphas_cumprod = numbers<double>(data, "alphas_cumprod");
    if (at(one, "clip_x_0").as<ddpm::json::Number>() != nullptr) {
        spec.clip_x_0 = number(one, "clip_x_0");
    }
    return spec;
}

void check_trajectories(const std::string& folder) {
    const Value data = golden(folder, "trajectories");
    const double tolerance = number(data, "tolerance");
    for (const Value& one : array(data, "cases")) {
        const ddpm::ModelSpec spec = spec_of(data, one);
        const ddpm::Denoiser denoise =
            ddpm::denoiser(gaussian_model(spec, number(data, "mean"), number(data, "std")), spec);
        const ddpm::Noise noise = ddpm::noise_stream(std::stoll(string(data, "seed")),
                                                     numbers<std::int64_t>(data, "images"), spec.image_shape);
        const Array& expected = array(one, "states");
        const auto steps = ddpm::trajectory(spec, static_cast<std::int64_t>(number(data, "num_steps")));
        EXPECT(steps.size() == expected.size(), "steps");
        for (const std::size_t begin : {std::size_t{0}, steps.size() / 2}) {  // from x_T, and on from the middle
            const std::vector<ddpm::Step> rest(steps.begin() + static_cast<std::ptrdiff_t>(begin), steps.end());
            const std::vector<float> x = begin == 0 ? std::vector<float>() : numbers<float>(expected[begin - 1], "x");
            ddpm::States states =
                string(one, "sampler") == "ddim"
                    ? ddpm::ddim(denoise, noise, rest, number(one, "eta"), x)
                    : ddpm::ddpm(denoise, noise, rest, ddpm::Variance::fixed_large, x);  // the only one in the file
            if (begin == 0) {
                expect_near(states.now().x, data, "x_T", 0.0);
            }
            for (std::size_t k = begin; k < expected.size(); ++k) {
                EXPECT(states.next(), "a step");
                const ddpm::State& state = states.now();
                EXPECT(state.step.i == number(expected[k], "i") && state.step.t == number(expected[k], "t"), "step");
                EXPECT(state.step.a == number(expected[k], "a"), "a");
                EXPECT(state.step.a_prev == number(expected[k], "a_prev"), "a_prev");
                expect_near(state.x, expected[k], "x", tolerance);
                expect_near(state.x_0, expected[k], "x_0", tolerance);
                expect_near(state.eps, expected[k], "eps", tolerance);
            }
            EXPECT(!states.next(), "the end");
        }
    }
}

void check_pixels(const std::string& folder) {
    for (const Value& one : cases(folder, "pixels")) {
        const auto x = static_cast<float>(number(one, "x"));
        EXPECT(bits(x) == number(one, "bits"), std::to_string(x));
        EXPECT(ddpm::to_uint8({x}, {1, 1, 1})[0] == number(one, "level"), std::to_string(x));
    }
    const std::vector<float> channels_first = {-1.0f, 1.0f, 0.0f, 0.0f, 1.0f, -1.0f};  // (1, 3, 1, 2)
    const std::vector<std::uint8_t> channels_last = {0, 128, 255, 255, 128, 0};  // (1, 1, 2, 3)
    EXPECT(ddpm::to_uint8(channels_first, {3, 1, 2}) == channels_last, "layout");
    EXPECT(ddpm::to_uint8({std::numeric_limits<float>::quiet_NaN()}, {1, 1, 1})[0] == 0, "NaN");
    EXPECT(ddpm::to_uint8({std::numeric_limits<float>::infinity()}, {1, 1, 1})[0] == 255, "infinity");
}

// --------------------------------------------------------------------------------------- what no golden file says

ddpm::ModelSpec small_spec() {
    ddpm::ModelSpec spec;
    spec.image_shape = {1, 5, 3};
    for (int t = 0; t < 40; ++t) {
        spec.alphas_cumprod.push_back(0.999 - 0.025 * t);
    }
    spec.clip_x_0 = 1.0;
    spec.defaults.num_steps = 4;
    spec.has_variance_fraction = true;
    return spec;
}

std::vector<float> last(ddpm::States states) {
    while (states.next()) {
    }
    return states.now().x;
}

void check_identities() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Denoiser denoise = ddpm::denoiser(gaussian_model(spec, 0.3, 0.5), spec);
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.image_shape);
    const auto steps = ddpm::trajectory(spec, 9);
    EXPECT(last(ddpm::ddpm(denoise, noise, steps)) == last(ddpm::ddim(denoise, noise, steps, 1.0)), "ddpm is eta = 1");
    std::vector<std::int64_t> times;
    for (const ddpm::Step& step : steps) {
        times.push_back(step.t);
    }
    EXPECT(last(ddpm::ddim(denoise, noise, ddpm::trajectory(spec, times))) == last(ddpm::ddim(denoise, noise, steps)),
           "times");
    const auto all = ddpm::trajectory(spec, 40);  // so many that some coefficient would show an eta in double
    EXPECT(last(ddpm::ddim(denoise, noise, all, 0.1)) == last(ddpm::ddim(denoise, noise, all, double{0.1f})), "eta");
    const std::vector<float> both = last(ddpm::ddpm(denoise, noise, steps)),
                             alone = last(ddpm::ddpm(
                                 denoise, ddpm::noise_stream(5, {4}, spec.image_shape), steps));
    EXPECT(std::equal(alone.begin(), alone.end(), both.begin() + static_cast<std::ptrdiff_t>(alone.size())), "alone");

    // what is clipped stays within its bound, and eps leads from it to x_t
    for (const ddpm::Prediction prediction : {ddpm::Prediction::eps, ddpm::Prediction::x_0, ddpm::Prediction::v}) {
        ddpm::ModelSpec clipped = spec;
        clipped.prediction = prediction;
        const ddpm::Denoiser loud = ddpm::denoiser(
            [&](const ddpm::Evaluation& asked) {
                for (std::size_t k = 0; k < asked.batch * spec.image_size(); ++k) {
                    asked.prediction[k] = k % 3 == 0 ? 9.0f : k % 3 == 1 ? -9.0f : 0.0f;
                }
            },
            clipped);
        ddpm::State state;
        state.batch = 1;
        state.step = steps[4];
        state.x.resize(spec.image_size());
        state.x_0 = state.eps = state.x;
        ddpm::noise_stream(5, {3}, spec.image_shape)(0, state.x.data());
        loud(state);
        const auto [low, high] = std::minmax_element(state.x_0.begin(), state.x_0.end());
        EXPECT(*low == -1.0f && *high == 1.0f, "clipped");
        for (std::size_t k = 0; k < state.x.size(); ++k) {
            const double a = state.step.a, x = std::sqrt(a) * state.x_0[k] + std::sqrt(1.0 - a) * state.eps[k];
            EXPECT(std::abs(x - state.x[k]) < 1e-5, "eps leads to x_t");
        }
    }

    // a fraction of 1 is fixed_large, one of 0 is fixed_small: learned stands between them
    for (const auto& [fraction, variance] :
         {std::pair(0.0f, ddpm::Variance::fixed_small), std::pair(1.0f, ddpm::Variance::fixed_large)}) {
        const float value = fraction;
        const ddpm::Model inner = gaussian_model(spec, 0.3, 0.5);
        const ddpm::Model model = [&](const ddpm::Evaluation& asked) {
            inner(asked);
            if (asked.variance_fraction != nullptr) {
                std::fill_n(asked.variance_fraction, asked.batch * spec.image_size(), value);
            }
        };
        const ddpm::Denoiser with_fraction = ddpm::denoiser(model, spec);
        const auto learned = last(ddpm::ddpm(with_fraction, noise, steps, ddpm::Variance::learned));
        const auto plain = last(ddpm::ddpm(with_fraction, noise, steps, variance));
        for (std::size_t k = 0; k < plain.size(); ++k) {
            EXPECT(std::abs(learned[k] - plain[k]) < 1e-5f, "learned");
        }
    }
}

void check_allocations() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Denoiser denoise = ddpm::denoiser(gaussian_model(spec, 0.3, 0.5), spec);
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.image_shape);
    const auto steps = ddpm::trajectory(spec, 40);
    std::vector<ddpm::States> runs;
    runs.push_back(ddpm::ddim(denoise, noise, steps, 0.5));
    runs.push_back(ddpm::ddpm(denoise, noise, steps, ddpm::Variance::fixed_large));
    runs.push_back(ddpm::ddpm(denoise, noise, steps, ddpm::Variance::learned));
    for (ddpm::States& states : runs) {
        const std::size_t before = allocations;
        std::size_t done = 0;
        while (states.next()) {
            ++done;
        }
        EXPECT(done == 40, "steps");
        EXPECT(allocations == before, "allocations within the loop");
    }
    ddpm::Settings settings;
    settings.n = 2;
    std::vector<std::size_t> counts;
    counts.reserve(64);
    (void)ddpm::sample(gaussian_model(spec, 0.3, 0.5), spec, settings,
                       [&](std::size_t, std::size_t, const float*, const float*) {
                           counts.push_back(allocations);
                           return true;
                       });
    EXPECT(counts.size() == 4 && counts.front() == counts.back(), "allocations within sample's loop");
    const std::size_t before = allocations;
    ::operator delete(::operator new(1));
    EXPECT(allocations == before + 1, "allocations are counted");
}

void check_refusals() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Model model = gaussian_model(spec, 0.3, 0.5);
    const ddpm::Noise noise = ddpm::noise_stream(0, {0}, spec.image_shape);
    const auto steps = ddpm::trajectory(spec, 2);
    constexpr std::int64_t many = std::int64_t{1} << 32;
    EXPECT(code_of([&] { (void)ddpm::noise_stream(-1, {0}, {1, 1, 1}); }) == 2, "seed");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0, many}, {1, 1, 1}); }) == 2, "image");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {-1}, {1, 1, 1}); }) == 2, "image");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0}, {1, 0, 1}); }) == 2, "shape");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0}, {many, many, many}); }) == 2, "shape");
    EXPECT(code_of([&] { ddpm::check_image_numbers(many - 1, 2); }) == 2, "numbers");
    EXPECT(code_of([&] { ddpm::check_image_numbers(many - 1, 1); }) == 0, "numbers");
    EXPECT(code_of([&] { ddpm::check_image_numbers(1, std::numeric_limits<std::int64_t>::max()); }) == 2, "numbers");
    for (const std::int64_t n : {0, -1, 41}) {
        EXPECT(code_of([&] { (void)ddpm::trajectory(spec, n); }) == 2, "steps");
    }
    for (const std::vector<std::int64_t>& times : {std::vector<std::int64_t>{}, {3, 3}, {2, 3}, {40, 1}, {1, -1}}) {
        EXPECT(code_of([&] { (void)ddpm::trajectory(spec, times); }) == 2, "times");
    }
    for (const double eta : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
        EXPECT(code_of([&] { (void)ddpm::ddim(ddpm::denoiser(model, spec), noise, steps, eta); }) == 2, "eta");
    }
    EXPECT(code_of([&] { (void)ddpm::ddim(ddpm::denoiser(model, spec), noise, steps, 0.0, {1.0f}); }) == 2, "x");
    ddpm::ModelSpec plain = spec;
    plain.has_variance_fraction = false;
    EXPECT(code_of([&] {
               (void)ddpm::ddpm(ddpm::denoiser(model, plain), noise, steps, ddpm::Variance::learned);
           }) == 2, "learned");

    const auto sampled = [&](auto change) {
        ddpm::Settings settings;
        settings.n = 2;
        change(settings);
        return code_of([&] { (void)ddpm::sample(model, spec, settings); });
    };
    EXPECT(sampled([](ddpm::Settings&) {}) == 0, "sample");
    EXPECT(sampled([](ddpm::Settings& s) { s.n = 0; }) == 2, "n");
    EXPECT(sampled([](ddpm::Settings& s) { s.first = -1; }) == 2, "first");
    EXPECT(sampled([](ddpm::Settings& s) { s.seed = -1; }) == 2, "seed");
    EXPECT(sampled([](ddpm::Settings& s) { s.num_steps = 41; }) == 2, "num_steps");
    EXPECT(sampled([](ddpm::Settings& s) { s.sampler = "euler\n"; }) == 2, "sampler");
    EXPECT(sampled([](ddpm::Settings& s) { s.sampler = "ddpm", s.eta = 0.0; }) == 2, "eta of ddpm");
    EXPECT(sampled([](ddpm::Settings& s) { s.eta = 2.0; }) == 2, "eta");

    ddpm::Settings settings;
    settings.n = 2;
    std::size_t called = 0;
    EXPECT(code_of([&] {
               (void)ddpm::sample(model, spec, settings, [&](std::size_t step, std::size_t num_steps, const float*,
                                                             const float*) {
                   called = step;
                   return num_steps == 4 && step < 2;
               });
           }) == 130, "cancel");
    EXPECT(called == 2, "cancelled after the second step");

    for (const float sick : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        const ddpm::Model bad = [&](const ddpm::Evaluation& asked) {
            model(asked);
            asked.prediction[asked.batch * spec.image_size() - 1] = asked.t == 19 ? sick : 0.0f;  // of the last image
        };
        try {
            (void)ddpm::sample(bad, spec, settings);
            EXPECT(false, "a sick number was not seen");
        } catch (const ddpm::Error& error) {
            EXPECT(error.code == ddpm::Code::not_finite, error.what());
            EXPECT(std::strstr(error.what(), "step 3 (t = 19), image 1:") != nullptr, error.what());
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- specs

// Numbers with a comma and grouped digits, as in German: what reads and writes numbers must not follow it.
struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};

void print_numbers(const std::string& text) {
    std::locale::global(std::locale(std::locale::classic(), new Comma));
    const Value list = ddpm::json::parse(text);
    for (const Value& element : std::get<Array>(list.held)) {
        const double value = number(element);
        std::uint64_t result;
        std::memcpy(&result, &value, sizeof result);
        std::printf("%016llx\n", static_cast<unsigned long long>(result));
    }
}

void print_spec(const ddpm::ModelSpec& spec) {
    std::printf("0 %s %d %d %d %zu %lld\n", spec.name.c_str(), static_cast<int>(spec.prediction),
                static_cast<int>(spec.variance), spec.has_variance_fraction, spec.alphas_cumprod.size(),
                static_cast<long long>(spec.defaults.num_steps));
}

// Print a line for each of the texts in a file that separates them by NUL: its code, and the values of a sound one.
void print_verdicts(const std::string& texts) {
    for (std::size_t begin = 0; begin < texts.size();) {
        const std::size_t end = std::min(texts.find('\0', begin), texts.size());
        // a buffer of its own, so that the sanitizer sees a read beyond it
        const std::vector<char> text(texts.begin() + static_cast<std::ptrdiff_t>(begin),
                                     texts.begin() + static_cast<std::ptrdiff_t>(end));
        const int code = code_of([&] { print_spec(ddpm::spec_from_json({text.data(), text.size()})); });
        if (code != 0) {
            std::printf("%d\n", code);
        }
        begin = end + 1;
    }
}

// Read every truncation and many byte flips of a sound text: no crash, and no error but ours.
void fuzz(const std::string& text) {
    std::mt19937 random(1);
    std::size_t refused = 0, sound = 0;
    const auto read = [&](const std::string& changed) {
        const std::vector<char> copy(changed.begin(), changed.end());
        ++(code_of([&] { (void)ddpm::spec_from_json({copy.data(), copy.size()}); }) ? refused : sound);
    };
    for (std::size_t length = 0; length < text.size(); length += length < 200 || length + 200 > text.size() ? 1 : 97) {
        read(text.substr(0, length));
    }
    EXPECT(sound == 0, "a part of a text is none");
    for (int round = 0; round < 1000; ++round) {
        std::string changed = text;
        for (std::uint32_t flips = random() % 4 + 1; flips > 0; --flips) {
            changed[random() % changed.size()] = static_cast<char>(random());
        }
        read(changed);
    }
    EXPECT(refused > 1000 && sound > 0, "both kinds");
    for (const char c : {'[', '{', '"', '-', '\\'}) {
        read(std::string(200000, c));
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "", argument = argc > 2 ? argv[2] : "";
    if (command == "check") {
        check_philox(argument);
        check_normals(argument);
        check_noise(argument);
        check_time_grids(argument);
        check_coefficients(argument);
        check_trajectories(argument);
        check_pixels(argument);
        check_identities();
        check_allocations();
        check_refusals();
    } else if (command == "table") {
        for (const std::int32_t entry : ddpm::normal_table) {
            std::printf("%d\n", entry);
        }
    } else if (command == "noise") {
        for (const Value& one : cases(argument, "noise")) {
            const ddpm::Noise noise = noise_of(one);
            std::vector<float> z(noise.image_size());
            noise(static_cast<std::uint32_t>(number(one, "draw")), z.data());
            for (const float value : z) {
                std::printf("%08x", static_cast<unsigned>(bits(value)));
            }
            std::printf("\n");
        }
    } else if (command == "numbers") {
        print_numbers(text_of_file(argument));
    } else if (command == "verdicts") {
        print_verdicts(text_of_file(argument));
    } else if (command == "fuzz") {
        fuzz(text_of_file(argument));
    } else {
        std::cerr << "core: unknown command\n";
        return 2;
    }
    return failures == 0 ? 0 : 1;
}
