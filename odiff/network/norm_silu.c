/* Norm, modulation and SiLU of a channels-last volume, and their gradients, in one pass each: what odiff/network/channels_last.py
 * otherwise does in several. Compiled where a compiler is at hand when odiff is installed, for processors with AVX512 alone.
 *
 * A volume is a table of `rows` voxels by `c` channels. Sums over voxels are left in `PARTS` rows of (2, c) float32, each over an equal
 * share of the voxels, so that they do not depend on the number of threads. No number and infinity stay what they are.
 */
#ifndef VALUE
#include <stdint.h>

#define PARTS 32
#define WIDTH 64   /* channels at once, whose sums stay in registers */
#define STRETCH 512 /* voxels that are added up in one float32 */

typedef uint16_t bfloat16;

static inline float from_bfloat16(bfloat16 value) {
    union { uint32_t bits; float number; } both = { .bits = (uint32_t)value << 16 };
    return both.number;
}

/* Rounded to nearest, ties to even. What is no number has bits enough above the cut to stay none. */
static inline bfloat16 to_bfloat16(float value) {
    union { float number; uint32_t bits; } both = { .number = value };
    return (bfloat16)((both.bits + 0x7fffu + ((both.bits >> 16) & 1u)) >> 16);
}

static inline float same(float value) { return value; }

/* 1 / (1 + exp(-x)), at least 2^-127: exp as a power of two times its series up to the seventh power, relative error under 1e-7. */
static inline float sigmoid(float x) {
    float t = -x * 1.44269504088896341f;
    t = t < -126.f ? -126.f : t > 126.f ? 126.f : t;
    float whole = __builtin_rintf(t), r = (t - whole) * 0.693147180559945f;
    float series = 1.f + r * (1.f + r * (1.f / 2 + r * (1.f / 6 + r * (1.f / 24 + r * (1.f / 120 + r * (1.f / 720 + r / 5040))))));
    union { int32_t bits; float number; } power = { .bits = ((int32_t)whole + 127) << 23 };
    return 1.f / (1.f + series * power.number);
}

/* Do what is given with the value `at` of each voxel and channel j + k, of `rows` and `c`, which adds to a[k] and b[k]; the totals are added to
 * `sums`, a part at a time. The loop over whole widths has a size that the compiler knows. */
#define OVER_VOXELS(size, ...)                      \
    for (int64_t row = first; row < end; row++)     \
        for (int64_t k = 0; k < (size); k++) {      \
            int64_t at = row * c + j + k;           \
            __VA_ARGS__                             \
        }
#define ADD_UP(...)                                                                                                                  \
    _Pragma("omp parallel for schedule(static)")                                                                                     \
    for (int64_t part = 0; part < PARTS; part++) {                                                                                   \
        int64_t last = rows * (part + 1) / PARTS;                                                                                    \
        float *one = sums + part * 2 * c;                                                                                            \
        for (int64_t first = rows * part / PARTS; first < last; first += STRETCH)                                                    \
            for (int64_t j = 0; j < c; j += WIDTH) {                                                                                 \
                int64_t end = first + STRETCH < last ? first + STRETCH : last, n = c - j < WIDTH ? c - j : WIDTH;                    \
                float a[WIDTH] = { 0 }, b[WIDTH] = { 0 };                                                                            \
                if (n == WIDTH) { OVER_VOXELS(WIDTH, __VA_ARGS__) } else { OVER_VOXELS(n, __VA_ARGS__) }                             \
                for (int64_t k = 0; k < n; k++) {                                                                                    \
                    one[j + k] += a[k];                                                                                              \
                    one[c + j + k] += b[k];                                                                                          \
                }                                                                                                                    \
            }                                                                                                                        \
    }

#define VALUE bfloat16
#define LOAD from_bfloat16
#define STORE to_bfloat16
#define NAME(what) what##_bfloat16
#include "norm_silu.c"
#undef VALUE
#undef LOAD
#undef STORE
#undef NAME
#define VALUE float
#define LOAD same
#define STORE same
#define NAME(what) what##_float32
#include "norm_silu.c"

#else

/* sums[part][0] += x, sums[part][1] += x * x */
void NAME(moments)(const VALUE *restrict x, int64_t rows, int64_t c, float *restrict sums) {
    ADD_UP({
        float value = LOAD(x[at]);
        a[k] += value;
        b[k] += value * value;
    })
}

/* out = silu(x * factor + offset) */
void NAME(activated)(const VALUE *restrict x, VALUE *restrict out, int64_t rows, int64_t c, const float *restrict factor,
                     const float *restrict offset) {
    _Pragma("omp parallel for schedule(static)")
    for (int64_t row = 0; row < rows; row++)
        for (int64_t k = 0; k < c; k++) {
            float linear = LOAD(x[row * c + k]) * factor[k] + offset[k];
            out[row * c + k] = STORE(linear * sigmoid(linear));
        }
}

/* gradient, of what is behind SiLU, becomes that of what is before it; sums[part][0] += it, sums[part][1] += x * it */
void NAME(to_linear)(VALUE *restrict gradient, const VALUE *restrict x, int64_t rows, int64_t c, const float *restrict factor,
                     const float *restrict offset, float *restrict sums) {
    ADD_UP({
        float value = LOAD(x[at]), linear = value * factor[j + k] + offset[j + k], share = sigmoid(linear);
        float found = LOAD(gradient[at]) * share * (1.f + linear * (1.f - share));
        a[k] += found;
        b[k] += value * found;
        gradient[at] = STORE(found);
    })
}

/* gradient = gradient * factor + x * slope + constant */
void NAME(to_volume)(VALUE *restrict gradient, const VALUE *restrict x, int64_t rows, int64_t c, const float *restrict factor,
                     const float *restrict slope, const float *restrict constant) {
    _Pragma("omp parallel for schedule(static)")
    for (int64_t row = 0; row < rows; row++)
        for (int64_t k = 0; k < c; k++) {
            int64_t at = row * c + k;
            gradient[at] = STORE(LOAD(gradient[at]) * factor[k] + LOAD(x[at]) * slope[k] + constant[k]);
        }
}

#endif
