/* ddpm.h - the C interface to ddpm.hpp, for C and for whatever calls C. Compile ddpm.cpp as C++17 and link it.

   The same functions under the same names. Every function that can fail returns a code, DDPM_OK or what a program
   should exit with, and writes one line about it to `error`, which may be null. Nothing is kept between calls but a
   ddpm_spec.
   Arrays of images are (n, C, H, W) of float, owned by the caller; a callback gets its `context` back. Callbacks must
   return: no exception and no longjmp may leave them.

       ddpm_error error;
       ddpm_spec *spec;
       ddpm_settings settings;
       if (ddpm_spec_from_json(json, strlen(json), &spec, &error) == DDPM_OK) {
           ddpm_settings_from_spec(spec, &settings);
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

typedef struct ddpm_step {
    uint32_t i; /* its noise draw, from 1 */
    int64_t t;
    double a, a_prev; /* alphas_cumprod at t and at the next step's t, 1 after the last */
} ddpm_step;

typedef struct ddpm_evaluation {
    size_t batch;
    const float *x_t;
    int64_t t;                /* of every image */
    float *prediction;        /* to be written: eps, x_0 or v, as ddpm_spec_prediction says */
    float *variance_fraction; /* to be written unless it is null */
} ddpm_evaluation;

/* Ask the network. Returns 0, or anything else where it could not answer: sampling then ends with DDPM_ENVIRONMENT. */
typedef int (*ddpm_model)(void *context, const ddpm_evaluation *evaluation);

/* Called after each step, 1 to num_steps, with the images and the guess at the clean ones. Returns 0 to go on. */
typedef int (*ddpm_progress)(void *context, size_t step, size_t num_steps, const float *x, const float *x_0);

typedef struct ddpm_settings {
    int64_t seed;        /* 0 to 2^63 - 1 */
    int64_t first, n;    /* numbers of the images: first to first + n - 1, below 2^32 */
    int64_t num_steps;   /* 1 to T */
    const char *sampler; /* "ddim", or "ddpm" with the file's variance; null is the file's own */
    double eta;          /* of ddim, 0 to 1; ddpm does not read it */
} ddpm_settings;

/* Noise */
DDPM_API void ddpm_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
DDPM_API void ddpm_normals_from_words(const uint32_t *words, size_t count, float *normals);
/* Write one draw of the noise of n images by their numbers; draw 0 is x_T, draw i belongs to step i. */
DDPM_API int ddpm_noise_stream(int64_t seed, const int64_t *images, size_t n, const int64_t shape[3], uint32_t domain,
                               uint32_t draw, float *z, ddpm_error *error);

/* The file's numbers. On success *spec is to be freed; freeing null does nothing. Pointers live as long as the spec. */
DDPM_API int ddpm_spec_from_json(const char *json, size_t length, ddpm_spec **spec, ddpm_error *error);
DDPM_API void ddpm_spec_free(ddpm_spec *spec);
DDPM_API void ddpm_spec_image_shape(const ddpm_spec *spec, int64_t shape[3]);
DDPM_API const char *ddpm_spec_prediction(const ddpm_spec *spec);
DDPM_API const double *ddpm_spec_alphas_cumprod(const ddpm_spec *spec, size_t *num_train_timesteps);
DDPM_API int ddpm_spec_has_variance_fraction(const ddpm_spec *spec);
/* Fill in the file's defaults, seed 0, first 0 and n 16. */
DDPM_API void ddpm_settings_from_spec(const ddpm_spec *spec, ddpm_settings *settings);

/* One step. `times` and `steps` hold num_steps. */
DDPM_API int ddpm_spacing(int64_t num_train_timesteps, int64_t num_steps, int64_t *times, ddpm_error *error);
DDPM_API int ddpm_trajectory(const ddpm_spec *spec, int64_t num_steps, ddpm_step *steps, ddpm_error *error);
/* Write what the network finds in x_t, n images, at a step; variance_fraction may be null. */
DDPM_API int ddpm_denoiser(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_step *step,
                           size_t n, const float *x_t, float *x_0, float *eps, float *variance_fraction,
                           ddpm_error *error);
DDPM_API double ddpm_noise_std(const ddpm_step *step, double eta);

/* Samplers. x holds the state before the first of `steps` (noise draw 0, to begin) and then the one after the last step
   done. The images are numbered by `images`. variance: "fixed_small", "fixed_large" or "learned". */
DDPM_API int ddpm_ddim(const ddpm_spec *spec, ddpm_model model, void *model_context, int64_t seed,
                       const int64_t *images, size_t n, const ddpm_step *steps, size_t num_steps, double eta,
                       ddpm_progress progress, void *progress_context, float *x, ddpm_error *error);
DDPM_API int ddpm_ddpm(const ddpm_spec *spec, ddpm_model model, void *model_context, int64_t seed,
                       const int64_t *images, size_t n, const ddpm_step *steps, size_t num_steps, const char *variance,
                       ddpm_progress progress, void *progress_context, float *x, ddpm_error *error);

/* Pictures */
DDPM_API void ddpm_to_uint8(const float *x, size_t n, const int64_t shape[3], uint8_t *pixels); /* to (n, H, W, C) */
/* Write the images of a batch to x; what is not finite ends it with DDPM_NOT_FINITE. progress may be null. */
DDPM_API int ddpm_sample(const ddpm_spec *spec, ddpm_model model, void *model_context, const ddpm_settings *settings,
                         ddpm_progress progress, void *progress_context, float *x, ddpm_error *error);

#ifdef __cplusplus
}
#endif

#endif
