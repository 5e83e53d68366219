// GroupNorm (Wu and He 2018) and SiLU over channels_last images, forward and backward, one image after another: an
// image of a small network stays in the processor's cache between the passes over it, which a batch does not.
// Images are (B, HW, C), C a multiple of LANES, of which those from first to last are computed; `added` (B, C) is added
// to x and may be null; mean and rstd, one over the deviation, are (B, G).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

// LANES, the numbers of a vector, is said by who compiles this: -DLANES=16
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
inline Floats load(const uint16_t* p) {  // bfloat16: the upper half of a float32
  Halves h;
  std::memcpy(&h, p, sizeof h);
  return (Floats)(__builtin_convertvector(h, Words) << 16);
}
inline void store(uint16_t* p, Floats v) {  // to the nearest, ties to even
  Words w = (Words)v;
  w += 0x7fffu + ((w >> 16) & 1u);
  Halves h = __builtin_convertvector(w >> 16, Halves);
  std::memcpy(p, &h, sizeof h);
}
inline Floats all(float value) { return Floats{} + value; }

inline Floats exponential(Floats x) {  // 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; beyond +-87 that of 87
  x = x > 87.0f ? all(87.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const Floats magic = all(12582912.0f);  // 1.5 x 2^23: adding it rounds to a whole number
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = all(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (Floats)((Ints)p + ((Ints)shifted << 23));
}

inline Floats sigmoid(Floats z) { return 1.0f / (1.0f + exponential(-z)); }

template <typename T>
void forward(const T* x, const float* added, const float* weight, const float* bias, T* y, float* mean, float* rstd,
             int64_t first, int64_t last, int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu) {
  const int64_t width = channels / groups;
  const float share = 1.0f / (width * pixels);
  std::vector<float> sums(channels), squares(channels), centre(channels), scale(channels), shift(channels);
  for (int64_t b = first; b < last; ++b) {
    const T* in = x + b * pixels * channels;
    T* out = y + b * pixels * channels;
    const float* more = added ? added + b * channels : nullptr;
    for (int64_t c = 0; c < channels; c += LANES) {
      Floats s{};
      for (int64_t p = 0; p < pixels; ++p) s += load(in + p * channels + c);
      store(&sums[c], s);
    }
    for (int64_t g = 0; g < groups; ++g) {
      double total = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) total += sums[c] + (more ? double(more[c]) * pixels : 0.0);
      mean[b * groups + g] = float(total * share);
      for (int64_t c = g * width; c < (g + 1) * width; ++c) centre[c] = (more ? more[c] : 0.0f) - mean[b * groups + g];
    }
    for (int64_t c = 0; c < channels; c += LANES) {
      Floats s{};
      const Floats m = load(&centre[c]);
      for (int64_t p = 0; p < pixels; ++p) {
        const Floats d = load(in + p * channels + c) + m;
        s += d * d;
      }
      store(&squares[c], s);
    }
    for (int64_t g = 0; g < groups; ++g) {
      double total = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) total += squares[c];
      const float r = 1.0f / std::sqrt(float(total * share) + eps);
      rstd[b * groups + g] = r;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        scale[c] = r * weight[c];
        shift[c] = bias[c] + centre[c] * scale[c];
      }
    }
    for (int64_t c = 0; c < channels; c += LANES) {
      const Floats a = load(&scale[c]), m = load(&shift[c]);
      for (int64_t p = 0; p < pixels; ++p) {
        const Floats z = load(in + p * channels + c) * a + m;
        store(out + p * channels + c, silu ? z * sigmoid(z) : z);
      }
    }
  }
}

template <typename T>
void backward(const T* dy, const T* x, const float* added, const float* weight, const float* bias, const float* mean,
              const float* rstd, T* dx, float* d_added, float* d_weight, float* d_bias, int64_t first, int64_t last,
              int64_t pixels, int64_t channels, int64_t groups, bool silu) {  // d_added, d_weight, d_bias (B, C)
  const int64_t width = channels / groups;
  const float share = 1.0f / (width * pixels);
  std::vector<float> scale(channels), shift(channels), centre(channels), by_x(channels), constant(channels),
      sum_x(channels);
  const std::unique_ptr<float[]> kept(new float[pixels * channels]);  // the gradient of what SiLU is given
  for (int64_t b = first; b < last; ++b) {
    const T *from = dy + b * pixels * channels, *in = x + b * pixels * channels;
    T* out = dx + b * pixels * channels;
    float *sums = d_bias + b * channels, *products = d_weight + b * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t g = b * groups + c / width;
      centre[c] = (added ? added[b * channels + c] : 0.0f) - mean[g];
      scale[c] = rstd[g] * weight[c];
      shift[c] = bias[c] + centre[c] * scale[c];
    }
    for (int64_t c = 0; c < channels; c += LANES) {
      const Floats a = load(&scale[c]), m = load(&shift[c]);
      Floats of_x{}, of_d{}, of_both{};
      for (int64_t p = 0; p < pixels; ++p) {
        const Floats v = load(in + p * channels + c);
        Floats d = load(from + p * channels + c);
        if (silu) {
          const Floats z = v * a + m, s = sigmoid(z);
          d = d * s * (1.0f + z * (1.0f - s));
        }
        store(&kept[c * pixels + p * LANES], d);
        of_x += v;
        of_d += d;
        of_both += d * v;
      }
      store(&sum_x[c], of_x);
      store(sums + c, of_d);
      store(products + c, of_both);
    }
    for (int64_t g = 0; g < groups; ++g) {
      const float r = rstd[b * groups + g];
      double plain = 0, normalised = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        products[c] = r * (products[c] + centre[c] * sums[c]);  // with x normalised
        plain += double(weight[c]) * sums[c];
        normalised += double(weight[c]) * products[c];
      }
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        by_x[c] = float(-r * r * share * normalised);
        constant[c] = float(-r * share * plain) + centre[c] * by_x[c];
        d_added[b * channels + c] = scale[c] * sums[c] + by_x[c] * sum_x[c] + pixels * constant[c];
      }
    }
    for (int64_t c = 0; c < channels; c += LANES) {
      const Floats a = load(&scale[c]), k = load(&by_x[c]), m = load(&constant[c]);
      for (int64_t p = 0; p < pixels; ++p)
        store(out + p * channels + c, load(&kept[c * pixels + p * LANES]) * a + load(in + p * channels + c) * k + m);
    }
  }
}

}  // namespace

extern "C" {
#define OF_TYPE(T, NAME)                                                                                              \
  void forward_##NAME(const T* x, const float* added, const float* weight, const float* bias, T* y, float* mean,      \
                      float* rstd, int64_t first, int64_t last, int64_t pixels, int64_t channels, int64_t groups,     \
                      float eps, int32_t silu) {                                                                      \
    forward<T>(x, added, weight, bias, y, mean, rstd, first, last, pixels, channels, groups, eps, silu);              \
  }                                                                                                                   \
  void backward_##NAME(const T* dy, const T* x, const float* added, const float* weight, const float* bias,           \
                       const float* mean, const float* rstd, T* dx, float* d_added, float* d_weight, float* d_bias,   \
                       int64_t first, int64_t last, int64_t pixels, int64_t channels, int64_t groups, int32_t silu) { \
    backward<T>(dy, x, added, weight, bias, mean, rstd, dx, d_added, d_weight, d_bias, first, last, pixels, channels, \
                groups, silu);                                                                                        \
  }
OF_TYPE(float, float32)
OF_TYPE(uint16_t, bfloat16)
}
