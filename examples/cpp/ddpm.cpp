// ddpm.cpp - the C interface of ddpm.h over ddpm.hpp: exceptions end here, as codes and lines.
#include "ddpm.h"

#include <new>

#include "ddpm.hpp"

struct ddpm_spec {
    ddpm::ModelSpec spec;
};

namespace {

int told(ddpm_error* error, int code, std::string_view line) {
    if (error != nullptr) {
        const std::size_t length = line.copy(error->message, sizeof error->message - 1);
        error->message[length] = '\0';
    }
    return code;
}

template <class Work>
int guarded(ddpm_error* error, Work work) {
    try {
        work();
        return told(error, DDPM_OK, "");
    } catch (const ddpm::Error& problem) {
        return told(error, static_cast<int>(problem.code), problem.what());
    } catch (const std::bad_alloc&) {
        return told(error, DDPM_ENVIRONMENT, "memory: not enough. got none, expected room for a batch. Do lower n.");
    } catch (const std::exception& problem) {
        return told(error, DDPM_ENVIRONMENT,
                    std::string("library: failed. got ") + problem.what() + ", expected no error. Do report it.");
    }
}

ddpm::Shape shape_of(const int64_t shape[3]) { return {shape[0], shape[1], shape[2]}; }
ddpm::Step step_of(const ddpm_step& step) { return {step.i, step.t, step.a, step.a_prev}; }
ddpm_step step_from(const ddpm::Step& step) { return {step.i, step.t, step.a, step.a_prev}; }

ddpm::Model model_of(ddpm_model model, void* context) {
    return [=](const ddpm::Evaluation& asked) {
        const ddpm_evaluation evaluation = {asked.batch, asked.x_t, asked.t, asked.prediction, asked.variance_fraction};
        const int answer = model(context, &evaluation);
        if (answer != 0) {
            throw ddpm::Error(ddpm::Code::environment, "model: the callback failed. got " + std::to_string(answer) +
                                                           ", expected 0. Do see what it reports.");
        }
    };
}

// Walk to the end, keeping x after each step that was done.
void walk(ddpm::States states, std::size_t num_steps, ddpm_progress progress, void* context, float* x) {
    std::size_t done = 0;
    while (states.next()) {
        const ddpm::State& state = states.now();
        std::copy(state.x.begin(), state.x.end(), x);
        if (progress != nullptr && progress(context, ++done, num_steps, x, state.x_0.data()) != 0) {
            throw ddpm::Error(ddpm::Code::cancelled, "sampler: cancelled. got a stop after step " +
                                                         std::to_string(done) + " of " + std::to_string(num_steps) +
                                                         ", expected to go on. Do resume from x.");
        }
    }
}

// What both samplers are given, in the types of ddpm.hpp.
struct Given {
    ddpm::Denoiser denoise;
    ddpm::Noise noise;
    std::vector<ddpm::Step> steps;
    std::vector<float> x;

    Given(const ddpm_spec* spec, ddpm_model model, void* context, int64_t seed, const int64_t* images, std::size_t n,
          const ddpm_step* first_step, std::size_t num_steps, const float* first_x)
        : denoise(ddpm::denoiser(model_of(model, context), spec->spec)),
          noise(ddpm::noise_stream(seed, {images, images + n}, spec->spec.image_shape)),
          x(first_x, first_x + n * spec->spec.image_size()) {
        for (std::size_t k = 0; k < num_steps; ++k) {
            steps.push_back(step_of(first_step[k]));
        }
    }
};

ddpm::Variance variance_of(std::string_view name) {
    constexpr std::string_view names[] = {"fixed_small", "fixed_large", "learned"};
    const auto* at = std::find(std::begin(names), std::end(names), name);
    if (at == std::end(names)) {
        throw ddpm::Error(ddpm::Code::usage, "variance: unknown. got " + ddpm::detail::in_quotes(name) +
                                                 ", expected one of fixed_small, fixed_large, learned. Do pick one.");
    }
    return static_cast<ddpm::Variance>(at - names);
}

}  // namespace

void ddpm_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
    const auto result = ddpm::philox4x32_10({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
    std::copy(result.begin(), result.end(), words);
}

void ddpm_normals_from_words(const uint32_t* words, size_t count, float* normals) {
    ddpm::normals_from_words(words, count, normals);
}

int ddpm_noise_stream(int64_t seed, const int64_t* images, size_t n, const int64_t shape[3], uint32_t domain,
                      uint32_t draw, float* z, ddpm_error* error) {
    return guarded(error, [&] { ddpm::noise_stream(seed, {images, images + n}, shape_of(shape), domain)(draw, z); });
}

int ddpm_spec_from_json(const char* json, size_t length, ddpm_spec** spec, ddpm_error* error) {
    *spec = nullptr;
    return guarded(error, [&] { *spec = new ddpm_spec{ddpm::spec_from_json({json, length})}; });
}

void ddpm_spec_free(ddpm_spec* spec) { delete spec; }

void ddpm_spec_image_shape(const ddpm_spec* spec, int64_t shape[3]) {
    std::copy(spec->spec.image_shape.begin(), spec->spec.image_shape.end(), shape);
}

const char* ddpm_spec_prediction(const ddpm_spec* spec) {
    constexpr const char* names[] = {"eps", "x_0", "v"};
    return names[static_cast<int>(spec->spec.prediction)];
}

const double* ddpm_spec_alphas_cumprod(const ddpm_spec* spec, size_t* num_train_timesteps) {
    *num_train_timesteps = spec->spec.alphas_cumprod.size();
    return spec->spec.alphas_cumprod.data();
}

int ddpm_spec_has_variance_fraction(const ddpm_spec* spec) { return spec->spec.has_variance_fraction ? 1 : 0; }

void ddpm_settings_from_spec(const ddpm_spec* spec, ddpm_settings* settings) {
    const ddpm::Defaults& defaults = spec->spec.defaults;
    *settings = {0, 0, 16, defaults.num_steps, defaults.sampler.c_str(), defaults.eta};
}

int ddpm_spacing(int64_t num_train_timesteps, int64_t num_steps, int64_t* times, ddpm_error* error) {
    return guarded(error, [&] {
        const auto result = ddpm::spacing(num_train_timesteps, num_steps);
        std::copy(result.begin(), result.end(), times);
    });
}

int ddpm_trajectory(const ddpm_spec* spec, int64_t num_steps, ddpm_step* steps, ddpm_error* error) {
    return guarded(error, [&] {
        const auto result = ddpm::trajectory(spec->spec, num_steps);
        std::transform(result.begin(), result.end(), steps, step_from);
    });
}

int ddpm_denoiser(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_step* step, size_t n,
                  const float* x_t, float* x_0, float* eps, float* variance_fraction, ddpm_error* error) {
    return guarded(error, [&] {
        const std::size_t size = n * spec->spec.image_size();
        ddpm::State state;
        state.step = step_of(*step);
        state.batch = n;
        state.x.assign(x_t, x_t + size);
        state.x_0.resize(size);
        state.eps.resize(size);
        state.variance_fraction.resize(variance_fraction != nullptr && spec->spec.has_variance_fraction ? size : 0);
        ddpm::denoiser(model_of(model, model_context), spec->spec)(state);
        std::copy(state.x_0.begin(), state.x_0.end(), x_0);
        std::copy(state.eps.begin(), state.eps.end(), eps);
        std::copy(state.variance_fraction.begin(), state.variance_fraction.end(), variance_fraction);
    });
}

double ddpm_noise_std(const ddpm_step* step, double eta) { return ddpm::noise_std(step_of(*step), eta); }

int ddpm_ddim(const ddpm_spec* spec, ddpm_model model, void* model_context, int64_t seed, const int64_t* images,
              size_t n, const ddpm_step* steps, size_t num_steps, double eta, ddpm_progress progress,
              void* progress_context, float* x, ddpm_error* error) {
    return guarded(error, [&] {
        Given given(spec, model, model_context, seed, images, n, steps, num_steps, x);
        walk(ddpm::ddim(std::move(given.denoise), std::move(given.noise), std::move(given.steps), eta,
                        std::move(given.x)),
             num_steps, progress, progress_context, x);
    });
}

int ddpm_ddpm(const ddpm_spec* spec, ddpm_model model, void* model_context, int64_t seed, const int64_t* images,
              size_t n, const ddpm_step* steps, size_t num_steps, const char* variance, ddpm_progress progress,
              void* progress_context, float* x, ddpm_error* error) {
    return guarded(error, [&] {
        const ddpm::Variance chosen = variance_of(variance);
        Given given(spec, model, model_context, seed, images, n, steps, num_steps, x);
        walk(ddpm::ddpm(std::move(given.denoise), std::move(given.noise), std::move(given.steps), chosen,
                        std::move(given.x)),
             num_steps, progress, progress_context, x);
    });
}

void ddpm_to_uint8(const float* x, size_t n, const int64_t shape[3], uint8_t* pixels) {
    ddpm::to_uint8(x, n, shape_of(shape), pixels);
}

int ddpm_sample(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_settings* settings,
                ddpm_progress progress, void* progress_context, float* x, ddpm_error* error) {
    return guarded(error, [&] {
        ddpm::Settings wanted;
        wanted.seed = settings->seed;
        wanted.first = settings->first;
        wanted.n = settings->n;
        wanted.num_steps = settings->num_steps;
        wanted.sampler = settings->sampler != nullptr ? settings->sampler : spec->spec.defaults.sampler;
        if (*wanted.sampler != "ddpm") {
            wanted.eta = settings->eta;
        }
        ddpm::Progress watch;
        if (progress != nullptr) {
            watch = [=](std::size_t step, std::size_t num_steps, const float* now, const float* x_0) {
                return progress(progress_context, step, num_steps, now, x_0) == 0;
            };
        }
        const auto images = ddpm::sample(model_of(model, model_context), spec->spec, wanted, watch);
        std::copy(images.begin(), images.end(), x);
    });
}
