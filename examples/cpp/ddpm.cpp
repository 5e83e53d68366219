// ddpm.cpp - the C interface of ddpm.h over ddpm.hpp: exceptions end here, as codes and lines.
#include "ddpm.h"

#include <new>

#include "ddpm.hpp"

static_assert(ddpm::max_reach == DDPM_MAX_REACH, "one bound in both headers");

struct ddpm_spec {
    ddpm::ModelSpec spec;
};

struct ddpm_plan {
    ddpm::Plan plan;
};

struct ddpm_states {
    ddpm::States states;
    ddpm_state state;
};

struct ddpm_policy {
    ddpm::Policy policy;
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
        return told(error, DDPM_ENVIRONMENT, "There is not enough memory for a batch. Try a smaller n.");
    } catch (const std::exception& problem) {
        return told(error, DDPM_ENVIRONMENT, std::string("The library failed: ") + problem.what() + ".");
    }
}

template <class T>
std::optional<T> given(const char* text) {
    return text != nullptr ? std::optional<T>(text) : std::nullopt;
}

ddpm::Shape shape_of(const int64_t* shape, size_t dimensions = 3) { return {shape, shape + dimensions}; }

ddpm::Row row_of(const ddpm_row& row) {
    if (row.num_x_0 > ddpm::max_reach || row.num_eps > ddpm::max_reach || row.num_noise > 2) {
        throw ddpm::detail::usage("A row must read 1 to 16 evaluations and have up to 2 numbers of noise, got " +
                                  std::to_string(std::max(row.num_x_0, row.num_eps)) + " and " +
                                  std::to_string(row.num_noise) + ".");
    }
    return {row.i, row.t, row.a, {row.x_0, row.x_0 + row.num_x_0}, {row.eps, row.eps + row.num_eps},
            {row.noise, row.noise + row.num_noise}, row.raw_eps != 0};
}

void write(const ddpm::Row& row, ddpm_row* to) {
    *to = {row.i, row.t, row.a, row.x_0.size(), row.eps.size(), row.noise.size(), {}, {}, {}, row.raw_eps ? 1 : 0};
    std::copy(row.x_0.begin(), row.x_0.end(), to->x_0);
    std::copy(row.eps.begin(), row.eps.end(), to->eps);
    std::copy(row.noise.begin(), row.noise.end(), to->noise);
}

std::optional<ddpm::Guidance> guidance_of(const ddpm_guidance* from) {
    if (from == nullptr) {
        return std::nullopt;
    }
    ddpm::Guidance guidance{from->scale};
    if (from->interval != nullptr) {
        guidance.interval = {from->interval[0], from->interval[1]};
    }
    return guidance;
}

ddpm::Inputs inputs_of(const ddpm_input* inputs, std::size_t num_inputs) {
    ddpm::Inputs given;
    for (std::size_t k = 0; k < num_inputs; ++k) {
        const ddpm_input& one = inputs[k];
        ddpm::InputValue& value = given[one.name];
        if (one.labels != nullptr) {
            value = std::vector<std::int64_t>(one.labels, one.labels + one.count);
        } else {
            value = std::vector<float>(one.numbers, one.numbers + one.count);
        }
    }
    return given;
}

ddpm::Settings settings_of(const ddpm_settings& from) {
    ddpm::Settings settings;
    settings.n = from.n;
    if (from.num_steps != 0) {
        settings.num_steps = from.num_steps;
    }
    if (from.times != nullptr) {
        settings.times = std::vector<std::int64_t>(from.times, from.times + from.num_times);
    }
    settings.sampler = given<std::string>(from.sampler);
    if (!std::isnan(from.eta)) {
        settings.eta = from.eta;
    }
    if (from.variance != nullptr) {
        settings.variance = ddpm::detail::variance_from_name(from.variance);
    }
    settings.plan = given<std::string>(from.plan);
    settings.seed = from.seed;
    settings.first = from.first;
    if (from.label != nullptr) {
        settings.label = std::vector<std::string>(from.label, from.label + from.num_labels);
    }
    settings.guidance = guidance_of(from.guidance);
    settings.inputs = inputs_of(from.inputs, from.num_inputs);
    return settings;
}

void check_answer(const char* whose, int answer) {
    if (answer != 0) {
        throw ddpm::Error(ddpm::Code::environment,
                          std::string("The ") + whose + " callback must return 0, got " + std::to_string(answer) + ".");
    }
}

void write(const std::vector<ddpm::InputArray>& from, std::size_t batch, std::vector<ddpm_input>& inputs) {
    inputs.clear();
    for (const ddpm::InputArray& one : from) {
        inputs.push_back({one.input->name.c_str(), one.labels, one.numbers, batch * one.input->size(),
                          one.input->shape.data(), one.input->shape.size()});
    }
}

ddpm::Model model_of(ddpm_model model, void* context) {
    std::vector<ddpm_input> inputs;
    return [=](const ddpm::Evaluation& asked) mutable {
        write(asked.inputs, asked.batch, inputs);
        const ddpm_evaluation evaluation = {asked.batch,      asked.x_t,        asked.t, inputs.data(), inputs.size(),
                                            asked.prediction, asked.variance_fraction};
        check_answer("model's", model(context, &evaluation));
    };
}

ddpm::Stages stages_of(ddpm_stages stages, void* context, const ddpm::ModelSpec& spec) {
    if (stages == nullptr) {
        return {};
    }
    return [=](const ddpm::StageCall& asked) {
        std::vector<ddpm_input> inputs;
        std::vector<ddpm_output> outputs;
        write(asked.inputs, 1, inputs);
        for (const auto& [name, numbers] : asked.outputs) {
            const ddpm::Shape& shape = spec.stages.at(asked.name).outputs.at(name);
            outputs.push_back({name.c_str(), numbers, ddpm::detail::size_of(shape)});
        }
        check_answer("stages'", stages(context, asked.name.c_str(), inputs.data(), inputs.size(), outputs.data(),
                                       outputs.size()));
    };
}

ddpm::Denoiser denoiser_of(const ddpm_spec* spec, ddpm_model model, void* context, const ddpm_input* inputs,
                           std::size_t num_inputs, const ddpm_guidance* guidance) {
    return ddpm::denoiser(model_of(model, context), spec->spec, inputs_of(inputs, num_inputs), guidance_of(guidance));
}

ddpm::Given given_of(const ddpm_given& from) {
    ddpm::Given given;
    if (from.images != nullptr) {
        given.images.assign(from.images, from.images + from.num_numbers);
    }
    if (from.mask != nullptr) {
        given.mask.assign(from.mask, from.mask + from.mask_size);
    }
    given.measure = ::given<std::string>(from.measure);
    if (!std::isnan(from.strength)) {
        given.strength = from.strength;
    }
    given.returns = from.returns;
    given.jump = from.jump;
    given.between = from.between != 0;
    return given;
}

ddpm::Progress progress_of(ddpm_progress progress, void* context) {
    if (progress == nullptr) {
        return {};
    }
    return [=](std::size_t step, std::size_t num_steps, const float* now, const float* x_0) {
        return progress(context, step, num_steps, now, x_0) == 0;
    };
}

}  // namespace

void ddpm_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
    const auto result = ddpm::philox4x32_10({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
    std::copy(result.begin(), result.end(), words);
}

void ddpm_normals_from_words(const uint32_t* words, size_t count, float* normals) {
    ddpm::normals_from_words(words, count, normals);
}

int ddpm_noise_stream(int64_t seed, const int64_t* images, size_t n, const int64_t* shape, size_t dimensions,
                      uint32_t domain, uint32_t draw, float* z, ddpm_error* error) {
    return guarded(error, [&] {
        ddpm::noise_stream(seed, {images, images + n}, shape_of(shape, dimensions), domain)(draw, z);
    });
}

int ddpm_spec_from_json(const char* json, size_t length, ddpm_spec** spec, ddpm_error* error) {
    *spec = nullptr;
    return guarded(error, [&] {
        ddpm::ModelSpec read = ddpm::spec_from_json({json, length});
        if (read.units || !read.stages.empty()) {
            throw ddpm::Error(ddpm::Code::refused, "The model has stages or units, which this interface does not know. "
                                                   "Use its one-call file, or ddpm.hpp.");
        }
        *spec = new ddpm_spec{std::move(read)};
    });
}

void ddpm_spec_free(ddpm_spec* spec) { delete spec; }

const int64_t* ddpm_spec_state_shape(const ddpm_spec* spec, size_t* dimensions) {
    *dimensions = spec->spec.state_shape.size();
    return spec->spec.state_shape.data();
}

const char* ddpm_spec_prediction(const ddpm_spec* spec) {
    return ddpm::detail::predictions[static_cast<std::size_t>(spec->spec.prediction)].data();
}

const double* ddpm_spec_alphas_cumprod(const ddpm_spec* spec, size_t* num_train_timesteps) {
    *num_train_timesteps = spec->spec.alphas_cumprod.size();
    return spec->spec.alphas_cumprod.data();
}

int ddpm_spec_has_variance_fraction(const ddpm_spec* spec) { return spec->spec.has_variance_fraction ? 1 : 0; }

int ddpm_spec_has_fractional_t(const ddpm_spec* spec) { return spec->spec.has_fractional_t ? 1 : 0; }

const char* ddpm_spec_class(const ddpm_spec* spec, size_t k) {
    const ddpm::Input* label = spec->spec.label();
    return label != nullptr && k < label->classes.size() ? label->classes[k].c_str() : nullptr;
}

int ddpm_spec_takes_guidance(const ddpm_spec* spec) { return spec->spec.takes_guidance() ? 1 : 0; }

void ddpm_settings_init(ddpm_settings* settings) {
    *settings = {};
    settings->n = 16;
    settings->eta = std::numeric_limits<double>::quiet_NaN();
}

int ddpm_spacing(int64_t num_train_timesteps, int64_t num_steps, int64_t* times, ddpm_error* error) {
    return guarded(error, [&] {
        const auto result = ddpm::spacing(num_train_timesteps, num_steps);
        std::copy(result.begin(), result.end(), times);
    });
}

int ddpm_plan_from_spec(const ddpm_spec* spec, const ddpm_settings* settings, ddpm_plan** plan, ddpm_error* error) {
    *plan = nullptr;
    return guarded(error, [&] {
        const ddpm::Settings said = settings_of(*settings);
        *plan = new ddpm_plan{ddpm::plan(spec->spec, said.sampler, said.num_steps, said.times, said.plan, said.eta,
                                         said.variance)};
    });
}

int ddpm_plan_from_rows(const ddpm_row* rows, size_t num_rows, double start, ddpm_plan** plan, ddpm_error* error) {
    *plan = nullptr;
    return guarded(error, [&] {
        ddpm::Plan result{{}, start};
        std::transform(rows, rows + num_rows, std::back_inserter(result.rows), row_of);
        *plan = new ddpm_plan{std::move(result)};
    });
}

void ddpm_plan_free(ddpm_plan* plan) { delete plan; }

size_t ddpm_plan_num_rows(const ddpm_plan* plan) { return plan->plan.rows.size(); }

void ddpm_plan_row(const ddpm_plan* plan, size_t k, ddpm_row* row) { write(plan->plan.rows[k], row); }

double ddpm_plan_start(const ddpm_plan* plan) { return plan->plan.start; }

int ddpm_denoiser(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_input* inputs,
                  size_t num_inputs, const ddpm_guidance* guidance, size_t n, const float* x_t, const ddpm_row* row,
                  const float* x_0_before, float* x_0, float* eps, float* variance_fraction, ddpm_error* error) {
    return guarded(error, [&] {
        ddpm::Denoised found;
        const auto denoise = denoiser_of(spec, model, model_context, inputs, num_inputs, guidance);
        denoise({x_t, x_t + n * spec->spec.image_size()}, row_of(*row), x_0_before, found);
        std::copy(found.x_0.begin(), found.x_0.end(), x_0);
        std::copy(found.eps.begin(), found.eps.end(), eps);
        if (variance_fraction != nullptr) {
            std::copy(found.variance_fraction.begin(), found.variance_fraction.end(), variance_fraction);
        }
    });
}

int ddpm_walk(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_input* inputs,
              size_t num_inputs, const ddpm_guidance* guidance, int64_t seed, const int64_t* images, size_t n,
              const ddpm_plan* plan, const float* x, const ddpm_state* state, ddpm_states** states,
              ddpm_error* error) {
    *states = nullptr;
    return guarded(error, [&] {
        const std::size_t size = n * spec->spec.image_size();
        const auto copied = [&](const float* array) { return std::vector<float>(array, array + size); };
        std::vector<float> begin;
        std::optional<ddpm::State> from;
        if (state != nullptr) {
            from = {row_of(state->row), copied(state->x), copied(state->x_0), copied(state->eps), {}};
            for (std::size_t k = 0; k < std::min(state->num_history, ddpm::max_reach); ++k) {
                from->history.push_back({copied(state->history_x_0[k]), copied(state->history_eps[k])});
            }
        } else if (x != nullptr) {
            begin = copied(x);
        }
        *states = new ddpm_states{
            ddpm::walk(denoiser_of(spec, model, model_context, inputs, num_inputs, guidance),
                       ddpm::noise_stream(seed, {images, images + n}, spec->spec.state_shape), plan->plan,
                       std::move(begin), std::move(from)),
            {}};
    });
}

int ddpm_states_next(ddpm_states* states, const ddpm_state** state, ddpm_error* error) {
    *state = nullptr;
    return guarded(error, [&] {
        if (states->states.next()) {
            const ddpm::State& now = states->states.now();
            ddpm_state& to = states->state;
            to = {{}, now.x.data(), now.x_0.data(), now.eps.data(), now.history.size(), {}, {}};
            write(now.row, &to.row);
            for (std::size_t k = 0; k < now.history.size(); ++k) {
                to.history_x_0[k] = now.history[k].x_0.data();
                to.history_eps[k] = now.history[k].eps.data();
            }
            *state = &to;
        }
    });
}

void ddpm_states_free(ddpm_states* states) { delete states; }

void ddpm_to_uint8(const float* x, size_t n, const int64_t shape[3], uint8_t* pixels) {
    ddpm::to_uint8(x, n, shape_of(shape), pixels);
}

int ddpm_sample(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_settings* settings,
                ddpm_progress progress, void* progress_context, float* x, ddpm_error* error) {
    return guarded(error, [&] {
        const auto images = ddpm::sample(model_of(model, model_context), spec->spec, settings_of(*settings),
                                         progress_of(progress, progress_context));
        std::copy(images.begin(), images.end(), x);
    });
}

void ddpm_from_uint8(const uint8_t* pixels, size_t n, const int64_t shape[3], float* x) {
    const std::size_t size = n * ddpm::detail::size_of(shape_of(shape));
    const auto images = ddpm::from_uint8({pixels, pixels + size}, shape_of(shape));
    std::copy(images.begin(), images.end(), x);
}

int ddpm_crossfade(const float* first, const float* last, size_t size, size_t count, float* x, ddpm_error* error) {
    return guarded(error, [&] {
        const auto images = ddpm::crossfade({first, first + size}, {last, last + size}, count);
        std::copy(images.begin(), images.end(), x);
    });
}

void ddpm_given_init(ddpm_given* given) {
    *given = {};
    given->strength = std::numeric_limits<double>::quiet_NaN();
    given->jump = 1;
}

int ddpm_edit(const ddpm_spec* spec, ddpm_model model, void* model_context, const ddpm_given* given,
              const ddpm_settings* settings, ddpm_progress progress, void* progress_context, float* x,
              ddpm_error* error) {
    return guarded(error, [&] {
        const auto images = ddpm::edit(model_of(model, model_context), spec->spec, given_of(*given),
                                       settings_of(*settings), progress_of(progress, progress_context));
        std::copy(images.begin(), images.end(), x);
    });
}

int ddpm_policy_from_json(const char* json, size_t length, ddpm_model model, ddpm_stages stages, void* context,
                          double deadline_s, const ddpm_settings* settings, ddpm_policy** policy, ddpm_error* error) {
    *policy = nullptr;
    return guarded(error, [&] {
        const ddpm::ModelSpec spec = ddpm::spec_from_json({json, length});
        const ddpm::Settings said = settings != nullptr ? settings_of(*settings) : ddpm::Settings();
        *policy = new ddpm_policy{ddpm::Policy(model_of(model, context), stages_of(stages, context, spec), spec,
                                               deadline_s, said)};
    });
}

void ddpm_policy_free(ddpm_policy* policy) { delete policy; }

void ddpm_policy_reset(ddpm_policy* policy, int64_t seed) { policy->policy.reset(seed); }

size_t ddpm_policy_num_actions(const ddpm_policy* policy) { return policy->policy.num_actions(); }

int ddpm_policy_act(ddpm_policy* policy, const ddpm_input* observation, size_t num_inputs, float* action,
                    ddpm_error* error) {
    return guarded(error, [&] {
        ddpm::Observation observed;
        for (const ddpm_input* one = observation; one != observation + num_inputs; ++one) {
            observed[one->name].assign(one->numbers, one->numbers + one->count);
        }
        const auto numbers = policy->policy.act(observed);
        std::copy(numbers.begin(), numbers.end(), action);
    });
}
