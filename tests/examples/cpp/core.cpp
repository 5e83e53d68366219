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
        const std::string line = error.what();  // a sentence or two
        EXPECT(line.find('\n') == std::string::npos && line.back() == '.', line);
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
                              numbers<std::int64_t>(one, "shape"), static_cast<std::uint32_t>(number(one, "domain")));
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
        const double a = number(one, "a"), a_prev = number(one, "a_prev");
        const auto [x_0, eps, small] = ddpm::ddim_weights(a, a_prev, number(one, "eta"));
        const ddpm::Row row = ddpm::ddpm({{0.0}, {a, a_prev}}, ddpm::Variance::fixed_large)[0];
        const double large = row.noise.empty() ? 0.0 : row.noise[0];
        const std::pair<const char*, double> found[] = {
            {"sqrt_a_prev", x_0},
            {"c_eps", eps},
            {"c_noise", string(one, "variance") == "fixed_large" ? large : small}};
        for (const auto& [name, value] : found) {
            EXPECT(std::abs(value - number(one, name)) <= 1e-14 * std::abs(number(one, name)), name);
            const double apart = bits(static_cast<float>(value)) - number(at(one, "bits"), name);
            EXPECT(std::abs(apart) <= 1.0, name);  // one unit in the last place
        }
    }
}

// Write what the best denoiser for pixels that are each N(mean, std^2) says, as tests/golden/README.md has it.
void say_gaussian(const ddpm::ModelSpec& spec, double mean, double std, float fraction, const ddpm::Evaluation& asked) {
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
            asked.variance_fraction[k] = fraction;
        }
    }
}

ddpm::Model gaussian_model(const ddpm::ModelSpec& spec, double mean, double std, float fraction = 0.25f) {
    return [&spec, mean, std, fraction](const ddpm::Evaluation& asked) {
        say_gaussian(spec, mean, std, fraction, asked);
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
    const std::string prediction = string(one.find("prediction") != nullptr ? one : data, "prediction");
    spec.prediction = prediction == "eps"   ? ddpm::Prediction::eps
                      : prediction == "x_0" ? ddpm::Prediction::x_0
                                            : ddpm::Prediction::v;
    spec.state_shape = numbers<std::int64_t>(data, "shape");
    spec.alphas_cumprod = numbers<double>(data, "alphas_cumprod");
    if (at(one, "clip_x_0").as<ddpm::json::Number>() != nullptr) {
        spec.clip_x_0 = number(one, "clip_x_0");
    }
    return spec;
}

// Walk on and compare every state with those of a golden file, from number `begin` on.
void expect_states(ddpm::States states, const Array& expected, std::size_t begin, double tolerance) {
    for (std::size_t k = begin; k < expected.size(); ++k) {
        EXPECT(states.next(), "a row");
        const ddpm::State& state = states.now();
        EXPECT(state.row.i == number(expected[k], "i") && state.row.t == number(expected[k], "t"), "row");
        EXPECT(state.row.a == number(expected[k], "a"), "a");
        expect_near(state.x, expected[k], "x", tolerance);
        expect_near(state.x_0, expected[k], "x_0", tolerance);
        expect_near(state.eps, expected[k], "eps", tolerance);
    }
    EXPECT(!states.next(), "the end");
}

void check_trajectories(const std::string& folder) {
    const Value data = golden(folder, "trajectories");
    for (const Value& one : array(data, "cases")) {
        const ddpm::ModelSpec spec = spec_of(data, one);
        const ddpm::Denoiser denoise =
            ddpm::denoiser(gaussian_model(spec, number(data, "mean"), number(data, "std")), spec);
        const ddpm::Noise noise = ddpm::noise_stream(std::stoll(string(data, "seed")),
                                                     numbers<std::int64_t>(data, "images"), spec.state_shape);
        const Array& expected = array(one, "states");
        const std::string sampler = string(one, "sampler");
        const bool is_ddim = sampler == "ddim";
        const ddpm::Plan plan = ddpm::plan(
            spec, sampler, static_cast<std::int64_t>(number(data, "num_steps")), {}, {},
            is_ddim ? std::optional(number(one, "eta")) : std::nullopt,
            is_ddim ? std::nullopt : std::optional(ddpm::detail::variance_from_name(string(one, "variance"))));
        EXPECT(plan.rows.size() == expected.size(), "rows");
        ddpm::States states = ddpm::walk(denoise, noise, plan);
        expect_near(states.now().x, data, "x_T", 0.0);
        expect_states(std::move(states), expected, 0, number(data, "tolerance"));
        const std::size_t half = expected.size() / 2;  // on from the middle, by x alone
        const ddpm::Plan rest{{plan.rows.begin() + static_cast<std::ptrdiff_t>(half), plan.rows.end()}};
        expect_states(ddpm::walk(denoise, noise, rest, numbers<float>(expected[half - 1], "x")), expected, half,
                      number(data, "tolerance"));
    }
}

// Return the state that a golden file holds after a plan's row k, with all that later rows read.
ddpm::State state_of(const ddpm::Plan& plan, std::size_t k, const Array& states) {
    const auto floats = [&](std::size_t at, const char* key) { return numbers<float>(states[at], key); };
    ddpm::State state{plan.rows[k], floats(k, "x"), floats(k, "x_0"), floats(k, "eps"), {}};
    for (std::size_t age = 0; age < plan.kept_after(k); ++age) {
        state.history.push_back({floats(k - age, "x_0"), floats(k - age, "eps")});
    }
    return state;
}

void check_plans(const std::string& folder) {
    const Value data = golden(folder, "plans");
    const double tolerance = number(data, "tolerance");
    std::size_t furthest = 0;
    for (const Value& one : array(data, "cases")) {
        const std::string name = string(one, "name");
        ddpm::ModelSpec spec = spec_of(data, one);
        spec.has_variance_fraction = true;
        spec.plans[name] = ddpm::detail::plan_from_json(name, at(one, "plan"), spec);
        const ddpm::Plan plan = ddpm::plan(spec, {}, {}, {}, name);
        const ddpm::Denoiser denoise = ddpm::denoiser(
            gaussian_model(spec, number(data, "mean"), number(data, "std"),
                           static_cast<float>(number(data, "variance_fraction"))), spec);
        const ddpm::Noise noise = ddpm::noise_stream(std::stoll(string(data, "seed")),
                                                     numbers<std::int64_t>(data, "images"), spec.state_shape);
        const Array& expected = array(one, "states");
        expect_states(ddpm::walk(denoise, noise, plan), expected, 0, tolerance);
        ddpm::States states = ddpm::walk(denoise, noise, plan);
        for (std::size_t k = 0; states.next(); ++k) {
            EXPECT(states.now().history.size() == plan.kept_after(k), name);
            furthest = std::max(furthest, states.now().history.size());
            expect_states(ddpm::walk(denoise, noise, plan, {}, state_of(plan, k, expected)), expected, k + 1,
                          tolerance);
            // from this state, to the same bits
            ddpm::States on = ddpm::walk(denoise, noise, plan, {}, states.now()), whole = states;
            while (whole.next()) {
                EXPECT(on.next() && on.now().x == whole.now().x && on.now().x_0 == whole.now().x_0, name);
                EXPECT(on.now().history.size() == whole.now().history.size(), name);
            }
            EXPECT(!on.next(), name);
        }
    }
    EXPECT(furthest == ddpm::max_reach - 1, "a plan that looks far back");
}

// A network that is told a class: its label's Gaussian, or, where it guides itself, what its scale makes of two.
struct ClassesModel {
    const ddpm::ModelSpec& spec;
    std::vector<double> means;
    std::vector<float> fractions;
    double std;
    std::vector<std::size_t> batches{};  // of its evaluations
    std::vector<float> other{};

    void operator()(const ddpm::Evaluation& asked) {
        batches.push_back(asked.batch);
        const std::size_t size = spec.image_size();
        const std::int64_t* labels = asked.inputs[0].labels;
        const float* scales = spec.guides_itself() ? asked.inputs[1].numbers : nullptr;
        other.resize(size);
        for (std::size_t k = 0; k < asked.batch; ++k) {
            const auto y = static_cast<std::size_t>(labels[k]);
            float* fraction = asked.variance_fraction != nullptr ? asked.variance_fraction + k * size : nullptr;
            ddpm::Evaluation one{1, asked.x_t + k * size, asked.t, asked.inputs, asked.prediction + k * size, fraction};
            say_gaussian(spec, means[y], std, fractions[y], one);
            if (scales != nullptr) {
                float* c = one.prediction;
                one.prediction = other.data();
                say_gaussian(spec, means.back(), std, 0.0f, one);
                for (std::size_t at = 0; at < size; ++at) {
                    c[at] = other[at] + scales[k] * (c[at] - other[at]);
                }
            }
        }
    }
};

void check_conditions(const std::string& folder) {
    const Value data = golden(folder, "conditions");
    for (const Value& one : array(data, "cases")) {
        ddpm::ModelSpec spec = spec_of(data, one);
        for (const Value& input : array(one, "inputs")) {
            spec.inputs.push_back(ddpm::detail::input_from_json(input, spec.state_shape));
        }
        const ddpm::Guidance guidance = ddpm::detail::guidance_from_json(at(one, "guidance"));
        const bool is_learned = string(one, "sampler") == "ddpm";
        spec.has_variance_fraction = is_learned;
        ClassesModel model{spec, numbers<double>(data, "means"), numbers<float>(data, "variance_fractions"),
                           number(data, "std")};
        const auto labels = numbers<std::int64_t>(one, "y");
        const ddpm::Denoiser denoise = ddpm::denoiser(std::ref(model), spec, {{"y", labels}}, guidance);
        const ddpm::Noise noise = ddpm::noise_stream(std::stoll(string(data, "seed")),
                                                     numbers<std::int64_t>(data, "images"), spec.state_shape);
        const ddpm::Plan plan = ddpm::plan(
            spec, string(one, "sampler"), static_cast<std::int64_t>(number(data, "num_steps")), {}, {},
            is_learned ? std::nullopt : std::optional(number(one, "eta")),
            is_learned ? std::optional(ddpm::Variance::learned) : std::nullopt);
        const Array& expected = array(one, "states");
        expect_states(ddpm::walk(denoise, noise, plan), expected, 0, number(data, "tolerance"));
        // one evaluation a row: of twice the batch where it is guided, and not by the network itself
        const bool is_told_nothing = labels == std::vector<std::int64_t>(labels.size(), 3);
        EXPECT(model.batches.size() == expected.size(), "evaluations");
        for (std::size_t k = 0; k < expected.size(); ++k) {
            const double scale = guidance.at(plan.rows[k].t);
            const bool is_twice = scale != 0.0 && scale != 1.0 && !is_told_nothing && !spec.guides_itself();
            EXPECT(model.batches[k] == labels.size() * (is_twice ? 2 : 1), "rows of an evaluation");
        }
    }
}

void check_given(const std::string& folder) {
    const Value data = golden(folder, "given");
    const double tolerance = number(data, "tolerance");
    std::size_t walked = 0;
    for (const Value& one : array(data, "cases")) {
        const std::string name = string(one, "name");
        const ddpm::ModelSpec spec = spec_of(data, one);
        const ddpm::Shape& shape = spec.state_shape;
        const std::vector<std::int64_t> images = numbers<std::int64_t>(data, "images");
        const std::int64_t seed = std::stoll(string(data, "seed"));
        const ddpm::Noise noise = ddpm::noise_stream(seed, images, shape);
        std::vector<float> pictures = numbers<float>(data, "levels"), z(pictures.size());
        const auto level = [](float k) { return static_cast<float>(k / 127.5 - 1.0); };
        std::transform(pictures.begin(), pictures.end(), pictures.begin(), level);
        noise(0, z.data());
        const auto optional = [&](const char* key) {
            return one.find(key) != nullptr ? std::optional(number(one, key)) : std::nullopt;
        };

        // the plan is what the case says that it was made of, where this language knows its sampler
        const ddpm::Plan held = ddpm::detail::plan_from_json("given", at(one, "plan"), spec);
        ddpm::Plan plan = held;
        if (name == "backwards") {
            const auto times = numbers<double>(data, "times");
            EXPECT(times.size() == number(one, "num_steps"), name);
            plan = ddpm::inversion(spec, times);
        } else if (string(one, "sampler") == "ddim") {
            plan = ddpm::plan(spec, "ddim", static_cast<std::int64_t>(number(one, "num_steps")), {}, {},
                              number(one, "eta"));
            if (const auto strength = optional("strength")) {
                plan = ddpm::plan_below(plan, *strength, static_cast<std::int64_t>(spec.alphas_cumprod.size()));
            }
            plan = ddpm::with_returns(plan, static_cast<std::int64_t>(optional("returns").value_or(0)),
                                      static_cast<std::int64_t>(optional("jump").value_or(1)));
        }
        EXPECT(plan.rows.size() == held.rows.size(), name);
        std::vector<float> x;
        if (name == "backwards") {
            x = pictures;
        } else if (one.find("strength") != nullptr) {
            x = ddpm::noised(pictures, z, plan.rows[0].a);
        }
        ddpm::Denoiser denoise =
            ddpm::denoiser(gaussian_model(spec, number(data, "mean"), number(data, "std")), spec);
        const std::vector<float> mask = one.find("mask") != nullptr ? numbers<float>(one, "mask") : std::vector<float>();
        ddpm::Keep keep;
        if (one.find("measure") != nullptr) {
            const ddpm::Measurement measurement = ddpm::measurement_from_text(string(one, "measure"), shape, mask);
            std::vector<float> y;
            measurement.of(pictures, y);
            denoise = ddpm::measured(denoise, measurement, y);
        } else if (!mask.empty()) {
            keep = ddpm::known_pixels(pictures, mask, ddpm::noise_stream(seed, images, shape, ddpm::noise_of_given),
                                      shape);
        }
        const Array& states = array(one, "states");
        expect_states(ddpm::walk(denoise, noise, plan, x, {}, keep), states, 0, tolerance);
        ddpm::States whole = ddpm::walk(denoise, noise, plan, x, {}, keep);
        EXPECT(whole.next(), name);
        expect_states(ddpm::walk(denoise, noise, plan, {}, whole.now(), keep), states, 1, tolerance);
        ++walked;

        // the same in one call, where all of it begins at noise or at the picture: of each image, as a batch of one
        if (name == "backwards" || string(one, "sampler") != "ddim") {
            continue;
        }
        for (std::size_t k = 0; k < images.size(); ++k) {
            const auto size = static_cast<std::ptrdiff_t>(spec.image_size()), from = static_cast<std::ptrdiff_t>(k) * size;
            ddpm::Given given;
            given.images = {pictures.begin() + from, pictures.begin() + from + size};
            given.mask = mask;
            given.measure = one.find("measure") != nullptr ? std::optional(string(one, "measure")) : std::nullopt;
            given.strength = optional("strength");
            given.returns = static_cast<std::int64_t>(optional("returns").value_or(0));
            given.jump = static_cast<std::int64_t>(optional("jump").value_or(1));
            ddpm::Settings settings;
            settings.n = 1, settings.seed = seed, settings.first = images[k];
            settings.num_steps = static_cast<std::int64_t>(number(one, "num_steps"));
            settings.sampler = "ddim", settings.eta = number(one, "eta");
            const auto made = ddpm::edit(gaussian_model(spec, number(data, "mean"), number(data, "std")), spec, given,
                                         settings);
            const std::vector<float> expected = numbers<float>(states.back(), "x");
            for (std::size_t at = 0; at < made.size(); ++at) {
                EXPECT(std::abs(made[at] - expected[static_cast<std::size_t>(from) + at]) <= tolerance, name);
            }
        }
    }
    EXPECT(walked == 10, "every case");
    const std::size_t size = numbers<float>(data, "levels").size() / 2;
    const ddpm::Shape shape = numbers<std::int64_t>(data, "shape");
    std::vector<float> ends[2], z(2 * size);
    const std::vector<float> levels = numbers<float>(data, "levels");
    for (std::size_t k = 0; k < 2 * size; ++k) {
        ends[k / size].push_back(static_cast<float>(levels[k] / 127.5 - 1.0));
    }
    expect_near(ddpm::crossfade(ends[0], ends[1], 3), data, "crossfade", tolerance);
    ddpm::noise_stream(std::stoll(string(data, "seed")), numbers<std::int64_t>(data, "images"), shape)(0, z.data());
    const auto middle = z.begin() + static_cast<std::ptrdiff_t>(size);
    expect_near(ddpm::slerp({z.begin(), middle}, {middle, z.end()}, 3), data, "slerp", tolerance);
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
    spec.state_shape = {1, 5, 3};
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

// Return a plan of four rows that looks back, adds noise twice, and repeats a time.
ddpm::Plan third_order(const ddpm::ModelSpec& spec) {
    const auto& a = spec.alphas_cumprod;
    return {{{1, 39.0, a[39], {0.5}, {0.75}, {}},
             {2, 20.0, a[20], {0.875, -0.125}, {0.625}, {0.25}},
             {3, 20.0, a[20], {1.0, -0.25, 0.0625}, {0.5, 0.125}, {}},
             {4, 3.0, a[3], {1.125, -0.125}, {}, {0.125}}}};
}

void check_identities() {
    ddpm::ModelSpec spec = small_spec();
    const ddpm::Denoiser denoise = ddpm::denoiser(gaussian_model(spec, 0.3, 0.5), spec);
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.state_shape);
    const auto picture = [&](const ddpm::Plan& plan) { return last(ddpm::walk(denoise, noise, plan)); };
    EXPECT(picture(ddpm::plan(spec, "ddpm", 9)) == picture(ddpm::plan(spec, "ddim", 9, {}, {}, 1.0)),
           "ddpm is eta = 1");
    EXPECT(picture(ddpm::plan(spec, {}, {}, ddpm::spacing(40, 9))) == picture(ddpm::plan(spec, {}, 9)), "times");
    EXPECT(picture(ddpm::plan(spec)) == picture(ddpm::plan(spec, "ddim", 4, {}, {}, 0.0)), "defaults");
    // so many rows that some weight would show an eta in double
    EXPECT(picture(ddpm::plan(spec, {}, 40, {}, {}, 0.1)) == picture(ddpm::plan(spec, {}, 40, {}, {}, double{0.1f})),
           "eta");
    const ddpm::Plan plan = ddpm::plan(spec, "ddpm", 9);
    const std::vector<float> both = picture(plan),
                             alone = last(ddpm::walk(denoise, ddpm::noise_stream(5, {4}, spec.state_shape), plan));
    EXPECT(std::equal(alone.begin(), alone.end(), both.begin() + static_cast<std::ptrdiff_t>(alone.size())), "alone");

    spec.defaults.times = {30, 12, 3};
    EXPECT(picture(ddpm::plan(spec)) == picture(ddpm::plan(spec, {}, {}, spec.defaults.times)), "default times");
    EXPECT(ddpm::plan(spec).rows.size() == 3 && ddpm::plan(spec, "ddpm").rows.size() == 3, "default times");
    EXPECT(ddpm::plan(spec, {}, 5).rows.size() == 5, "a number of steps in place of default times");
    spec.plans["own"] = third_order(spec);
    spec.defaults.plan = "own";
    EXPECT(ddpm::plan(spec).rows[2].x_0.size() == 3 && ddpm::plan(spec, {}, {}, {}, "own").rows.size() == 4, "a plan");
    EXPECT(ddpm::plan(spec, "ddim").rows.size() == 3, "a sampler in place of a default plan");

    // start weighs draw 0, as x in its place would
    ddpm::Plan scaled = plan;
    scaled.start = 1.5;
    std::vector<float> x(both.size());
    noise(0, x.data());
    std::transform(x.begin(), x.end(), x.begin(), [](float value) { return 1.5f * value; });
    EXPECT(picture(scaled) == last(ddpm::walk(denoise, noise, plan, x)), "start");

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
        std::vector<float> x_t(spec.image_size());
        ddpm::noise_stream(5, {3}, spec.state_shape)(0, x_t.data());
        ddpm::Denoised found;
        loud(x_t, plan.rows[4], nullptr, found);
        const auto [low, high] = std::minmax_element(found.x_0.begin(), found.x_0.end());
        EXPECT(*low == -1.0f && *high == 1.0f, "clipped");
        for (std::size_t k = 0; k < x_t.size(); ++k) {
            const double a = plan.rows[4].a, back = std::sqrt(a) * found.x_0[k] + std::sqrt(1.0 - a) * found.eps[k];
            EXPECT(std::abs(back - x_t[k]) < 1e-5, "eps leads to x_t");
        }
    }

    // outputs may lie elsewhere: converted, they are the same
    std::vector<float> x_t(spec.image_size()), said(x_t.size(), 0.25f), fraction(x_t.size(), 0.75f);
    noise(1, x.data());
    std::copy_n(x.begin(), x_t.size(), x_t.begin());
    ddpm::Denoised apart, within{x_t, said, fraction};
    ddpm::denoised(ddpm::combine({{said.data(), fraction.data()}}, 1.0, said.size()), spec, x_t, plan.rows[4], apart);
    ddpm::denoised({within.eps.data(), within.variance_fraction.data()}, spec, x_t, plan.rows[4], within);
    EXPECT(apart.x_0 == within.x_0 && apart.eps == within.eps && apart.variance_fraction == fraction, "apart");

    // a fraction of 1 is fixed_large, one of 0 is fixed_small: learned stands between them
    for (const auto& [share, variance] :
         {std::pair(0.0f, ddpm::Variance::fixed_small), std::pair(1.0f, ddpm::Variance::fixed_large)}) {
        const ddpm::Denoiser with_fraction = ddpm::denoiser(gaussian_model(spec, 0.3, 0.5, share), spec);
        const auto made = [&](ddpm::Variance one) {
            return last(ddpm::walk(with_fraction, noise, ddpm::plan(spec, "ddpm", 9, {}, {}, {}, one)));
        };
        const auto learned = made(ddpm::Variance::learned), plain = made(variance);
        for (std::size_t k = 0; k < plain.size(); ++k) {
            EXPECT(std::abs(learned[k] - plain[k]) < 1e-5f, "learned");
        }
    }
}

// A network that is told three things, and what it was told.
ddpm::ModelSpec told_spec() {
    ddpm::ModelSpec spec = small_spec();
    spec.inputs = {{"y", ddpm::Kind::label, {}, 3.0, {"a", "b", "c"}},
                   {"strength", ddpm::Kind::vector, {2}, {}, {}},
                   {"x_0_prev", ddpm::Kind::previous, {1, 5, 3}, {}, {}}};
    return spec;
}

void check_inputs() {
    const ddpm::ModelSpec spec = told_spec();
    std::vector<std::int64_t> labels;
    std::vector<float> strength, before;
    double t = 0.0;
    const ddpm::Model inner = gaussian_model(spec, 0.3, 0.5);
    const ddpm::Model model = [&](const ddpm::Evaluation& asked) {
        inner(asked);
        EXPECT(asked.inputs.size() == 3 && asked.inputs[1].input->name == "strength", "in the spec's order");
        EXPECT(asked.inputs[0].numbers == nullptr && asked.inputs[1].labels == nullptr, "one of the two");
        labels.assign(asked.inputs[0].labels, asked.inputs[0].labels + asked.batch);
        strength.assign(asked.inputs[1].numbers, asked.inputs[1].numbers + 2 * asked.batch);
        before.assign(asked.inputs[2].numbers, asked.inputs[2].numbers + spec.image_size() * asked.batch);
        t = asked.t;
    };
    using Labels = std::vector<std::int64_t>;
    using Floats = std::vector<float>;
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.state_shape);
    const auto walked = [&](const ddpm::Inputs& inputs) {
        ddpm::States states = ddpm::walk(ddpm::denoiser(model, spec, inputs), noise, ddpm::plan(spec, {}, 2));
        states.next();
        EXPECT(before == Floats(before.size(), 0.0f), "zeros at first");
        const ddpm::State first = states.now();
        states.next();
        EXPECT(before == first.x_0 && t == 19.0, "the clean image found before");
        before.clear();
        ddpm::States on = ddpm::walk(ddpm::denoiser(model, spec, inputs), noise, ddpm::plan(spec, {}, 2), {}, first);
        EXPECT(on.next() && before == first.x_0 && on.now().x == states.now().x, "where a walk goes on, too");
    };
    const Floats two = {0.5f, -1.0f}, each = {0.5f, -1.0f, 2.0f, 3.0f}, spread = {0.5f, -1.0f, 0.5f, -1.0f};
    walked({{"strength", two}});
    EXPECT((labels == Labels{3, 3}) && strength == spread, "what is not said");
    walked({{"y", "c"}, {"strength", each}});
    EXPECT((labels == Labels{2, 2}) && strength == each, "a class by its name");
    walked({{"y", Labels{3, 0}}, {"strength", two}});
    EXPECT((labels == Labels{3, 0}), "a label for each image");

    const auto refused = [&](const ddpm::Inputs& inputs, const char* words) {
        try {
            ddpm::Denoised found;
            ddpm::denoiser(model, spec, inputs)(Floats(2 * spec.image_size()), ddpm::Row{1, 3.0, 0.5}, nullptr, found);
            EXPECT(false, words);
        } catch (const ddpm::Error& error) {
            EXPECT(error.code == ddpm::Code::usage, error.what());
            EXPECT(std::strstr(error.what(), words) != nullptr, error.what());
        }
    };
    const float nan = std::numeric_limits<float>::quiet_NaN();
    refused({}, "Input 'strength', of kind vector and shape (2,), must be given.");
    refused({{"label", "a"}, {"strength", two}}, "The model has no input 'label'; it has y, strength.");
    refused({{"x_0_prev", Floats(30)}, {"strength", two}}, "The model has no input 'x_0_prev'");
    refused({{"y", "d"}, {"strength", two}}, "Input 'y' must be one of a, b, c or its index from 0 to 2, got 'd'.");
    refused({{"y", Labels{4}}, {"strength", two}}, "Input 'y' must be one of a, b, c or its index from 0 to 2");
    refused({{"y", Labels{-1}}, {"strength", two}}, "Input 'y' must be one of");
    refused({{"y", Floats{1.0f}}, {"strength", two}}, "Input 'y' must be one of");
    refused({{"y", Labels{0, 1, 2}}, {"strength", two}}, "Input 'y' must have shape () or (2,), got 3 values.");
    refused({{"strength", Labels{0, 1}}}, "Input 'strength' must be floats");
    refused({{"strength", Floats{1.0f}}}, "Input 'strength' must have shape (2,) or (1, 2), got 1 values.");
    refused({{"strength", Floats{0.0f, nan}}}, "Input 'strength' must be finite, got NaN or infinity.");
    ddpm::ModelSpec hostile = spec;
    hostile.inputs[0].classes[1] = "b\n\x1b[31m";
    EXPECT(code_of([&] { (void)ddpm::denoiser(model, hostile, {{"y", "d"}, {"strength", two}}); }) == 2, "one line");
    // what can be seen without a batch is told where the denoiser is made
    EXPECT(code_of([&] { (void)ddpm::denoiser(model, spec); }) == 2, "at once");
    EXPECT(code_of([&] { (void)ddpm::denoiser(model, spec, {{"strength", each}}); }) == 0, "for two images");
}

// A network whose label may be left out, for guidance.
ddpm::ModelSpec guided_spec() {
    ddpm::ModelSpec spec = told_spec();
    spec.inputs[1].none = 0.5;
    return spec;
}

void check_guidance() {
    const ddpm::ModelSpec spec = guided_spec();
    ClassesModel network{spec, {-0.5, 0.25, 0.75, 0.125}, {0.25f, 0.5f, 1.0f, 0.75f}, 0.5};
    std::vector<std::int64_t> labels;
    std::vector<float> strength, before;
    const ddpm::Model model = [&](const ddpm::Evaluation& asked) {
        network(asked);
        labels.assign(asked.inputs[0].labels, asked.inputs[0].labels + asked.batch);
        strength.assign(asked.inputs[1].numbers, asked.inputs[1].numbers + 2 * asked.batch);
        before.assign(asked.inputs[2].numbers, asked.inputs[2].numbers + spec.image_size() * asked.batch);
    };
    using Labels = std::vector<std::int64_t>;
    using Floats = std::vector<float>;
    const Labels given = {2, 0};
    const Floats two = {1.0f, 2.0f, 3.0f, 4.0f};
    const ddpm::Inputs inputs = {{"y", given}, {"strength", two}};
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.state_shape);
    const ddpm::Guidance middle{3.0, {{10.0, 20.0}}};
    EXPECT(middle.at(10.0) == 3.0 && middle.at(20.0) == 3.0, "both ends");
    EXPECT(middle.at(9.5) == 1.0 && middle.at(20.5) == 1.0, "beyond them");
    const ddpm::Guidance late{3.0, {{0.0, 20.0}}};  // of the rows at t = 39 and 19 only the second
    ddpm::States states = ddpm::walk(ddpm::denoiser(model, spec, inputs, late), noise, ddpm::plan(spec, {}, 2));
    states.next();
    EXPECT(labels == given && strength == two, "as told where the scale is 1");
    const Floats x_0 = states.now().x_0;
    states.next();
    EXPECT((labels == Labels{2, 0, 3, 3}), "with the label, then without");
    EXPECT((strength == Floats{1.0f, 2.0f, 3.0f, 4.0f, 1.0f, 2.0f, 3.0f, 4.0f}), "all else alike");
    EXPECT(before.size() == 2 * x_0.size() && std::equal(x_0.begin(), x_0.end(), before.begin()) &&
               std::equal(x_0.begin(), x_0.end(), before.begin() + static_cast<std::ptrdiff_t>(x_0.size())),
           "the clean image before, too");
    // a denoiser begins anew where it is told no clean image
    ddpm::Denoised found;
    ddpm::Denoiser denoise = ddpm::denoiser(model, spec, inputs, ddpm::Guidance{3.0});
    denoise(states.now().x, states.now().row, x_0.data(), found);
    denoise(states.now().x, states.now().row, nullptr, found);
    EXPECT(before == Floats(before.size(), 0.0f), "zeros at first");

    // the numbers of images decide what they are told: alone, among others, and in a batch that begins elsewhere
    ddpm::Settings settings;
    settings.n = 5;
    settings.first = 2;
    settings.inputs = {{"strength", two}};
    std::vector<float> all = ddpm::sample(model, spec, settings);
    EXPECT((labels == Labels{2, 0, 1, 2, 0}), "every class in turn");
    EXPECT((strength == Floats{1.0f, 2.0f, 3.0f, 4.0f, 1.0f, 2.0f, 3.0f, 4.0f, 1.0f, 2.0f}), "in turn");
    settings.label = std::vector<std::string>{"b", "none"};
    settings.guidance = ddpm::Guidance{2.0};
    all = ddpm::sample(model, spec, settings);
    EXPECT((labels == Labels{1, 3, 1, 3, 1, 3, 3, 3, 3, 3}), "two in turn");
    settings.first = 4;
    settings.n = 1;
    const std::vector<float> alone = ddpm::sample(model, spec, settings);
    EXPECT((labels == Labels{1, 3}), "image 4");
    EXPECT(std::equal(alone.begin(), alone.end(), &all[2 * alone.size()]), "alone");
    settings.guidance = ddpm::Guidance{0.0};
    (void)ddpm::sample(model, spec, settings);
    EXPECT((labels == Labels{3}), "at 0 without");
    settings.label = "2";
    settings.guidance.reset();
    (void)ddpm::sample(model, spec, settings);
    EXPECT((labels == Labels{2}), "an index as text");
    ddpm::ModelSpec own = spec;
    own.defaults.guidance = ddpm::Guidance{2.0};
    (void)ddpm::sample(model, own, settings);
    EXPECT((labels == Labels{2, 3}), "the file's own guidance");
    settings.guidance = ddpm::Guidance{};
    (void)ddpm::sample(model, own, settings);
    EXPECT((labels == Labels{2}), "in place of the file's");

    const auto refused = [&](const ddpm::ModelSpec& of, auto change, const char* words) {
        ddpm::Settings wrong;
        change(wrong);
        try {
            (void)ddpm::sample(model, of, wrong);
            EXPECT(false, words);
        } catch (const ddpm::Error& error) {
            EXPECT(error.code == ddpm::Code::usage && std::string(error.what()) == words, error.what());
        }
    };
    const auto guided = [](double scale) {
        return [scale](ddpm::Settings& s) { s.guidance = ddpm::Guidance{scale}; };
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    refused(spec, guided(-1.0), "guidance must be a number from 0 to 100, got -1.");
    refused(spec, guided(100.5), "guidance must be a number from 0 to 100, got 100.5.");
    refused(spec, guided(nan), "guidance must be a number from 0 to 100, got nan.");
    for (const auto& [interval, shown] :
         {std::pair(std::array{3.0, 1.0}, "(3, 1)"), std::pair(std::array{-1.0, 1.0}, "(-1, 1)"),
          std::pair(std::array{0.0, HUGE_VAL}, "(0, inf)"), std::pair(std::array{nan, 1.0}, "(nan, 1)")}) {
        const std::string words = std::string("the interval of guidance must be two times, the lower first, from 0 "
                                              "on, got ") + shown + ".";
        const ddpm::Guidance wrong{1.0, interval};
        refused(spec, [&](ddpm::Settings& s) { s.guidance = wrong; }, words.c_str());
    }
    ddpm::ModelSpec always = spec, plain = small_spec();
    always.inputs[0].none.reset();
    const char* never = "guidance must be 1 for a network that has not learned to do without a class, got 2.5.";
    refused(always, guided(2.5), never);
    refused(plain, guided(2.5), never);
    EXPECT(code_of([&] { (void)ddpm::denoiser(model, plain, {}, ddpm::Guidance{}); }) == 0, "a scale of 1");
    refused(always, [](ddpm::Settings& s) { s.label = "none"; },
            "Input 'y' cannot be none, since the network was always told a class.");
    refused(plain, [](ddpm::Settings& s) { s.label = "a"; },
            "label does not apply to a network that is told no class.");
    refused(spec, [](ddpm::Settings& s) { s.label = "a", s.inputs = {{"y", "a"}}; },
            "label must be left out beside the input 'y', which is the same.");
    refused(spec, [](ddpm::Settings& s) { s.label = std::vector<std::string>{"a", "4"}; },
            "Input 'y' must be one of a, b, c or its index from 0 to 2, got '4'.");
    refused(spec, [](ddpm::Settings& s) { s.label = std::vector<std::string>{}; },
            "Input 'y' must have shape () or (K,), got 0 values.");
    refused(spec, [](ddpm::Settings& s) { s.inputs = {{"strength", Floats{1.0f, 2.0f, 3.0f}}}; },
            "Input 'strength' must have shape (2,) or (K, 2), got 3 values.");
    refused(spec, [](ddpm::Settings& s) { s.inputs = {{"guidance", Floats{1.0f}}}; },
            "The model has no input 'guidance'; it has y, strength.");
    own.inputs[1] = {"guidance", ddpm::Kind::vector, {1}, 1.0, {}};
    refused(own, [](ddpm::Settings& s) { s.inputs = {{"guidance", Floats{1.0f}}}; },
            "The model has no input 'guidance'; it has y.");
    ddpm::ModelSpec named = spec;
    named.inputs[0].classes = {"a", "none", "0"};
    ddpm::Settings of_names;
    of_names.n = 2;
    of_names.label = std::vector<std::string>{"none", "0"};
    (void)ddpm::sample(model, named, of_names);
    EXPECT((labels == Labels{1, 2}), "classes that are called so");

    // what is not finite is told by the number of its image, in whichever half
    for (const std::size_t half : {0u, 1u}) {
        const ddpm::Model sick = [&](const ddpm::Evaluation& asked) {
            network(asked);
            asked.variance_fraction[(2 * half + 1) * spec.image_size()] = std::numeric_limits<float>::quiet_NaN();
        };
        ddpm::States broken = ddpm::walk(ddpm::denoiser(sick, spec, inputs, ddpm::Guidance{2.0}), noise,
                                         ddpm::plan(spec, {}, 2));
        try {
            broken.next();
            EXPECT(false, "a sick number was not seen");
        } catch (const ddpm::NonFiniteError& error) {
            EXPECT(error.index == 1 && std::strstr(error.what(), "image 4 became NaN") != nullptr, error.what());
        }
    }
}

// What is given in one call: who has whose noise and label, what a batch shares, and what is refused.
void check_edits() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Model model = gaussian_model(spec, 0.3, 0.5);
    const std::vector<std::uint8_t> pixels = {0, 255, 7, 1, 2, 3, 4, 5, 6, 100, 101, 102, 103, 104, 105};
    const std::vector<float> picture = ddpm::from_uint8(pixels, spec.state_shape);
    EXPECT(ddpm::to_uint8(picture, spec.state_shape) == pixels, "to a picture and back");
    const std::vector<float> colours = ddpm::from_uint8({0, 10, 20, 30, 40, 50}, {3, 1, 2});  // two pixels
    EXPECT((ddpm::to_uint8(colours, {3, 1, 2}) == std::vector<std::uint8_t>{0, 10, 20, 30, 40, 50}), "layout");
    EXPECT(std::abs(colours[1] - (30 / 127.5 - 1.0)) < 1e-6, "channels first");
    ddpm::Settings settings;
    settings.n = 3, settings.first = 4, settings.eta = 1.0;
    ddpm::Given given;
    given.images = picture;
    given.mask.assign(15, 1.0f);
    given.mask[3] = 0.0f;
    const std::vector<float> all = ddpm::edit(model, spec, given, settings);
    settings.n = 1, settings.first = 6;
    const std::vector<float> last_one = ddpm::edit(model, spec, given, settings);
    EXPECT(std::equal(last_one.begin(), last_one.end(), all.begin() + 30), "an image alone and in a batch");
    EXPECT(all[3] == picture[3] && all[18] == picture[3] && all[4] != all[19], "known and made");
    given.mask.clear();
    given.strength = 0.5;
    settings.n = 2, settings.first = 4;
    given.between = true;
    const std::vector<float> alike = ddpm::edit(model, spec, given, settings);
    EXPECT(std::equal(alike.begin(), alike.begin() + 15, alike.begin() + 15), "the noise of one image");
    given.between = false;
    const std::vector<float> ways = ddpm::edit(model, spec, given, settings);
    EXPECT(!std::equal(ways.begin(), ways.begin() + 15, ways.begin() + 15), "each its own");
    EXPECT(std::equal(ways.begin(), ways.begin() + 15, alike.begin()), "of the first");

    // of a picture no class is known: what the network is told is none, unless a label is set
    const ddpm::ModelSpec guided = guided_spec();
    std::vector<std::int64_t> labels;
    const ddpm::Model told = [&](const ddpm::Evaluation& asked) {
        labels.assign(asked.inputs[0].labels, asked.inputs[0].labels + asked.batch);
        model(asked);
    };
    (void)ddpm::edit(told, guided, given, settings);
    EXPECT((labels == std::vector<std::int64_t>{3, 3}), "none");
    settings.label = "b";
    (void)ddpm::edit(told, guided, given, settings);
    EXPECT((labels == std::vector<std::int64_t>{1, 1}), "a label");

    const auto refused = [&](const char* words, auto change) {
        ddpm::Given other;
        other.images = picture;
        other.mask.assign(15, 0.0f);
        ddpm::Settings how;
        how.n = 2;
        change(other, how);
        try {
            (void)ddpm::edit(model, spec, other, how);
            EXPECT(false, words);
        } catch (const ddpm::Error& error) {
            EXPECT(error.code == ddpm::Code::usage, error.what());
            EXPECT(std::strstr(error.what(), words) != nullptr, error.what());
        }
    };
    using G = ddpm::Given&;
    using S = ddpm::Settings&;
    refused("There must be 15 numbers in a picture", [](G g, S) { g.images.pop_back(); });
    refused("There must be 15 numbers in a picture", [](G g, S) { g.images.resize(45); });
    refused("There must be a picture", [](G g, S) { g.images.clear(); });
    refused("a mask, a measure or a strength", [](G g, S) { g.mask.clear(); });
    refused("mask must have 15, 15 or 30 numbers, got 5.", [](G g, S) { g.mask.resize(5); });
    refused("mask must be from 0 to 1, got 1.5", [](G g, S) { g.mask[1] = 1.5f; });
    refused("mask must be from 0 to 1", [](G g, S) { g.mask[1] = std::numeric_limits<float>::quiet_NaN(); });
    refused("strength must be above 0", [](G g, S) { g.strength = 0.0; });
    refused("strength must be above 0", [](G g, S) { g.strength = std::numeric_limits<double>::quiet_NaN(); });
    refused("strength must reach the lowest time", [](G g, S s) { g.strength = 0.1, s.num_steps = 1; });
    refused("returns need a mask or a measure", [](G g, S) { g.mask.clear(), g.strength = 0.5, g.returns = 1; });
    refused("returns must be 0 or more", [](G g, S) { g.returns = -1; });
    refused("jump must be between 1 and 3", [](G g, S) { g.returns = 1, g.jump = 4; });
    refused("returns need a sampler", [](G g, S s) {
        g.returns = 1, s.sampler = "ddpm", s.variance = ddpm::Variance::learned;
    });
    refused("between needs a strength", [](G g, S) { g.between = true; });
    refused("mask does not apply to measure grey", [](G g, S) { g.measure = "grey"; });
    refused("measure mask needs a mask", [](G g, S) { g.mask.clear(), g.measure = "mask"; });
    refused("measure average:K must divide 5 x 3 pixels", [](G g, S) { g.mask.clear(), g.measure = "average:2"; });
    refused("measure must be average:K, grey or mask", [](G g, S) { g.mask.clear(), g.measure = "average:-1"; });
    refused("seed", [](G, S s) { s.seed = -1; });
    ddpm::Plan looking_back = third_order(spec);
    EXPECT(code_of([&] { (void)ddpm::plan_below(looking_back, 0.6, 40); }) == 2, "rows that look back");
    EXPECT(code_of([&] { (void)ddpm::with_returns(looking_back, 1); }) == 2, "rows that look back");
    EXPECT(ddpm::plan_below(looking_back, 1.0, 40).rows.size() == 4, "from the beginning");
    EXPECT(code_of([&] { (void)ddpm::inversion(spec, {0.0}); }) == 2, "only time 0");
    EXPECT(code_of([&] { (void)ddpm::inversion(spec, {2.5}); }) == 2, "a fraction");
    EXPECT(code_of([&] { (void)ddpm::crossfade(picture, picture, 1); }) == 2, "one image");
}

void check_allocations() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Noise noise = ddpm::noise_stream(5, {3, 4}, spec.state_shape);
    const auto of_ddpm = [&](ddpm::Variance one) { return ddpm::plan(spec, "ddpm", 40, {}, {}, {}, one); };
    const ddpm::Plan plans[] = {ddpm::plan(spec, "ddim", 40, {}, {}, 0.5), of_ddpm(ddpm::Variance::fixed_large),
                                of_ddpm(ddpm::Variance::learned), third_order(spec)};
    for (const ddpm::Plan& plan : plans) {
        ddpm::States states = ddpm::walk(ddpm::denoiser(gaussian_model(spec, 0.3, 0.5), spec), noise, plan);
        const std::size_t before = allocations;
        std::size_t done = 0;
        while (states.next()) {
            ++done;
        }
        EXPECT(done == plan.rows.size(), "rows");
        EXPECT(allocations == before, "allocations within the loop");
    }
    const ddpm::Denoiser denoise = ddpm::denoiser(gaussian_model(spec, 0.3, 0.5), spec);
    ddpm::States begun = ddpm::walk(denoise, noise, third_order(spec));
    begun.next();
    ddpm::States on = ddpm::walk(denoise, noise, third_order(spec), {}, begun.now());
    const std::size_t at_start = allocations;
    while (on.next()) {
    }
    EXPECT(allocations == at_start, "allocations where a walk goes on");
    const ddpm::ModelSpec told = told_spec();  // inputs: in the first row
    const std::vector<float> strength = {1.0f, 2.0f};
    ddpm::States states = ddpm::walk(ddpm::denoiser(gaussian_model(told, 0.3, 0.5), told, {{"strength", strength}}),
                                     noise, third_order(told));
    states.next();
    const std::size_t after_first = allocations;
    while (states.next()) {
    }
    EXPECT(allocations == after_first, "allocations for inputs");
    // with guidance, too, be it of later rows only
    ddpm::States guided = ddpm::walk(ddpm::denoiser(gaussian_model(told, 0.3, 0.5), told, {{"strength", strength},
                                                    {"y", "a"}}, ddpm::Guidance{2.0, {{0.0, 30.0}}}),
                                     noise, third_order(told));
    guided.next();
    const std::size_t after_unguided = allocations;
    while (guided.next()) {
    }
    EXPECT(allocations == after_unguided, "allocations for guidance");
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
    ddpm::ModelSpec spec = small_spec();
    const ddpm::Model model = gaussian_model(spec, 0.3, 0.5);
    const ddpm::Denoiser denoise = ddpm::denoiser(model, spec);
    const ddpm::Noise noise = ddpm::noise_stream(0, {0}, spec.state_shape);
    constexpr std::int64_t many = std::int64_t{1} << 32;
    EXPECT(code_of([&] { (void)ddpm::noise_stream(-1, {0}, {1, 1, 1}); }) == 2, "seed");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0, many}, {1, 1, 1}); }) == 2, "image");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {-1}, {1, 1, 1}); }) == 2, "image");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0}, {1, 0, 1}); }) == 2, "shape");
    EXPECT(code_of([&] { (void)ddpm::noise_stream(0, {0}, {many, many, many}); }) == 2, "shape");
    EXPECT(code_of([&] { ddpm::check_image_numbers(many - 1, 2); }) == 2, "numbers");
    EXPECT(code_of([&] { ddpm::check_image_numbers(many - 1, 1); }) == 0, "numbers");
    EXPECT(code_of([&] { ddpm::check_image_numbers(1, std::numeric_limits<std::int64_t>::max()); }) == 2, "numbers");

    spec.plans["own"] = third_order(spec);
    const auto planned = [&](const auto&... choice) { return code_of([&] { (void)ddpm::plan(spec, choice...); }); };
    using Sampler = std::optional<std::string>;
    using Number = std::optional<std::int64_t>;
    using Times = std::optional<std::vector<std::int64_t>>;
    const Sampler own = "own";
    for (const std::int64_t n : {0, -1, 41}) {
        EXPECT(planned(Sampler(), Number(n)) == 2, "steps");
    }
    for (const std::vector<std::int64_t>& times : {std::vector<std::int64_t>{}, {3, 3}, {2, 3}, {40, 1}, {1, -1}}) {
        EXPECT(planned(Sampler(), Number(), Times(times)) == 2, "times");
    }
    const Times two = std::vector<std::int64_t>{9, 3};
    EXPECT(planned(Sampler(), Number(2), two) == 0, "times and their number");
    EXPECT(planned(Sampler(), Number(3), two) == 2, "times and another number");
    for (const double eta : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
        EXPECT(planned(Sampler(), Number(), Times(), Sampler(), std::optional(eta)) == 2, "eta");
    }
    EXPECT(planned(Sampler(), Number(), Times(), own) == 0, "a plan");
    EXPECT(planned(Sampler(), Number(), Times(), Sampler("other")) == 2, "another plan");
    EXPECT(planned(Sampler(), Number(4), Times(), own) == 2, "a plan and steps");
    EXPECT(planned(Sampler("euler\n")) == 2, "sampler");
    spec.defaults.sampler = "euler\n";
    EXPECT(planned() == 4, "a default sampler of later");
    EXPECT(planned(Sampler("ddim")) == 0, "in its place a known one");
    spec = small_spec();
    spec.has_variance_fraction = false;
    spec.variance = ddpm::Variance::learned;
    EXPECT(planned(Sampler("ddpm")) == 2, "learned");
    spec = small_spec();

    const ddpm::Plan plan = third_order(spec);
    EXPECT(code_of([&] { (void)ddpm::walk(denoise, noise, plan, {1.0f}); }) == 2, "x");
    ddpm::States states = ddpm::walk(denoise, noise, plan);
    EXPECT(states.next() && states.next(), "two rows");
    ddpm::State state = states.now();
    EXPECT(state.history.size() == 2, "history");
    EXPECT(code_of([&] { (void)ddpm::walk(denoise, noise, plan, {}, state); }) == 0, "a state");
    state.history[1].eps.pop_back();
    EXPECT(code_of([&] { (void)ddpm::walk(denoise, noise, plan, {}, state); }) == 2, "a history of another size");
    state.history.pop_back();
    EXPECT(code_of([&] { (void)ddpm::walk(denoise, noise, plan, {}, state); }) == 2, "a history too short");
    for (const std::size_t reach : {0, 2, 17}) {
        const ddpm::Plan bad{{{1, 9.0, 0.5, std::vector<double>(reach, 0.1), {}, {}}}};
        EXPECT(code_of([&] { (void)ddpm::walk(denoise, noise, bad); }) == 2, "reach");
    }
    ddpm::ModelSpec plain = spec;
    plain.has_variance_fraction = false;
    const ddpm::Plan learned = ddpm::plan(spec, "ddpm", 2, {}, {}, {}, ddpm::Variance::learned);
    EXPECT(code_of([&] { (void)last(ddpm::walk(ddpm::denoiser(model, plain), noise, learned)); }) == 2, "learned");

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
    EXPECT(sampled([](ddpm::Settings& s) { s.times = {3, 9}; }) == 2, "times");
    EXPECT(sampled([](ddpm::Settings& s) { s.sampler = "euler\n"; }) == 2, "sampler");
    EXPECT(sampled([](ddpm::Settings& s) { s.sampler = "ddpm", s.eta = 0.0; }) == 2, "eta of ddpm");
    EXPECT(sampled([](ddpm::Settings& s) { s.variance = ddpm::Variance::learned; }) == 2, "variance of ddim");
    EXPECT(sampled([](ddpm::Settings& s) { s.eta = 2.0; }) == 2, "eta");
    EXPECT(sampled([](ddpm::Settings& s) { s.plan = "own"; }) == 2, "plan");

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
}

// What is not finite is told by the number of its row, though times repeat, and by that of the image.
void check_sick_numbers() {
    const ddpm::ModelSpec spec = small_spec();
    const ddpm::Model model = gaussian_model(spec, 0.3, 0.5);
    const ddpm::Noise noise = ddpm::noise_stream(0, {6, 7}, spec.state_shape);
    for (const float sick : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        for (const bool is_fraction : {false, true}) {
            std::size_t evaluations = 0;
            const ddpm::Model bad = [&](const ddpm::Evaluation& asked) {
                model(asked);
                if (++evaluations == 3) {  // row 3 has the time of row 2
                    (is_fraction ? asked.variance_fraction : asked.prediction)[asked.batch * spec.image_size() - 1] =
                        sick;
                }
            };
            ddpm::States states = ddpm::walk(ddpm::denoiser(bad, spec), noise, third_order(spec));
            EXPECT(states.next() && states.next(), "sound");
            const std::vector<float> x = states.now().x;
            try {
                states.next();
                EXPECT(false, "a sick number was not seen");
            } catch (const ddpm::NonFiniteError& error) {
                EXPECT(error.code == ddpm::Code::not_finite && error.index == 1, error.what());
                EXPECT(std::string(error.what()) ==
                           "At step 3 (t = 20), image 7 became NaN or infinite. Run ddpm-check on the model.",
                       error.what());
            }
            EXPECT(states.now().x == x && states.now().row.i == 2, "as before the row");
            EXPECT(states.next() && states.now().row.i == 3, "and on");
        }
    }
    ddpm::Plan loud = third_order(spec);
    loud.rows.back().x_0[0] = 1e39;  // the sum overflows, where no network sees it any more
    EXPECT(code_of([&] { (void)last(ddpm::walk(ddpm::denoiser(model, spec), noise, loud)); }) == 6, "a sum");
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
    const auto times = spec.defaults.times.value_or(std::vector<std::int64_t>());
    std::printf("0 %s %d %d %d %zu %lld %d %lld %zu", spec.name.c_str(), static_cast<int>(spec.prediction),
                static_cast<int>(spec.variance), spec.has_variance_fraction, spec.alphas_cumprod.size(),
                static_cast<long long>(spec.defaults.num_steps), spec.has_fractional_t,
                static_cast<long long>(std::accumulate(times.begin(), times.end(), std::int64_t{0})),
                spec.defaults.plan.value_or("").size());
    if (const auto& guidance = spec.defaults.guidance) {
        std::printf(" %s", ddpm::detail::text_of(guidance->scale).c_str());
        if (const auto& interval = guidance->interval) {
            std::printf(" %s %s", ddpm::detail::text_of((*interval)[0]).c_str(),
                        ddpm::detail::text_of((*interval)[1]).c_str());
        }
    }
    for (const ddpm::Input& one : spec.inputs) {
        std::printf(" %s %s %zu %s %zu", one.name.c_str(),
                    std::string(ddpm::detail::kinds[static_cast<std::size_t>(one.kind)]).c_str(), one.size(),
                    one.none ? ddpm::detail::text_of(*one.none).c_str() : "null", one.classes.size());
    }
    for (const auto& [name, plan] : spec.plans) {
        double weights = 0.0;
        for (const ddpm::Row& row : plan.rows) {
            const auto sum = [](const std::vector<double>& numbers) {
                return std::accumulate(numbers.begin(), numbers.end(), 0.0);
            };
            weights += sum(row.x_0) + 2 * sum(row.eps) + 3 * sum(row.noise) + row.t + row.a;
        }
        std::printf(" %s %zu %.5g %g", name.c_str(), plan.rows.size(), weights, plan.start);
    }
    std::printf("\n");
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
        check_plans(argument);
        check_conditions(argument);
        check_given(argument);
        check_pixels(argument);
        check_identities();
        check_inputs();
        check_guidance();
        check_edits();
        check_allocations();
        check_refusals();
        check_sick_numbers();
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
