/* ddpm.h - the C interface to ddpm.hpp, for C and for whatever calls C. Compile ddpm.cpp as C++17 and link it.

   The same functions under the same names; of given pictures ddpm_edit, which does it all in one. Every function that can fail returns a code, DDPM_OK or what a program
   should exit with, and writes one line about it to `error`, which may be null. Nothing is kept between calls but a
   ddpm_spec, a ddpm_plan, ddpm_states and a ddpm_policy, each to be freed; freeing null does nothing.
   Arrays of images are (n, C, H, W) of float, those of other numbers (n, *shape); a callback gets its `context` back. Callbacks must return: no exception
   and no longjmp may leave them.

       ddpm_error error;
       ddpm_spec *spec;
       ddpm_settings settings;
       if (ddpm_spec_from_json(json, strlen(json), &spec, &error) == DDPM_OK) {
           ddpm_settings_init(&settings);
           settings.n = 4;
           if (ddpm_sample(spec, network, session, &settings, NULL, NULL, x, &error) != DDPM_OK) puts(error.message);
           ddpm_spec_free(spec);
       }
*/
#ifndef DDPM_H
#define DDPM_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(DDPM_SHARED)
#define DDPM_API __declspec(dllexport)
#else
#define DDPM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DDPM_OK = 0,
    DDPM_USAGE = 2,        /* an argument is out of its range */
    DDPM_BAD_FILE = 3,     /* a spec is broken or foreign */
    DDPM_REFUSED = 4,      /* a sound spec asks for what this version cannot do */
    DDPM_ENVIRONMENT = 5,  /* out of memory, or the network could not answer */
    DDPM_NOT_FINITE = 6,   /* a number became NaN or infinite */
    DDPM_CANCELLED = 130   /* a callback asked to stop */
};

typedef struct ddpm_error {
    char message[512]; /* one line, UTF-8, empty after DDPM_OK */
} ddpm_error;

typedef struct ddpm_spec ddpm_spec; /* what the file says; immutable, any number of threads may read it */
typedef struct ddpm_plan ddpm_plan; /* the rows from noise to picture; immutable, too */
typedef struct ddpm_states ddpm_states; /* a walk along them */
typedef struct ddpm_policy ddpm_policy; /* what a robot observed last, and the actions that are left */

#define DDPM_MAX_REACH 16

typedef struct ddpm_row {
    uint32_t i;   /* its number, from 1, and its noise draw */
    double t, a;  /* what the network is told, and alphas_cumprod there */
    size_t num_x_0, num_eps, num_noise;
    double x_0[DDPM_MAX_REACH], eps[DDPM_MAX_REACH]; /* weights of what was found, newest first */
    double noise[2]; /* none, a standard deviation, or small and large, which variance_fraction mixes */
    int raw_eps;     /* 1 where eps stays as before where x_0 is clipped, else 0 */
} ddpm_row;

/* What a network is told besides x_t and t: labels of a label, numbers of any other kind, the other null. */
typedef struct ddpm_input {
    const char *name;
    const int64_t *labels;
    const float *numbers;
    size_t count;         /* of the labels or numbers: those of one image, or of each one */
    const int64_t *shape; /* of an image's, where a network is told; not read where it is you who tell */
    size_t num_dimensions;
} ddpm_input;

/* How strongly a network follows its label: 0 ignores it, 1 is the network as it is, 2 and more exaggerate. */
typedef struct ddpm_guidance {
    double scale;           /* 0 to 100 */
    const double *interval; /* two times t, the lower first: at others the scale is 1; null for all */
} ddpm_guidance;

typedef struct ddpm_evaluation {
    size_t batch;
    const float *x_t;
    double t;                 /* of every image; whole unless the file says fractional_t */
    const ddpm_input *inputs; /* those of the file, in its order */
    size_t num_inputs;
    float *prediction;        /* to be written: eps, x_0 or v, as ddpm_spec_prediction says */
    float *variance_fraction; /* to be written unless it is null */
} ddpm_evaluation;

/* Ask the network. Returns 0, or anything else where it could not answer: sampling then ends with DDPM_ENVIRONMENT. */
typedef int (*ddpm_model)(void *context, const ddpm_evaluation *evaluation);

/* Where what a stage gives of one image is to be written. */
typedef struct ddpm_output {
    const char *name;
    float *numbers;
    size_t count;
} ddpm_output;

/* Run the stage "before" or "after" of a file on one image. Returns 0, or anything else as a ddpm_model does. */
typedef int (*ddpm_stages)(void *context, const char *stage, const ddpm_input *inputs, size_t num_inputs,
                           const ddpm_output *outputs, size_t num_outputs);

/* Called after each row, 1 to num_steps, with the images and the guess at the clean ones. Returns 0 to go on. */
typedef int (*ddpm_progress)(void *context, size_t step, size_t num_steps, const float *x, const float *x_0);

/* What a row leaves. history: what later rows read, newest first. */
typedef struct ddpm_state {
    ddpm_row row;
    const float *x, *x_0, *eps;
    size_t num_history;
    const float *history_x_0[DDPM_MAX_REACH], *history_eps[DDPM_MAX_REACH];
} ddpm_state;

/* What decides the images besides the model; what is left as ddpm_settings_init leaves it is the file's default. */
typedef struct ddpm_settings {
    int64_t n;            /* images first to first + n - 1 */
    int64_t num_steps;    /* 1 to T; 0 says nothing */
    const int64_t *times; /* falling ones, in place of num_steps evenly spaced ones; null says nothing */
    size_t num_times;
    const char *sampler;  /* "ddim" or "ddpm"; null says nothing, as for the other names */
    double eta;           /* of ddim, 0 to 1; NaN says nothing */
    const char *variance; /* of ddpm: "fixed_small", "fixed_large" or "learned" */
    const char *plan;     /* the name of one that the file carries, in place of all of these */
    int64_t seed, first;
    const char *const *label; /* classes by name or index, or "none": image k gets number k mod num_labels; */
    size_t num_labels;        /* null for every class in turn */
    const ddpm_guidance *guidance; /* null says nothing */
    const ddpm_input *inputs; /* the others, one value each or several, which images take in turn as well */
    size_t num_inputs;
} ddpm_settings;

/* What images are made of besides noise; ddpm_given_init leaves all unsaid. */
typedef struct ddpm_given {
    const float *images; /* (C, H, W) for all, or one for each image, in [-1, 1]; or what is measured of them */
    size_t num_numbers;  /* in `images` */
    const float *mask;   /* 0 known, 1 made, between them blended: (H, W), (C, H, W) or one for each image; or null */
    size_t mask_size;
    const char *measure; /* "average:4", "grey" or "mask"; null says nothing */
    double strength;     /* above 0 to 1, how much noise the pictures begin with; NaN to begin with noise only */
    int64_t returns, jump; /* with a mask or a measure: how often to go back, and how many rows; 0 and 1 */
    int between;         /* 1: all have the noise of the first image, as of ddpm_crossfade */
} ddpm_given;

/* Noise */
DDPM_API void ddpm_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
DDPM_API void ddpm_normals_from_words(const uint32_t *words, size_t count, float *normals);
/* Write one draw of the noise of n images by their numbers; draw 0 is x_T, draw i belongs to row i. */
DDPM_API int ddpm_noise_stream(int64_t seed, const int64_t *images, size_t n, const int64_t *shape, size_t dimensions,
                               uint32_t domain, uint32_t draw, float *z, ddpm_error *error);

/* The file's numbers. Pointers live as long as the spec. */
DDPM_API int ddpm_spec_from_json(const char *json, size_t length, ddpm_spec **spec, ddpm_error *error);
DDPM_API void ddpm_spec_free(ddpm_spec *spec);
/* [C, H, W] of pictures; one, two or four sizes of other numbers. */
DDPM_API const int64_t *ddpm_spec_state_shape(const ddpm_spec *spec, size_t *dimensions);
DDPM_API const char *ddpm_spec_prediction(const ddpm_spec *spec);
DDPM_API const double *ddpm_spec_alphas_cumprod(const ddpm_spec *spec, size_t *num_train_timesteps);
DDPM_API int ddpm_spec_has_variance_fraction(const ddpm_spec *spec);
DDPM_API int ddpm_spec_has_fractional_t(const ddpm_spec *spec);
/* The name of a class of the network's label, k from 0; null where there is none. */
DDPM_API const char *ddpm_spec_class(const ddpm_spec *spec, size_t k);
DDPM_API int ddpm_spec_takes_guidance(const ddpm_spec *spec);
/* Let settings say nothing but n 16, seed 0 and first 0. */
DDPM_API void ddpm_settings_init(ddpm_settings *settings);

/* Plans. `times` of ddpm_spacing holds num_steps. */
DDPM_API int ddpm_spacing(int64_t num_train_timesteps, int64_t num_steps, int64_t *times, ddpm_error *error);
/* Make the plan that settings ask for; n, seed and first do not matter here. */
DDPM_API int ddpm_plan_from_spec(const ddpm_spec *spec, const ddpm_settings *settings, ddpm_plan **plan,
                                 ddpm_error *error);
DDPM_API int ddpm_plan_from_rows(const ddpm_row *rows, size_t num_rows, double start, ddpm_plan **plan,
                                 ddpm_error *error);
DDPM_API void ddpm_plan_free(ddpm_plan *plan);
DDPM_API size_t ddpm_plan_num_rows(const ddpm_plan *plan);
DDPM_API void ddpm_plan_row(const ddpm_plan *plan, size_t k, ddpm_row *row); /* k from 0 */
DDPM_API double ddpm_plan_start(const ddpm_plan *plan);

/* Write what the network finds in x_t, n images, in a row; guidance, x_0_before and variance_fraction may be null.
   inputs: values for all images or for each. */
DDPM_API int ddpm_denoiser(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_input *inputs,
                           size_t num_inputs, const ddpm_guidance *guidance, size_t n, const float *x_t,
                           const ddpm_row *row, const float *x_0_before, float *x_0, float *eps,
                           float *variance_fraction, ddpm_error *error);

/* Begin a walk from noise draw 0, or from x in its place, or go on from a state that an earlier walk of the same plan
   left; guidance, x and state may be null. The images are numbered by `images`. */
DDPM_API int ddpm_walk(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_input *inputs,
                       size_t num_inputs, const ddpm_guidance *guidance, int64_t seed, const int64_t *images, size_t n,
                       const ddpm_plan *plan, const float *x, const ddpm_state *state, ddpm_states **states,
                       ddpm_error *error);
/* Walk the next row. *state is what it left, its pointers valid until the next call; null where no row was left. */
DDPM_API int ddpm_states_next(ddpm_states *states, const ddpm_state **state, ddpm_error *error);
DDPM_API void ddpm_states_free(ddpm_states *states);

/* Pictures */
DDPM_API void ddpm_to_uint8(const float *x, size_t n, const int64_t shape[3], uint8_t *pixels); /* to (n, H, W, C) */
DDPM_API void ddpm_from_uint8(const uint8_t *pixels, size_t n, const int64_t shape[3], float *x); /* and back */
/* Write `count` images from the first of two to the last, of `size` numbers each. */
DDPM_API int ddpm_crossfade(const float *first, const float *last, size_t size, size_t count, float *x,
                            ddpm_error *error);
/* Write the images of a batch to x; what is not finite ends it with DDPM_NOT_FINITE. progress may be null. */
DDPM_API int ddpm_sample(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_settings *settings,
                         ddpm_progress progress, void *progress_context, float *x, ddpm_error *error);
/* The same of what is given: settings->n images. */
DDPM_API void ddpm_given_init(ddpm_given *given);
DDPM_API int ddpm_edit(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_given *given,
                       const ddpm_settings *settings, ddpm_progress progress, void *progress_context, float *x,
                       ddpm_error *error);

/* Policies: from what a robot observes, step by step, to what it does. `json` may have stages and units; stages is null
   where it has none. settings say the steps, sampler or plan, null nothing; a plan may take deadline_s, INFINITY any time. */
DDPM_API int ddpm_policy_from_json(const char *json, size_t length, ddpm_model model, ddpm_stages stages, void *context,
                                   double deadline_s, const ddpm_settings *settings, ddpm_policy **policy,
                                   ddpm_error *error);
DDPM_API void ddpm_policy_free(ddpm_policy *policy);
/* Begin an episode, whose plans follow from the seed: it is the same on any machine. */
DDPM_API void ddpm_policy_reset(ddpm_policy *policy, int64_t seed);
DDPM_API size_t ddpm_policy_num_actions(const ddpm_policy *policy); /* numbers in an action */
/* Write the next action of an observation, the numbers of each input without its steps. After an error nothing has
   changed. */
DDPM_API int ddpm_policy_act(ddpm_policy *policy, const ddpm_input *observation, size_t num_inputs, float *action,
                             ddpm_error *error);

#ifdef __cplusplus
}
#endif

#endif
