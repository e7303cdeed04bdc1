/* What convolution.c and weight_gradient.c share: sizes of a convolution, and lines of bfloat16 with channels last. */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint16_t bfloat16;
typedef struct {
    int64_t batch, in[3], out[3], inputs, outputs, kernel[3], padding[3]; /* z, y, x each */
} Sizes;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Of 16 channels */
static inline __m512i as_words(const bfloat16 *from) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)); }
static inline __m512 as_floats(const bfloat16 *from) { return _mm512_castsi512_ps(_mm512_slli_epi32(as_words(from), 16)); }
static inline void store_rounded(bfloat16 *to, __m512 values) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values)); }

/* Where voxels from `first` on of a line of `size` lie; `none` before and behind it */
static inline void find(const bfloat16 *line, int64_t size, int64_t first, int64_t count, int64_t channels, const bfloat16 *none,
                        const bfloat16 **voxel) {
    for (int64_t k = 0; k < count; k++)
        voxel[k] = first + k >= 0 && first + k < size ? line + (first + k) * channels : none;
}
