// ddpm.hpp - sample images from a model that ddpm-export wrote, in C++17 with the standard library alone.
//
// WHAT IT IS
//
//   The sampler between a network and a picture: the file's numbers, the noise, the rows. It knows no runtime: the
//   network is a function that you pass, over ONNX Runtime or anything else. Images of a seed are those of Python,
//   JavaScript, Java and Swift: the noise to the bit, pixels within one level. docs/format.md is the contract;
//   "section" below means its sections. A C interface to all of this is ddpm.h with ddpm.cpp.
//
// HOW TO USE IT (tests/examples/test_cpp.py compiles and runs this block)
//
//   #include <cstdio>
//   #include "ddpm.hpp"
//
//   // json: the model file's metadata under "ddpm_export". network: writes what it predicts, see Evaluation below.
//   std::vector<std::uint8_t> make_images(const std::string& json, const ddpm::Model& network) {
//       const ddpm::ModelSpec spec = ddpm::spec_from_json(json);
//       const ddpm::Denoiser denoise = ddpm::denoiser(network, spec);                // (x_t, row) -> x_0, eps
//       const ddpm::Plan plan = ddpm::plan(spec, "ddim", 50);                        // the solver, as rows of numbers
//       const ddpm::Noise noise = ddpm::noise_stream(7, {0, 1, 2, 3}, spec.state_shape);  // seed 7, images 0 to 3
//       ddpm::States states = ddpm::walk(denoise, noise, plan);
//       while (states.next()) {                                                      // a row; break to cancel
//           const ddpm::State& state = states.now();                                 // row, x, x_0, eps, history
//           std::printf("t = %g, x_0 from %+.2f\n", state.row.t, state.x_0[0]);      // x_0 is a preview
//       }
//       return ddpm::to_uint8(states.now().x, spec.state_shape);                     // [4, H, W, C]
//   }
//
//   or, the same in one call with checks and a callback after each row: ddpm::sample(network, spec, settings, ...); and
//   of a picture and a mask, a strength or a measurement: ddpm::edit(network, spec, given, settings, ...). A robot's
//   actions, step by step, are those of a ddpm::Policy.
//
// WHAT TO KNOW
//
//   Memory   `walk` allocates what it needs: seven arrays of the batch's size, and two for every evaluation that a
//            later row reads. `next` allocates nothing, except in the first row the arrays of a file's inputs, and
//            with guidance those of a batch twice as long, and of a measurement its own.
//            Everything keeps copies of what it is given; what your function captures by reference must outlive it.
//   Resume   A State is all there is. Pass it to `walk` with the same plan, in another process if you like.
//   Threads  No global state: distinct objects may be used from distinct threads.
//   Errors   ddpm::Error, one line: what is wrong and the value seen, then what to do. Its code is an exit code.
//   Numbers  Weights are computed in double and rounded once; the rest is float. -ffast-math is refused: what is not
//            finite must be seen, and sums must keep their order. Contraction to fused multiply-adds is allowed.
//   Locale   Numbers are read and written alike under any.
//
// LICENSE
//
//   MIT, as the repository: see LICENSE.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error "ddpm.hpp must not be compiled with -ffast-math or a part of it: NaN must be seen, sums keep their order."
#endif

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <limits>
#include <locale>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ddpm {

// ---------------------------------------------------------------------------------------------------------- errors

// What a program ends with for each kind of error, as the commands of ddpm-export do.
enum class Code { usage = 2, bad_file = 3, refused = 4, environment = 5, not_finite = 6, cancelled = 130 };

class Error : public std::runtime_error {
public:
    Error(Code kind, const std::string& line) : std::runtime_error(line), code(kind) {}
    Code code;
};

// A number became NaN or infinite: in which row, and in which image of the batch.
class NonFiniteError : public Error {
public:
    NonFiniteError(const std::string& row, std::size_t place, const std::string& image)
        : Error(Code::not_finite, "At " + row + ", " + image + " became NaN or infinite. Run ddpm-check on the model."),
          where(row), index(place) {}
    std::string where;
    std::size_t index;
};

// --------------------------------------------------------------------------------------------------- noise, section 3

using Shape = std::vector<std::int64_t>;  // C, H, W of pictures, else one, two or four sizes

constexpr std::string_view noise_tag = "philox4x32-10/icdf-q20/1";

// Return the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3).
std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// Write a standard normal for each of `count` words, by table and linear interpolation in integers.
void normals_from_words(const std::uint32_t* words, std::size_t count, float* normals);

// The noise of some images: a pure function of the draw.
class Noise {
public:
    // Write the noise of one draw, (images, *shape); draw 0 is x_T, draw i belongs to row i.
    void operator()(std::uint32_t draw, float* z) const;
    const std::vector<std::uint32_t>& images() const { return images_; }  // their numbers
    std::size_t image_size() const { return image_size_; }

private:
    friend Noise noise_stream(std::int64_t, const std::vector<std::int64_t>&, const Shape&, std::uint32_t);
    std::array<std::uint32_t, 2> key_{};
    std::vector<std::uint32_t> images_;
    std::size_t image_size_ = 0;
    std::uint32_t domain_ = 0;
};

// Return the noise of the images with these numbers. seed 0 to 2^63 - 1; numbers 0 to 2^32 - 1, in any order; domain 0
// is sampling, 1 (noise_of_given) is for known pixels. Image 7 has the same noise alone or among others. Throws Error (usage) outside these ranges.
Noise noise_stream(std::int64_t seed, const std::vector<std::int64_t>& images, const Shape& shape,
                   std::uint32_t domain = 0);
constexpr std::uint32_t noise_of_given = 1;

// Throw Error (usage) for n < 1, and where first to first + n - 1 leave 0 to 2^32 - 1.
void check_image_numbers(std::int64_t first, std::int64_t n);

// ------------------------------------------------------------------------------------------- plans, sections 1 and 2

constexpr std::size_t max_rows = 10'000, max_reach = 16;

// One network evaluation and the state after it: x = sum x_0[j] x_0^(j) + sum eps[j] eps^(j) + noise z.
struct Row {
    std::uint32_t i = 0;               // its number, from 1, and its noise draw
    double t = 0.0;                    // what the network is told
    double a = 0.0;                    // alphas_cumprod there
    std::vector<double> x_0{}, eps{};  // weights of the clean images and noises found, newest first
    // empty for none; a standard deviation; or small and large where the network learned its variance:
    // small^(1-f) large^f with its variance_fraction f, pixel by pixel
    std::vector<double> noise{};
    bool raw_eps = false;  // whether eps stays as before where x_0 is clipped; of all rows of a plan, or of none

    // Return how many evaluations the row reads, its own among them.
    std::size_t reach() const { return std::max(x_0.size(), eps.size()); }
};

// The rows from noise to picture; the first state is `start` times noise draw 0.
struct Plan {
    std::vector<Row> rows;
    double start = 1.0;

    bool needs_learned_variance() const;
    // Return how many of the evaluations up to rows[k], newest first, later rows read.
    std::size_t kept_after(std::size_t k) const;
};

// Return a plan that goes `jump` rows back, `returns` times from each place, before its last row and `jump` rows apart
// (RePaint: Lugmayr et al. 2022). Going back is merged into the row before. Throws Error (usage) for returns below 0, for
// a jump that does not fit, and for rows that look back or weigh a learned variance.
Plan with_returns(const Plan& plan, std::int64_t returns, std::int64_t jump = 1);

// Return the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022). Throws
// Error (usage) for a strength outside 0 to 1, and for one below which there is no time.
std::vector<double> times_below(const std::vector<double>& times, double strength, std::int64_t num_train_timesteps);

// Return the rows from the first time below strength T on, numbered anew. Throws what `times_below` throws, and
// Error (usage) for rows that look back beyond it.
Plan plan_below(const Plan& plan, double strength, std::int64_t num_train_timesteps);

// ------------------------------------------------------------------------- what a network is told besides x_t and t

enum class Kind { label, vector, image, previous };

// An input of the network. Its values have `shape` for each image: a label is one int64 index, empty of shape; all
// others are float: a vector (D,), an image (C', H', W'), or `previous`, the clean image that the evaluation before
// found, zeros at first, which whoever walks the rows feeds.
struct Input {
    std::string name;
    Kind kind = Kind::label;
    std::vector<std::int64_t> shape;   // without the batch
    std::optional<double> none{};      // fills it where nothing is said; where that is nothing, it must be given
    std::vector<std::string> classes;  // of a label, from 0 on
    // the least and the largest that a user may give, each one number or one for each place of the last axis; or empty
    std::array<std::vector<double>, 2> limits{};

    // Return how many numbers it has for an image.
    std::size_t size() const;
    // Return whether whoever samples says it; the walk feeds a previous, and guidance its own scale.
    bool is_told() const;
};

// What is said of an input, for all images or for each one: a label by the name of its class, by its index, as text or
// as a number, or as "none"; all else as numbers.
using InputValue = std::variant<std::string, std::vector<std::string>, std::vector<std::int64_t>, std::vector<float>>;
using Inputs = std::map<std::string, InputValue>;

// An input filled for a batch: labels (batch,) of a label, numbers (batch, *shape) of any other, the other one null.
struct InputArray {
    const Input* input;
    const std::int64_t* labels;
    const float* numbers;
};

// How strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it. scale is
// 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it is, and both cost one
// evaluation. interval: the times t that are guided, both ends among them; at others the scale is 1 (Kynkaanniemi et
// al. 2024). Without one all are.
struct Guidance {
    double scale = 1.0;
    std::optional<std::array<double, 2>> interval{};

    // Return the scale at a time.
    double at(double t) const { return !interval || ((*interval)[0] <= t && t <= (*interval)[1]) ? scale : 1.0; }
};

// --------------------------------------------------------------------------------------- the file's numbers, section 1

enum class Prediction { eps, x_0, v };
enum class Variance { fixed_small, fixed_large, learned };

struct Defaults {
    std::string sampler = "ddim";
    std::int64_t num_steps = 50;
    double eta = 0.0;
    std::optional<std::vector<std::int64_t>> times{};  // in place of num_steps evenly spaced ones
    std::optional<std::string> plan{};                 // the name of one of the file's, in place of all else
    std::optional<Guidance> guidance{};                // of a network that takes any; without it the scale is 1
};

// The value of a state: scale x + shift, each one number or one for each place along an axis (section 6).
struct Units {
    std::vector<float> scale, shift;
    std::size_t axis = 0;
};

// A graph that runs once for each image, in a file beside the denoiser that names it by digest (section 6).
struct Stage {
    std::map<std::string, Shape> outputs;
    std::string file, sha256;
    std::vector<Input> inputs{};  // of `before`: what the user gives
};

// All that sampling needs to know of a network. What `spec_from_json` returns is valid; one made by hand is unchecked.
struct ModelSpec {
    std::string name;  // UTF-8, for people
    Prediction prediction = Prediction::eps;
    Shape state_shape{};  // three sizes of pictures; what is made of any other number are floats
    std::vector<double> alphas_cumprod;  // (T,), strictly falling within (0, 1); the last may be 0 unless eps
    std::optional<double> clip_x_0;      // bound on |x_0|
    Variance variance = Variance::fixed_small;  // of the ddpm sampler
    Defaults defaults;
    bool has_variance_fraction = false;  // the network has a second output of that name
    bool has_fractional_t = false;       // the graph's t is float
    bool has_guidance = true;            // a one-call graph combines only where it says so
    std::vector<Input> inputs;           // in the graph's order
    std::map<std::string, Plan> plans;   // solvers as tables, by name
    std::optional<Units> units{};        // of what `after` takes, or else of what is made
    std::map<std::string, Stage> stages{};  // before, after and encode, by name

    // Return the inputs that a user gives: those of the network that no stage makes, and those of `before`.
    std::vector<Input> asked_inputs() const;
    // Return the input that says which class is wanted, null where the network is told none.
    const Input* label() const;
    // Return whether its predictions can be guided: it knows "no class", or takes guidance in its graph.
    bool takes_guidance() const;
    // Return whether the scale of guidance is an input of the network, which then combines by itself.
    bool guides_itself() const;
    std::int64_t num_train_timesteps() const { return static_cast<std::int64_t>(alphas_cumprod.size()); }
    // Return whether what is made are pictures, or else numbers, and its shape: that of a state unless a stage follows.
    bool is_picture() const;
    const Shape& result_shape() const;
    std::size_t image_size() const {
        const auto size = std::accumulate(state_shape.begin(), state_shape.end(), std::int64_t{1}, std::multiplies<>());
        return static_cast<std::size_t>(size);
    }
};

// Return the values of states (B, *state_shape): x itself without units.
std::vector<float> values_of(const ModelSpec& spec, std::vector<float> x);

// Read and check a spec. Unknown keys are ignored. Throws Error: bad_file for what is missing, out of range, longer
// than 256 KiB, nested deeper than 32 levels or no JSON at all; refused for a later format, noise or requirement.
ModelSpec spec_from_json(std::string_view text);

// ------------------------------------------------------------- from network to x_0 and eps, section 2: in three steps

// What the network is asked, and where its answer goes; each array is (batch, *state_shape).
struct Evaluation {
    std::size_t batch;
    const float* x_t;
    double t;                               // of every image; whole unless the spec has_fractional_t
    const std::vector<InputArray>& inputs;  // those of the spec, in its order
    float* prediction;                      // to be written: eps, x_0 or v, as the spec says
    float* variance_fraction;               // to be written unless it is null: where the spec has no such output
};

using Model = std::function<void(const Evaluation&)>;

// What a stage is asked of one image: its inputs, and where what it gives is to be written, by name.
struct StageCall {
    const std::string& name;  // before, or after, whose input is x
    const std::vector<InputArray>& inputs;
    const std::map<std::string, float*>& outputs;
};

using Stages = std::function<void(const StageCall&)>;  // runs those of a file

// Return the network's inputs, of those that a user gives, for all images or for each one. Throws Error: usage for what
// does not fit, not_finite where `before` gives NaN or infinity.
Inputs prepared(const ModelSpec& spec, const Stages& stages, const Inputs& given);

// Return what states (B, *state_shape) are, (B, *result_shape): themselves without units and stages. Throws Error
// (not_finite) where `after` gives NaN or infinity.
std::vector<float> decoded(const ModelSpec& spec, const Stages& stages, std::vector<float> x);

// Where the outputs of a network are, each (batch, *state_shape); variance_fraction is null where the spec has none.
struct Outputs {
    float* prediction;
    float* variance_fraction;
};

// What they say of a noisy image: the clean image, the noise in it, and, where it was learned, between the logarithms
// of which variances that of the noise lies: 0 small, 1 large (Nichol and Dhariwal 2021, eq. 15); empty otherwise.
struct Denoised {
    std::vector<float> x_0, eps, variance_fraction{};

    void resize(std::size_t size, bool has_variance_fraction) {
        x_0.resize(size);
        eps.resize(size);
        variance_fraction.resize(has_variance_fraction ? size : 0);
    }
};

// (x_t (B, C, H, W), row, the x_0 found before or null at first) -> found, whose arrays it sizes.
using Denoiser =
    std::function<void(const std::vector<float>& x_t, const Row& row, const float* x_0_before, Denoised& found)>;

// Bind a model, what it predicts, its clipping, its inputs and guidance, which is the file's own where none is given.
// One evaluation a call, at times with a scale other than 0 and 1 of two rows an image: with its label and without.
// Throws Error (usage) for inputs that are unknown, missing or do not fit, here where it can be seen without a batch,
// and for guidance that does not apply; its calls throw NonFiniteError where the network gives NaN or infinity.
Denoiser denoiser(Model model, const ModelSpec& spec, const Inputs& inputs = {},
                  const std::optional<Guidance>& guidance = {});

// Return the guidance that is meant: what is given, or else the file's. Throws Error (usage) for what is out of its
// range, and for any scale but 1 of a network that takes none.
Guidance guidance_for(const ModelSpec& spec, const std::optional<Guidance>& given = {});

// Let the network write what it says of x_t in a row. Throws NonFiniteError where that is not finite: clipping would
// hide it.
void predict(const Model& model, const ModelSpec& spec, const std::vector<float>& x_t, const Row& row,
             const std::vector<InputArray>& inputs, const Outputs& outputs);

// Return what predictions of one x_t make, before anything is converted or clipped: of one, itself; of two, c with a
// label and u without, u + scale (c - u) in the place of c, whose variance_fraction stays. size: the numbers in each.
Outputs combine(std::initializer_list<Outputs> predictions, double scale, std::size_t size);

// Convert a prediction into x_0 and eps, which may hold it, and clip, once. x_0 follows from eps (Ho et al. 2020,
// eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is set, x_0 is clipped and eps is what then
// leads from it to x_t, or with the row's raw_eps what it was before.
void denoised(const Outputs& outputs, const ModelSpec& spec, const std::vector<float>& x_t, const Row& row,
              Denoised& found);

// --------------------------------------------------------------------------------------- samplers, and plans from them

// Times, and alphas_cumprod there and, one number more, where the last row ends.
struct Grid {
    std::vector<double> t, a;
};

// Return the times of evenly spaced steps, T (n - i) / n - 1 in integers: n strictly falling ones from T - 1.
// Throws Error (usage) for num_steps outside 1 to T.
std::vector<std::int64_t> spacing(std::int64_t num_train_timesteps, std::int64_t num_steps);

// Return num_steps evenly spaced times, or the given falling ones; without either, the spec's number of them.
// Throws Error (usage) for num_steps outside 1 to T, and for times that do not strictly fall within T - 1 to 0.
Grid grid(const ModelSpec& spec, std::optional<std::int64_t> num_steps = {},
          const std::optional<std::vector<std::int64_t>>& times = {});

// Return a DDIM step's weights of x_0, eps and fresh noise (Song et al. 2020, eq. 12 and 16).
std::array<double, 3> ddim_weights(double a, double a_prev, double eta);

// Return the rows of DDIM (Song et al. 2020, eq. 12); eta = 0 adds no noise, eta = 1 is DDPM's fixed_small. eta is
// rounded to float. Throws Error (usage) for eta outside 0 to 1.
std::vector<Row> ddim(const Grid& grid, double eta = 0.0);

// Return the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where the grid leaves times out.
// fixed_small is the posterior's variance (eq. 7), fixed_large is beta's (section 3.2), learned lies where the network
// says between the two of the steps taken (Nichol and Dhariwal 2021, eq. 15).
std::vector<Row> ddpm(const Grid& grid, Variance variance = Variance::fixed_small);

// Return the rows from noise to picture: of a sampler on a grid of times, or a plan that the file carries, by name, in
// place of all else. What is not said is the spec's default. Throws Error: usage for what is no plan, refused for a
// default sampler that is neither ddim nor ddpm.
Plan plan(const ModelSpec& spec, const std::optional<std::string>& sampler = {},
          std::optional<std::int64_t> num_steps = {}, const std::optional<std::vector<std::int64_t>>& times = {},
          const std::optional<std::string>& name = {}, std::optional<double> eta = {},
          std::optional<Variance> variance = {});

// -------------------------------------------------------------------------------------------------------- the one loop

// What an evaluation found.
struct Found {
    std::vector<float> x_0, eps;
};

// What a row leaves: the row, the state x after it, and what the denoiser found before it, each (batch, C, H, W).
struct State {
    Row row;
    std::vector<float> x, x_0, eps;
    std::vector<Found> history;  // what later rows read, newest first
};

// What changes a state x (batch, C, H, W) before it is left: also told the noise draw, and a of the row that reads x, 1
// of the picture.
using Keep = std::function<void(std::vector<float>& x, std::uint32_t draw, double a)>;

// The states of a plan, one network evaluation each.
class States {
public:
    // Walk the next row; false where none is left. Throws NonFiniteError, which names row and image, where a number is
    // no longer finite. If the model throws, or says what is not finite, the state is as before the row.
    bool next();
    const State& now() const { return state_; }  // valid until the next call; before the first one, x alone is

private:
    friend States walk(Denoiser, Noise, Plan, std::vector<float>, std::optional<State>, Keep);
    States(Denoiser denoise, Noise noise, Plan plan, std::vector<float> x, std::optional<State> state, Keep keep);
    void check() const;
    void sum(const Row& row);
    void remember(std::size_t count);
    Denoiser denoise_;
    Noise noise_;
    Plan plan_;
    Keep keep_;
    State state_;
    Denoised found_;
    std::vector<float> z_;
    std::vector<Found> spare_;  // arrays that the history does not use now
    std::size_t next_ = 0;
};

// Return the states after every row of a plan. Starts at noise draw 0, or at x in its place; or goes on from `state`,
// which an earlier walk of the same plan left, to the same bits. keep changes every state, the first among them. Throws
// Error (usage) for arrays of another size than the noise, and for rows that read evaluations that there are not.
States walk(Denoiser denoise, Noise noise, Plan plan, std::vector<float> x = {}, std::optional<State> state = {},
            Keep keep = {});

// ------------------------------------------------------------ given something, section 2; docs/given.md has its limits

// Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4).
std::vector<float> noised(const std::vector<float>& x_0, const std::vector<float>& eps, double a);

// Return what puts known pixels into every state of a walk (replacement: Song et al. 2021, appendix I.2). known: (batch,
// *shape), of pictures in [-1, 1]. mask: 0 known, 1 made, between them blended in the picture; (H, W) of pictures,
// *shape or one for each, (batch, *shape). noise: of domain noise_of_given. Throws Error (usage) for other sizes.
Keep known_pixels(std::vector<float> known, std::vector<float> mask, Noise noise, const Shape& shape);

// A linear measurement y = A x of images x (batch, C, H, W), and the way back: A+. Each writes to its second argument.
struct Measurement {
    std::function<void(const std::vector<float>& x, std::vector<float>& y)> of, back;
};

Measurement average(std::int64_t size, const Shape& shape);              // means of squares of size x size pixels
Measurement grey(const Shape& shape);                                    // the mean of the channels
Measurement masked(std::vector<float> mask, const Shape& shape);         // the known pixels, 0 in their mask
// "average:4", "grey" or "mask". Throws Error (usage) for another name, and for squares that do not fill the image.
Measurement measurement_from_text(const std::string& text, const Shape& shape, const std::vector<float>& mask = {});

// Return a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023), after clipping;
// eps is what then leads to x_t.
Denoiser measured(Denoiser denoise, Measurement measurement, const std::vector<float>& y);

// Return `count` images, 2 or more, from the first to the last: (1 - s) first + s last, and of noise cos and sin of s pi / 2.
std::vector<float> crossfade(const std::vector<float>& first, const std::vector<float>& last, std::size_t count);
std::vector<float> slerp(const std::vector<float>& first, const std::vector<float>& last, std::size_t count);

// Return DDIM's plan backwards, from a picture, which is the state at time 0, to its noise (Song et al. 2020, section
// 4.3). times: whole ones of the plan that would lead to it. Give the denoiser a spec that does not clip.
Plan inversion(const ModelSpec& spec, const std::vector<double>& times);

// ------------------------------------------------------------------------------------------------------------ pictures

// Write pixels (n, H, W, C) of images (n, C, H, W) in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up; NaN is 0.
// Throw Error (usage), as all with a Shape from here on, for what is no picture.
void to_uint8(const float* x, std::size_t n, const Shape& shape, std::uint8_t* pixels);
std::vector<std::uint8_t> to_uint8(const std::vector<float>& x, const Shape& shape);
// Return images (n, C, H, W) of pixels (n, H, W, C): level k is k / 127.5 - 1.
std::vector<float> from_uint8(const std::vector<std::uint8_t>& pixels, const Shape& shape);

// All that decides the images besides the model; what is not set is the file's default. `plan` is the name of one that
// the file carries, the others are those of the function `plan`.
struct Settings {
    std::int64_t n = 16;  // images first to first + n - 1, in one batch
    std::optional<std::int64_t> num_steps{};
    std::optional<std::vector<std::int64_t>> times{};
    std::optional<std::string> sampler{};  // "ddim" or "ddpm"
    std::optional<double> eta{};           // of ddim
    std::optional<Variance> variance{};    // of ddpm
    std::optional<std::string> plan{};
    std::int64_t seed = 0, first = 0;
    // image k is told value k mod K of the K that are given, and of no given label every class in turn
    std::optional<InputValue> label{};
    std::optional<Guidance> guidance{};
    Inputs inputs{};  // the others, by name
    Stages stages{};  // where there are any, inputs are those that a user gives; else the network's own
};

// Called after each row (1 to num_steps) with the images and the current guess at the clean ones; false cancels.
using Progress = std::function<bool(std::size_t step, std::size_t num_steps, const float* x, const float* x_0)>;

// Return the images of a batch, (n, C, H, W). Throws Error: usage for settings out of range, not_finite at the row
// where a number is no longer finite, cancelled where `progress` says false.
std::vector<float> sample(const Model& model, const ModelSpec& spec, const Settings& settings,
                          const Progress& progress = {});

// What images are made of besides their noise: pictures with a mask, a measure, a strength, or with several of them.
struct Given {
    std::vector<float> images{};  // (C, H, W) for all, or one for each image, in [-1, 1]; or what is measured of them
    std::vector<float> mask{};    // as of known_pixels, or empty
    std::optional<std::string> measure{};  // as of measurement_from_text
    std::optional<double> strength{};      // above 0 to 1; without one images begin with noise
    std::int64_t returns = 0, jump = 1;
    bool between = false;  // all have the noise of the first, and are told what it is: see crossfade
};

// Return the images of a batch, (n, C, H, W), made of what is given. Where no label is set it is none, if the network
// knows that. Throws what `sample` throws, and Error (usage) for what does not fit or goes with nothing.
std::vector<float> edit(const Model& model, const ModelSpec& spec, const Given& given, Settings settings,
                        const Progress& progress = {});

// -------------------------------------------------------------------------------------------------------------- policy

using Observation = std::map<std::string, std::vector<float>>;  // by the names of asked_inputs

// From what a robot observes, step by step, to what it does: the receding horizon of Chi et al. 2023. A plan is made of
// the last few observations, all of its actions are taken, and then the next one is made. Plan k of a seed is image k of
// that seed: the same on any machine.
class Policy {
public:
    // settings: the steps, sampler or plan; deadline_s: how long a plan may take. Throws Error (refused) for a model
    // that takes no observations [steps, ...] or gives no actions [steps, actions], and (usage) without its stages.
    Policy(Model model, Stages stages, ModelSpec spec, double deadline_s = std::numeric_limits<double>::infinity(),
           Settings settings = {});
    // Forget what was observed and planned: an episode begins, whose plans follow from the seed.
    void reset(std::int64_t seed = 0);
    // Return the next action of an observation; the first one stands for those before it. Costs a plan where no action is
    // left, else nothing. Throws Error: usage for names and sizes other than the file's, for NaN, and for numbers far
    // from what training saw; environment for a plan that took longer than the deadline. Then nothing has changed.
    std::vector<float> act(const Observation& observation);
    std::int64_t plans() const { return settings_.first; }  // made since the reset
    std::size_t num_actions() const { return static_cast<std::size_t>(spec_.result_shape()[1]); }  // numbers in one

private:
    void check(const Observation& observation) const;
    std::vector<float> planned(const std::deque<Observation>& window) const;
    Model model_;
    ModelSpec spec_;
    double deadline_s_;
    Settings settings_;
    std::vector<Input> inputs_;
    std::deque<Observation> observed_;
    std::deque<float> actions_;
};

// ---------------------------------------------------------------------------------------------------------------- JSON

// As much of JSON (RFC 8259) as reading a spec takes. Numbers round to the nearest double whatever the locale.
namespace json {

struct Value;
struct Member;
struct Number {
    double value;
    bool is_integer;  // written without fraction and exponent
};
using Array = std::vector<Value>;
using Object = std::vector<Member>;  // as written; of equal keys the last counts

struct Value {
    std::variant<std::nullptr_t, bool, Number, std::string, Array, Object> held;
    template <class T>
    const T* as() const { return std::get_if<T>(&held); }  // null where it is something else
    const Value* find(std::string_view key) const;         // a member of an object, or null
};

struct Member {
    std::string key;
    Value value;
};

// Return the value a text holds. Throws Error (bad_file) for anything else, for text that is not UTF-8, and for more
// than 32 levels of nesting.
Value parse(std::string_view text);

}  // namespace json

// ================================================================================================ the table of normals

// normal table: begin
// Generated by examples/normal_table.py; do not edit. 32 rows of 257 int32, SHA-256
// e157d396404b6b6de5e3c65e6be07e1b4c74aa86ba523e2ed8e2fdd8e16ca9d5 as little-endian bytes.
inline constexpr std::int32_t normal_table[32 * 257] = {
    707254, 704035, 700822, 697616, 694417, 691224, 688038, 684857, 681684, 678516, 675354, 672199, 669050, 665907, 662769, 659638, 656512, 653393, 650279, 647171, 644068, 640971, 637880, 634794, 631714, 628639, 625570, 622506, 619447, 616393, 613345, 610302, 607264, 604231, 601203, 598181, 595163, 592150, 589142, 586138, 583140, 580146, 577157, 574173, 571193, 568218, 565248, 562282, 559321, 556364, 553411, 550463, 547519, 544580, 541644, 538713, 535786, 532864, 529945, 527031, 524121, 521214, 518312, 515414, 512519, 509629, 506742, 503859, 500980, 498105, 495234, 492366, 489502, 486641, 483784, 480931, 478081, 475235, 472393, 469553, 466718, 463885, 461056, 458231, 455408, 452589, 449774, 446961, 444152, 441346, 438543, 435743, 432946, 430152, 427362, 424574, 421790, 419008, 416230, 413454, 410681, 407911, 405144, 402380, 399618, 396859, 394103, 391350, 388599, 385852, 383106, 380364, 377624, 374886, 372151, 369419, 366689, 363962, 361237, 358514, 355794, 353076, 350361, 347648, 344937, 342229, 339523, 336819, 334118, 331418, 328721, 326026, 323333, 320643, 317954, 315267, 312583, 309901, 307220, 304542, 301866, 299191, 296519, 293848, 291180, 288513, 285848, 283185, 280524, 277864, 275207, 272551, 269897, 267244, 264594, 261945, 259297, 256652, 254008, 251365, 248724, 246085, 243448, 240811, 238177, 235544, 232912, 230282, 227653, 225026, 222400, 219775, 217152, 214531, 211910, 209291, 206673, 204057, 201442, 198828, 196215, 193603, 190993, 188384, 185776, 183169, 180564, 177959, 175355, 172753, 170152, 167551, 164952, 162354, 159757, 157160, 154565, 151971, 149377, 146785, 144193, 141603, 139013, 136424, 133835, 131248, 128661, 126076, 123491, 120906, 118323, 115740, 113158, 110576, 107996, 105416, 102836, 100257, 97679, 95101, 92524, 89948, 87372, 84796, 82221, 79647, 77073, 74499, 71926, 69354, 66782, 64210, 61638, 59067, 56497, 53926, 51356, 48787, 46217, 43648, 41079, 38510, 35942, 33374, 30806, 28238, 25670, 23103, 20536, 17968, 15401, 12834, 10267, 7700, 5134, 2567, 0,
    1206229, 1203745, 1201268, 1198797, 1196334, 1193877, 1191426, 1188982, 1186544, 1184113, 1181688, 1179269, 1176857, 1174451, 1172051, 1169657, 1167269, 1164887, 1162511, 1160141, 1157778, 1155419, 1153067, 1150721, 1148380, 1146045, 1143716, 1141392, 1139074, 1136762, 1134455, 1132153, 1129857, 1127566, 1125281, 1123001, 1120726, 1118457, 1116193, 1113934, 1111680, 1109431, 1107187, 1104949, 1102715, 1100487, 1098263, 1096044, 1093831, 1091622, 1089418, 1087218, 1085024, 1082834, 1080649, 1078469, 1076293, 1074122, 1071955, 1069794, 1067636, 1065483, 1063335, 1061191, 1059051, 1056916, 1054786, 1052659, 1050537, 1048419, 1046306, 1044197, 1042092, 1039991, 1037894, 1035801, 1033713, 1031629, 1029548, 1027472, 1025400, 1023332, 1021267, 1019207, 1017151, 1015098, 1013050, 1011005, 1008964, 1006927, 1004894, 1002864, 1000839, 998817, 996798, 994784, 992773, 990765, 988762, 986762, 984765, 982772, 980783, 978797, 976814, 974836, 972860, 970888, 968920, 966954, 964993, 963034, 961079, 959128, 957179, 955234, 953292, 951354, 949419, 947487, 945558, 943632, 941710, 939790, 937874, 935961, 934051, 932144, 930241, 928340, 926442, 924548, 922656, 920767, 918882, 916999, 915119, 913243, 911369, 909498, 907630, 905765, 903902, 902043, 900186, 898332, 896481, 894633, 892788, 890945, 889105, 887268, 885433, 883602, 881773, 879946, 878122, 876301, 874483, 872667, 870854, 869043, 867235, 865430, 863627, 861826, 860029, 858233, 856441, 854650, 852863, 851077, 849294, 847514, 845736, 843961, 842187, 840417, 838648, 836883, 835119, 833358, 831599, 829842, 828088, 826336, 824587, 822840, 821095, 819352, 817611, 815873, 814137, 812403, 810672, 808943, 807216, 805491, 803768, 802047, 800329, 798613, 796898, 795186, 793476, 791769, 790063, 788359, 786658, 784958, 783261, 781566, 779872, 778181, 776492, 774805, 773119, 771436, 769755, 768075, 766398, 764723, 763049, 761378, 759708, 758041, 756375, 754711, 753049, 751389, 749731, 748075, 746421, 744768, 743117, 741469, 739822, 738176, 736533, 734891, 733252, 731614, 729978, 728343, 726710, 725080, 723450, 721823, 720197, 718573, 716951, 715331, 713712, 712095, 710480, 708866, 707254,
    1608642, 1606564, 1604491, 1602426, 1600366, 1598312, 1596265, 1594224, 1592188, 1590159, 1588136, 1586118, 1584107, 1582101, 1580101, 1578106, 1576118, 1574135, 1572157, 1570186, 1568219, 1566259, 1564303, 1562353, 1560409, 1558470, 1556536, 1554607, 1552684, 1550766, 1548853, 1546945, 1545043, 1543145, 1541253, 1539365, 1537483, 1535605, 1533732, 1531864, 1530001, 1528143, 1526290, 1524441, 1522597, 1520758, 1518924, 1517094, 1515268, 1513448, 1511632, 1509820, 1508013, 1506210, 1504412, 1502618, 1500829, 1499044, 1497263, 1495486, 1493714, 1491946, 1490183, 1488423, 1486668, 1484917, 1483170, 1481427, 1479688, 1477954, 1476223, 1474496, 1472773, 1471055, 1469340, 1467629, 1465922, 1464219, 1462520, 1460824, 1459133, 1457445, 1455761, 1454081, 1452404, 1450731, 1449062, 1447397, 1445735, 1444076, 1442422, 1440771, 1439123, 1437479, 1435839, 1434202, 1432569, 1430939, 1429312, 1427689, 1426069, 1424453, 1422840, 1421231, 1419624, 1418022, 1416422, 1414826, 1413233, 1411643, 1410056, 1408473, 1406893, 1405316, 1403743, 1402172, 1400605, 1399040, 1397479, 1395921, 1394366, 1392814, 1391265, 1389719, 1388176, 1386636, 1385099, 1383566, 1382035, 1380507, 1378981, 1377459, 1375940, 1374424, 1372910, 1371399, 1369892, 1368386, 1366884, 1365385, 1363888, 1362394, 1360903, 1359415, 1357929, 1356447, 1354966, 1353489, 1352014, 1350542, 1349072, 1347606, 1346141, 1344680, 1343221, 1341765, 1340311, 1338860, 1337411, 1335965, 1334521, 1333080, 1331642, 1330206, 1328772, 1327341, 1325912, 1324486, 1323063, 1321641, 1320223, 1318806, 1317392, 1315981, 1314571, 1313164, 1311760, 1310358, 1308958, 1307560, 1306165, 1304772, 1303382, 1301994, 1300608, 1299224, 1297842, 1296463, 1295086, 1293711, 1292339, 1290969, 1289600, 1288234, 1286871, 1285509, 1284150, 1282792, 1281437, 1280084, 1278734, 1277385, 1276038, 1274694, 1273351, 1272011, 1270673, 1269336, 1268002, 1266670, 1265340, 1264012, 1262686, 1261362, 1260040, 1258720, 1257402, 1256086, 1254772, 1253460, 1252150, 1250842, 1249536, 1248232, 1246929, 1245629, 1244330, 1243034, 1241739, 1240446, 1239155, 1237866, 1236579, 1235294, 1234010, 1232729, 1231449, 1230171, 1228895, 1227621, 1226348, 1225077, 1223808, 1222541, 1221276, 1220012, 1218751, 1217491, 1216232, 1214976, 1213721, 1212468, 1211217, 1209967, 1208719, 1207473, 1206229,
    1953216, 1951400, 1949590, 1947786, 1945988, 1944195, 1942408, 1940627, 1938851, 1937081, 1935316, 1933557, 1931803, 1930055, 1928311, 1926574, 1924841, 1923114, 1921392, 1919675, 1917963, 1916256, 1914555, 1912858, 1911167, 1909480, 1907798, 1906121, 1904449, 1902782, 1901120, 1899462, 1897810, 1896161, 1894518, 1892879, 1891245, 1889615, 1887990, 1886370, 1884754, 1883142, 1881535, 1879932, 1878334, 1876740, 1875150, 1873565, 1871983, 1870407, 1868834, 1867265, 1865701, 1864141, 1862585, 1861033, 1859485, 1857941, 1856401, 1854865, 1853334, 1851806, 1850282, 1848762, 1847245, 1845733, 1844224, 1842720, 1841219, 1839721, 1838228, 1836738, 1835252, 1833770, 1832291, 1830816, 1829345, 1827877, 1826413, 1824952, 1823495, 1822041, 1820591, 1819144, 1817701, 1816261, 1814824, 1813391, 1811962, 1810536, 1809113, 1807693, 1806277, 1804864, 1803454, 1802047, 1800644, 1799244, 1797847, 1796454, 1795063, 1793676, 1792292, 1790910, 1789533, 1788158, 1786786, 1785417, 1784051, 1782688, 1781329, 1779972, 1778618, 1777267, 1775920, 1774575, 1773233, 1771893, 1770557, 1769224, 1767893, 1766566, 1765241, 1763919, 1762599, 1761283, 1759969, 1758658, 1757350, 1756045, 1754742, 1753442, 1752145, 1750850, 1749558, 1748269, 1746982, 1745698, 1744416, 1743137, 1741861, 1740587, 1739316, 1738048, 1736781, 1735518, 1734257, 1732998, 1731742, 1730489, 1729238, 1727989, 1726743, 1725499, 1724258, 1723019, 1721782, 1720548, 1719316, 1718087, 1716860, 1715635, 1714413, 1713193, 1711975, 1710760, 1709547, 1708336, 1707128, 1705921, 1704717, 1703515, 1702316, 1701119, 1699923, 1698731, 1697540, 1696351, 1695165, 1693981, 1692799, 1691619, 1690441, 1689266, 1688092, 1686921, 1685751, 1684584, 1683419, 1682256, 1681095, 1679936, 1678779, 1677624, 1676472, 1675321, 1674172, 1673025, 1671881, 1670738, 1669597, 1668458, 1667321, 1666187, 1665054, 1663923, 1662794, 1661666, 1660541, 1659418, 1658296, 1657177, 1656059, 1654944, 1653830, 1652718, 1651607, 1650499, 1649393, 1648288, 1647185, 1646084, 1644985, 1643888, 1642792, 1641698, 1640606, 1639516, 1638428, 1637341, 1636256, 1635173, 1634091, 1633012, 1631934, 1630857, 1629783, 1628710, 1627639, 1626569, 1625502, 1624435, 1623371, 1622308, 1621247, 1620188, 1619130, 1618074, 1617019, 1615967, 1614915, 1613866, 1612818, 1611772, 1610727, 1609684, 1608642,
    2258501, 2256872, 2255249, 2253630, 2252018, 2250410, 2248808, 2247211, 2245619, 2244032, 2242451, 2240874, 2239303, 2237736, 2236175, 2234618, 2233067, 2231520, 2229978, 2228441, 2226909, 2225381, 2223858, 2222340, 2220827, 2219318, 2217814, 2216314, 2214818, 2213328, 2211841, 2210360, 2208882, 2207409, 2205940, 2204476, 2203016, 2201560, 2200108, 2198661, 2197217, 2195778, 2194343, 2192912, 2191485, 2190063, 2188644, 2187229, 2185818, 2184411, 2183008, 2181609, 2180214, 2178823, 2177435, 2176052, 2174672, 2173296, 2171923, 2170555, 2169189, 2167828, 2166470, 2165116, 2163766, 2162419, 2161076, 2159736, 2158399, 2157067, 2155737, 2154411, 2153089, 2151770, 2150454, 2149142, 2147833, 2146528, 2145225, 2143927, 2142631, 2141338, 2140049, 2138763, 2137481, 2136201, 2134925, 2133652, 2132382, 2131115, 2129851, 2128590, 2127332, 2126078, 2124826, 2123578, 2122332, 2121090, 2119850, 2118613, 2117380, 2116149, 2114921, 2113696, 2112474, 2111255, 2110038, 2108825, 2107614, 2106406, 2105201, 2103998, 2102799, 2101602, 2100408, 2099216, 2098028, 2096842, 2095658, 2094478, 2093300, 2092124, 2090951, 2089781, 2088614, 2087449, 2086286, 2085126, 2083969, 2082814, 2081662, 2080512, 2079365, 2078220, 2077078, 2075938, 2074801, 2073666, 2072533, 2071403, 2070276, 2069150, 2068027, 2066907, 2065788, 2064673, 2063559, 2062448, 2061339, 2060232, 2059128, 2058026, 2056926, 2055829, 2054733, 2053640, 2052550, 2051461, 2050375, 2049290, 2048208, 2047129, 2046051, 2044975, 2043902, 2042831, 2041762, 2040695, 2039630, 2038567, 2037506, 2036448, 2035391, 2034337, 2033284, 2032234, 2031186, 2030140, 2029095, 2028053, 2027013, 2025974, 2024938, 2023904, 2022871, 2021841, 2020813, 2019786, 2018761, 2017739, 2016718, 2015699, 2014682, 2013667, 2012654, 2011643, 2010633, 2009626, 2008620, 2007616, 2006614, 2005614, 2004616, 2003619, 2002624, 2001631, 2000640, 1999651, 1998663, 1997677, 1996693, 1995711, 1994731, 1993752, 1992775, 1991799, 1990826, 1989854, 1988883, 1987915, 1986948, 1985983, 1985020, 1984058, 1983098, 1982139, 1981182, 1980227, 1979274, 1978322, 1977371, 1976423, 1975476, 1974530, 1973587, 1972644, 1971704, 1970765, 1969827, 1968891, 1967957, 1967024, 1966093, 1965163, 1964235, 1963309, 1962384, 1961460, 1960538, 1959618, 1958699, 1957781, 1956865, 1955951, 1955038, 1954126, 1953216,
    2534994, 2533506, 2532023, 2530545, 2529072, 2527604, 2526141, 2524683, 2523230, 2521781, 2520338, 2518899, 2517465, 2516035, 2514610, 2513190, 2511775, 2510364, 2508957, 2507555, 2506158, 2504765, 2503376, 2501992, 2500612, 2499236, 2497865, 2496498, 2495135, 2493776, 2492422, 2491071, 2489725, 2488383, 2487045, 2485711, 2484381, 2483055, 2481733, 2480415, 2479100, 2477790, 2476483, 2475181, 2473882, 2472587, 2471296, 2470008, 2468724, 2467444, 2466168, 2464895, 2463625, 2462360, 2461098, 2459839, 2458584, 2457333, 2456085, 2454840, 2453599, 2452362, 2451128, 2449897, 2448669, 2447445, 2446224, 2445007, 2443793, 2442582, 2441374, 2440170, 2438969, 2437770, 2436576, 2435384, 2434195, 2433010, 2431828, 2430648, 2429472, 2428299, 2427129, 2425962, 2424798, 2423636, 2422478, 2421323, 2420171, 2419021, 2417875, 2416731, 2415591, 2414453, 2413318, 2412186, 2411056, 2409930, 2408806, 2407685, 2406566, 2405451, 2404338, 2403228, 2402120, 2401015, 2399913, 2398814, 2397717, 2396622, 2395531, 2394442, 2393355, 2392271, 2391190, 2390111, 2389035, 2387961, 2386890, 2385821, 2384754, 2383690, 2382629, 2381570, 2380513, 2379459, 2378407, 2377358, 2376311, 2375266, 2374224, 2373184, 2372147, 2371111, 2370078, 2369047, 2368019, 2366993, 2365969, 2364947, 2363928, 2362911, 2361896, 2360883, 2359873, 2358864, 2357858, 2356854, 2355852, 2354852, 2353855, 2352859, 2351866, 2350875, 2349886, 2348899, 2347914, 2346931, 2345950, 2344971, 2343994, 2343020, 2342047, 2341076, 2340108, 2339141, 2338176, 2337213, 2336253, 2335294, 2334337, 2333382, 2332429, 2331478, 2330529, 2329582, 2328636, 2327693, 2326751, 2325811, 2324874, 2323938, 2323003, 2322071, 2321141, 2320212, 2319285, 2318360, 2317437, 2316515, 2315596, 2314678, 2313762, 2312847, 2311935, 2311024, 2310115, 2309208, 2308302, 2307398, 2306496, 2305595, 2304697, 2303799, 2302904, 2302010, 2301118, 2300228, 2299339, 2298452, 2297566, 2296683, 2295800, 2294920, 2294041, 2293163, 2292288, 2291413, 2290541, 2289670, 2288800, 2287933, 2287066, 2286202, 2285338, 2284477, 2283617, 2282758, 2281901, 2281046, 2280192, 2279339, 2278488, 2277639, 2276791, 2275944, 2275099, 2274256, 2273414, 2272573, 2271734, 2270896, 2270060, 2269225, 2268392, 2267560, 2266729, 2265900, 2265073, 2264246, 2263421, 2262598, 2261776, 2260955, 2260136, 2259318, 2258501,
    2789283, 2787906, 2786533, 2785166, 2783803, 2782445, 2781091, 2779742, 2778398, 2777058, 2775723, 2774392, 2773066, 2771744, 2770427, 2769113, 2767805, 2766500, 2765200, 2763904, 2762612, 2761324, 2760041, 2758762, 2757486, 2756215, 2754948, 2753685, 2752426, 2751170, 2749919, 2748672, 2747428, 2746189, 2744953, 2743721, 2742493, 2741268, 2740047, 2738830, 2737617, 2736407, 2735201, 2733999, 2732800, 2731604, 2730413, 2729224, 2728040, 2726858, 2725680, 2724506, 2723335, 2722167, 2721003, 2719842, 2718684, 2717530, 2716379, 2715231, 2714087, 2712946, 2711808, 2710673, 2709541, 2708412, 2707287, 2706165, 2705045, 2703929, 2702816, 2701706, 2700599, 2699495, 2698394, 2697296, 2696200, 2695108, 2694019, 2692933, 2691849, 2690768, 2689691, 2688616, 2687543, 2686474, 2685407, 2684344, 2683283, 2682224, 2681169, 2680116, 2679066, 2678018, 2676973, 2675931, 2674892, 2673855, 2672820, 2671789, 2670760, 2669733, 2668709, 2667688, 2666669, 2665652, 2664638, 2663627, 2662618, 2661611, 2660607, 2659606, 2658606, 2657610, 2656615, 2655623, 2654633, 2653646, 2652661, 2651679, 2650698, 2649720, 2648745, 2647771, 2646800, 2645831, 2644865, 2643900, 2642938, 2641978, 2641021, 2640065, 2639112, 2638161, 2637212, 2636265, 2635320, 2634378, 2633437, 2632499, 2631563, 2630629, 2629697, 2628767, 2627839, 2626913, 2625989, 2625067, 2624148, 2623230, 2622314, 2621400, 2620489, 2619579, 2618671, 2617765, 2616861, 2615959, 2615059, 2614161, 2613265, 2612371, 2611479, 2610588, 2609699, 2608813, 2607928, 2607045, 2606164, 2605284, 2604407, 2603531, 2602657, 2601785, 2600915, 2600046, 2599180, 2598315, 2597452, 2596590, 2595731, 2594873, 2594016, 2593162, 2592309, 2591458, 2590609, 2589761, 2588915, 2588071, 2587228, 2586387, 2585548, 2584711, 2583875, 2583040, 2582208, 2581377, 2580547, 2579719, 2578893, 2578068, 2577245, 2576424, 2575604, 2574786, 2573969, 2573154, 2572340, 2571528, 2570717, 2569908, 2569101, 2568295, 2567491, 2566688, 2565886, 2565086, 2564288, 2563491, 2562695, 2561901, 2561109, 2560318, 2559528, 2558740, 2557953, 2557168, 2556384, 2555601, 2554820, 2554041, 2553262, 2552486, 2551710, 2550936, 2550164, 2549392, 2548623, 2547854, 2547087, 2546321, 2545557, 2544794, 2544032, 2543272, 2542512, 2541755, 2540998, 2540243, 2539490, 2538737, 2537986, 2537236, 2536488, 2535740, 2534994,
    3025808, 3024521, 3023238, 3021960, 3020687, 3019418, 3018153, 3016893, 3015637, 3014385, 3013138, 3011895, 3010656, 3009421, 3008191, 3006965, 3005742, 3004524, 3003310, 3002100, 3000894, 2999692, 2998493, 2997299, 2996108, 2994922, 2993739, 2992560, 2991385, 2990213, 2989045, 2987881, 2986721, 2985564, 2984411, 2983261, 2982116, 2980973, 2979834, 2978699, 2977567, 2976438, 2975313, 2974192, 2973074, 2971959, 2970847, 2969739, 2968634, 2967533, 2966434, 2965339, 2964248, 2963159, 2962074, 2960991, 2959912, 2958836, 2957763, 2956693, 2955627, 2954563, 2953502, 2952445, 2951390, 2950338, 2949290, 2948244, 2947201, 2946161, 2945124, 2944090, 2943059, 2942030, 2941004, 2939982, 2938961, 2937944, 2936930, 2935918, 2934909, 2933902, 2932899, 2931898, 2930899, 2929904, 2928911, 2927920, 2926933, 2925947, 2924965, 2923985, 2923007, 2922032, 2921060, 2920090, 2919122, 2918157, 2917195, 2916235, 2915277, 2914322, 2913369, 2912419, 2911470, 2910525, 2909582, 2908641, 2907702, 2906766, 2905832, 2904900, 2903971, 2903044, 2902119, 2901196, 2900276, 2899358, 2898442, 2897528, 2896617, 2895707, 2894800, 2893895, 2892992, 2892092, 2891193, 2890297, 2889402, 2888510, 2887620, 2886732, 2885846, 2884962, 2884080, 2883200, 2882322, 2881447, 2880573, 2879701, 2878831, 2877963, 2877097, 2876233, 2875371, 2874511, 2873653, 2872797, 2871943, 2871090, 2870240, 2869391, 2868544, 2867700, 2866857, 2866015, 2865176, 2864339, 2863503, 2862669, 2861837, 2861007, 2860178, 2859352, 2858527, 2857703, 2856882, 2856062, 2855245, 2854428, 2853614, 2852801, 2851990, 2851181, 2850373, 2849567, 2848763, 2847961, 2847160, 2846360, 2845563, 2844767, 2843973, 2843180, 2842389, 2841599, 2840811, 2840025, 2839241, 2838458, 2837676, 2836896, 2836118, 2835341, 2834566, 2833792, 2833020, 2832249, 2831480, 2830713, 2829947, 2829182, 2828419, 2827657, 2826897, 2826139, 2825382, 2824626, 2823872, 2823119, 2822368, 2821618, 2820870, 2820123, 2819377, 2818633, 2817891, 2817149, 2816409, 2815671, 2814934, 2814198, 2813464, 2812731, 2811999, 2811269, 2810540, 2809813, 2809087, 2808362, 2807639, 2806917, 2806196, 2805476, 2804758, 2804041, 2803326, 2802612, 2801899, 2801187, 2800477, 2799768, 2799060, 2798354, 2797648, 2796944, 2796242, 2795540, 2794840, 2794141, 2793443, 2792747, 2792052, 2791358, 2790665, 2789973, 2789283,
    3247722, 3246510, 3245302, 3244099, 3242900, 3241705, 3240515, 3239328, 3238146, 3236967, 3235793, 3234623, 3233457, 3232295, 3231137, 3229982, 3228832, 3227686, 3226543, 3225404, 3224269, 3223138, 3222010, 3220887, 3219766, 3218650, 3217537, 3216428, 3215322, 3214220, 3213122, 3212027, 3210935, 3209847, 3208763, 3207681, 3206604, 3205529, 3204458, 3203390, 3202326, 3201265, 3200207, 3199152, 3198101, 3197053, 3196008, 3194966, 3193927, 3192892, 3191859, 3190830, 3189804, 3188781, 3187760, 3186743, 3185729, 3184718, 3183709, 3182704, 3181702, 3180702, 3179705, 3178712, 3177721, 3176733, 3175747, 3174765, 3173785, 3172808, 3171834, 3170862, 3169894, 3168927, 3167964, 3167003, 3166045, 3165090, 3164137, 3163187, 3162239, 3161294, 3160352, 3159412, 3158474, 3157539, 3156607, 3155677, 3154750, 3153825, 3152902, 3151982, 3151064, 3150149, 3149236, 3148326, 3147418, 3146512, 3145609, 3144707, 3143809, 3142912, 3142018, 3141126, 3140237, 3139349, 3138464, 3137581, 3136700, 3135822, 3134946, 3134072, 3133200, 3132330, 3131462, 3130597, 3129733, 3128872, 3128013, 3127156, 3126301, 3125448, 3124597, 3123749, 3122902, 3122057, 3121215, 3120374, 3119535, 3118699, 3117864, 3117031, 3116201, 3115372, 3114545, 3113720, 3112897, 3112076, 3111257, 3110439, 3109624, 3108810, 3107999, 3107189, 3106381, 3105575, 3104771, 3103968, 3103168, 3102369, 3101572, 3100776, 3099983, 3099191, 3098401, 3097613, 3096827, 3096042, 3095259, 3094478, 3093698, 3092920, 3092144, 3091370, 3090597, 3089826, 3089056, 3088289, 3087523, 3086758, 3085995, 3085234, 3084475, 3083717, 3082960, 3082206, 3081452, 3080701, 3079951, 3079202, 3078456, 3077710, 3076966, 3076224, 3075484, 3074744, 3074007, 3073271, 3072536, 3071803, 3071072, 3070342, 3069613, 3068886, 3068160, 3067436, 3066713, 3065992, 3065272, 3064554, 3063837, 3063121, 3062407, 3061695, 3060983, 3060274, 3059565, 3058858, 3058152, 3057448, 3056745, 3056044, 3055343, 3054645, 3053947, 3053251, 3052556, 3051863, 3051171, 3050480, 3049791, 3049102, 3048416, 3047730, 3047046, 3046363, 3045681, 3045001, 3044322, 3043644, 3042968, 3042292, 3041618, 3040946, 3040274, 3039604, 3038935, 3038267, 3037600, 3036935, 3036271, 3035608, 3034946, 3034286, 3033627, 3032969, 3032312, 3031656, 3031002, 3030348, 3029696, 3029045, 3028395, 3027747, 3027099, 3026453, 3025808,
    3457358, 3456210, 3455065, 3453925, 3452789, 3451657, 3450529, 3449405, 3448285, 3447169, 3446057, 3444949, 3443844, 3442744, 3441647, 3440554, 3439464, 3438378, 3437296, 3436218, 3435143, 3434072, 3433004, 3431940, 3430880, 3429823, 3428769, 3427719, 3426672, 3425629, 3424589, 3423553, 3422519, 3421489, 3420463, 3419439, 3418419, 3417402, 3416389, 3415378, 3414371, 3413367, 3412366, 3411368, 3410373, 3409381, 3408392, 3407406, 3406424, 3405444, 3404467, 3403493, 3402522, 3401554, 3400589, 3399627, 3398667, 3397711, 3396757, 3395806, 3394858, 3393912, 3392970, 3392030, 3391093, 3390158, 3389226, 3388297, 3387371, 3386447, 3385526, 3384607, 3383691, 3382777, 3381867, 3380958, 3380052, 3379149, 3378248, 3377350, 3376454, 3375561, 3374670, 3373781, 3372895, 3372011, 3371130, 3370251, 3369374, 3368500, 3367628, 3366759, 3365892, 3365027, 3364164, 3363303, 3362445, 3361589, 3360736, 3359884, 3359035, 3358188, 3357343, 3356500, 3355660, 3354821, 3353985, 3353151, 3352319, 3351489, 3350661, 3349836, 3349012, 3348191, 3347371, 3346554, 3345738, 3344925, 3344113, 3343304, 3342496, 3341691, 3340887, 3340086, 3339286, 3338489, 3337693, 3336899, 3336107, 3335317, 3334529, 3333743, 3332958, 3332176, 3331395, 3330616, 3329839, 3329064, 3328291, 3327519, 3326750, 3325982, 3325215, 3324451, 3323688, 3322927, 3322168, 3321411, 3320655, 3319901, 3319149, 3318398, 3317650, 3316902, 3316157, 3315413, 3314671, 3313931, 3313192, 3312455, 3311719, 3310985, 3310253, 3309522, 3308793, 3308065, 3307340, 3306615, 3305892, 3305171, 3304452, 3303734, 3303017, 3302302, 3301589, 3300877, 3300166, 3299457, 3298750, 3298044, 3297340, 3296637, 3295935, 3295235, 3294537, 3293840, 3293144, 3292450, 3291757, 3291066, 3290376, 3289688, 3289001, 3288315, 3287631, 3286948, 3286267, 3285587, 3284908, 3284231, 3283555, 3282880, 3282207, 3281535, 3280865, 3280196, 3279528, 3278861, 3278196, 3277532, 3276870, 3276208, 3275549, 3274890, 3274232, 3273576, 3272922, 3272268, 3271616, 3270965, 3270315, 3269667, 3269019, 3268373, 3267729, 3267085, 3266443, 3265802, 3265162, 3264523, 3263886, 3263250, 3262615, 3261981, 3261348, 3260717, 3260087, 3259457, 3258829, 3258203, 3257577, 3256953, 3256329, 3255707, 3255086, 3254466, 3253848, 3253230, 3252614, 3251998, 3251384, 3250771, 3250159, 3249548, 3248938, 3248330, 3247722,
    3656494, 3655400, 3654311, 3653225, 3652144, 3651066, 3649992, 3648922, 3647856, 3646793, 3645734, 3644679, 3643628, 3642580, 3641536, 3640495, 3639458, 3638425, 3637395, 3636368, 3635345, 3634326, 3633310, 3632297, 3631288, 3630282, 3629279, 3628280, 3627284, 3626291, 3625302, 3624315, 3623332, 3622352, 3621375, 3620402, 3619431, 3618464, 3617499, 3616538, 3615580, 3614624, 3613672, 3612723, 3611776, 3610833, 3609892, 3608955, 3608020, 3607088, 3606159, 3605233, 3604309, 3603389, 3602471, 3601556, 3600643, 3599734, 3598827, 3597923, 3597021, 3596122, 3595226, 3594332, 3593441, 3592552, 3591666, 3590783, 3589902, 3589024, 3588148, 3587275, 3586404, 3585535, 3584670, 3583806, 3582945, 3582086, 3581230, 3580376, 3579525, 3578676, 3577829, 3576984, 3576142, 3575302, 3574465, 3573629, 3572796, 3571966, 3571137, 3570311, 3569487, 3568665, 3567845, 3567027, 3566212, 3565399, 3564588, 3563779, 3562972, 3562167, 3561364, 3560564, 3559765, 3558969, 3558174, 3557382, 3556592, 3555803, 3555017, 3554233, 3553450, 3552670, 3551891, 3551115, 3550340, 3549568, 3548797, 3548028, 3547262, 3546497, 3545734, 3544972, 3544213, 3543456, 3542700, 3541946, 3541194, 3540444, 3539696, 3538949, 3538204, 3537461, 3536720, 3535981, 3535243, 3534507, 3533773, 3533040, 3532310, 3531581, 3530853, 3530128, 3529404, 3528681, 3527961, 3527242, 3526524, 3525809, 3525095, 3524382, 3523672, 3522962, 3522255, 3521549, 3520845, 3520142, 3519441, 3518741, 3518043, 3517346, 3516652, 3515958, 3515266, 3514576, 3513887, 3513200, 3512514, 3511830, 3511147, 3510465, 3509786, 3509107, 3508430, 3507755, 3507081, 3506408, 3505737, 3505068, 3504399, 3503732, 3503067, 3502403, 3501740, 3501079, 3500419, 3499761, 3499104, 3498448, 3497794, 3497141, 3496489, 3495839, 3495190, 3494542, 3493896, 3493251, 3492608, 3491965, 3491324, 3490685, 3490046, 3489409, 3488773, 3488139, 3487505, 3486873, 3486243, 3485613, 3484985, 3484358, 3483732, 3483108, 3482485, 3481863, 3481242, 3480622, 3480004, 3479387, 3478771, 3478156, 3477542, 3476930, 3476319, 3475709, 3475100, 3474492, 3473886, 3473280, 3472676, 3472073, 3471471, 3470870, 3470271, 3469672, 3469075, 3468479, 3467883, 3467289, 3466697, 3466105, 3465514, 3464925, 3464336, 3463749, 3463162, 3462577, 3461993, 3461410, 3460828, 3460247, 3459667, 3459088, 3458510, 3457934, 3457358,
    3846522, 3845477, 3844435, 3843397, 3842363, 3841332, 3840305, 3839282, 3838263, 3837247, 3836235, 3835226, 3834221, 3833219, 3832221, 3831226, 3830235, 3829247, 3828263, 3827282, 3826304, 3825330, 3824358, 3823390, 3822426, 3821464, 3820506, 3819551, 3818599, 3817651, 3816705, 3815762, 3814823, 3813887, 3812953, 3812023, 3811095, 3810171, 3809250, 3808331, 3807415, 3806503, 3805593, 3804686, 3803782, 3802881, 3801982, 3801086, 3800193, 3799303, 3798416, 3797531, 3796649, 3795769, 3794893, 3794018, 3793147, 3792278, 3791412, 3790548, 3789687, 3788828, 3787972, 3787119, 3786268, 3785419, 3784573, 3783730, 3782889, 3782050, 3781213, 3780380, 3779548, 3778719, 3777892, 3777068, 3776245, 3775426, 3774608, 3773793, 3772980, 3772169, 3771361, 3770554, 3769751, 3768949, 3768149, 3767352, 3766557, 3765763, 3764973, 3764184, 3763397, 3762613, 3761830, 3761050, 3760271, 3759495, 3758721, 3757949, 3757179, 3756411, 3755645, 3754881, 3754119, 3753359, 3752600, 3751844, 3751090, 3750338, 3749587, 3748839, 3748092, 3747348, 3746605, 3745864, 3745125, 3744388, 3743653, 3742919, 3742188, 3741458, 3740730, 3740003, 3739279, 3738556, 3737835, 3737116, 3736399, 3735683, 3734969, 3734257, 3733547, 3732838, 3732131, 3731426, 3730722, 3730020, 3729320, 3728621, 3727924, 3727229, 3726535, 3725843, 3725152, 3724464, 3723776, 3723091, 3722407, 3721724, 3721043, 3720364, 3719686, 3719010, 3718335, 3717662, 3716990, 3716320, 3715652, 3714984, 3714319, 3713655, 3712992, 3712331, 3711671, 3711013, 3710356, 3709701, 3709047, 3708395, 3707744, 3707094, 3706446, 3705800, 3705154, 3704510, 3703868, 3703227, 3702587, 3701949, 3701312, 3700676, 3700042, 3699409, 3698777, 3698147, 3697518, 3696890, 3696264, 3695639, 3695016, 3694393, 3693772, 3693152, 3692534, 3691917, 3691301, 3690686, 3690073, 3689461, 3688850, 3688240, 3687632, 3687025, 3686419, 3685814, 3685211, 3684609, 3684008, 3683408, 3682809, 3682212, 3681616, 3681021, 3680427, 3679834, 3679243, 3678653, 3678063, 3677475, 3676889, 3676303, 3675718, 3675135, 3674553, 3673972, 3673392, 3672813, 3672235, 3671658, 3671083, 3670508, 3669935, 3669363, 3668792, 3668221, 3667653, 3667085, 3666518, 3665952, 3665387, 3664824, 3664261, 3663700, 3663139, 3662580, 3662021, 3661464, 3660908, 3660352, 3659798, 3659245, 3658693, 3658141, 3657591, 3657042, 3656494,
    4028556, 4027553, 4026553, 4025557, 4024565, 4023576, 4022591, 4021610, 4020631, 4019657, 4018686, 4017718, 4016754, 4015793, 4014835, 4013881, 4012930, 4011982, 4011038, 4010097, 4009159, 4008224, 4007292, 4006364, 4005439, 4004517, 4003598, 4002682, 4001769, 4000859, 3999952, 3999048, 3998147, 3997249, 3996354, 3995461, 3994572, 3993685, 3992802, 3991921, 3991043, 3990168, 3989295, 3988426, 3987559, 3986695, 3985833, 3984974, 3984118, 3983264, 3982414, 3981565, 3980720, 3979876, 3979036, 3978198, 3977362, 3976529, 3975699, 3974871, 3974046, 3973223, 3972402, 3971584, 3970768, 3969955, 3969144, 3968335, 3967529, 3966725, 3965923, 3965124, 3964327, 3963532, 3962740, 3961950, 3961162, 3960376, 3959593, 3958811, 3958032, 3957255, 3956481, 3955708, 3954937, 3954169, 3953403, 3952639, 3951877, 3951117, 3950359, 3949603, 3948850, 3948098, 3947348, 3946600, 3945855, 3945111, 3944369, 3943630, 3942892, 3942156, 3941422, 3940690, 3939960, 3939232, 3938506, 3937781, 3937059, 3936338, 3935619, 3934902, 3934187, 3933474, 3932763, 3932053, 3931345, 3930639, 3929935, 3929232, 3928531, 3927832, 3927135, 3926440, 3925746, 3925054, 3924363, 3923675, 3922988, 3922302, 3921619, 3920937, 3920256, 3919578, 3918900, 3918225, 3917551, 3916879, 3916208, 3915539, 3914872, 3914206, 3913542, 3912879, 3912218, 3911559, 3910901, 3910244, 3909589, 3908936, 3908284, 3907633, 3906984, 3906337, 3905691, 3905047, 3904404, 3903762, 3903122, 3902483, 3901846, 3901211, 3900576, 3899943, 3899312, 3898682, 3898053, 3897426, 3896800, 3896176, 3895553, 3894931, 3894311, 3893692, 3893074, 3892458, 3891843, 3891229, 3890617, 3890006, 3889396, 3888788, 3888181, 3887575, 3886971, 3886368, 3885766, 3885165, 3884566, 3883968, 3883371, 3882775, 3882181, 3881588, 3880996, 3880406, 3879816, 3879228, 3878641, 3878056, 3877471, 3876888, 3876306, 3875725, 3875145, 3874567, 3873990, 3873413, 3872838, 3872265, 3871692, 3871120, 3870550, 3869981, 3869413, 3868846, 3868280, 3867715, 3867152, 3866589, 3866028, 3865468, 3864908, 3864350, 3863793, 3863238, 3862683, 3862129, 3861576, 3861025, 3860474, 3859925, 3859376, 3858829, 3858283, 3857738, 3857193, 3856650, 3856108, 3855567, 3855027, 3854488, 3853950, 3853413, 3852877, 3852342, 3851808, 3851275, 3850743, 3850212, 3849682, 3849153, 3848625, 3848098, 3847571, 3847046, 3846522,
    4203503, 4202537, 4201575, 4200616, 4199661, 4198710, 4197762, 4196817, 4195876, 4194938, 4194003, 4193072, 4192144, 4191219, 4190298, 4189379, 4188464, 4187552, 4186644, 4185738, 4184836, 4183936, 4183040, 4182147, 4181256, 4180369, 4179485, 4178604, 4177725, 4176850, 4175977, 4175108, 4174241, 4173377, 4172516, 4171658, 4170802, 4169949, 4169099, 4168252, 4167407, 4166566, 4165726, 4164890, 4164056, 4163225, 4162396, 4161570, 4160746, 4159925, 4159107, 4158291, 4157478, 4156667, 4155859, 4155053, 4154249, 4153448, 4152650, 4151853, 4151059, 4150268, 4149479, 4148692, 4147908, 4147126, 4146346, 4145568, 4144793, 4144020, 4143249, 4142481, 4141714, 4140950, 4140188, 4139429, 4138671, 4137916, 4137162, 4136411, 4135662, 4134915, 4134170, 4133428, 4132687, 4131948, 4131212, 4130477, 4129745, 4129014, 4128286, 4127559, 4126835, 4126112, 4125391, 4124673, 4123956, 4123241, 4122528, 4121817, 4121108, 4120401, 4119695, 4118992, 4118290, 4117590, 4116892, 4116196, 4115502, 4114809, 4114119, 4113430, 4112742, 4112057, 4111373, 4110691, 4110011, 4109332, 4108656, 4107980, 4107307, 4106635, 4105965, 4105297, 4104630, 4103965, 4103302, 4102640, 4101980, 4101322, 4100665, 4100009, 4099356, 4098704, 4098053, 4097404, 4096757, 4096111, 4095467, 4094824, 4094183, 4093543, 4092905, 4092268, 4091633, 4091000, 4090368, 4089737, 4089108, 4088480, 4087854, 4087229, 4086606, 4085984, 4085363, 4084744, 4084127, 4083510, 4082896, 4082282, 4081670, 4081060, 4080450, 4079842, 4079236, 4078631, 4078027, 4077425, 4076824, 4076224, 4075625, 4075028, 4074433, 4073838, 4073245, 4072653, 4072063, 4071473, 4070885, 4070299, 4069713, 4069129, 4068546, 4067964, 4067384, 4066805, 4066227, 4065650, 4065075, 4064500, 4063927, 4063356, 4062785, 4062216, 4061647, 4061080, 4060514, 4059950, 4059386, 4058824, 4058263, 4057703, 4057144, 4056586, 4056030, 4055474, 4054920, 4054367, 4053815, 4053264, 4052714, 4052166, 4051618, 4051072, 4050526, 4049982, 4049439, 4048897, 4048356, 4047816, 4047277, 4046739, 4046202, 4045667, 4045132, 4044599, 4044066, 4043535, 4043004, 4042475, 4041946, 4041419, 4040893, 4040367, 4039843, 4039320, 4038797, 4038276, 4037756, 4037236, 4036718, 4036201, 4035684, 4035169, 4034655, 4034141, 4033629, 4033117, 4032607, 4032097, 4031588, 4031081, 4030574, 4030068, 4029563, 4029059, 4028556,
    4372110, 4371178, 4370250, 4369325, 4368404, 4367485, 4366570, 4365659, 4364751, 4363846, 4362944, 4362045, 4361150, 4360258, 4359368, 4358483, 4357600, 4356720, 4355843, 4354970, 4354099, 4353231, 4352367, 4351505, 4350646, 4349790, 4348937, 4348087, 4347240, 4346395, 4345553, 4344715, 4343878, 4343045, 4342214, 4341387, 4340561, 4339739, 4338919, 4338102, 4337287, 4336475, 4335666, 4334859, 4334055, 4333253, 4332454, 4331657, 4330863, 4330071, 4329282, 4328495, 4327711, 4326929, 4326149, 4325372, 4324597, 4323825, 4323055, 4322287, 4321521, 4320758, 4319997, 4319239, 4318482, 4317728, 4316976, 4316226, 4315479, 4314734, 4313990, 4313250, 4312511, 4311774, 4311039, 4310307, 4309577, 4308848, 4308122, 4307398, 4306676, 4305956, 4305238, 4304522, 4303808, 4303096, 4302386, 4301677, 4300971, 4300267, 4299565, 4298865, 4298166, 4297470, 4296775, 4296082, 4295391, 4294702, 4294015, 4293330, 4292646, 4291965, 4291285, 4290607, 4289930, 4289256, 4288583, 4287912, 4287243, 4286575, 4285910, 4285246, 4284583, 4283923, 4283264, 4282607, 4281951, 4281297, 4280645, 4279994, 4279346, 4278698, 4278053, 4277409, 4276766, 4276125, 4275486, 4274848, 4274212, 4273578, 4272945, 4272313, 4271684, 4271055, 4270429, 4269803, 4269180, 4268557, 4267937, 4267317, 4266700, 4266083, 4265468, 4264855, 4264243, 4263633, 4263024, 4262416, 4261810, 4261205, 4260602, 4260000, 4259400, 4258801, 4258203, 4257606, 4257012, 4256418, 4255826, 4255235, 4254645, 4254057, 4253470, 4252885, 4252301, 4251718, 4251136, 4250556, 4249977, 4249399, 4248823, 4248248, 4247674, 4247101, 4246530, 4245960, 4245391, 4244824, 4244257, 4243692, 4243128, 4242566, 4242004, 4241444, 4240885, 4240327, 4239771, 4239215, 4238661, 4238108, 4237556, 4237006, 4236456, 4235908, 4235361, 4234815, 4234270, 4233726, 4233183, 4232642, 4232102, 4231562, 4231024, 4230487, 4229951, 4229416, 4228883, 4228350, 4227819, 4227288, 4226759, 4226231, 4225703, 4225177, 4224652, 4224128, 4223605, 4223083, 4222562, 4222043, 4221524, 4221006, 4220489, 4219974, 4219459, 4218945, 4218432, 4217921, 4217410, 4216900, 4216392, 4215884, 4215377, 4214872, 4214367, 4213863, 4213360, 4212859, 4212358, 4211858, 4211359, 4210861, 4210364, 4209868, 4209373, 4208878, 4208385, 4207893, 4207401, 4206911, 4206421, 4205933, 4205445, 4204958, 4204472, 4203987, 4203503,
    4535006, 4534105, 4533207, 4532312, 4531421, 4530533, 4529648, 4528767, 4527888, 4527013, 4526141, 4525272, 4524406, 4523543, 4522683, 4521827, 4520973, 4520122, 4519274, 4518429, 4517587, 4516748, 4515912, 4515079, 4514249, 4513421, 4512596, 4511774, 4510955, 4510138, 4509325, 4508514, 4507705, 4506899, 4506096, 4505296, 4504498, 4503703, 4502910, 4502120, 4501333, 4500548, 4499765, 4498985, 4498208, 4497433, 4496660, 4495890, 4495122, 4494357, 4493594, 4492833, 4492075, 4491319, 4490566, 4489814, 4489065, 4488319, 4487574, 4486832, 4486092, 4485355, 4484619, 4483886, 4483155, 4482426, 4481699, 4480975, 4480252, 4479532, 4478814, 4478097, 4477383, 4476671, 4475961, 4475254, 4474548, 4473844, 4473142, 4472442, 4471744, 4471049, 4470355, 4469663, 4468973, 4468285, 4467598, 4466914, 4466232, 4465551, 4464873, 4464196, 4463521, 4462848, 4462177, 4461508, 4460840, 4460174, 4459510, 4458848, 4458188, 4457529, 4456872, 4456217, 4455564, 4454912, 4454262, 4453614, 4452967, 4452322, 4451679, 4451038, 4450398, 4449760, 4449123, 4448488, 4447855, 4447223, 4446593, 4445965, 4445338, 4444713, 4444089, 4443467, 4442846, 4442227, 4441610, 4440994, 4440379, 4439766, 4439155, 4438545, 4437937, 4437330, 4436724, 4436120, 4435518, 4434917, 4434317, 4433719, 4433123, 4432527, 4431934, 4431341, 4430750, 4430161, 4429572, 4428986, 4428400, 4427816, 4427234, 4426652, 4426072, 4425494, 4424916, 4424341, 4423766, 4423193, 4422621, 4422050, 4421481, 4420913, 4420346, 4419781, 4419217, 4418654, 4418092, 4417532, 4416973, 4416415, 4415858, 4415303, 4414749, 4414196, 4413644, 4413094, 4412545, 4411997, 4411450, 4410904, 4410360, 4409817, 4409275, 4408734, 4408194, 4407656, 4407118, 4406582, 4406047, 4405513, 4404980, 4404448, 4403918, 4403389, 4402860, 4402333, 4401807, 4401282, 4400758, 4400236, 4399714, 4399193, 4398674, 4398155, 4397638, 4397122, 4396607, 4396092, 4395579, 4395067, 4394556, 4394046, 4393537, 4393030, 4392523, 4392017, 4391512, 4391008, 4390505, 4390004, 4389503, 4389003, 4388504, 4388007, 4387510, 4387014, 4386519, 4386025, 4385532, 4385040, 4384549, 4384059, 4383570, 4383082, 4382595, 4382109, 4381624, 4381139, 4380656, 4380174, 4379692, 4379211, 4378732, 4378253, 4377775, 4377298, 4376822, 4376347, 4375873, 4375399, 4374927, 4374455, 4373984, 4373515, 4373046, 4372578, 4372110,
    4692722, 4691849, 4690978, 4690111, 4689247, 4688387, 4687529, 4686675, 4685824, 4684975, 4684130, 4683288, 4682449, 4681613, 4680780, 4679950, 4679122, 4678298, 4677477, 4676658, 4675842, 4675029, 4674219, 4673412, 4672607, 4671805, 4671006, 4670209, 4669416, 4668625, 4667836, 4667050, 4666267, 4665486, 4664708, 4663933, 4663160, 4662390, 4661622, 4660856, 4660093, 4659333, 4658575, 4657819, 4657066, 4656315, 4655567, 4654821, 4654077, 4653336, 4652597, 4651860, 4651125, 4650393, 4649663, 4648936, 4648210, 4647487, 4646766, 4646047, 4645330, 4644616, 4643903, 4643193, 4642485, 4641779, 4641075, 4640374, 4639674, 4638976, 4638281, 4637587, 4636895, 4636206, 4635518, 4634833, 4634149, 4633468, 4632788, 4632110, 4631434, 4630760, 4630088, 4629418, 4628750, 4628084, 4627419, 4626757, 4626096, 4625437, 4624780, 4624125, 4623471, 4622820, 4622170, 4621521, 4620875, 4620230, 4619588, 4618946, 4618307, 4617669, 4617033, 4616399, 4615766, 4615135, 4614506, 4613878, 4613252, 4612628, 4612005, 4611384, 4610765, 4610147, 4609530, 4608916, 4608303, 4607691, 4607081, 4606473, 4605866, 4605260, 4604657, 4604054, 4603454, 4602854, 4602257, 4601660, 4601065, 4600472, 4599880, 4599290, 4598701, 4598114, 4597527, 4596943, 4596360, 4595778, 4595198, 4594619, 4594041, 4593465, 4592890, 4592317, 4591745, 4591174, 4590605, 4590037, 4589470, 4588905, 4588341, 4587778, 4587217, 4586657, 4586098, 4585541, 4584985, 4584430, 4583876, 4583324, 4582773, 4582223, 4581675, 4581128, 4580582, 4580037, 4579493, 4578951, 4578410, 4577870, 4577332, 4576794, 4576258, 4575723, 4575189, 4574657, 4574125, 4573595, 4573066, 4572538, 4572011, 4571485, 4570961, 4570437, 4569915, 4569394, 4568874, 4568355, 4567837, 4567321, 4566805, 4566291, 4565777, 4565265, 4564754, 4564244, 4563735, 4563227, 4562720, 4562214, 4561710, 4561206, 4560703, 4560202, 4559701, 4559202, 4558703, 4558206, 4557709, 4557214, 4556719, 4556226, 4555734, 4555242, 4554752, 4554263, 4553774, 4553287, 4552800, 4552315, 4551831, 4551347, 4550865, 4550383, 4549902, 4549423, 4548944, 4548466, 4547989, 4547514, 4547039, 4546565, 4546091, 4545619, 4545148, 4544678, 4544208, 4543740, 4543272, 4542806, 4542340, 4541875, 4541411, 4540948, 4540485, 4540024, 4539564, 4539104, 4538645, 4538187, 4537730, 4537274, 4536819, 4536365, 4535911, 4535458, 4535006,
    4845712, 4844864, 4844019, 4843177, 4842339, 4841503, 4840671, 4839841, 4839015, 4838191, 4837371, 4836553, 4835739, 4834927, 4834118, 4833312, 4832509, 4831709, 4830912, 4830117, 4829325, 4828536, 4827749, 4826966, 4826185, 4825406, 4824630, 4823857, 4823087, 4822319, 4821554, 4820791, 4820031, 4819273, 4818518, 4817765, 4817015, 4816267, 4815522, 4814779, 4814039, 4813301, 4812565, 4811832, 4811101, 4810372, 4809646, 4808922, 4808200, 4807480, 4806763, 4806048, 4805335, 4804625, 4803916, 4803210, 4802506, 4801804, 4801105, 4800407, 4799712, 4799018, 4798327, 4797638, 4796951, 4796266, 4795583, 4794902, 4794223, 4793546, 4792871, 4792198, 4791527, 4790858, 4790191, 4789526, 4788862, 4788201, 4787542, 4786884, 4786228, 4785574, 4784923, 4784272, 4783624, 4782978, 4782333, 4781690, 4781049, 4780410, 4779772, 4779137, 4778503, 4777870, 4777240, 4776611, 4775984, 4775359, 4774735, 4774113, 4773493, 4772874, 4772257, 4771642, 4771028, 4770416, 4769805, 4769197, 4768589, 4767984, 4767380, 4766777, 4766176, 4765577, 4764979, 4764383, 4763788, 4763195, 4762603, 4762013, 4761424, 4760837, 4760252, 4759667, 4759085, 4758503, 4757924, 4757345, 4756768, 4756193, 4755619, 4755046, 4754475, 4753905, 4753337, 4752770, 4752204, 4751640, 4751077, 4750516, 4749956, 4749397, 4748840, 4748283, 4747729, 4747175, 4746623, 4746072, 4745523, 4744975, 4744428, 4743882, 4743338, 4742795, 4742253, 4741712, 4741173, 4740635, 4740098, 4739563, 4739029, 4738495, 4737964, 4737433, 4736904, 4736375, 4735848, 4735323, 4734798, 4734274, 4733752, 4733231, 4732711, 4732192, 4731675, 4731158, 4730643, 4730129, 4729616, 4729104, 4728593, 4728083, 4727575, 4727067, 4726561, 4726056, 4725552, 4725048, 4724546, 4724046, 4723546, 4723047, 4722549, 4722053, 4721557, 4721063, 4720569, 4720077, 4719585, 4719095, 4718606, 4718117, 4717630, 4717144, 4716659, 4716174, 4715691, 4715209, 4714728, 4714247, 4713768, 4713290, 4712813, 4712336, 4711861, 4711387, 4710913, 4710441, 4709969, 4709499, 4709029, 4708560, 4708093, 4707626, 4707160, 4706695, 4706231, 4705768, 4705306, 4704844, 4704384, 4703925, 4703466, 4703008, 4702552, 4702096, 4701641, 4701187, 4700733, 4700281, 4699830, 4699379, 4698929, 4698480, 4698032, 4697585, 4697139, 4696693, 4696249, 4695805, 4695362, 4694920, 4694479, 4694038, 4693599, 4693160, 4692722,
    4994369, 4993544, 4992722, 4991904, 4991088, 4990276, 4989466, 4988660, 4987856, 4987055, 4986258, 4985463, 4984671, 4983881, 4983095, 4982311, 4981531, 4980752, 4979977, 4979204, 4978435, 4977667, 4976903, 4976141, 4975381, 4974624, 4973870, 4973119, 4972370, 4971623, 4970879, 4970137, 4969398, 4968662, 4967928, 4967196, 4966467, 4965740, 4965015, 4964293, 4963573, 4962856, 4962140, 4961428, 4960717, 4960009, 4959303, 4958599, 4957897, 4957198, 4956501, 4955806, 4955113, 4954422, 4953733, 4953047, 4952363, 4951681, 4951000, 4950322, 4949646, 4948973, 4948301, 4947631, 4946963, 4946297, 4945633, 4944971, 4944312, 4943654, 4942998, 4942343, 4941691, 4941041, 4940393, 4939746, 4939102, 4938459, 4937818, 4937179, 4936542, 4935906, 4935273, 4934641, 4934011, 4933383, 4932756, 4932131, 4931508, 4930887, 4930268, 4929650, 4929034, 4928419, 4927807, 4927196, 4926586, 4925979, 4925372, 4924768, 4924165, 4923564, 4922965, 4922367, 4921770, 4921176, 4920582, 4919991, 4919401, 4918812, 4918225, 4917640, 4917056, 4916474, 4915893, 4915313, 4914736, 4914159, 4913584, 4913011, 4912439, 4911869, 4911300, 4910732, 4910166, 4909601, 4909038, 4908476, 4907915, 4907356, 4906799, 4906242, 4905687, 4905134, 4904582, 4904031, 4903481, 4902933, 4902386, 4901841, 4901297, 4900754, 4900212, 4899672, 4899133, 4898596, 4898059, 4897524, 4896990, 4896458, 4895927, 4895397, 4894868, 4894340, 4893814, 4893289, 4892765, 4892242, 4891721, 4891201, 4890682, 4890164, 4889647, 4889132, 4888618, 4888105, 4887593, 4887082, 4886572, 4886064, 4885557, 4885050, 4884545, 4884041, 4883539, 4883037, 4882537, 4882037, 4881539, 4881042, 4880545, 4880050, 4879556, 4879064, 4878572, 4878081, 4877591, 4877103, 4876615, 4876129, 4875643, 4875159, 4874676, 4874193, 4873712, 4873232, 4872753, 4872274, 4871797, 4871321, 4870846, 4870371, 4869898, 4869426, 4868955, 4868485, 4868015, 4867547, 4867080, 4866613, 4866148, 4865683, 4865220, 4864757, 4864296, 4863835, 4863375, 4862916, 4862459, 4862002, 4861546, 4861090, 4860636, 4860183, 4859731, 4859279, 4858829, 4858379, 4857930, 4857482, 4857035, 4856589, 4856144, 4855699, 4855256, 4854813, 4854371, 4853931, 4853490, 4853051, 4852613, 4852175, 4851739, 4851303, 4850868, 4850434, 4850000, 4849568, 4849136, 4848705, 4848275, 4847846, 4847418, 4846990, 4846563, 4846137, 4845712,
    5139033, 5138230, 5137430, 5136633, 5135839, 5135048, 5134260, 5133474, 5132692, 5131912, 5131135, 5130361, 5129590, 5128821, 5128055, 5127292, 5126532, 5125774, 5125019, 5124267, 5123517, 5122770, 5122026, 5121284, 5120545, 5119808, 5119073, 5118342, 5117612, 5116885, 5116161, 5115439, 5114719, 5114002, 5113287, 5112575, 5111865, 5111157, 5110452, 5109749, 5109048, 5108349, 5107653, 5106959, 5106267, 5105578, 5104890, 5104205, 5103522, 5102841, 5102163, 5101486, 5100812, 5100139, 5099469, 5098801, 5098135, 5097471, 5096809, 5096149, 5095491, 5094835, 5094181, 5093528, 5092878, 5092230, 5091584, 5090940, 5090297, 5089657, 5089019, 5088382, 5087747, 5087114, 5086483, 5085854, 5085226, 5084601, 5083977, 5083355, 5082735, 5082116, 5081500, 5080885, 5080271, 5079660, 5079050, 5078442, 5077836, 5077231, 5076628, 5076027, 5075428, 5074830, 5074233, 5073639, 5073046, 5072454, 5071864, 5071276, 5070689, 5070104, 5069521, 5068939, 5068359, 5067780, 5067203, 5066627, 5066053, 5065480, 5064909, 5064339, 5063771, 5063204, 5062639, 5062075, 5061513, 5060952, 5060393, 5059835, 5059278, 5058723, 5058169, 5057617, 5057066, 5056517, 5055969, 5055422, 5054876, 5054332, 5053790, 5053249, 5052709, 5052170, 5051633, 5051097, 5050562, 5050029, 5049497, 5048966, 5048436, 5047908, 5047381, 5046856, 5046331, 5045808, 5045286, 5044766, 5044247, 5043728, 5043212, 5042696, 5042181, 5041668, 5041156, 5040645, 5040136, 5039627, 5039120, 5038614, 5038109, 5037605, 5037102, 5036601, 5036101, 5035602, 5035104, 5034607, 5034111, 5033616, 5033123, 5032630, 5032139, 5031649, 5031160, 5030672, 5030185, 5029699, 5029214, 5028731, 5028248, 5027766, 5027286, 5026807, 5026328, 5025851, 5025374, 5024899, 5024425, 5023952, 5023480, 5023008, 5022538, 5022069, 5021601, 5021134, 5020668, 5020202, 5019738, 5019275, 5018813, 5018351, 5017891, 5017432, 5016973, 5016516, 5016060, 5015604, 5015150, 5014696, 5014243, 5013792, 5013341, 5012891, 5012442, 5011994, 5011547, 5011100, 5010655, 5010211, 5009767, 5009324, 5008883, 5008442, 5008002, 5007563, 5007125, 5006687, 5006251, 5005815, 5005380, 5004946, 5004513, 5004081, 5003650, 5003219, 5002790, 5002361, 5001933, 5001506, 5001080, 5000654, 5000229, 4999806, 4999383, 4998960, 4998539, 4998118, 4997698, 4997279, 4996861, 4996444, 4996027, 4995611, 4995196, 4994782, 4994369,
    5280006, 5279223, 5278443, 5277665, 5276891, 5276120, 5275351, 5274585, 5273822, 5273062, 5272304, 5271550, 5270798, 5270048, 5269302, 5268558, 5267816, 5267078, 5266342, 5265608, 5264877, 5264149, 5263423, 5262700, 5261979, 5261260, 5260544, 5259831, 5259120, 5258411, 5257705, 5257001, 5256300, 5255601, 5254904, 5254209, 5253517, 5252827, 5252139, 5251454, 5250771, 5250090, 5249411, 5248735, 5248060, 5247388, 5246718, 5246050, 5245384, 5244721, 5244059, 5243399, 5242742, 5242087, 5241433, 5240782, 5240133, 5239485, 5238840, 5238197, 5237555, 5236916, 5236278, 5235643, 5235009, 5234377, 5233748, 5233120, 5232494, 5231869, 5231247, 5230626, 5230008, 5229391, 5228776, 5228162, 5227551, 5226941, 5226333, 5225727, 5225122, 5224520, 5223919, 5223319, 5222722, 5222126, 5221532, 5220939, 5220348, 5219759, 5219171, 5218585, 5218001, 5217418, 5216837, 5216258, 5215680, 5215103, 5214528, 5213955, 5213384, 5212813, 5212245, 5211678, 5211112, 5210548, 5209986, 5209425, 5208865, 5208307, 5207750, 5207195, 5206642, 5206089, 5205539, 5204989, 5204441, 5203895, 5203350, 5202806, 5202264, 5201723, 5201183, 5200645, 5200108, 5199573, 5199039, 5198506, 5197975, 5197445, 5196916, 5196388, 5195862, 5195338, 5194814, 5194292, 5193771, 5193251, 5192733, 5192216, 5191700, 5191185, 5190672, 5190160, 5189649, 5189139, 5188631, 5188124, 5187618, 5187113, 5186609, 5186107, 5185606, 5185106, 5184607, 5184109, 5183612, 5183117, 5182623, 5182130, 5181638, 5181147, 5180658, 5180169, 5179682, 5179195, 5178710, 5178226, 5177743, 5177261, 5176780, 5176301, 5175822, 5175345, 5174868, 5174393, 5173918, 5173445, 5172973, 5172502, 5172032, 5171563, 5171094, 5170627, 5170161, 5169696, 5169232, 5168769, 5168308, 5167847, 5167387, 5166928, 5166470, 5166013, 5165557, 5165102, 5164647, 5164194, 5163742, 5163291, 5162841, 5162391, 5161943, 5161496, 5161049, 5160604, 5160159, 5159715, 5159273, 5158831, 5158390, 5157950, 5157511, 5157073, 5156635, 5156199, 5155763, 5155329, 5154895, 5154462, 5154030, 5153599, 5153169, 5152739, 5152311, 5151883, 5151456, 5151030, 5150605, 5150181, 5149758, 5149335, 5148913, 5148492, 5148072, 5147653, 5147235, 5146817, 5146400, 5145984, 5145569, 5145155, 5144741, 5144328, 5143916, 5143505, 5143095, 5142685, 5142276, 5141868, 5141461, 5141054, 5140649, 5140244, 5139840, 5139436, 5139033,
    5417550, 5416785, 5416024, 5415265, 5414509, 5413756, 5413006, 5412258, 5411513, 5410771, 5410031, 5409295, 5408561, 5407829, 5407100, 5406374, 5405651, 5404929, 5404211, 5403495, 5402781, 5402070, 5401362, 5400656, 5399952, 5399251, 5398552, 5397856, 5397162, 5396470, 5395781, 5395094, 5394409, 5393727, 5393046, 5392369, 5391693, 5391020, 5390348, 5389679, 5389013, 5388348, 5387686, 5387025, 5386367, 5385711, 5385057, 5384405, 5383755, 5383108, 5382462, 5381818, 5381177, 5380537, 5379899, 5379264, 5378630, 5377998, 5377368, 5376741, 5376115, 5375491, 5374868, 5374248, 5373630, 5373013, 5372399, 5371786, 5371175, 5370566, 5369958, 5369353, 5368749, 5368147, 5367547, 5366948, 5366352, 5365757, 5365163, 5364572, 5363982, 5363394, 5362807, 5362223, 5361639, 5361058, 5360478, 5359900, 5359323, 5358748, 5358175, 5357603, 5357033, 5356464, 5355897, 5355332, 5354768, 5354206, 5353645, 5353085, 5352528, 5351971, 5351417, 5350863, 5350311, 5349761, 5349212, 5348665, 5348119, 5347574, 5347031, 5346490, 5345950, 5345411, 5344873, 5344337, 5343803, 5343270, 5342738, 5342207, 5341678, 5341151, 5340624, 5340099, 5339575, 5339053, 5338532, 5338012, 5337494, 5336977, 5336461, 5335946, 5335433, 5334921, 5334410, 5333901, 5333393, 5332886, 5332380, 5331876, 5331372, 5330870, 5330370, 5329870, 5329372, 5328874, 5328378, 5327884, 5327390, 5326898, 5326406, 5325916, 5325427, 5324940, 5324453, 5323967, 5323483, 5323000, 5322518, 5322037, 5321557, 5321078, 5320601, 5320124, 5319649, 5319174, 5318701, 5318229, 5317758, 5317288, 5316819, 5316351, 5315884, 5315418, 5314954, 5314490, 5314027, 5313566, 5313105, 5312646, 5312187, 5311729, 5311273, 5310817, 5310363, 5309909, 5309457, 5309005, 5308555, 5308105, 5307656, 5307209, 5306762, 5306316, 5305872, 5305428, 5304985, 5304543, 5304102, 5303662, 5303223, 5302785, 5302347, 5301911, 5301475, 5301041, 5300607, 5300175, 5299743, 5299312, 5298882, 5298453, 5298025, 5297597, 5297171, 5296745, 5296320, 5295897, 5295474, 5295051, 5294630, 5294210, 5293790, 5293371, 5292953, 5292536, 5292120, 5291705, 5291290, 5290876, 5290464, 5290051, 5289640, 5289230, 5288820, 5288411, 5288003, 5287596, 5287189, 5286784, 5286379, 5285975, 5285572, 5285169, 5284767, 5284366, 5283966, 5283567, 5283168, 5282770, 5282373, 5281977, 5281581, 5281186, 5280792, 5280398, 5280006,
    5551900, 5551153, 5550408, 5549667, 5548928, 5548192, 5547459, 5546728, 5546000, 5545275, 5544552, 5543832, 5543115, 5542400, 5541688, 5540978, 5540271, 5539566, 5538864, 5538165, 5537467, 5536773, 5536080, 5535390, 5534703, 5534018, 5533335, 5532654, 5531976, 5531300, 5530627, 5529955, 5529286, 5528619, 5527955, 5527292, 5526632, 5525974, 5525319, 5524665, 5524013, 5523364, 5522717, 5522072, 5521428, 5520787, 5520148, 5519512, 5518877, 5518244, 5517613, 5516984, 5516357, 5515732, 5515109, 5514488, 5513869, 5513252, 5512637, 5512023, 5511412, 5510802, 5510194, 5509588, 5508984, 5508382, 5507781, 5507183, 5506586, 5505991, 5505397, 5504806, 5504216, 5503628, 5503041, 5502457, 5501874, 5501292, 5500713, 5500135, 5499559, 5498984, 5498411, 5497840, 5497270, 5496702, 5496136, 5495571, 5495008, 5494446, 5493886, 5493327, 5492770, 5492215, 5491661, 5491109, 5490558, 5490009, 5489461, 5488914, 5488369, 5487826, 5487284, 5486744, 5486205, 5485667, 5485131, 5484596, 5484063, 5483531, 5483001, 5482472, 5481944, 5481418, 5480893, 5480370, 5479847, 5479327, 5478807, 5478289, 5477772, 5477257, 5476743, 5476230, 5475718, 5475208, 5474699, 5474192, 5473685, 5473180, 5472676, 5472174, 5471673, 5471173, 5470674, 5470176, 5469680, 5469185, 5468691, 5468198, 5467707, 5467216, 5466727, 5466239, 5465753, 5465267, 5464783, 5464299, 5463817, 5463336, 5462857, 5462378, 5461901, 5461424, 5460949, 5460475, 5460002, 5459530, 5459059, 5458589, 5458121, 5457653, 5457187, 5456722, 5456257, 5455794, 5455332, 5454871, 5454411, 5453952, 5453494, 5453037, 5452581, 5452126, 5451672, 5451220, 5450768, 5450317, 5449867, 5449418, 5448971, 5448524, 5448078, 5447633, 5447189, 5446746, 5446305, 5445864, 5445424, 5444985, 5444547, 5444109, 5443673, 5443238, 5442804, 5442370, 5441938, 5441506, 5441076, 5440646, 5440217, 5439789, 5439363, 5438936, 5438511, 5438087, 5437664, 5437241, 5436820, 5436399, 5435979, 5435560, 5435142, 5434725, 5434308, 5433893, 5433478, 5433064, 5432651, 5432239, 5431828, 5431417, 5431007, 5430599, 5430191, 5429783, 5429377, 5428971, 5428567, 5428163, 5427760, 5427357, 5426956, 5426555, 5426155, 5425756, 5425357, 5424960, 5424563, 5424167, 5423772, 5423377, 5422983, 5422590, 5422198, 5421807, 5421416, 5421026, 5420637, 5420248, 5419861, 5419474, 5419087, 5418702, 5418317, 5417933, 5417550,
    5683264, 5682533, 5681805, 5681080, 5680357, 5679637, 5678920, 5678205, 5677493, 5676784, 5676077, 5675373, 5674671, 5673972, 5673275, 5672581, 5671889, 5671200, 5670513, 5669829, 5669147, 5668467, 5667790, 5667115, 5666442, 5665772, 5665104, 5664439, 5663775, 5663114, 5662455, 5661799, 5661144, 5660492, 5659842, 5659194, 5658549, 5657905, 5657264, 5656624, 5655987, 5655352, 5654719, 5654088, 5653459, 5652832, 5652207, 5651584, 5650963, 5650344, 5649727, 5649112, 5648499, 5647888, 5647279, 5646671, 5646066, 5645462, 5644860, 5644260, 5643662, 5643066, 5642472, 5641879, 5641288, 5640699, 5640112, 5639527, 5638943, 5638361, 5637781, 5637202, 5636625, 5636050, 5635477, 5634905, 5634335, 5633766, 5633200, 5632635, 5632071, 5631509, 5630949, 5630390, 5629833, 5629278, 5628724, 5628171, 5627621, 5627071, 5626524, 5625978, 5625433, 5624890, 5624348, 5623808, 5623269, 5622732, 5622197, 5621662, 5621130, 5620598, 5620068, 5619540, 5619013, 5618487, 5617963, 5617440, 5616919, 5616399, 5615880, 5615363, 5614847, 5614333, 5613819, 5613307, 5612797, 5612288, 5611780, 5611273, 5610768, 5610264, 5609761, 5609260, 5608760, 5608261, 5607763, 5607267, 5606772, 5606278, 5605786, 5605294, 5604804, 5604315, 5603828, 5603341, 5602856, 5602372, 5601889, 5601407, 5600927, 5600447, 5599969, 5599492, 5599016, 5598542, 5598068, 5597596, 5597124, 5596654, 5596185, 5595717, 5595251, 5594785, 5594320, 5593857, 5593394, 5592933, 5592473, 5592014, 5591556, 5591099, 5590643, 5590188, 5589734, 5589281, 5588829, 5588378, 5587929, 5587480, 5587032, 5586586, 5586140, 5585695, 5585252, 5584809, 5584367, 5583927, 5583487, 5583048, 5582611, 5582174, 5581738, 5581303, 5580869, 5580436, 5580005, 5579574, 5579143, 5578714, 5578286, 5577859, 5577432, 5577007, 5576582, 5576159, 5575736, 5575314, 5574894, 5574474, 5574054, 5573636, 5573219, 5572802, 5572387, 5571972, 5571558, 5571145, 5570733, 5570322, 5569912, 5569502, 5569093, 5568686, 5568278, 5567872, 5567467, 5567062, 5566659, 5566256, 5565854, 5565453, 5565052, 5564653, 5564254, 5563856, 5563459, 5563062, 5562667, 5562272, 5561878, 5561485, 5561092, 5560701, 5560310, 5559920, 5559530, 5559142, 5558754, 5558367, 5557980, 5557595, 5557210, 5556826, 5556443, 5556060, 5555678, 5555297, 5554917, 5554537, 5554158, 5553780, 5553402, 5553026, 5552650, 5552274, 5551900,
    5811831, 5811115, 5810403, 5809692, 5808985, 5808280, 5807577, 5806878, 5806180, 5805486, 5804794, 5804104, 5803417, 5802733, 5802050, 5801371, 5800694, 5800019, 5799346, 5798676, 5798009, 5797343, 5796680, 5796019, 5795361, 5794705, 5794051, 5793399, 5792750, 5792103, 5791458, 5790815, 5790174, 5789536, 5788899, 5788265, 5787633, 5787003, 5786375, 5785749, 5785125, 5784504, 5783884, 5783266, 5782650, 5782037, 5781425, 5780815, 5780207, 5779601, 5778997, 5778395, 5777795, 5777197, 5776600, 5776006, 5775413, 5774822, 5774233, 5773646, 5773060, 5772477, 5771895, 5771315, 5770737, 5770160, 5769585, 5769012, 5768441, 5767871, 5767303, 5766737, 5766172, 5765609, 5765048, 5764488, 5763930, 5763374, 5762819, 5762266, 5761714, 5761164, 5760616, 5760069, 5759524, 5758980, 5758438, 5757898, 5757359, 5756821, 5756285, 5755750, 5755217, 5754686, 5754156, 5753627, 5753100, 5752574, 5752050, 5751527, 5751005, 5750485, 5749967, 5749450, 5748934, 5748419, 5747906, 5747395, 5746884, 5746375, 5745868, 5745362, 5744857, 5744353, 5743851, 5743350, 5742850, 5742352, 5741855, 5741359, 5740864, 5740371, 5739879, 5739389, 5738899, 5738411, 5737924, 5737438, 5736954, 5736471, 5735989, 5735508, 5735028, 5734550, 5734072, 5733596, 5733122, 5732648, 5732175, 5731704, 5731234, 5730765, 5730297, 5729830, 5729364, 5728900, 5728436, 5727974, 5727513, 5727053, 5726594, 5726136, 5725679, 5725223, 5724769, 5724315, 5723863, 5723411, 5722961, 5722512, 5722063, 5721616, 5721170, 5720725, 5720281, 5719838, 5719395, 5718954, 5718514, 5718075, 5717637, 5717200, 5716764, 5716329, 5715895, 5715462, 5715030, 5714599, 5714168, 5713739, 5713311, 5712883, 5712457, 5712032, 5711607, 5711183, 5710761, 5710339, 5709918, 5709498, 5709079, 5708661, 5708244, 5707828, 5707413, 5706998, 5706584, 5706172, 5705760, 5705349, 5704939, 5704530, 5704121, 5703714, 5703307, 5702902, 5702497, 5702093, 5701690, 5701287, 5700886, 5700485, 5700085, 5699686, 5699288, 5698891, 5698494, 5698098, 5697703, 5697309, 5696916, 5696523, 5696132, 5695741, 5695350, 5694961, 5694573, 5694185, 5693798, 5693411, 5693026, 5692641, 5692257, 5691874, 5691492, 5691110, 5690729, 5690349, 5689970, 5689591, 5689213, 5688836, 5688459, 5688084, 5687709, 5687334, 5686961, 5686588, 5686216, 5685844, 5685474, 5685104, 5684734, 5684366, 5683998, 5683631, 5683264,
    5937769, 5937068, 5936369, 5935673, 5934979, 5934289, 5933600, 5932915, 5932232, 5931551, 5930873, 5930197, 5929524, 5928853, 5928185, 5927518, 5926855, 5926194, 5925535, 5924878, 5924224, 5923572, 5922922, 5922275, 5921630, 5920987, 5920346, 5919708, 5919071, 5918437, 5917805, 5917175, 5916548, 5915922, 5915298, 5914677, 5914058, 5913440, 5912825, 5912212, 5911601, 5910991, 5910384, 5909779, 5909176, 5908574, 5907975, 5907378, 5906782, 5906188, 5905597, 5905007, 5904419, 5903832, 5903248, 5902666, 5902085, 5901506, 5900929, 5900354, 5899780, 5899208, 5898638, 5898070, 5897503, 5896938, 5896375, 5895814, 5895254, 5894696, 5894140, 5893585, 5893032, 5892480, 5891930, 5891382, 5890835, 5890290, 5889747, 5889205, 5888665, 5888126, 5887589, 5887053, 5886519, 5885986, 5885455, 5884925, 5884397, 5883871, 5883346, 5882822, 5882300, 5881779, 5881260, 5880742, 5880225, 5879710, 5879197, 5878685, 5878174, 5877664, 5877156, 5876650, 5876145, 5875641, 5875138, 5874637, 5874137, 5873639, 5873141, 5872645, 5872151, 5871658, 5871166, 5870675, 5870185, 5869697, 5869210, 5868725, 5868240, 5867757, 5867275, 5866795, 5866315, 5865837, 5865360, 5864885, 5864410, 5863937, 5863465, 5862994, 5862524, 5862055, 5861588, 5861121, 5860656, 5860192, 5859730, 5859268, 5858807, 5858348, 5857890, 5857432, 5856976, 5856521, 5856067, 5855615, 5855163, 5854712, 5854263, 5853814, 5853367, 5852921, 5852475, 5852031, 5851588, 5851146, 5850705, 5850265, 5849826, 5849388, 5848951, 5848515, 5848080, 5847646, 5847213, 5846781, 5846350, 5845920, 5845491, 5845063, 5844636, 5844210, 5843785, 5843360, 5842937, 5842515, 5842094, 5841673, 5841254, 5840835, 5840418, 5840001, 5839585, 5839170, 5838756, 5838343, 5837931, 5837520, 5837110, 5836700, 5836292, 5835884, 5835478, 5835072, 5834667, 5834262, 5833859, 5833457, 5833055, 5832654, 5832255, 5831856, 5831457, 5831060, 5830664, 5830268, 5829873, 5829479, 5829086, 5828694, 5828302, 5827911, 5827521, 5827132, 5826744, 5826356, 5825970, 5825584, 5825198, 5824814, 5824430, 5824048, 5823666, 5823284, 5822904, 5822524, 5822145, 5821767, 5821389, 5821013, 5820637, 5820262, 5819887, 5819513, 5819140, 5818768, 5818397, 5818026, 5817656, 5817286, 5816918, 5816550, 5816183, 5815816, 5815450, 5815085, 5814721, 5814357, 5813994, 5813632, 5813271, 5812910, 5812549, 5812190, 5811831,
    6061230, 6060542, 6059857, 6059174, 6058494, 6057817, 6057142, 6056470, 6055800, 6055132, 6054467, 6053804, 6053144, 6052486, 6051831, 6051178, 6050527, 6049878, 6049232, 6048588, 6047947, 6047308, 6046670, 6046036, 6045403, 6044772, 6044144, 6043518, 6042894, 6042272, 6041653, 6041035, 6040419, 6039806, 6039194, 6038585, 6037978, 6037373, 6036769, 6036168, 6035569, 6034971, 6034376, 6033782, 6033191, 6032601, 6032013, 6031428, 6030844, 6030262, 6029681, 6029103, 6028526, 6027952, 6027379, 6026807, 6026238, 6025670, 6025105, 6024541, 6023978, 6023418, 6022859, 6022301, 6021746, 6021192, 6020640, 6020089, 6019541, 6018993, 6018448, 6017904, 6017362, 6016821, 6016282, 6015744, 6015208, 6014674, 6014141, 6013610, 6013080, 6012552, 6012025, 6011500, 6010976, 6010454, 6009933, 6009414, 6008896, 6008380, 6007865, 6007352, 6006840, 6006329, 6005820, 6005313, 6004806, 6004302, 6003798, 6003296, 6002795, 6002296, 6001798, 6001301, 6000806, 6000312, 5999819, 5999328, 5998838, 5998349, 5997861, 5997375, 5996890, 5996407, 5995925, 5995444, 5994964, 5994485, 5994008, 5993532, 5993057, 5992584, 5992111, 5991640, 5991170, 5990701, 5990234, 5989767, 5989302, 5988838, 5988375, 5987914, 5987453, 5986994, 5986536, 5986079, 5985623, 5985168, 5984714, 5984262, 5983810, 5983360, 5982910, 5982462, 5982015, 5981569, 5981124, 5980681, 5980238, 5979796, 5979355, 5978916, 5978477, 5978040, 5977603, 5977168, 5976734, 5976300, 5975868, 5975436, 5975006, 5974577, 5974148, 5973721, 5973295, 5972869, 5972445, 5972022, 5971599, 5971178, 5970757, 5970338, 5969919, 5969502, 5969085, 5968669, 5968254, 5967840, 5967427, 5967015, 5966604, 5966194, 5965785, 5965376, 5964969, 5964562, 5964157, 5963752, 5963348, 5962945, 5962543, 5962142, 5961741, 5961342, 5960943, 5960545, 5960148, 5959752, 5959357, 5958962, 5958569, 5958176, 5957784, 5957393, 5957003, 5956614, 5956225, 5955837, 5955450, 5955064, 5954679, 5954294, 5953910, 5953527, 5953145, 5952764, 5952383, 5952004, 5951624, 5951246, 5950869, 5950492, 5950116, 5949741, 5949367, 5948993, 5948620, 5948248, 5947876, 5947506, 5947136, 5946767, 5946398, 5946031, 5945664, 5945297, 5944932, 5944567, 5944203, 5943839, 5943477, 5943115, 5942754, 5942393, 5942033, 5941674, 5941316, 5940958, 5940601, 5940244, 5939889, 5939534, 5939179, 5938826, 5938473, 5938120, 5937769,
    6182353, 6181678, 6181006, 6180336, 6179668, 6179003, 6178341, 6177681, 6177024, 6176369, 6175716, 6175066, 6174418, 6173772, 6173129, 6172488, 6171849, 6171213, 6170579, 6169947, 6169317, 6168690, 6168065, 6167442, 6166821, 6166202, 6165586, 6164971, 6164359, 6163749, 6163141, 6162534, 6161930, 6161328, 6160729, 6160131, 6159535, 6158941, 6158349, 6157759, 6157170, 6156584, 6156000, 6155418, 6154837, 6154259, 6153682, 6153107, 6152534, 6151963, 6151394, 6150826, 6150260, 6149696, 6149134, 6148574, 6148015, 6147458, 6146903, 6146349, 6145798, 6145248, 6144699, 6144152, 6143607, 6143064, 6142522, 6141982, 6141444, 6140907, 6140371, 6139838, 6139306, 6138775, 6138246, 6137719, 6137193, 6136668, 6136146, 6135624, 6135105, 6134586, 6134070, 6133554, 6133041, 6132528, 6132017, 6131508, 6131000, 6130493, 6129988, 6129485, 6128982, 6128482, 6127982, 6127484, 6126987, 6126492, 6125998, 6125505, 6125014, 6124524, 6124035, 6123548, 6123062, 6122578, 6122094, 6121612, 6121131, 6120652, 6120174, 6119697, 6119221, 6118747, 6118274, 6117802, 6117331, 6116862, 6116393, 6115926, 6115460, 6114996, 6114532, 6114070, 6113609, 6113149, 6112691, 6112233, 6111777, 6111322, 6110868, 6110415, 6109963, 6109512, 6109063, 6108614, 6108167, 6107721, 6107276, 6106832, 6106389, 6105947, 6105507, 6105067, 6104628, 6104191, 6103755, 6103319, 6102885, 6102452, 6102019, 6101588, 6101158, 6100729, 6100301, 6099873, 6099447, 6099022, 6098598, 6098175, 6097753, 6097332, 6096912, 6096492, 6096074, 6095657, 6095241, 6094825, 6094411, 6093998, 6093585, 6093174, 6092763, 6092353, 6091945, 6091537, 6091130, 6090724, 6090319, 6089915, 6089512, 6089109, 6088708, 6088307, 6087907, 6087509, 6087111, 6086714, 6086318, 6085922, 6085528, 6085134, 6084741, 6084350, 6083959, 6083568, 6083179, 6082791, 6082403, 6082016, 6081630, 6081245, 6080860, 6080477, 6080094, 6079712, 6079331, 6078951, 6078571, 6078192, 6077814, 6077437, 6077061, 6076685, 6076310, 6075936, 6075563, 6075191, 6074819, 6074448, 6074078, 6073708, 6073340, 6072972, 6072604, 6072238, 6071872, 6071507, 6071143, 6070779, 6070417, 6070054, 6069693, 6069332, 6068973, 6068613, 6068255, 6067897, 6067540, 6067184, 6066828, 6066473, 6066119, 6065765, 6065412, 6065060, 6064708, 6064358, 6064007, 6063658, 6063309, 6062961, 6062613, 6062266, 6061920, 6061575, 6061230,
    6301264, 6300601, 6299941, 6299283, 6298627, 6297975, 6297324, 6296676, 6296030, 6295387, 6294746, 6294107, 6293471, 6292837, 6292205, 6291576, 6290949, 6290324, 6289701, 6289081, 6288463, 6287846, 6287233, 6286621, 6286011, 6285404, 6284798, 6284195, 6283594, 6282994, 6282397, 6281802, 6281209, 6280618, 6280029, 6279441, 6278856, 6278273, 6277692, 6277112, 6276535, 6275959, 6275386, 6274814, 6274244, 6273676, 6273109, 6272545, 6271982, 6271422, 6270863, 6270305, 6269750, 6269196, 6268644, 6268094, 6267545, 6266998, 6266453, 6265910, 6265368, 6264828, 6264289, 6263753, 6263217, 6262684, 6262152, 6261622, 6261093, 6260566, 6260040, 6259516, 6258994, 6258473, 6257953, 6257436, 6256919, 6256405, 6255891, 6255379, 6254869, 6254360, 6253853, 6253347, 6252843, 6252340, 6251838, 6251338, 6250839, 6250342, 6249846, 6249351, 6248858, 6248367, 6247876, 6247387, 6246900, 6246413, 6245928, 6245445, 6244962, 6244481, 6244002, 6243523, 6243046, 6242570, 6242096, 6241623, 6241151, 6240680, 6240210, 6239742, 6239275, 6238809, 6238345, 6237882, 6237420, 6236959, 6236499, 6236041, 6235583, 6235127, 6234672, 6234219, 6233766, 6233315, 6232864, 6232415, 6231967, 6231520, 6231075, 6230630, 6230186, 6229744, 6229303, 6228863, 6228424, 6227986, 6227549, 6227113, 6226678, 6226244, 6225812, 6225380, 6224950, 6224520, 6224092, 6223665, 6223238, 6222813, 6222389, 6221965, 6221543, 6221122, 6220701, 6220282, 6219864, 6219447, 6219030, 6218615, 6218201, 6217787, 6217375, 6216963, 6216553, 6216143, 6215735, 6215327, 6214920, 6214514, 6214110, 6213706, 6213303, 6212900, 6212499, 6212099, 6211700, 6211301, 6210903, 6210507, 6210111, 6209716, 6209322, 6208929, 6208536, 6208145, 6207754, 6207365, 6206976, 6206588, 6206201, 6205814, 6205429, 6205044, 6204660, 6204277, 6203895, 6203514, 6203133, 6202754, 6202375, 6201997, 6201619, 6201243, 6200867, 6200492, 6200118, 6199745, 6199373, 6199001, 6198630, 6198260, 6197890, 6197522, 6197154, 6196787, 6196420, 6196055, 6195690, 6195326, 6194962, 6194600, 6194238, 6193877, 6193516, 6193157, 6192798, 6192439, 6192082, 6191725, 6191369, 6191014, 6190659, 6190305, 6189952, 6189599, 6189247, 6188896, 6188546, 6188196, 6187847, 6187499, 6187151, 6186804, 6186457, 6186112, 6185767, 6185422, 6185079, 6184736, 6184393, 6184052, 6183711, 6183370, 6183030, 6182691, 6182353,
    6418078, 6417427, 6416778, 6416131, 6415487, 6414846, 6414207, 6413570, 6412935, 6412303, 6411673, 6411046, 6410421, 6409798, 6409177, 6408558, 6407942, 6407328, 6406716, 6406107, 6405499, 6404894, 6404290, 6403689, 6403090, 6402493, 6401898, 6401306, 6400715, 6400126, 6399539, 6398954, 6398372, 6397791, 6397212, 6396635, 6396060, 6395487, 6394916, 6394347, 6393779, 6393214, 6392650, 6392088, 6391528, 6390970, 6390414, 6389859, 6389306, 6388755, 6388206, 6387658, 6387113, 6386569, 6386026, 6385486, 6384947, 6384409, 6383874, 6383340, 6382807, 6382277, 6381748, 6381220, 6380695, 6380170, 6379648, 6379127, 6378607, 6378089, 6377573, 6377058, 6376545, 6376033, 6375523, 6375014, 6374507, 6374001, 6373497, 6372994, 6372493, 6371993, 6371495, 6370998, 6370502, 6370008, 6369515, 6369024, 6368534, 6368045, 6367558, 6367072, 6366588, 6366105, 6365623, 6365142, 6364663, 6364186, 6363709, 6363234, 6362760, 6362288, 6361817, 6361347, 6360878, 6360410, 6359944, 6359479, 6359016, 6358553, 6358092, 6357632, 6357173, 6356716, 6356260, 6355805, 6355351, 6354898, 6354446, 6353996, 6353547, 6353099, 6352652, 6352206, 6351762, 6351318, 6350876, 6350435, 6349994, 6349556, 6349118, 6348681, 6348245, 6347811, 6347377, 6346945, 6346514, 6346083, 6345654, 6345226, 6344799, 6344373, 6343948, 6343524, 6343101, 6342679, 6342259, 6341839, 6341420, 6341002, 6340585, 6340170, 6339755, 6339341, 6338928, 6338516, 6338106, 6337696, 6337287, 6336879, 6336472, 6336066, 6335661, 6335257, 6334853, 6334451, 6334050, 6333649, 6333250, 6332851, 6332453, 6332057, 6331661, 6331266, 6330872, 6330479, 6330086, 6329695, 6329304, 6328915, 6328526, 6328138, 6327751, 6327365, 6326980, 6326595, 6326211, 6325829, 6325447, 6325066, 6324685, 6324306, 6323927, 6323549, 6323173, 6322796, 6322421, 6322046, 6321673, 6321300, 6320928, 6320556, 6320186, 6319816, 6319447, 6319079, 6318711, 6318345, 6317979, 6317614, 6317250, 6316886, 6316523, 6316161, 6315800, 6315439, 6315079, 6314720, 6314362, 6314004, 6313647, 6313291, 6312936, 6312581, 6312227, 6311874, 6311521, 6311170, 6310819, 6310468, 6310118, 6309769, 6309421, 6309073, 6308727, 6308380, 6308035, 6307690, 6307346, 6307002, 6306659, 6306317, 6305976, 6305635, 6305295, 6304955, 6304617, 6304278, 6303941, 6303604, 6303268, 6302932, 6302597, 6302263, 6301929, 6301596, 6301264,
    6532901, 6532261, 6531623, 6530987, 6530354, 6529723, 6529095, 6528468, 6527845, 6527223, 6526604, 6525987, 6525372, 6524760, 6524149, 6523541, 6522935, 6522332, 6521730, 6521131, 6520533, 6519938, 6519345, 6518754, 6518165, 6517578, 6516993, 6516411, 6515830, 6515251, 6514674, 6514099, 6513526, 6512955, 6512386, 6511819, 6511253, 6510690, 6510129, 6509569, 6509011, 6508455, 6507901, 6507349, 6506798, 6506249, 6505702, 6505157, 6504614, 6504072, 6503532, 6502994, 6502457, 6501922, 6501389, 6500858, 6500328, 6499800, 6499273, 6498748, 6498225, 6497703, 6497183, 6496665, 6496148, 6495632, 6495119, 6494606, 6494096, 6493587, 6493079, 6492573, 6492068, 6491565, 6491064, 6490564, 6490065, 6489568, 6489072, 6488578, 6488085, 6487594, 6487104, 6486615, 6486128, 6485642, 6485158, 6484675, 6484193, 6483713, 6483234, 6482757, 6482280, 6481805, 6481332, 6480860, 6480389, 6479919, 6479451, 6478984, 6478518, 6478054, 6477590, 6477128, 6476668, 6476208, 6475750, 6475293, 6474837, 6474383, 6473929, 6473477, 6473026, 6472577, 6472128, 6471681, 6471235, 6470790, 6470346, 6469903, 6469462, 6469021, 6468582, 6468144, 6467707, 6467271, 6466836, 6466403, 6465970, 6465539, 6465108, 6464679, 6464251, 6463824, 6463398, 6462973, 6462549, 6462126, 6461704, 6461283, 6460863, 6460445, 6460027, 6459610, 6459195, 6458780, 6458367, 6457954, 6457542, 6457132, 6456722, 6456313, 6455906, 6455499, 6455093, 6454688, 6454285, 6453882, 6453480, 6453079, 6452679, 6452280, 6451882, 6451484, 6451088, 6450693, 6450298, 6449905, 6449512, 6449120, 6448730, 6448340, 6447951, 6447562, 6447175, 6446789, 6446403, 6446018, 6445635, 6445252, 6444870, 6444488, 6444108, 6443728, 6443350, 6442972, 6442595, 6442219, 6441843, 6441469, 6441095, 6440722, 6440350, 6439979, 6439608, 6439239, 6438870, 6438502, 6438134, 6437768, 6437402, 6437037, 6436673, 6436310, 6435947, 6435585, 6435224, 6434864, 6434504, 6434145, 6433787, 6433430, 6433073, 6432718, 6432363, 6432008, 6431655, 6431302, 6430950, 6430598, 6430247, 6429897, 6429548, 6429200, 6428852, 6428505, 6428158, 6427812, 6427467, 6427123, 6426779, 6426436, 6426094, 6425753, 6425412, 6425071, 6424732, 6424393, 6424055, 6423717, 6423380, 6423044, 6422708, 6422373, 6422039, 6421706, 6421373, 6421040, 6420709, 6420378, 6420047, 6419717, 6419388, 6419060, 6418732, 6418405, 6418078,
    6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830, 6645830};
// normal table: end

// ====================================================================================================== implementation

namespace detail {

constexpr std::int64_t image_limit = std::int64_t{1} << 32;  // numbers of images stay below
constexpr std::array<std::string_view, 3> predictions = {"eps", "x_0", "v"};
constexpr std::array<std::string_view, 3> variances = {"fixed_small", "fixed_large", "learned"};
constexpr std::array<std::string_view, 4> kinds = {"label", "vector", "image", "previous"};
constexpr double max_guidance = 100.0;
constexpr std::string_view own_guidance = "guidance";  // the input of a network that guides itself

inline std::string text_of(double value) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream << value;
    return stream.str();
}

inline std::string text_of(std::int64_t value) { return std::to_string(value); }

// Return text from a file, fit for one line of a terminal.
inline std::string text_of(std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string result;
    for (const char c : text.substr(0, 80)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte > 0x7e) {
            result += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
        } else {
            result += c;
        }
    }
    return result + (text.size() > 80 ? "..." : "");
}

inline std::string in_quotes(std::string_view text) { return "'" + text_of(text) + "'"; }

// Return the first values with commas between, and how many there are where those are not all.
template <class Values>
std::string several(const Values& values, std::size_t most = 20) {
    std::string text;
    std::size_t count = 0;
    for (const auto& value : values) {
        text += count == 0 || count > most ? "" : ", ";
        text += count < most ? text_of(value) : count == most ? "..." : "";
        ++count;
    }
    return count <= most ? text : text + " (" + std::to_string(count) + " of them)";
}

inline Error usage(const std::string& line) { return Error(Code::usage, line); }

inline Error no_learned_variance() {
    return usage("variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'.");
}

inline Variance variance_from_name(std::string_view name) {
    const auto at = std::find(variances.begin(), variances.end(), name);
    if (at == variances.end()) {
        throw usage("variance must be one of " + several(variances) + ", got " + in_quotes(name) + ".");
    }
    return static_cast<Variance>(at - variances.begin());
}

}  // namespace detail

// --------------------------------------------------------------------------------------------------------------- noise

inline std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product_0 = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t product_1 = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(product_1 >> 32) ^ counter[1] ^ key[0],
                   static_cast<std::uint32_t>(product_1),
                   static_cast<std::uint32_t>(product_0 >> 32) ^ counter[3] ^ key[1],
                   static_cast<std::uint32_t>(product_0)};
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return counter;
}

namespace detail {

inline std::uint32_t bit_length(std::uint32_t m) {
    std::uint32_t length = 0;
    for (std::uint32_t half = 16; half != 0; half /= 2) {
        if (m >> half) {
            m >>= half;
            length += half;
        }
    }
    return length + m;  // m is 1 by now, or 0 if it was
}

}  // namespace detail

inline void normals_from_words(const std::uint32_t* words, std::size_t count, float* normals) {
    for (std::size_t k = 0; k < count; ++k) {
        const std::uint32_t m = words[k] & 0x7FFFFFFF, leading_zeros = 31 - detail::bit_length(m);
        const std::uint32_t f = m << leading_zeros;  // the leading one now at bit 30, save for m = 0
        const std::int32_t* cell = normal_table + leading_zeros * 257 + ((f >> 22) & 0xFF);
        const std::int64_t fall = cell[0] - cell[1];  // >= 0, as the fraction: the shift floors
        const auto z = static_cast<std::int32_t>(cell[0] - ((fall * (f & 0x3FFFFF)) >> 22));
        normals[k] = static_cast<float>(words[k] >> 31 ? -z : z) * 0x1p-20f;  // exact: |z| < 2^23
    }
}

inline void Noise::operator()(std::uint32_t draw, float* z) const {
    for (const std::uint32_t image : images_) {
        for (std::size_t at = 0; at < image_size_; at += 4) {
            const auto words = philox4x32_10({static_cast<std::uint32_t>(at / 4), draw, image, domain_}, key_);
            normals_from_words(words.data(), std::min<std::size_t>(4, image_size_ - at), z + at);
        }
        z += image_size_;
    }
}

inline Noise noise_stream(std::int64_t seed, const std::vector<std::int64_t>& images, const Shape& shape,
                          std::uint32_t domain) {
    if (seed < 0) {
        throw detail::usage("seed must be from 0 to 2^63 - 1, got " + std::to_string(seed) + ".");
    }
    for (const std::int64_t image : images) {
        if (image < 0 || image >= detail::image_limit) {
            throw detail::usage("Numbers of images must be from 0 to 2^32 - 1, got " + std::to_string(image) + ".");
        }
    }
    double size = shape.empty() ? 0.0 : 1.0;
    for (const std::int64_t extent : shape) {
        size *= extent < 1 ? 0.0 : static_cast<double>(extent);
    }
    if (size < 1.0 || size > 0x1p34) {  // the counter's first word numbers blocks of four
        throw detail::usage("shape must be positive sizes, such as (C, H, W), got (" + detail::several(shape) + ").");
    }
    Noise noise;
    noise.key_ = {static_cast<std::uint32_t>(seed & 0xFFFFFFFF), static_cast<std::uint32_t>(seed >> 32)};
    noise.images_.assign(images.begin(), images.end());
    noise.image_size_ = static_cast<std::size_t>(size);
    noise.domain_ = domain;
    return noise;
}

inline void check_image_numbers(std::int64_t first, std::int64_t n) {
    if (n < 1) {
        throw detail::usage("n must be at least 1, got " + std::to_string(n) + ".");
    }
    if (first < 0 || first >= detail::image_limit || n > detail::image_limit - first) {
        throw detail::usage("Numbers of images must be from 0 to 2^32 - 1, got " + std::to_string(n) + " from " +
                            std::to_string(first) + ".");
    }
}

// --------------------------------------------------------------------------------------------------------------- plans

inline bool Plan::needs_learned_variance() const {
    return std::any_of(rows.begin(), rows.end(), [](const Row& row) { return row.noise.size() == 2; });
}

inline std::size_t Plan::kept_after(std::size_t k) const {
    std::size_t kept = 0;
    for (std::size_t ahead = 1; ahead < max_reach && k + ahead < rows.size(); ++ahead) {
        kept = std::max(kept, rows[k + ahead].reach() - std::min(rows[k + ahead].reach(), ahead));
    }
    return kept;
}

inline Plan with_returns(const Plan& plan, std::int64_t returns, std::int64_t jump) {
    const auto size = static_cast<std::int64_t>(plan.rows.size());
    if (returns < 0) {
        throw detail::usage("returns must be 0 or more, got " + detail::text_of(returns) + ".");
    }
    std::map<std::int64_t, std::int64_t> left;
    if (returns > 0) {
        if (jump < 1 || jump >= size) {
            throw detail::usage("jump must be between 1 and " + detail::text_of(size - 1) +
                                ", below the plan's rows, got " + detail::text_of(jump) + ".");
        }
        const auto looks_back = [](const Row& row) { return row.reach() > 1; };
        if (plan.needs_learned_variance() || std::any_of(plan.rows.begin(), plan.rows.end(), looks_back)) {
            throw detail::usage("returns need a sampler that does not look back and has a fixed variance. Choose ddim.");
        }
        for (std::int64_t place = size - 1; place >= jump; place -= jump) {
            left[place] = returns;
        }
    }
    Plan walked{{}, plan.start};
    for (std::int64_t place = 0; place < size;) {  // rows that lie behind, of those given
        Row row = plan.rows[static_cast<std::size_t>(place++)];
        const auto at = left.find(place);
        if (at != left.end() && at->second-- > 0) {  // from a_s, where it ends, noise carries it to a_u
            const double a_s = plan.rows[static_cast<std::size_t>(place)].a;
            const double a_u = plan.rows[static_cast<std::size_t>(place -= jump)].a, r = std::sqrt(a_u / a_s);
            const double noise = row.noise.empty() ? 0.0 : row.noise[0];
            for (std::vector<double>* weights : {&row.x_0, &row.eps}) {
                std::transform(weights->begin(), weights->end(), weights->begin(), [r](double w) { return r * w; });
            }
            row.noise.assign(1, std::sqrt(r * r * noise * noise + 1.0 - r * r));
        }
        row.i = static_cast<std::uint32_t>(walked.rows.size() + 1);
        walked.rows.push_back(std::move(row));
    }
    return walked;
}

inline std::vector<double> times_below(const std::vector<double>& times, double strength,
                                       std::int64_t num_train_timesteps) {
    if (!(strength > 0.0 && strength <= 1.0)) {
        throw detail::usage("strength must be above 0 and at most 1, got " + detail::text_of(strength) + ".");
    }
    const double end = std::floor(strength * static_cast<double>(num_train_timesteps) + 0.5);
    std::vector<double> below;
    std::copy_if(times.begin(), times.end(), std::back_inserter(below), [=](double t) { return t < end; });
    if (below.empty() && !times.empty()) {
        throw detail::usage("strength must reach the lowest time, t = " +
                            detail::text_of(*std::min_element(times.begin(), times.end())) + " of " +
                            detail::text_of(num_train_timesteps) + ", got " + detail::text_of(strength) + ".");
    }
    return below;
}

namespace detail {

// Return the rows of a plan from a share of the training times on, numbered anew.
inline Plan rows_below(const Plan& plan, double strength, std::int64_t num_train_timesteps) {
    std::vector<double> times;
    std::transform(plan.rows.begin(), plan.rows.end(), std::back_inserter(times), [](const Row& row) { return row.t; });
    const std::vector<double> left = times_below(times, strength, num_train_timesteps);
    const auto begin = std::find_if(plan.rows.begin(), plan.rows.end(),
                                    [&](const Row& row) { return std::count(left.begin(), left.end(), row.t) > 0; });
    Plan below{{begin, plan.rows.end()}};
    for (std::size_t k = 0; k < below.rows.size(); ++k) {
        below.rows[k].i = static_cast<std::uint32_t>(k + 1);
    }
    return below;
}

// Return whether a row looks further back than to the first of them, or, where `at_all`, than to itself.
inline bool looks_back(const Plan& plan, bool at_all) {
    return std::any_of(plan.rows.begin(), plan.rows.end(),
                       [=](const Row& row) { return row.reach() > (at_all ? 1 : row.i); });
}

}  // namespace detail

inline Plan plan_below(const Plan& plan, double strength, std::int64_t num_train_timesteps) {
    Plan below = detail::rows_below(plan, strength, num_train_timesteps);
    if (detail::looks_back(below, false)) {
        throw detail::usage("strength does not apply to a plan whose rows look back beyond it.");
    }
    return below;
}

// -------------------------------------------------------------------------------------------------------------- inputs

inline bool Input::is_told() const { return kind != Kind::previous && name != detail::own_guidance; }

inline std::size_t Input::size() const {
    return static_cast<std::size_t>(
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<std::int64_t>()));
}

namespace detail {

// The values of an input for a batch: labels of a label, numbers of any other.
struct Bound {
    std::vector<std::int64_t> labels;
    std::vector<float> numbers;
};

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
    return "(" + several(shape) + (shape.size() == 1 ? ",)" : ")");
}

inline Error bad_label(const Input& input, std::string_view got) {
    return usage("Input " + in_quotes(input.name) + " must be one of " + several(input.classes) +
                 " or its index from 0 to " + std::to_string(input.classes.size() - 1) + ", got " + in_quotes(got) +
                 ".");
}

// Return the label that a text means: the name of a class, none, or an index.
inline std::int64_t label_of(const Input& input, const std::string& text) {
    const auto at = std::find(input.classes.begin(), input.classes.end(), text);
    if (at != input.classes.end()) {
        return at - input.classes.begin();
    }
    if (text == "none") {
        if (!input.none) {
            throw usage("Input " + in_quotes(input.name) + " cannot be none, since the network was always told a " +
                        "class.");
        }
        return static_cast<std::int64_t>(*input.none);
    }
    const bool is_index = !text.empty() && text.size() < 10 &&
                          std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!is_index) {
        throw bad_label(input, text);
    }
    return std::stoll(text);
}

inline std::vector<std::int64_t> labels_of(const Input& input, const InputValue& given) {
    std::vector<std::int64_t> labels;
    if (const auto* one = std::get_if<std::string>(&given)) {
        labels.push_back(label_of(input, *one));
    } else if (const auto* names = std::get_if<std::vector<std::string>>(&given)) {
        for (const std::string& name : *names) {
            labels.push_back(label_of(input, name));
        }
    } else if (const auto* indices = std::get_if<std::vector<std::int64_t>>(&given)) {
        labels = *indices;
    } else {
        throw bad_label(input, "floats");
    }
    for (const std::int64_t label : labels) {
        const bool is_none = input.none && static_cast<double>(label) == *input.none;
        if (!is_none && (label < 0 || label >= static_cast<std::int64_t>(input.classes.size()))) {
            throw bad_label(input, std::to_string(label));
        }
    }
    return labels;
}

inline std::vector<float> numbers_of(const Input& input, const InputValue& given) {
    const auto* numbers = std::get_if<std::vector<float>>(&given);
    if (numbers == nullptr) {
        throw usage("Input " + in_quotes(input.name) + " must be floats, got labels.");
    }
    if (!std::all_of(numbers->begin(), numbers->end(), [](float number) { return std::isfinite(number); })) {
        throw usage("Input " + in_quotes(input.name) + " must be finite, got NaN or infinity.");
    }
    return *numbers;
}

// Throw Error (usage) for numbers beyond the limits, which are far outside of what training saw.
inline void check_limits(const Input& input, const std::vector<float>& numbers) {
    const auto& [low, high] = input.limits;
    for (std::size_t k = 0; !low.empty() && k < numbers.size(); ++k) {
        const double least = low[k % low.size()], largest = high[k % high.size()];
        if (numbers[k] < least || numbers[k] > largest) {
            std::vector<std::int64_t> place;
            auto rest = static_cast<std::int64_t>(k % input.size());
            for (auto extent = input.shape.rbegin(); extent != input.shape.rend(); rest /= *extent++) {
                place.insert(place.begin(), rest % *extent);
            }
            throw usage("Input " + in_quotes(input.name) + " must be from " + text_of(least) + " to " + text_of(largest) +
                        " at [" + several(place) + "], got " + text_of(static_cast<double>(numbers[k])) +
                        ". What the network was trained on lies well within that.");
        }
    }
}

inline Error bad_count(const Input& input, const std::string& batch, std::size_t got) {
    const std::string wanted = input.shape.empty() ? "," : ", " + several(input.shape);
    return usage("Input " + in_quotes(input.name) + " must have shape " + shape_text(input.shape) + " or (" + batch +
                 wanted + "), got " + std::to_string(got) + " values.");
}

// Return the values for each image of a batch from those for all of them, or for each.
template <class T>
std::vector<T> spread(const Input& input, std::vector<T> values, std::size_t batch) {
    const std::size_t size = input.size(), given = values.size();
    if (given != size && given != size * batch) {
        throw bad_count(input, std::to_string(batch), given);
    }
    values.resize(size * batch);
    for (std::size_t k = given; k < values.size(); ++k) {
        values[k] = values[k - size];
    }
    return values;
}

// Return the values for images by their numbers from K that they take in turn: image k number k mod K.
template <class T>
std::vector<T> in_turn(const Input& input, const std::vector<T>& values, const std::vector<std::int64_t>& numbers) {
    const std::size_t size = input.size(), count = values.size() / size;
    if (values.empty() || values.size() % size != 0) {
        throw bad_count(input, "K", values.size());
    }
    std::vector<T> result;
    for (const std::int64_t number : numbers) {
        const std::size_t k = static_cast<std::size_t>(number) % count;
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(k * size);
        result.insert(result.end(), from, from + static_cast<std::ptrdiff_t>(size));
    }
    return result;
}

// Return how many images the values are for, as far as they tell.
inline std::size_t batch_given(const std::vector<Input>& inputs, const Inputs& given) {
    std::size_t batch = 1;
    for (const Input& input : inputs) {
        const auto value = given.find(input.name);
        if (value != given.end()) {
            const std::size_t count = std::visit([](const auto& values) { return values.size(); }, value->second);
            batch = std::holds_alternative<std::string>(value->second) ? batch : std::max(batch, count / input.size());
        }
    }
    return batch;
}

// Return the values of a network's inputs for a batch: what was given, and what stands for nothing.
inline std::vector<Bound> bound_inputs(const std::vector<Input>& inputs, const Inputs& given, std::size_t batch) {
    std::vector<std::string> names;
    std::vector<Bound> result;
    for (const Input& input : inputs) {
        if (input.is_told()) {
            names.push_back(input.name);
        }
    }
    for (const auto& [name, value] : given) {
        if (std::find(names.begin(), names.end(), name) == names.end()) {
            throw usage("The model has no input " + in_quotes(name) + "; it has " +
                        (names.empty() ? "none" : several(names)) + ".");
        }
    }
    for (const Input& input : inputs) {
        const auto value = given.find(input.name);
        const bool is_label = input.kind == Kind::label;
        const std::optional<double> filler = input.kind == Kind::previous ? 0.0 : input.none;
        Bound bound;
        if (value != given.end() && is_label) {
            bound.labels = spread(input, labels_of(input, value->second), batch);
        } else if (value != given.end()) {
            bound.numbers = spread(input, numbers_of(input, value->second), batch);
        } else if (!filler) {
            throw usage("Input " + in_quotes(input.name) + ", of kind " +
                        std::string(kinds[static_cast<std::size_t>(input.kind)]) + " and shape " +
                        shape_text(input.shape) + ", must be given.");
        } else if (is_label) {
            bound.labels.assign(batch, static_cast<std::int64_t>(*filler));
        } else {
            bound.numbers.assign(batch * input.size(), static_cast<float>(*filler));
        }
        result.push_back(std::move(bound));
    }
    return result;
}

// Let the values be those of a batch twice as long, whose second half is told no class and all else alike.
inline void append_without_label(const std::vector<Input>& inputs, std::vector<Bound>& bound) {
    for (std::size_t k = 0; k < inputs.size(); ++k) {
        auto& [labels, numbers] = bound[k];
        if (inputs[k].kind == Kind::label) {
            labels.resize(2 * labels.size(), static_cast<std::int64_t>(*inputs[k].none));
        }
        numbers.reserve(2 * numbers.size());
        numbers.insert(numbers.end(), numbers.begin(), numbers.end());
    }
}

}  // namespace detail

// ------------------------------------------------------------------------------------------------------------ guidance

namespace detail {

// Return what is wrong with a scale or an interval out of its range, nothing where they are fine.
inline std::string trouble_of(const Guidance& guidance) {
    if (!(guidance.scale >= 0.0 && guidance.scale <= max_guidance)) {
        return "guidance must be a number from 0 to " + text_of(max_guidance) + ", got " + text_of(guidance.scale);
    }
    if (const auto& interval = guidance.interval) {
        const auto [low, high] = *interval;
        if (!(0.0 <= low && low <= high && std::isfinite(high))) {
            return "the interval of guidance must be two times, the lower first, from 0 on, got (" +
                   several(*interval) + ")";
        }
    }
    return "";
}

}  // namespace detail

inline std::vector<Input> ModelSpec::asked_inputs() const {
    const auto before = stages.find("before");
    if (before == stages.end()) {
        return inputs;
    }
    std::vector<Input> asked;
    const auto add = [&](const Input& one) {
        const auto is_it = [&](const Input& other) { return other.name == one.name; };
        if (before->second.outputs.count(one.name) == 0 && std::none_of(asked.begin(), asked.end(), is_it)) {
            asked.push_back(one);
        }
    };
    std::for_each(inputs.begin(), inputs.end(), add);
    std::for_each(before->second.inputs.begin(), before->second.inputs.end(), add);
    return asked;
}

inline const Input* ModelSpec::label() const {
    const auto is_label = [](const Input& one) { return one.kind == Kind::label; };
    const auto at = std::find_if(inputs.begin(), inputs.end(), is_label);
    return at == inputs.end() ? nullptr : &*at;
}

inline bool ModelSpec::guides_itself() const {
    return std::any_of(inputs.begin(), inputs.end(), [](const Input& one) { return one.name == detail::own_guidance; });
}

inline bool ModelSpec::takes_guidance() const {
    return has_guidance && (guides_itself() || (label() != nullptr && label()->none));
}

inline const Shape& ModelSpec::result_shape() const {
    const auto after = stages.find("after");
    return after == stages.end() ? state_shape : after->second.outputs.begin()->second;
}

inline bool ModelSpec::is_picture() const {
    const auto after = stages.find("after");
    return after == stages.end() ? state_shape.size() == 3 && !units : after->second.outputs.count("images") > 0;
}

inline std::vector<float> values_of(const ModelSpec& spec, std::vector<float> x) {
    if (!spec.units) {
        return x;
    }
    const auto& [scale, shift, axis] = *spec.units;
    std::size_t inner = 1;
    for (std::size_t k = axis + 1; k < spec.state_shape.size(); ++k) {
        inner *= static_cast<std::size_t>(spec.state_shape[k]);
    }
    const auto size = static_cast<std::size_t>(spec.state_shape[axis]);
    for (std::size_t k = 0; k < x.size(); ++k) {
        const std::size_t place = k / inner % size;
        const volatile float product = scale[scale.size() == 1 ? 0 : place] * x[k];  // rounded before the sum
        x[k] = product + shift[shift.size() == 1 ? 0 : place];
    }
    return x;
}

inline Guidance guidance_for(const ModelSpec& spec, const std::optional<Guidance>& given) {
    if (!given) {
        return spec.defaults.guidance.value_or(Guidance());
    }
    if (const std::string trouble = detail::trouble_of(*given); !trouble.empty()) {
        throw detail::usage(trouble + ".");
    }
    if (given->scale != 1.0 && !spec.takes_guidance()) {
        throw detail::usage("guidance must be 1 for a network that has not learned to do without a class, got " +
                            detail::text_of(given->scale) + ".");
    }
    return *given;
}

// ----------------------------------------------------------------------------------------- from network to x_0 and eps

namespace detail {

inline void refuse_non_finite(const float* values, std::size_t count, std::size_t image_size, const Row& row) {
    unsigned sick = 0;  // looked for without a branch, which compilers make a vector's work of
    for (std::size_t k = 0; k < count; ++k) {
        sick |= std::abs(values[k]) <= std::numeric_limits<float>::max() ? 0u : 1u;
    }
    if (sick != 0) {
        const auto* at = std::find_if(values, values + count, [](float value) { return !std::isfinite(value); });
        const std::size_t index = static_cast<std::size_t>(at - values) / image_size;
        throw NonFiniteError("step " + std::to_string(row.i) + " (t = " + text_of(row.t) + ")", index,
                             "image " + std::to_string(index) + " of its batch");
    }
}

inline void refuse_non_finite(const Outputs& outputs, std::size_t count, std::size_t image_size, const Row& row) {
    for (const float* output : {outputs.prediction, outputs.variance_fraction}) {
        if (output != nullptr) {
            refuse_non_finite(output, count, image_size, row);
        }
    }
}

}  // namespace detail

namespace detail {

// What a denoiser keeps between calls: what a batch is told and, for guidance, room for a batch twice as long.
class Asking {
public:
    Asking(Model model, const ModelSpec& spec, const Inputs& inputs, const Guidance& guidance)
        : model_(std::move(model)), spec_(spec), inputs_(inputs), guidance_(guidance), arrays_(spec.inputs.size()) {}

    void operator()(const std::vector<float>& x_t, const Row& row, const float* x_0_before, Denoised& found) {
        if (batch_ != x_t.size() / spec_.image_size()) {
            bind(x_t.size() / spec_.image_size());
        }
        const double scale = guidance_.at(row.t);
        const std::size_t size = x_t.size();
        const bool has_fraction = spec_.has_variance_fraction;
        found.resize(size, has_fraction);
        if (x_t_.empty() || scale == 1.0) {
            // the network writes to where its outputs are wanted: x_0 to x_0, eps and v to eps, converted in place
            const Outputs outputs = {spec_.prediction == Prediction::x_0 ? found.x_0.data() : found.eps.data(),
                                     has_fraction ? found.variance_fraction.data() : nullptr};
            feed(x_0_before, scale, 1);
            predict(model_, spec_, x_t, row, arrays_, outputs);
            denoised(combine({outputs}, scale, size), spec_, x_t, row, found);
            return;
        }
        const auto half = [&](std::size_t from) {
            return Outputs{prediction_.data() + from, has_fraction ? variance_fraction_.data() + from : nullptr};
        };
        const Outputs c = half(0), u = half(size);
        std::copy(x_t.begin(), x_t.end(), std::copy(x_t.begin(), x_t.end(), x_t_.begin()));
        feed(x_0_before, scale, 2);
        model_({2 * batch_, x_t_.data(), row.t, arrays_, c.prediction, c.variance_fraction});
        for (const Outputs& outputs : {c, u}) {  // each by itself: an image has one number in both
            refuse_non_finite(outputs, size, spec_.image_size(), row);
        }
        denoised(combine({c, u}, scale, size), spec_, x_t, row, found);
    }

private:
    void bind(std::size_t batch) {
        bound_ = bound_inputs(spec_.inputs, inputs_, batch);
        batch_ = batch;
        const Input* label = spec_.label();
        if (guidance_.scale == 1.0 || spec_.guides_itself() || label == nullptr || !label->none) {
            return;
        }
        const auto& labels = bound_[static_cast<std::size_t>(label - spec_.inputs.data())].labels;
        const auto none = static_cast<std::int64_t>(*label->none);
        const bool is_told_a_class = std::any_of(labels.begin(), labels.end(), [=](auto y) { return y != none; });
        append_without_label(spec_.inputs, bound_);
        for (std::vector<float>* array : {&x_t_, &prediction_, &variance_fraction_}) {
            array->resize(guidance_.scale != 0.0 && is_told_a_class ? 2 * batch * spec_.image_size() : 0);
        }
    }

    // Let the arrays be what the batch is told, once or twice, the second time without its label; at scale 0 without.
    void feed(const float* x_0_before, double scale, std::size_t times) {
        for (std::size_t k = 0; k < arrays_.size(); ++k) {
            const Input& input = spec_.inputs[k];
            auto& [labels, numbers] = bound_[k];
            if (input.kind == Kind::label) {
                arrays_[k] = {&input, labels.data() + (scale == 0.0 && labels.size() > batch_ ? batch_ : 0), nullptr};
                continue;
            }
            const std::size_t size = batch_ * input.size();
            if (input.name == own_guidance) {
                std::fill(numbers.begin(), numbers.end(), static_cast<float>(scale));
            } else if (input.kind == Kind::previous) {
                std::fill_n(numbers.begin(), times * size, 0.0f);
                for (std::size_t from = 0; x_0_before != nullptr && from < times * size; from += size) {
                    std::copy_n(x_0_before, size, numbers.data() + from);
                }
            }
            arrays_[k] = {&input, nullptr, numbers.data()};
        }
    }

    Model model_;
    ModelSpec spec_;
    Inputs inputs_;
    Guidance guidance_;
    std::vector<InputArray> arrays_;
    std::vector<Bound> bound_;
    std::vector<float> x_t_, prediction_, variance_fraction_;  // of a batch twice as long, empty where none is asked
    std::size_t batch_ = 0;
};

}  // namespace detail

inline Denoiser denoiser(Model model, const ModelSpec& spec, const Inputs& inputs,
                         const std::optional<Guidance>& guidance) {
    const Guidance guided = guidance_for(spec, guidance);
    // what does not fit is told before the first batch, as far as it can be seen without one
    detail::bound_inputs(spec.inputs, inputs, detail::batch_given(spec.inputs, inputs));
    return detail::Asking(std::move(model), spec, inputs, guided);
}

inline void predict(const Model& model, const ModelSpec& spec, const std::vector<float>& x_t, const Row& row,
                    const std::vector<InputArray>& inputs, const Outputs& outputs) {
    model({x_t.size() / spec.image_size(), x_t.data(), row.t, inputs, outputs.prediction, outputs.variance_fraction});
    detail::refuse_non_finite(outputs, x_t.size(), spec.image_size(), row);
}

inline Outputs combine(std::initializer_list<Outputs> predictions, double scale, std::size_t size) {
    const Outputs& given = *predictions.begin();
    if (predictions.size() > 1) {
        const auto weight = static_cast<float>(scale);
        float* c = given.prediction;
        const float* u = predictions.begin()[1].prediction;
        for (std::size_t k = 0; k < size; ++k) {
            c[k] = u[k] + weight * (c[k] - u[k]);
        }
    }
    return given;
}

inline void denoised(const Outputs& outputs, const ModelSpec& spec, const std::vector<float>& x_t, const Row& row,
                     Denoised& found) {
    const double sqrt_a = std::sqrt(row.a), sqrt_1_minus_a = std::sqrt(1.0 - row.a);
    const auto signal = static_cast<float>(sqrt_a), noise = static_cast<float>(sqrt_1_minus_a);
    const auto per_signal = static_cast<float>(1.0 / sqrt_a), per_noise = static_cast<float>(1.0 / sqrt_1_minus_a);
    const std::size_t size = x_t.size();
    found.resize(size, outputs.variance_fraction != nullptr);
    const float *x = x_t.data(), *predicted = outputs.prediction;
    float *x_0 = found.x_0.data(), *eps = found.eps.data();
    if (spec.prediction == Prediction::eps) {
        for (std::size_t k = 0; k < size; ++k) {
            eps[k] = predicted[k];
            x_0[k] = (x[k] - noise * eps[k]) * per_signal;
        }
    } else if (spec.prediction == Prediction::v) {
        for (std::size_t k = 0; k < size; ++k) {
            const float v = predicted[k];
            x_0[k] = signal * x[k] - noise * v;
            eps[k] = noise * x[k] + signal * v;
        }
    } else {
        for (std::size_t k = 0; k < size; ++k) {
            x_0[k] = predicted[k];
            eps[k] = (x[k] - signal * x_0[k]) * per_noise;
        }
    }
    if (spec.clip_x_0) {
        const auto bound = static_cast<float>(*spec.clip_x_0);
        for (std::size_t k = 0; k < size; ++k) {
            x_0[k] = std::clamp(x_0[k], -bound, bound);  // NaN stays
        }
        for (std::size_t k = 0; k < size && !row.raw_eps; ++k) {
            eps[k] = (x[k] - signal * x_0[k]) * per_noise;
        }
    }
    if (outputs.variance_fraction != nullptr && outputs.variance_fraction != found.variance_fraction.data()) {
        std::copy_n(outputs.variance_fraction, size, found.variance_fraction.data());
    }
}

// ------------------------------------------------------------------------------------------------------------ samplers

inline std::vector<std::int64_t> spacing(std::int64_t num_train_timesteps, std::int64_t num_steps) {
    if (num_steps < 1 || num_steps > num_train_timesteps) {
        throw detail::usage("The number of steps must be from 1 to " + std::to_string(num_train_timesteps) +
                            ", the model's own, got " + std::to_string(num_steps) + ".");
    }
    std::vector<std::int64_t> times;
    times.reserve(static_cast<std::size_t>(num_steps));
    for (std::int64_t i = 0; i < num_steps; ++i) {
        times.push_back(num_train_timesteps * (num_steps - i) / num_steps - 1);
    }
    return times;
}

inline Grid grid(const ModelSpec& spec, std::optional<std::int64_t> num_steps,
                 const std::optional<std::vector<std::int64_t>>& times) {
    const std::int64_t T = spec.num_train_timesteps();
    const auto chosen = times ? *times : spacing(T, num_steps.value_or(spec.defaults.num_steps));
    const bool falls = std::adjacent_find(chosen.begin(), chosen.end(), std::less_equal<>()) == chosen.end();
    if (chosen.empty() || !falls || chosen.front() >= T || chosen.back() < 0) {
        throw detail::usage("times must strictly fall from at most " + std::to_string(T - 1) + " to at least 0, got " +
                            detail::several(chosen, 5) + ".");
    }
    if (num_steps && *num_steps != static_cast<std::int64_t>(chosen.size())) {
        throw detail::usage("num_steps must be left out or be the number of times, " + std::to_string(chosen.size()) +
                            ", got " + std::to_string(*num_steps) + ".");
    }
    Grid result;
    for (const std::int64_t t : chosen) {
        result.t.push_back(static_cast<double>(t));
        result.a.push_back(spec.alphas_cumprod[static_cast<std::size_t>(t)]);
    }
    result.a.push_back(1.0);
    return result;
}

inline std::array<double, 3> ddim_weights(double a, double a_prev, double eta) {
    const double noise_std = eta * std::sqrt((1.0 - a_prev) / (1.0 - a)) * std::sqrt(1.0 - a / a_prev);
    return {std::sqrt(a_prev), std::sqrt(std::max(0.0, 1.0 - a_prev - noise_std * noise_std)), noise_std};
}

inline std::vector<Row> ddim(const Grid& grid, double eta) {
    if (!(eta >= 0.0 && eta <= 1.0)) {
        throw detail::usage("eta must be between 0 and 1, got " + detail::text_of(eta) + ".");
    }
    eta = static_cast<double>(static_cast<float>(eta));  // a one-call graph takes a float: the same eta everywhere
    std::vector<Row> rows;
    for (std::size_t k = 0; k < grid.t.size(); ++k) {
        const auto [x_0, eps, noise_std] = ddim_weights(grid.a[k], grid.a[k + 1], eta);
        rows.push_back({static_cast<std::uint32_t>(k + 1), grid.t[k], grid.a[k], {x_0}, {eps}, {}});
        if (noise_std > 0.0) {
            rows.back().noise.push_back(noise_std);
        }
    }
    return rows;
}

inline std::vector<Row> ddpm(const Grid& grid, Variance variance) {
    std::vector<Row> rows = ddim(grid, 1.0);
    for (std::size_t k = 0; k < rows.size(); ++k) {
        std::vector<double>& noise = rows[k].noise;
        if (variance != Variance::fixed_small && !noise.empty()) {
            noise.push_back(std::sqrt(1.0 - grid.a[k] / grid.a[k + 1]));
            noise.erase(noise.begin(), noise.begin() + (variance == Variance::fixed_large));
        }
    }
    return rows;
}

namespace detail {

// The name of the default plan's sibling for another number of steps, such as tuned-5 for tuned-8; nothing where the
// file carries no such plan: then the default sampler takes those steps.
inline std::optional<std::string> plan_with(const ModelSpec& spec, std::int64_t num_steps) {
    const std::string usual = spec.defaults.plan.value_or("");
    const std::size_t dash = usual.rfind('-');
    if (dash == std::string::npos || dash + 1 == usual.size() ||
        usual.find_first_not_of("0123456789", dash + 1) != std::string::npos) {
        return std::nullopt;
    }
    const std::string sibling = usual.substr(0, dash + 1) + std::to_string(num_steps);
    return spec.plans.count(sibling) ? std::optional<std::string>(sibling) : std::nullopt;
}

}  // namespace detail

inline Plan plan(const ModelSpec& spec, const std::optional<std::string>& sampler,
                 std::optional<std::int64_t> num_steps, const std::optional<std::vector<std::int64_t>>& times,
                 const std::optional<std::string>& name, std::optional<double> eta, std::optional<Variance> variance) {
    const char* said = sampler     ? "sampler"
                       : num_steps ? "num_steps"
                       : times     ? "times"
                       : eta       ? "eta"
                       : variance  ? "variance"
                                   : nullptr;
    std::optional<std::string> wanted = name || said ? name : spec.defaults.plan;
    if (!name && num_steps && !sampler && !times && !eta && !variance) {
        wanted = detail::plan_with(spec, *num_steps);
        said = wanted ? nullptr : said;
    }
    if (const auto& chosen = wanted) {
        const auto at = spec.plans.find(*chosen);
        if (at == spec.plans.end()) {
            std::vector<std::string> names;
            for (const auto& one : spec.plans) {
                names.push_back(one.first);
            }
            throw detail::usage("plan must be one of " +
                                (names.empty() ? "none, for the model carries none" : detail::several(names)) +
                                ", got " + detail::in_quotes(*chosen) + ".");
        }
        if (said != nullptr) {
            throw detail::usage("plan " + *chosen + " already fixes the steps. Drop " + said + ".");
        }
        return at->second;
    }
    const std::string& chosen = sampler ? *sampler : spec.defaults.sampler;
    if (chosen != "ddim" && chosen != "ddpm") {
        throw sampler ? detail::usage("sampler must be one of ddpm, ddim, got " + detail::in_quotes(chosen) + ".")
                      : Error(Code::refused, "The model's default sampler, " + detail::in_quotes(chosen) +
                                                 ", is unknown to this version.");
    }
    const bool is_ddim = chosen == "ddim";
    if (is_ddim ? variance.has_value() : eta.has_value()) {
        throw detail::usage((is_ddim ? "variance does not apply to " : "eta does not apply to ") + chosen + ".");
    }
    const Grid where = grid(spec, num_steps, times || num_steps ? times : spec.defaults.times);
    Plan result{is_ddim ? ddim(where, eta.value_or(spec.defaults.eta)) : ddpm(where, variance.value_or(spec.variance))};
    if (result.needs_learned_variance() && !spec.has_variance_fraction) {
        throw detail::no_learned_variance();
    }
    return result;
}

// -------------------------------------------------------------------------------------------------------- the one loop

inline States walk(Denoiser denoise, Noise noise, Plan plan, std::vector<float> x, std::optional<State> state,
                   Keep keep) {
    return States(std::move(denoise), std::move(noise), std::move(plan), std::move(x), std::move(state),
                  std::move(keep));
}

inline States::States(Denoiser denoise, Noise noise, Plan plan, std::vector<float> x, std::optional<State> state,
                      Keep keep)
    : denoise_(std::move(denoise)), noise_(std::move(noise)), plan_(std::move(plan)), keep_(std::move(keep)) {
    const bool is_fresh = !state;
    const std::size_t size = noise_.images().size() * noise_.image_size();
    if (state) {
        state_ = std::move(*state);
    } else if (x.empty()) {
        state_.x.resize(size);
        noise_(0, state_.x.data());
        for (float& value : state_.x) {
            value *= static_cast<float>(plan_.start);
        }
    } else {
        state_.x = std::move(x);
    }
    while (next_ < plan_.rows.size() && plan_.rows[next_].i <= state_.row.i) {
        ++next_;
    }
    check();
    if (keep_ && is_fresh && !plan_.rows.empty()) {
        keep_(state_.x, 0, plan_.rows[0].a);
    }
    state_.row.x_0.reserve(max_reach);
    state_.row.eps.reserve(max_reach);
    state_.row.noise.reserve(2);
    state_.x_0.resize(size);
    state_.eps.resize(size);
    found_.resize(size, true);  // a denoiser without variance_fraction shortens it
    z_.resize(size);
    std::size_t kept = state_.history.size();
    for (std::size_t k = next_; k < plan_.rows.size(); ++k) {
        kept = std::max(kept, plan_.kept_after(k));
    }
    spare_.assign(kept - state_.history.size(), {state_.x_0, state_.eps});
    spare_.reserve(kept);
    state_.history.reserve(kept);
}

// Throw Error (usage) unless the plan can be walked from here: what it reads is there, and of the noise's size.
inline void States::check() const {
    const std::size_t size = noise_.images().size() * noise_.image_size();
    std::vector<const std::vector<float>*> arrays = {&state_.x};
    if (state_.row.i > 0) {
        arrays.insert(arrays.end(), {&state_.x_0, &state_.eps});
    }
    for (const Found& found : state_.history) {
        arrays.insert(arrays.end(), {&found.x_0, &found.eps});
    }
    for (const std::vector<float>* array : arrays) {
        if (array->size() != size) {
            throw detail::usage("x and all that a state holds must have the noise's " + std::to_string(size) +
                                " numbers, got " + std::to_string(array->size()) + ".");
        }
    }
    for (std::size_t k = next_; k < plan_.rows.size(); ++k) {
        const std::size_t most = std::min(state_.history.size() + k - next_ + 1, max_reach);
        if (plan_.rows[k].reach() < 1 || plan_.rows[k].reach() > most) {
            throw detail::usage("Row " + std::to_string(plan_.rows[k].i) + " of a plan must read 1 to " +
                                std::to_string(most) + " evaluations here, got " +
                                std::to_string(plan_.rows[k].reach()) + ".");
        }
    }
}

inline bool States::next() {
    if (next_ == plan_.rows.size()) {
        return false;
    }
    const Row& row = plan_.rows[next_];
    try {
        denoise_(state_.x, row, state_.row.i > 0 ? state_.x_0.data() : nullptr, found_);
        sum(row);
        if (keep_) {
            keep_(state_.x, row.i, next_ + 1 < plan_.rows.size() ? plan_.rows[next_ + 1].a : 1.0);
        }
        detail::refuse_non_finite(state_.x.data(), state_.x.size(), noise_.image_size(), row);
    } catch (const NonFiniteError& problem) {
        throw NonFiniteError(problem.where, problem.index,
                             "image " + std::to_string(noise_.images()[problem.index]));
    }
    state_.row = row;
    std::swap(state_.x_0, found_.x_0);
    std::swap(state_.eps, found_.eps);
    remember(plan_.kept_after(next_++));
    return true;
}

// Let x be the sum of a row: newest first, clean image before noise, then fresh noise; this order is fixed.
inline void States::sum(const Row& row) {
    float* x = state_.x.data();
    bool is_first = true;
    const auto add = [&](double weight, const std::vector<float>& array) {
        const auto w = static_cast<float>(weight);
        if (std::exchange(is_first, false)) {
            std::transform(array.begin(), array.end(), x, [w](float value) { return w * value; });
        } else {
            std::transform(array.begin(), array.end(), x, x, [w](float value, float sum) { return sum + w * value; });
        }
    };
    if (row.noise.size() == 2 && found_.variance_fraction.size() != z_.size()) {
        throw detail::no_learned_variance();
    }
    for (std::size_t age = 0; age < row.reach(); ++age) {
        if (age < row.x_0.size()) {
            add(row.x_0[age], age == 0 ? found_.x_0 : state_.history[age - 1].x_0);
        }
        if (age < row.eps.size()) {
            add(row.eps[age], age == 0 ? found_.eps : state_.history[age - 1].eps);
        }
    }
    if (row.noise.empty()) {
        return;
    }
    noise_(row.i, z_.data());
    if (row.noise.size() == 1) {
        add(row.noise[0], z_);
        return;
    }
    const auto small = static_cast<float>(row.noise[0]), ratio = static_cast<float>(row.noise[1] / row.noise[0]);
    for (std::size_t k = 0; k < z_.size(); ++k) {
        x[k] += small * std::pow(ratio, found_.variance_fraction[k]) * z_[k];
    }
}

// Let the history be the newest `count` evaluations, the one of now among them, in arrays that exist.
inline void States::remember(std::size_t count) {
    while (state_.history.size() > count - std::min<std::size_t>(count, 1)) {
        spare_.push_back(std::move(state_.history.back()));
        state_.history.pop_back();
    }
    if (count > 0) {
        spare_.back().x_0 = state_.x_0;
        spare_.back().eps = state_.eps;
        state_.history.insert(state_.history.begin(), std::move(spare_.back()));
        spare_.pop_back();
    }
}

// ----------------------------------------------------------------------------------------------------- given something

inline std::vector<float> noised(const std::vector<float>& x_0, const std::vector<float>& eps, double a) {
    const auto signal = static_cast<float>(std::sqrt(a)), noise = static_cast<float>(std::sqrt(1.0 - a));
    std::vector<float> x(x_0.size());
    std::transform(x_0.begin(), x_0.end(), eps.begin(), x.begin(),
                   [=](float clean, float z) { return signal * clean + noise * z; });
    return x;
}

namespace detail {

// Return (C, H, W). Throws Error (usage) for the shape of what is no picture.
inline const Shape& picture_shape(const Shape& shape) {
    if (shape.size() != 3) {
        throw usage("This needs a model of pictures, got one of numbers of shape (" + several(shape) + ").");
    }
    return shape;
}

inline std::size_t area_of(const Shape& shape) {
    return static_cast<std::size_t>(picture_shape(shape)[1] * shape[2]);
}

inline std::size_t size_of(const Shape& shape) {
    return static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
}

// Throw Error (usage) unless a mask is (H, W) of a picture, *shape or (batch, *shape): number k has its k mod size.
inline void check_mask(const std::vector<float>& mask, std::size_t batch_size, const Shape& shape) {
    const std::size_t size = size_of(shape), sizes[] = {shape.size() == 3 ? area_of(shape) : size, size, batch_size};
    if (std::find(std::begin(sizes), std::end(sizes), mask.size()) == std::end(sizes)) {
        throw usage("mask must have " + std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) + " or " +
                    std::to_string(batch_size) + " numbers, got " + std::to_string(mask.size()) + ".");
    }
    const auto bad = std::find_if_not(mask.begin(), mask.end(), [](float m) { return m >= 0.0f && m <= 1.0f; });
    if (bad != mask.end()) {
        throw usage("mask must be from 0 to 1, got " + text_of(static_cast<double>(*bad)) + ".");
    }
}

inline std::vector<float> between(const std::vector<float>& first, const std::vector<float>& last, std::size_t count,
                                  const std::function<std::array<double, 2>(double)>& weights) {
    if (count < 2 || first.size() != last.size()) {
        throw usage("There must be two ends of one size and at least 2 images, got " + std::to_string(first.size()) +
                    " and " + std::to_string(last.size()) + " numbers and " + std::to_string(count) + ".");
    }
    std::vector<float> made;
    made.reserve(count * first.size());
    for (std::size_t k = 0; k < count; ++k) {
        const auto [one, other] = weights(static_cast<double>(k) / static_cast<double>(count - 1));
        const auto a = static_cast<float>(one), b = static_cast<float>(other);
        std::transform(first.begin(), first.end(), last.begin(), std::back_inserter(made),
                       [=](float x, float y) { return a * x + b * y; });
    }
    return made;
}

}  // namespace detail

inline Keep known_pixels(std::vector<float> known, std::vector<float> mask, Noise noise, const Shape& shape) {
    const std::size_t size = noise.images().size() * noise.image_size();
    if (known.size() != size || noise.image_size() != detail::size_of(shape)) {
        throw detail::usage("known must have the noise's " + std::to_string(size) + " numbers, got " +
                            std::to_string(known.size()) + ".");
    }
    detail::check_mask(mask, size, shape);
    std::vector<float> z(size);
    return [known = std::move(known), mask = std::move(mask), noise = std::move(noise), z = std::move(z)](
               std::vector<float>& x, std::uint32_t draw, double a) mutable {
        const auto m = [&](std::size_t k) { return mask[k % mask.size()]; };
        if (a == 1.0) {
            for (std::size_t k = 0; k < x.size(); ++k) {
                x[k] = m(k) * x[k] + (1.0f - m(k)) * known[k];
            }
            return;
        }
        noise(draw, z.data());
        const auto signal = static_cast<float>(std::sqrt(a)), std = static_cast<float>(std::sqrt(1.0 - a));
        for (std::size_t k = 0; k < x.size(); ++k) {
            if (!(m(k) > 0.0f)) {
                x[k] = signal * known[k] + std * z[k];
            }
        }
    };
}

inline Measurement average(std::int64_t size, const Shape& shape) {
    if (detail::picture_shape(shape); size < 1 || shape[1] % size != 0 || shape[2] % size != 0) {
        throw detail::usage("measure average:K must divide " + detail::text_of(shape[1]) + " x " +
                            detail::text_of(shape[2]) + " pixels, got " + detail::text_of(size) + ".");
    }
    const auto K = static_cast<std::size_t>(size), width = static_cast<std::size_t>(shape[2]);
    // pixel k of rows of images lies in square k / width / K * (width / K) + k % width / K
    const auto square = [=](std::size_t k) { return k / width / K * (width / K) + k % width / K; };
    return {[=](const std::vector<float>& x, std::vector<float>& y) {
                y.assign(x.size() / (K * K), 0.0f);
                for (std::size_t k = 0; k < x.size(); ++k) {
                    y[square(k)] += x[k];
                }
                for (float& sum : y) {
                    sum /= static_cast<float>(K * K);
                }
            },
            [=](const std::vector<float>& y, std::vector<float>& x) {
                x.resize(y.size() * K * K);
                for (std::size_t k = 0; k < x.size(); ++k) {
                    x[k] = y[square(k)];
                }
            }};
}

inline Measurement grey(const Shape& shape) {
    const std::size_t area = detail::area_of(shape), channels = static_cast<std::size_t>(shape[0]);
    const auto place = [=](std::size_t k) { return k / (channels * area) * area + k % area; };
    return {[=](const std::vector<float>& x, std::vector<float>& y) {
                y.assign(x.size() / channels, 0.0f);
                for (std::size_t k = 0; k < x.size(); ++k) {
                    y[place(k)] += x[k];
                }
                for (float& sum : y) {
                    sum /= static_cast<float>(channels);
                }
            },
            [=](const std::vector<float>& y, std::vector<float>& x) {
                x.resize(y.size() * channels);
                for (std::size_t k = 0; k < x.size(); ++k) {
                    x[k] = y[place(k)];
                }
            }};
}

inline Measurement masked(std::vector<float> mask, const Shape& shape) {
    return {[mask = std::move(mask), shape](const std::vector<float>& x, std::vector<float>& y) {
                detail::check_mask(mask, x.size(), shape);
                y.resize(x.size());
                for (std::size_t k = 0; k < x.size(); ++k) {
                    y[k] = (1.0f - mask[k % mask.size()]) * x[k];
                }
            },
            [](const std::vector<float>& y, std::vector<float>& x) { x = y; }};
}

inline Measurement measurement_from_text(const std::string& text, const Shape& shape, const std::vector<float>& mask) {
    const std::string head = "average:", size = text.size() > head.size() ? text.substr(head.size()) : "";
    if (text.compare(0, head.size(), head) == 0 && !size.empty() && size.size() < 10 &&
        size.find_first_not_of("0123456789") == std::string::npos) {
        return average(std::stoll(size), shape);
    }
    if (text == "grey") {
        return grey(shape);
    }
    if (text == "mask") {
        if (mask.empty()) {
            throw detail::usage("measure mask needs a mask.");
        }
        return masked(mask, shape);
    }
    throw detail::usage("measure must be average:K, grey or mask, got " + detail::in_quotes(text) + ".");
}

inline Denoiser measured(Denoiser denoise, Measurement measurement, const std::vector<float>& y) {
    std::vector<float> target, seen, back;
    measurement.back(y, target);
    return [=](const std::vector<float>& x_t, const Row& row, const float* x_0_before, Denoised& found) mutable {
        denoise(x_t, row, x_0_before, found);
        measurement.of(found.x_0, seen);
        measurement.back(seen, back);
        if (target.size() != x_t.size() || back.size() != x_t.size()) {
            throw detail::usage("What is measured must be of the batch's " + std::to_string(x_t.size()) +
                                " numbers, got " + std::to_string(target.size()) + ".");
        }
        const auto signal = static_cast<float>(std::sqrt(row.a));
        const auto one_over_noise = static_cast<float>(1.0 / std::sqrt(1.0 - row.a));
        for (std::size_t k = 0; k < x_t.size(); ++k) {
            found.x_0[k] = target[k] + (found.x_0[k] - back[k]);
            found.eps[k] = (x_t[k] - signal * found.x_0[k]) * one_over_noise;
        }
    };
}

inline std::vector<float> crossfade(const std::vector<float>& first, const std::vector<float>& last,
                                    std::size_t count) {
    return detail::between(first, last, count, [](double s) { return std::array<double, 2>{1.0 - s, s}; });
}

inline std::vector<float> slerp(const std::vector<float>& first, const std::vector<float>& last, std::size_t count) {
    const double quarter = std::acos(0.0);
    return detail::between(first, last, count, [=](double s) {
        return std::array<double, 2>{std::cos(s * quarter), std::sin(s * quarter)};
    });
}

inline Plan inversion(const ModelSpec& spec, const std::vector<double>& times) {
    std::set<std::size_t> rising = {0};
    for (const double t : times) {
        if (!(t >= 0.0 && t < static_cast<double>(spec.alphas_cumprod.size())) || t != std::floor(t)) {
            throw detail::usage("Inverting needs a plan at whole times, got t = " + detail::text_of(t) + ".");
        }
        rising.insert(static_cast<std::size_t>(t));
    }
    if (rising.size() < 2) {
        throw detail::usage("Inverting needs a time above 0, got only t = 0.");
    }
    Plan plan;
    for (auto t = rising.begin(), next = std::next(t); next != rising.end(); ++t, ++next) {
        const double a = spec.alphas_cumprod[*t], a_next = spec.alphas_cumprod[*next];
        plan.rows.push_back({static_cast<std::uint32_t>(plan.rows.size() + 1), static_cast<double>(*t), a,
                             {std::sqrt(a_next)}, {std::sqrt(1.0 - a_next)}, {}});
    }
    return plan;
}

// ------------------------------------------------------------------------------------------------------------ pictures

inline void to_uint8(const float* x, std::size_t n, const Shape& shape, std::uint8_t* pixels) {
    const std::size_t area = detail::area_of(shape), channels = static_cast<std::size_t>(shape[0]);
    for (std::size_t image = 0; image < n; ++image) {
        for (std::size_t channel = 0; channel < channels; ++channel) {
            for (std::size_t at = 0; at < area; ++at) {
                // volatile keeps the two operations apart: fused, what lies halfway between levels would go elsewhere
                const volatile float product = 127.5f * *x++;
                const float level = product + 127.5f;
                const float clipped = level > 0.0f ? std::min(level, 255.0f) : 0.0f;
                pixels[(image * area + at) * channels + channel] = static_cast<std::uint8_t>(clipped + 0.5f);
            }
        }
    }
}

inline std::vector<std::uint8_t> to_uint8(const std::vector<float>& x, const Shape& shape) {
    std::vector<std::uint8_t> pixels(x.size());
    to_uint8(x.data(), x.size() / detail::size_of(shape), shape, pixels.data());
    return pixels;
}
inline std::vector<float> from_uint8(const std::vector<std::uint8_t>& pixels, const Shape& shape) {
    const std::size_t area = detail::area_of(shape), channels = static_cast<std::size_t>(shape[0]);
    std::vector<float> x(pixels.size());
    for (std::size_t k = 0; k < x.size(); ++k) {
        const std::size_t image = k / (channels * area), channel = k / area % channels, at = k % area;
        x[k] = static_cast<float>(pixels[(image * area + at) * channels + channel] / 127.5 - 1.0);
    }
    return x;
}

// ----------------------------------------------------------------------------------------------------- sample and edit

namespace detail {

// Return what a network is told of images by their numbers.
inline Inputs told(const ModelSpec& spec, const Settings& settings, const std::vector<std::int64_t>& numbers) {
    Inputs result = settings.inputs;
    const Input* label = spec.label();
    if (settings.label) {
        if (label == nullptr) {
            throw usage("label does not apply to a network that is told no class.");
        }
        if (!result.emplace(label->name, *settings.label).second) {
            throw usage("label must be left out beside the input " + in_quotes(label->name) + ", which is the same.");
        }
    } else if (label != nullptr) {
        std::vector<std::int64_t> classes(label->classes.size());
        std::iota(classes.begin(), classes.end(), std::int64_t{0});
        result.emplace(label->name, std::move(classes));
    }
    for (const Input& input : settings.stages ? spec.asked_inputs() : spec.inputs) {
        const auto value = result.find(input.name);
        if (value == result.end() || !input.is_told()) {
            continue;
        }
        if (input.kind == Kind::label) {
            value->second = in_turn(input, labels_of(input, value->second), numbers);
            continue;
        }
        const std::vector<float> given = numbers_of(input, value->second);
        check_limits(input, given);
        if (given.size() != input.size()) {  // else one for all images, of which `before` is asked once
            value->second = in_turn(input, given, numbers);
        }
    }
    return settings.stages ? prepared(spec, settings.stages, result) : result;
}

// Return where a walk of `size` rows ends. Throws Error (cancelled) where `progress` says false.
inline std::vector<float> end_of(States states, std::size_t size, const Progress& progress) {
    for (std::size_t step = 1; states.next(); ++step) {
        if (progress && !progress(step, size, states.now().x.data(), states.now().x_0.data())) {
            throw Error(Code::cancelled, "Sampling was cancelled after step " + std::to_string(step) + " of " +
                                             std::to_string(size) + ".");
        }
    }
    return states.now().x;
}

// Throw Error (usage) for what of pictures does not go together.
inline void check(const Given& given) {
    const bool is_part = !given.mask.empty() || given.measure;
    if (given.images.empty() || (!is_part && !given.strength)) {
        throw usage("There must be a picture, and a mask, a measure or a strength.");
    }
    if (given.returns != 0 && !is_part) {
        throw usage("returns need a mask or a measure.");
    }
    if (given.measure && *given.measure != "mask" && !given.mask.empty()) {
        throw usage("mask does not apply to measure " + *given.measure + ".");
    }
    if (given.between && (is_part || !given.strength)) {
        throw usage("between needs a strength, and nothing else besides.");
    }
}

}  // namespace detail

namespace detail {

// Return what a stage gives, by name: it runs image by image, so that memory stays that of one.
inline std::map<std::string, std::vector<float>> results_of(const ModelSpec& spec, const Stages& stages,
                                                            const std::string& name, const std::vector<Input>& inputs,
                                                            const std::vector<Bound>& bound, std::size_t batch) {
    std::map<std::string, std::vector<float>> results;
    for (const auto& [key, shape] : spec.stages.at(name).outputs) {
        results[key].resize(batch * size_of(shape));
    }
    for (std::size_t image = 0; image < batch; ++image) {
        std::vector<InputArray> arrays;
        std::map<std::string, float*> outputs;
        for (std::size_t k = 0; k < inputs.size(); ++k) {
            const auto& [labels, numbers] = bound[k];
            const std::size_t from = image * inputs[k].size();
            arrays.push_back({&inputs[k], labels.empty() ? nullptr : labels.data() + from,
                              labels.empty() ? numbers.data() + from : nullptr});
        }
        for (auto& [key, values] : results) {
            outputs[key] = values.data() + image * (values.size() / batch);
        }
        stages({name, arrays, outputs});
    }
    for (const auto& [key, values] : results) {
        if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
            throw Error(Code::not_finite, "The stage " + in_quotes(name) + " gives NaN or infinity in " + in_quotes(key) +
                                              ". Run ddpm-check on the model.");
        }
    }
    return results;
}

}  // namespace detail

inline Inputs prepared(const ModelSpec& spec, const Stages& stages, const Inputs& given) {
    const auto before = spec.stages.find("before");
    if (before == spec.stages.end()) {
        return given;
    }
    const auto& [outputs, file, sha256, inputs] = before->second;
    Inputs result, taken = given;
    for (const Input& own : spec.inputs) {
        const auto is_it = [&](const Input& one) { return one.name == own.name; };
        const auto value = given.find(own.name);
        if (value != given.end() && outputs.count(own.name) == 0) {
            result.insert(*value);
            if (std::none_of(inputs.begin(), inputs.end(), is_it)) {
                taken.erase(own.name);
            }
        }
    }
    const std::size_t batch = detail::batch_given(inputs, taken);
    const auto bound = detail::bound_inputs(inputs, taken, batch);  // which refuses what nothing takes
    for (auto& [name, values] : detail::results_of(spec, stages, "before", inputs, bound, batch)) {
        result[name] = std::move(values);
    }
    return result;
}

inline std::vector<float> decoded(const ModelSpec& spec, const Stages& stages, std::vector<float> x) {
    x = values_of(spec, std::move(x));
    if (spec.stages.count("after") == 0) {
        return x;
    }
    const std::vector<Input> inputs = {{"x", Kind::image, spec.state_shape, {}, {}}};
    const std::size_t batch = x.size() / spec.image_size();
    const std::vector<detail::Bound> bound = {{{}, std::move(x)}};
    return detail::results_of(spec, stages, "after", inputs, bound, batch).begin()->second;
}

inline std::vector<float> sample(const Model& model, const ModelSpec& spec, const Settings& settings,
                                 const Progress& progress) {
    const Plan rows = plan(spec, settings.sampler, settings.num_steps, settings.times, settings.plan, settings.eta,
                           settings.variance);
    check_image_numbers(settings.first, settings.n);
    std::vector<std::int64_t> numbers(static_cast<std::size_t>(settings.n));
    std::iota(numbers.begin(), numbers.end(), settings.first);
    const Guidance guidance = guidance_for(spec, settings.guidance);
    return detail::end_of(walk(denoiser(model, spec, detail::told(spec, settings, numbers), guidance),
                               noise_stream(settings.seed, numbers, spec.state_shape), rows),
                          rows.rows.size(), progress);
}

inline std::vector<float> edit(const Model& model, const ModelSpec& spec, const Given& given, Settings settings,
                               const Progress& progress) {
    detail::check(given);
    check_image_numbers(settings.first, settings.n);
    const Shape& shape = spec.state_shape;
    Plan rows = plan(spec, settings.sampler, settings.num_steps, settings.times, settings.plan, settings.eta,
                     settings.variance);
    const auto T = static_cast<std::int64_t>(spec.alphas_cumprod.size());
    const bool is_named = settings.sampler || settings.times || settings.plan;
    const bool is_beyond = given.strength && detail::looks_back(detail::rows_below(rows, *given.strength, T), false);
    if (!is_named && (is_beyond || (given.returns > 0 && detail::looks_back(rows, true)))) {  // what ddim can do
        rows = plan(spec, "ddim", settings.num_steps.value_or(spec.defaults.num_steps), {}, {}, settings.eta);
    }
    if (given.strength) {
        rows = plan_below(rows, *given.strength, T);
    }
    rows = with_returns(rows, given.returns, given.jump);
    const auto batch = static_cast<std::size_t>(settings.n), size = batch * detail::size_of(shape);
    std::vector<std::int64_t> numbers(batch, settings.first);  // whose noise it is
    if (!given.between) {
        std::iota(numbers.begin(), numbers.end(), settings.first);
    }
    const Input* label = spec.label();
    if (!settings.label && label != nullptr && label->none && settings.inputs.count(label->name) == 0) {
        settings.label = "none";  // of a picture no class is known, and every one is wrong
    }
    const auto for_all = [&](const std::vector<float>& one, std::size_t whole) {
        std::vector<float> all;
        while (one.size() * batch == whole && all.size() < whole) {
            all.insert(all.end(), one.begin(), one.end());
        }
        return all.empty() ? one : all;
    };
    std::vector<float> known = for_all(given.images, size), y;
    std::optional<Measurement> measurement;
    if (given.measure) {
        measurement = measurement_from_text(*given.measure, shape, given.mask);
        measurement->of(std::vector<float>(size), y);
        if (known.size() == size) {
            measurement->of(known, y);
        } else if (const std::vector<float> smaller = for_all(given.images, y.size()); smaller.size() == y.size()) {
            measurement->back(y = smaller, known);
        }
    }
    if (known.size() != size) {
        throw detail::usage("There must be " + std::to_string(detail::size_of(shape)) +
                            " numbers in a picture, one for all images or one for each, got " +
                            std::to_string(given.images.size()) + ".");
    }
    const Noise noise = noise_stream(settings.seed, numbers, shape);
    Denoiser denoise = denoiser(model, spec, detail::told(spec, settings, numbers),
                                guidance_for(spec, settings.guidance));
    Keep keep;
    if (measurement) {
        denoise = measured(std::move(denoise), std::move(*measurement), y);
    } else if (!given.mask.empty()) {
        keep = known_pixels(known, given.mask, noise_stream(settings.seed, numbers, shape, noise_of_given), shape);
    }
    std::vector<float> x;
    if (given.strength) {
        x.resize(size);
        noise(0, x.data());
        x = noised(known, x, rows.rows[0].a);
    }
    return detail::end_of(walk(std::move(denoise), noise, rows, std::move(x), {}, std::move(keep)), rows.rows.size(),
                          progress);
}

// -------------------------------------------------------------------------------------------------------------- policy

inline Policy::Policy(Model model, Stages stages, ModelSpec spec, double deadline_s, Settings settings)
    : model_(std::move(model)), spec_(std::move(spec)), deadline_s_(deadline_s), settings_(std::move(settings)) {
    settings_.n = 1;
    settings_.stages = std::move(stages);
    std::vector<std::string> shapes;
    std::set<std::int64_t> lengths;
    bool fits = spec_.result_shape().size() == 2;
    for (const Input& input : spec_.asked_inputs()) {
        if (input.kind != Kind::label) {
            inputs_.push_back(input);
            shapes.push_back(input.name + " [" + detail::several(input.shape) + "]");
            lengths.insert(input.shape[0]);
            fits = fits && input.shape.size() > 1;
        }
    }
    if (!fits || lengths.size() != 1) {
        throw Error(Code::refused, "A policy takes observations of [steps, ...] and gives actions [steps, actions], got " +
                                       (shapes.empty() ? "no inputs" : detail::several(shapes)) + " and [" +
                                       detail::several(spec_.result_shape()) + "]. Use `sample` for this model.");
    }
    if (!settings_.stages && spec_.stages.count("before") + spec_.stages.count("after") > 0) {
        throw detail::usage("The model has stages. Pass what runs them.");
    }
    reset();
}

inline void Policy::reset(std::int64_t seed) {
    settings_.seed = seed;
    settings_.first = 0;
    observed_.clear();
    actions_.clear();
}

inline std::vector<float> Policy::act(const Observation& observation) {
    check(observation);
    std::deque<Observation> window = observed_;
    if (window.empty()) {
        window.assign(static_cast<std::size_t>(inputs_[0].shape[0]), observation);
    }
    window.pop_front();
    window.push_back(observation);
    if (actions_.empty()) {
        const std::vector<float> chunk = planned(window);
        actions_.assign(chunk.begin(), chunk.end());
        ++settings_.first;
    }
    observed_ = std::move(window);
    const auto end = actions_.begin() + static_cast<std::ptrdiff_t>(num_actions());
    const std::vector<float> action(actions_.begin(), end);
    actions_.erase(actions_.begin(), end);
    return action;
}

inline void Policy::check(const Observation& observation) const {
    std::set<std::string> names, wrong;
    for (const Input& input : inputs_) {
        names.insert(input.name);
    }
    for (const auto& [name, values] : observation) {
        if (names.count(name) == 0) {
            wrong.insert(name);
        }
    }
    for (const std::string& name : names) {
        if (observation.count(name) == 0) {
            wrong.insert(name);
        }
    }
    if (!wrong.empty()) {
        throw detail::usage(std::string("The observation ") + (names.count(*wrong.begin()) > 0 ? "lacks " : "has ") +
                            detail::in_quotes(*wrong.begin()) + ". The policy takes " + detail::several(names) + ".");
    }
    for (const Input& input : inputs_) {
        const std::vector<float>& values = observation.at(input.name);
        const Shape shape(input.shape.begin() + 1, input.shape.end());
        if (values.size() != detail::size_of(shape)) {
            throw detail::usage("Observation " + detail::in_quotes(input.name) + " must have shape " +
                                detail::shape_text(shape) + ", got " + std::to_string(values.size()) + " numbers.");
        }
        detail::check_limits(input, detail::numbers_of(input, values));
    }
}

// Return a chunk of actions, (steps, actions).
inline std::vector<float> Policy::planned(const std::deque<Observation>& window) const {
    Settings settings = settings_;
    for (const Input& input : inputs_) {
        std::vector<float> values;
        for (const Observation& observed : window) {
            values.insert(values.end(), observed.at(input.name).begin(), observed.at(input.name).end());
        }
        settings.inputs[input.name] = std::move(values);
    }
    const auto begun = std::chrono::steady_clock::now();
    const std::vector<float> chunk = decoded(spec_, settings.stages, sample(model_, spec_, settings));
    const double taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    if (taken > deadline_s_) {
        throw Error(Code::environment, "Plan " + std::to_string(plans()) + " took " + detail::text_of(taken) +
                                           " s, longer than the deadline of " + detail::text_of(deadline_s_) +
                                           " s. Take fewer steps, or a larger deadline.");
    }
    return chunk;
}

// ---------------------------------------------------------------------------------------------------------------- JSON

namespace json {

inline const Value* Value::find(std::string_view key) const {
    const Object* object = as<Object>();
    if (object == nullptr) {
        return nullptr;
    }
    const auto at = std::find_if(object->rbegin(), object->rend(), [&](const Member& m) { return m.key == key; });
    return at == object->rend() ? nullptr : &at->value;
}

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) { decimal_.imbue(std::locale::classic()); }

    Value whole() {
        Value result = value(1);
        space();
        if (at_ != text_.size()) {
            fail("the end");
        }
        return result;
    }

private:
    static constexpr int max_nesting = 32;

    [[noreturn]] void fail(const std::string& expected) const {
        const std::string got = at_ < text_.size() ? detail::in_quotes(text_.substr(at_, 1)) : std::string("its end");
        throw Error(Code::bad_file, "The model's spec is not JSON: " + expected + " must be at byte " +
                                        std::to_string(at_) + ", got " + got + ".");
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }  // a NUL within the text is refused anyway

    bool take(char c) {
        const bool found = at_ < text_.size() && text_[at_] == c;
        at_ += found;
        return found;
    }

    void expect(char c) {
        if (!take(c)) {
            fail(detail::in_quotes({&c, 1}));
        }
    }

    void space() {
        while (take(' ') || take('\n') || take('\r') || take('\t')) {
        }
    }

    bool digits() {
        const std::size_t start = at_;
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
        return at_ > start;
    }

    Value value(int level) {
        if (level > max_nesting) {
            throw Error(Code::bad_file,
                        "The model's spec must be nested at most " + std::to_string(max_nesting) + " levels deep.");
        }
        space();
        switch (peek()) {
            case '{': return {object(level)};
            case '[': return {array(level)};
            case '"': return {string()};
            case 't': return word("true", {true});
            case 'f': return word("false", {false});
            case 'n': return word("null", {nullptr});
            default: return {number()};
        }
    }

    Value word(std::string_view expected, Value result) {
        if (text_.substr(at_, expected.size()) != expected) {
            fail("a value");
        }
        at_ += expected.size();
        return result;
    }

    Object object(int level) {
        Object members;
        expect('{');
        space();
        if (take('}')) {
            return members;
        }
        do {
            space();
            std::string key = string();
            space();
            expect(':');
            members.push_back({std::move(key), value(level + 1)});
            space();
        } while (take(','));
        expect('}');
        return members;
    }

    Array array(int level) {
        Array values;
        expect('[');
        space();
        if (take(']')) {
            return values;
        }
        do {
            values.push_back(value(level + 1));
            space();
        } while (take(','));
        expect(']');
        return values;
    }

    Number number() {
        const std::size_t start = at_;
        take('-');
        if (!take('0') && !digits()) {
            fail("a value");
        }
        bool is_integer = true;
        if (take('.')) {
            is_integer = false;
            if (!digits()) {
                fail("a digit");
            }
        }
        if (take('e') || take('E')) {
            is_integer = false;
            if (!take('+')) {
                take('-');
            }
            if (!digits()) {
                fail("a digit");
            }
        }
        // a stream in the classic locale: strtod follows the user's, and some libraries lack from_chars for double
        double result = 0.0;
        decimal_.clear();
        decimal_.str(std::string(text_.substr(start, at_ - start)));
        decimal_ >> result;
        // libraries also report numbers too small for a normal double, and those are fine
        if (!std::isfinite(result) || (decimal_.fail() && std::abs(result) >= 1.0)) {
            if (!is_integer) {
                fail("a number that a double holds");
            }
            result = std::numeric_limits<double>::infinity();  // refused where it matters
        }
        return {result, is_integer};
    }

    std::string string() {
        std::string result;
        expect('"');
        while (!take('"')) {
            const auto byte = static_cast<unsigned char>(peek());
            if (byte < 0x20) {
                fail("a character or '\"'");
            } else if (take('\\')) {
                escape(result);
            } else if (byte < 0x80) {
                result += text_[at_++];
            } else {
                utf8(result);
            }
        }
        return result;
    }

    void escape(std::string& result) {
        static constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            std::uint32_t point = hex4();
            if (point >= 0xD800 && point < 0xDC00 && text_.substr(at_, 2) == "\\u") {
                const std::size_t before = at_;
                at_ += 2;
                const std::uint32_t low = hex4();
                if (low >= 0xDC00 && low < 0xE000) {
                    point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
                } else {
                    at_ = before;
                }
            }
            append(result, point);
            return;
        }
        const std::size_t which = at_ < text_.size() ? names.find(text_[at_]) : std::string_view::npos;
        if (which == std::string_view::npos) {
            fail("an escape");
        }
        result += values[which];
        ++at_;
    }

    std::uint32_t hex4() {
        std::uint32_t result = 0;
        for (int k = 0; k < 4; ++k) {
            const std::size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(peek() | 0x20));
            const bool is_letter = digit >= 10;
            if (digit == std::string_view::npos || (!is_letter && (peek() < '0' || peek() > '9'))) {
                fail("four hexadecimal digits");
            }
            result = result << 4 | static_cast<std::uint32_t>(digit);
            ++at_;
        }
        return result;
    }

    static void append(std::string& result, std::uint32_t point) {
        const auto tail = [&](int shift) { result += static_cast<char>(0x80 | ((point >> shift) & 0x3F)); };
        if (point < 0x80) {
            result += static_cast<char>(point);
        } else if (point < 0x800) {
            result += static_cast<char>(0xC0 | point >> 6);
            tail(0);
        } else if (point < 0x10000) {
            result += static_cast<char>(0xE0 | point >> 12);
            tail(6);
            tail(0);
        } else {
            result += static_cast<char>(0xF0 | point >> 18);
            tail(12);
            tail(6);
            tail(0);
        }
    }

    // Take one character of several bytes: its shortest form, no surrogate, at most 10ffff.
    void utf8(std::string& result) {
        const auto lead = static_cast<unsigned char>(peek());
        const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
        std::uint32_t point = lead & (0xFFu >> (length + 1));
        bool sound = lead >= 0xC2 && lead <= 0xF4 && text_.size() - at_ >= length;
        for (std::size_t k = 1; sound && k < length; ++k) {
            const auto byte = static_cast<unsigned char>(text_[at_ + k]);
            sound = (byte & 0xC0) == 0x80;
            point = point << 6 | (byte & 0x3F);
        }
        static constexpr std::uint32_t least[] = {0x80, 0x800, 0x10000};
        if (!sound || point < least[length - 2] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) {
            fail("UTF-8");
        }
        result += text_.substr(at_, length);
        at_ += length;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    std::istringstream decimal_;
};

inline Value parse(std::string_view text) { return Parser(text).whole(); }

}  // namespace json

// ------------------------------------------------------------------------------------------------------------ the spec

namespace detail {

constexpr double max_numbers = 0x1p26;  // in one image: a header alone must not fill the memory
constexpr std::size_t max_classes = 4096, max_dimensions = 4;

inline std::string shown(const json::Value& value) {
    if (const auto* text = value.as<std::string>()) {
        return in_quotes(*text);
    }
    if (const auto* number = value.as<json::Number>()) {
        return text_of(number->value);
    }
    if (const auto* flag = value.as<bool>()) {
        return *flag ? "true" : "false";
    }
    if (const auto* array = value.as<json::Array>()) {
        return "a list of " + std::to_string(array->size());
    }
    return value.as<json::Object>() ? "an object" : "null";
}

inline Error bad_spec(const std::string& key, const std::string& expected, const json::Value& got) {
    return Error(Code::bad_file, "In the model's spec, " + key + " must be " + expected + ", got " + shown(got) + ".");
}

inline Error unusable(const std::string& what) {
    return Error(Code::bad_file, "The model's spec cannot be used: " + what + ".");
}

inline Error too_new(const std::string& what, const std::string& got, const std::string& known) {
    return Error(Code::refused, "The model needs " + what + " " + got + ", and this version knows " + known +
                                    ". Install a newer one.");
}

// Return the value as a finite number, or nothing.
inline std::optional<double> finite_number(const json::Value& value) {
    const auto* number = value.as<json::Number>();
    return number && std::isfinite(number->value) ? std::optional(number->value) : std::nullopt;
}

// Return the value as an integer from low to high, or nothing.
inline std::optional<std::int64_t> integer(const json::Value& value, double low, double high) {
    const auto* number = value.as<json::Number>();
    const bool fits = number && number->is_integer && number->value >= low && number->value <= high;
    return fits ? std::optional(static_cast<std::int64_t>(number->value)) : std::nullopt;
}

// Return the elements of a list as `convert` reads them, or nothing where it is no list or one of them is nothing.
template <class T, class Convert>
std::optional<std::vector<T>> list_of(const json::Value& value, Convert convert) {
    const auto* array = value.as<json::Array>();
    std::vector<T> result;
    for (std::size_t k = 0; array != nullptr && k < array->size(); ++k) {
        if (std::optional<T> element = convert((*array)[k])) {
            result.push_back(std::move(*element));
        }
    }
    return array && result.size() == array->size() ? std::optional(std::move(result)) : std::nullopt;
}

inline std::optional<std::string> string_in(const json::Value& value) {
    const auto* text = value.as<std::string>();
    return text ? std::optional(*text) : std::nullopt;
}

// Return positive extents with a product that memory can hold, or nothing.
inline std::optional<std::vector<std::int64_t>> extents(const json::Value& value) {
    double size = 1.0;
    return list_of<std::int64_t>(value, [&](const json::Value& element) {
        const auto extent = integer(element, 1.0, max_numbers);
        size *= static_cast<double>(extent.value_or(1));
        return size <= max_numbers ? extent : std::nullopt;
    });
}

// Return which of the names a value is; throw where it is none.
template <std::size_t N>
std::size_t one_of(const char* key, const json::Value& value, const std::array<std::string_view, N>& names) {
    const auto* text = value.as<std::string>();
    const auto at = text ? std::find(names.begin(), names.end(), *text) : names.end();
    if (at == names.end()) {
        throw bad_spec(key, "one of " + several(names), value);
    }
    return static_cast<std::size_t>(at - names.begin());
}

inline const json::Value& member(const json::Value& value, const char* key) {
    const json::Value* found = value.find(key);
    if (found == nullptr) {
        throw Error(Code::bad_file, std::string("The model's spec must have ") + key + ", which it lacks.");
    }
    return *found;
}

// Return a member, or null where there is none or it is null.
inline const json::Value* given(const json::Value& value, const char* key) {
    const json::Value* found = value.find(key);
    return found && !found->as<std::nullptr_t>() ? found : nullptr;
}

inline void check_format(const json::Value& root) {
    constexpr std::string_view family = "ddpm-export/";
    const json::Value none{}, *value = root.find("format");
    const auto* format = value ? value->as<std::string>() : nullptr;
    if (format == nullptr || format->compare(0, family.size(), family) != 0) {
        throw bad_spec("format", "'ddpm-export/1'", value ? *value : none);
    }
    const std::string rest = format->substr(family.size());
    if (rest.substr(0, rest.find_first_of("./")) != "1") {
        throw too_new("the format", in_quotes(*format), "ddpm-export/1");
    }
}

// Return what the file requires of its reader; throw where that is more than this one can do.
inline std::set<std::string> requirements(const json::Value& value) {
    const auto names = list_of<std::string>(value, string_in);
    if (!names) {
        throw bad_spec("requires", "a list of names", value);
    }
    const std::set<std::string> understood = {"variance_fraction", "inputs",  "times", "plan",   "fractional_t",
                                              "guidance",          "raw_eps", "shape", "stages", "units"};
    for (const std::string& name : *names) {
        if (understood.count(name) == 0) {
            throw too_new("a reader of", in_quotes(name), several(understood));
        }
    }
    return {names->begin(), names->end()};
}

inline std::vector<double> alphas_cumprod(const json::Value& value, Prediction prediction) {
    const auto alphas = list_of<double>(value, finite_number);
    if (!alphas || alphas->empty()) {
        throw bad_spec("alphas_cumprod", "a list of at least one number", value);
    }
    const bool falls = std::adjacent_find(alphas->begin(), alphas->end(), std::less_equal<>()) == alphas->end();
    const bool ends = alphas->back() > 0.0 || (alphas->back() == 0.0 && prediction != Prediction::eps);
    if (alphas->front() >= 1.0 || !falls || !ends) {
        throw bad_spec("alphas_cumprod", "numbers that strictly fall within (0, 1), the last 0 only with x_0 or v",
                       value);
    }
    return *alphas;
}

inline std::optional<std::vector<std::int64_t>> times_of(const json::Value* value, std::int64_t T) {
    if (value == nullptr) {
        return std::nullopt;
    }
    auto times = list_of<std::int64_t>(*value, [&](const json::Value& t) { return integer(t, 0.0, double(T - 1)); });
    if (!times || times->empty() ||
        std::adjacent_find(times->begin(), times->end(), std::less_equal<>()) != times->end()) {
        throw bad_spec("defaults.times", "strictly falling integers from " + std::to_string(T - 1) + " to 0", *value);
    }
    return times;
}

inline Guidance guidance_from_json(const json::Value& value) {
    const json::Value* scale = value.find("scale");
    if (scale == nullptr) {
        throw unusable("guidance must be an object with scale, got " + shown(value));
    }
    const auto number = finite_number(*scale);
    if (!number) {
        throw unusable("guidance must be a number from 0 to " + text_of(max_guidance) + ", got " + shown(*scale));
    }
    Guidance guidance{*number};
    if (const json::Value* interval = given(value, "interval")) {
        const auto times = list_of<double>(*interval, finite_number);
        if (!times || times->size() != 2) {
            throw unusable("the interval of guidance must be two times, the lower first, from 0 on, got " +
                           shown(*interval));
        }
        guidance.interval = {(*times)[0], (*times)[1]};
    }
    if (const std::string trouble = trouble_of(guidance); !trouble.empty()) {
        throw unusable(trouble);
    }
    return guidance;
}

// A name is letters, digits and _, without a digit first. What is not ASCII counts as a letter.
// Return whether a name is an identifier, or several with dots between.
inline bool is_identifier(const std::string& name) {
    if (const std::size_t dot = name.find('.'); dot != std::string::npos) {
        return is_identifier(name.substr(0, dot)) && is_identifier(name.substr(dot + 1));
    }
    const auto is_letter = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    };
    return !name.empty() && is_letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
        return is_letter(c) || (c >= '0' && c <= '9');
    });
}

inline Input input_from_json(const json::Value& value, const Shape& state_shape) {
    for (const char* key : {"name", "kind", "shape", "none"}) {
        if (value.find(key) == nullptr) {
            throw unusable("an input must be an object with name, kind, shape and none");
        }
    }
    const json::Value &name = *value.find("name"), &shape = *value.find("shape"), &none = *value.find("none");
    Input input;
    input.name = name.as<std::string>() ? *name.as<std::string>() : "";
    if (!is_identifier(input.name) || input.name == "x_t" || input.name == "t") {
        throw unusable("an input's name must be an identifier other than x_t and t, not " + shown(name));
    }
    const std::string where = "input " + in_quotes(input.name);
    input.kind = static_cast<Kind>(one_of(("kind of " + where).c_str(), *value.find("kind"), kinds));
    const bool is_label = input.kind == Kind::label, is_previous = input.kind == Kind::previous;
    if ((input.name == "y") != is_label || (input.name == "x_0_prev") != is_previous) {
        throw unusable("the names y and x_0_prev are kept for the kinds label and previous, and the only ones that "
                       "they may have");
    }
    const auto found = extents(shape);
    const std::size_t dimensions[] = {0, 1, 3, state_shape.size()};
    const bool is_any = input.kind == Kind::image && state_shape.size() != 3 && found && !found->empty() &&
                        found->size() <= max_dimensions;  // beside numbers an image is numbers too
    if (!found || (!is_any && found->size() != dimensions[static_cast<std::size_t>(input.kind)]) ||
        (is_previous && *found != state_shape)) {
        throw unusable("the shape of " + where + " does not fit its kind, got " + shown(shape));
    }
    input.shape = *found;
    const json::Value* classes = value.find("classes");
    const auto names = classes ? list_of<std::string>(*classes, string_in) : std::vector<std::string>();
    if (!names || names->empty() == is_label || names->size() > max_classes ||
        std::set<std::string>(names->begin(), names->end()).size() < names->size()) {
        throw unusable("the classes of " + where + " must be 1 to " + std::to_string(max_classes) +
                       " different names of a label, and of nothing else");
    }
    input.classes = *names;
    input.none = finite_number(none);
    if (input.name == own_guidance && (input.kind != Kind::vector || input.size() != 1 || input.none != 1.0)) {
        throw unusable(where + " must be a vector of one number, whose none is 1");
    }
    const bool is_index = integer(none, 0.0, static_cast<double>(names->size())).has_value();
    if (!none.as<std::nullptr_t>() && (is_label ? !is_index : !input.none)) {
        throw unusable("none of " + where + " must be null or " +
                       (is_label ? "an index from 0 to " + std::to_string(names->size()) : "a finite number") +
                       ", got " + shown(none));
    }
    if (const json::Value* limits = value.find("limits")) {
        const auto read = list_of<std::vector<double>>(
            *limits, [](const json::Value& ends) { return list_of<double>(ends, finite_number); });
        const bool is_pair = read && read->size() == 2 && !is_label && (*read)[0].size() == (*read)[1].size() &&
                             ((*read)[0].size() == 1 ||
                              (!found->empty() && (*read)[0].size() == static_cast<std::size_t>(found->back())));
        if (!read || !(read->empty() || is_pair)) {
            throw unusable("limits of " + where + " must be two lists, of one number or the last axis's");
        }
        if (is_pair) {
            input.limits = {(*read)[0], (*read)[1]};
        }
    }
    return input;
}

// Read row i of a plan and check all that walking it relies on.
inline Row row_from_json(const std::string& name, std::uint32_t i, const json::Value& value, const ModelSpec& spec) {
    const auto problem = [&](const std::string& what) {
        return unusable("row " + std::to_string(i) + " of plan " + name + ": " + what);
    };
    const auto* values = value.as<json::Array>();
    if (values == nullptr || values->size() != 5) {
        throw problem("it must be [t, a, x_0, eps, noise]");
    }
    const double T = static_cast<double>(spec.num_train_timesteps());
    const auto t = finite_number((*values)[0]), a = finite_number((*values)[1]);
    if (!t || *t < 0.0 || *t > T - 1.0 || !(spec.has_fractional_t || integer((*values)[0], 0.0, T))) {
        throw problem(std::string("t must be ") + (spec.has_fractional_t ? "a number" : "an integer") + " from 0 to " +
                       text_of(T - 1.0));
    }
    if (!a || *a < 0.0 || *a >= 1.0 || (*a == 0.0 && spec.prediction == Prediction::eps)) {
        throw problem("a must be a number from 0 to below 1, and above 0 where the network predicts eps");
    }
    const auto x_0 = list_of<double>((*values)[2], finite_number), eps = list_of<double>((*values)[3], finite_number),
               noise = list_of<double>((*values)[4], finite_number);
    if (!x_0 || !eps || !noise) {
        throw problem("x_0, eps and noise must be lists of finite numbers");
    }
    Row row{i, *t, *a, *x_0, *eps, *noise};
    const std::size_t most = std::min<std::size_t>(i, max_reach);
    if (row.reach() < 1 || row.reach() > most) {
        throw problem("it must read 1 to " + std::to_string(most) + " evaluations, not " +
                       std::to_string(row.reach()));
    }
    if (noise->size() > (spec.has_variance_fraction ? 2u : 1u) ||
        !std::all_of(noise->begin(), noise->end(), [](double std) { return std > 0.0; })) {
        throw problem("noise must be empty, one positive number, or two of them, small and large, where the network "
                       "learned its variance");
    }
    return row;
}

inline Plan plan_from_json(const std::string& name, const json::Value& value, const ModelSpec& spec) {
    constexpr std::string_view marks = "._+-";
    const auto is_digit_or_letter = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    if (name.empty() || name.size() > 64 || !is_digit_or_letter(name[0]) ||
        !std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_digit_or_letter(c) || marks.find(c) != marks.npos; })) {
        throw unusable("a plan's name must be 1 to 64 letters, digits and ._+-, starting with a letter or digit");
    }
    const json::Value *start = value.find("start"), *list = value.find("rows");
    const auto* rows = list ? list->as<json::Array>() : nullptr;
    if (rows == nullptr || rows->empty() || rows->size() > max_rows) {
        throw unusable("plan " + name + " must have a list of 1 to " + std::to_string(max_rows) + " rows");
    }
    Plan plan;
    const std::optional<double> weight = start ? finite_number(*start) : plan.start;
    if (!weight || *weight <= 0.0) {
        throw unusable("the start of plan " + name + " must be a positive number");
    }
    plan.start = *weight;
    const json::Value* raw_eps = value.find("raw_eps");
    if (raw_eps != nullptr && raw_eps->as<bool>() == nullptr) {
        throw unusable("raw_eps of plan " + name + " must be true or false");
    }
    for (const json::Value& row : *rows) {
        plan.rows.push_back(row_from_json(name, static_cast<std::uint32_t>(plan.rows.size() + 1), row, spec));
        plan.rows.back().raw_eps = raw_eps != nullptr && *raw_eps->as<bool>();
    }
    return plan;
}

// Return the units of a state.
inline Units units_from_json(const json::Value& value, const Shape& state_shape) {
    Units units;
    const auto axis = integer(member(value, "axis"), 0.0, static_cast<double>(state_shape.size() - 1));
    if (!axis) {
        throw bad_spec("units.axis", "a dimension of the state", member(value, "axis"));
    }
    units.axis = static_cast<std::size_t>(*axis);
    for (const auto& [key, numbers] : {std::pair("scale", &units.scale), std::pair("shift", &units.shift)}) {
        const auto read = list_of<double>(member(value, key), finite_number);
        const auto places = static_cast<std::size_t>(state_shape[units.axis]);
        const bool fits = read && (read->size() == 1 || read->size() == places) &&
                          std::all_of(read->begin(), read->end(), [&, is_scale = numbers == &units.scale](double one) {
                              return std::abs(one) <= 1e6 && !(is_scale && one == 0.0);
                          });
        if (!fits) {
            throw bad_spec(std::string("units.") + key, "1 or " + std::to_string(places) + " numbers", member(value, key));
        }
        numbers->assign(read->begin(), read->end());
    }
    return units;
}

// Return the stage of a name: what it gives must be what such a stage may give.
inline Stage stage_from_json(const std::string& name, const json::Value& value, const ModelSpec& spec) {
    const json::Value& outputs = member(value, "outputs");
    const auto* members = outputs.as<json::Object>();
    Stage stage;
    for (std::size_t k = 0; members != nullptr && k < members->size(); ++k) {
        if (const auto shape = extents((*members)[k].value); shape && !shape->empty() && shape->size() <= max_dimensions) {
            stage.outputs[(*members)[k].key] = *shape;
        }
    }
    const bool is_before = name == "before" && members != nullptr && !members->empty() && members->size() <= 64 &&
                           std::all_of(members->begin(), members->end(), [&](const json::Member& one) {
                               return std::any_of(spec.inputs.begin(), spec.inputs.end(), [&](const Input& input) {
                                   return input.name == one.key && input.is_told() && input.kind != Kind::label &&
                                          extents(one.value) == input.shape;
                               });
                           });
    const json::Value* inputs = value.find("inputs");
    const auto read = [](const json::Value& one) { return std::optional(input_from_json(one, {1, 1})); };
    auto taken = inputs ? list_of<Input>(*inputs, read) : std::vector<Input>();
    if (!taken || taken->empty() == (name == "before")) {
        throw bad_spec("stages." + name + ".inputs", "a list, there for before and for no other", inputs ? *inputs : value);
    }
    stage.inputs = std::move(*taken);
    const auto the_only = [&](const char* key) { return stage.outputs.size() == 1 && stage.outputs.count(key) > 0; };
    const bool is_after = name == "after" && ((the_only("images") && stage.outputs["images"].size() == 3) || the_only("values"));
    if (!is_before && !is_after && !(name == "encode" && the_only("x") && stage.outputs["x"] == spec.state_shape)) {
        throw bad_spec("stages." + name, "before, which gives inputs of the network, after, which gives images or values, "
                                         "or encode, which gives a state", outputs);
    }
    const json::Value *file = given(value, "file"), *digest = given(value, "sha256");
    stage.file = file ? string_in(*file).value_or("/") : "";
    stage.sha256 = digest ? string_in(*digest).value_or("?") : "";
    const std::string ending = ".onnx";
    const bool is_plain = stage.file.size() > ending.size() && std::string(" .+").find(stage.file[0]) == std::string::npos &&
                          stage.file.compare(stage.file.size() - ending.size(), ending.size(), ending) == 0 &&
                          std::all_of(stage.file.begin(), stage.file.end(), [](unsigned char c) {
                              return c >= 0x80 || std::string_view("_ .+-").find(static_cast<char>(c)) != std::string::npos ||
                                     (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
                          });
    const bool is_hex = stage.sha256.size() == 64 &&
                        stage.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (file == nullptr && digest == nullptr) {
        return stage;
    }
    if (!is_plain || !is_hex) {
        throw bad_spec("stages." + name, "a plain file name and 64 hexadecimal digits", value);
    }
    return stage;
}

}  // namespace detail

inline ModelSpec spec_from_json(std::string_view text) {
    using namespace detail;
    constexpr std::size_t max_bytes = 256 * 1024;
    if (text.size() > max_bytes) {
        throw Error(Code::bad_file, "The model's spec must have at most " + std::to_string(max_bytes) +
                                        " bytes, got " + std::to_string(text.size()) + ".");
    }
    const json::Value root = json::parse(text);
    if (root.as<json::Object>() == nullptr) {
        throw Error(Code::bad_file, "The model's spec must be a JSON object, got " + shown(root) + ".");
    }
    check_format(root);
    // every key is looked for first: what is missing is told before what is unknown
    const json::Value& needs = member(root, "requires");
    const auto listed = list_of<std::string>(needs, string_in);
    const bool has_shape = listed && std::count(listed->begin(), listed->end(), "shape") > 0;
    const char* const shape_key = has_shape ? "state_shape" : "image_shape";
    const json::Value &name = member(root, "name"), &prediction = member(root, "prediction"),
                      &shape = member(root, shape_key), &alphas = member(root, "alphas_cumprod"),
                      &clip = member(root, "clip_x_0"), &variance = member(root, "variance"),
                      &range = member(root, "value_range"), &defaults = member(root, "defaults"),
                      &noise = member(root, "noise");
    const json::Value &sampler = member(defaults, "sampler"), &num_steps = member(defaults, "num_steps"),
                      &eta = member(defaults, "eta");
    const std::set<std::string> required = requirements(needs);
    ModelSpec spec;
    spec.has_variance_fraction = required.count("variance_fraction") > 0;
    spec.has_fractional_t = required.count("fractional_t") > 0;
    if (const json::Value* graph = given(root, "graph")) {
        const auto kind = string_in(*graph);
        if (kind != "sampler" && kind != "slice" && kind != "edit") {
            throw too_new("the graph", shown(*graph), "a denoiser, sampler, slice and edit");
        }
        spec.has_guidance = required.count("guidance") > 0;
    }
    if (string_in(noise) != std::string(noise_tag)) {
        throw too_new("the noise", shown(noise), std::string(noise_tag));
    }
    const auto* name_text = name.as<std::string>();
    if (name_text == nullptr || std::count_if(name_text->begin(), name_text->end(),
                                              [](char c) { return (c & 0xC0) != 0x80; }) > 200) {
        throw bad_spec("name", "a short string", name);
    }
    spec.name = *name_text;
    spec.prediction = static_cast<Prediction>(one_of("prediction", prediction, predictions));
    spec.variance = static_cast<Variance>(one_of("variance", variance, variances));
    if (spec.variance == Variance::learned && !spec.has_variance_fraction) {
        throw bad_spec("variance", "fixed unless requires has variance_fraction", variance);
    }
    const auto state_shape = extents(shape);
    if (!state_shape || state_shape->empty() || state_shape->size() > max_dimensions ||
        (state_shape->size() == 3) == has_shape) {
        throw bad_spec(shape_key, std::string(has_shape ? "one, two or four" : "three") +
                                      " positive integers with a product of at most 67108864", shape);
    }
    spec.state_shape = *state_shape;
    if (list_of<double>(range, finite_number) != std::vector<double>{-1.0, 1.0}) {
        throw bad_spec("value_range", "[-1, 1]", range);
    }
    spec.clip_x_0 = finite_number(clip);
    if (!clip.as<std::nullptr_t>() && !(spec.clip_x_0 > 0.0)) {
        throw bad_spec("clip_x_0", "a positive number or null", clip);
    }
    spec.alphas_cumprod = alphas_cumprod(alphas, spec.prediction);
    const std::int64_t T = spec.num_train_timesteps();
    if (sampler.as<std::string>() == nullptr) {
        throw bad_spec("defaults.sampler", "a sampler's name", sampler);
    }
    spec.defaults.sampler = *sampler.as<std::string>();
    const auto count = integer(num_steps, 1.0, static_cast<double>(T));
    if (!count) {
        throw bad_spec("defaults.num_steps", "an integer from 1 to " + std::to_string(T), num_steps);
    }
    spec.defaults.num_steps = *count;
    spec.defaults.eta = finite_number(eta).value_or(-1.0);
    if (spec.defaults.eta < 0.0 || spec.defaults.eta > 1.0) {
        throw bad_spec("defaults.eta", "a number from 0 to 1", eta);
    }
    spec.defaults.times = times_of(given(defaults, "times"), T);
    const json::Value *golden = given(root, "golden"), *source = root.find("source");
    if ((golden && !golden->as<json::Object>()) || (source && !source->as<json::Object>())) {
        throw Error(Code::bad_file, "In the model's spec, source and golden must be objects.");
    }
    if (const json::Value* inputs = root.find("inputs")) {
        const auto read = [&](const json::Value& one) { return std::optional(input_from_json(one, spec.state_shape)); };
        auto found = list_of<Input>(*inputs, read);
        if (!found) {
            throw bad_spec("inputs", "a list", *inputs);
        }
        spec.inputs = std::move(*found);
    }
    std::set<std::string> names;
    for (const Input& input : spec.inputs) {
        names.insert(input.name);
    }
    if (names.size() < spec.inputs.size() || spec.inputs.empty() != (required.count("inputs") == 0)) {
        throw Error(Code::bad_file, "In the model's spec, inputs must have different names, and requires must name "
                                    "inputs if there are any.");
    }
    if (const json::Value* plans = root.find("plans")) {
        const auto* members = plans->as<json::Object>();
        if (members == nullptr) {
            throw bad_spec("plans", "an object", *plans);
        }
        for (const json::Member& one : *members) {
            if (plans->find(one.key) == &one.value) {  // of equal keys the last
                const Plan& plan = spec.plans[one.key] = plan_from_json(one.key, one.value, spec);
                if (plan.rows.front().raw_eps && required.count("raw_eps") == 0) {
                    throw Error(Code::bad_file, "Plan " + one.key + " has raw_eps, so that requires must name it, got " +
                                                    shown(needs) + ".");
                }
            }
        }
    }
    if (const json::Value* plan = given(defaults, "plan")) {
        spec.defaults.plan = string_in(*plan);
        if (!spec.defaults.plan || spec.plans.count(*spec.defaults.plan) == 0) {
            throw Error(Code::bad_file, "The model's default plan, " + shown(*plan) + ", is not among its plans.");
        }
    }
    if (const json::Value* guidance = given(defaults, "guidance")) {
        spec.defaults.guidance = guidance_from_json(*guidance);
        if (!spec.takes_guidance()) {
            throw Error(Code::bad_file, "In the model's spec, defaults.guidance needs a label that may be none, and "
                                        "has none.");
        }
    }
    if (const json::Value* units = given(root, "units")) {
        spec.units = units_from_json(*units, spec.state_shape);
    }
    if (const json::Value* stages = root.find("stages")) {
        const auto* members = stages->as<json::Object>();
        if (members == nullptr) {
            throw bad_spec("stages", "an object", *stages);
        }
        for (const json::Member& one : *members) {
            spec.stages[one.key] = stage_from_json(one.key, one.value, spec);
        }
    }
    const std::pair<const char*, bool> used[] = {{"units", spec.units.has_value()},
                                                 {"stages", spec.stages.count("before") + spec.stages.count("after") > 0},
                                                 {"times", spec.defaults.times.has_value()},
                                                 {"plan", spec.defaults.plan.has_value()},
                                                 {"guidance", spec.defaults.guidance.has_value()}};
    for (const auto& [what, is_used] : used) {
        if (is_used && required.count(what) == 0) {
            throw Error(Code::bad_file, std::string("In the model's spec, requires must name '") + what + "'.");
        }
    }
    return spec;
}

}  // namespace ddpm
