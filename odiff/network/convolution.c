/* A convolution in bfloat16 whose lines have three taps, for channels-last volumes, strides and dilations of 1, and channels in multiples
 * of 32, by AVX512's products of pairs. Compiled where a compiler that knows them is at hand when odiff is installed.
 *
 * Two neighbours of a line are four products, not six, of sums and differences of the four voxels that they see (F(2, 3); Lavin and Gray
 * 2016), which are rounded to bfloat16 once more: half of a line is 32 such tiles at most, of some lines that are worked on together.
 */
#include "bfloat16.h"

#define TILES 32   /* of a piece of a line */
#define ABREAST 8  /* or half as many, whose sums are kept in registers, of 32 outputs */
#define OUTPUTS 32
#define PRODUCTS 4

/* The sums and differences of a piece of a line, from the voxel `first` on, as to[product][tile][channel], products `apart` */
static void lay_out(const bfloat16 *line, int64_t size, int64_t first, int64_t tiles, int64_t channels, const bfloat16 *none, bfloat16 *to,
                    int64_t apart) {
    for (int64_t tile = 0; tile < tiles; tile++) {
        const bfloat16 *voxel[4];
        find(line, size, first + 2 * tile, 4, channels, none, voxel);
        for (int64_t c = 0; c < channels; c += 16) {
            __m512 d[4];
            for (int64_t k = 0; k < 4; k++)
                d[k] = as_floats(voxel[k] + c);
            bfloat16 *here = to + tile * channels + c;
            store_rounded(here, _mm512_sub_ps(d[0], d[2]));
            store_rounded(here + apart, _mm512_add_ps(d[1], d[2]));
            store_rounded(here + 2 * apart, _mm512_sub_ps(d[2], d[1]));
            store_rounded(here + 3 * apart, _mm512_sub_ps(d[1], d[3]));
        }
    }
}

/* Of a tap that sees no margin: where, from the first tile on, its line is laid out, and where its weights are */
typedef struct {
    int64_t seen, weight;
} Tap;

/* sums[tile][output] = the products of some tiles with the weights of 32 outputs, of all taps */
static inline __attribute__((always_inline)) void multiply(const bfloat16 *seen, const bfloat16 *weights, const Tap *taps, int64_t count,
                                                           int64_t channels, const int64_t abreast, float *sums) {
    __m512 low[ABREAST], high[ABREAST];
    for (int64_t k = 0; k < abreast; k++)
        low[k] = high[k] = _mm512_setzero_ps();
    for (const Tap *tap = taps; tap < taps + count; tap++) {
        const bfloat16 *here = seen + tap->seen, *weight = weights + tap->weight;
        for (int64_t pair = 0; pair < channels / 2; pair++, here += 2, weight += 2 * OUTPUTS) {
            __m512bh first = (__m512bh)_mm512_loadu_si512(weight), second = (__m512bh)_mm512_loadu_si512(weight + OUTPUTS);
            for (int64_t k = 0; k < abreast; k++) {
                __m512bh both = (__m512bh)_mm512_set1_epi32(*(const int32_t *)(here + k * channels));
                low[k] = _mm512_dpbf16_ps(low[k], both, first);
                high[k] = _mm512_dpbf16_ps(high[k], both, second);
            }
        }
    }
    for (int64_t k = 0; k < abreast; k++) {
        _mm512_storeu_ps(sums + k * OUTPUTS, low[k]);
        _mm512_storeu_ps(sums + k * OUTPUTS + 16, high[k]);
    }
}

/* Voxels of 32 outputs from the four products of the tiles that hold them */
static void answer(float (*sums)[TILES * OUTPUTS], const float *bias, int64_t voxels, int64_t outputs, bfloat16 *to) {
    for (int64_t c = 0; c < OUTPUTS; c += 16) {
        __m512 more = _mm512_loadu_ps(bias + c);
        for (int64_t voxel = 0; voxel < voxels; voxel++) {
            int64_t at = voxel / 2 * OUTPUTS + c;
            __m512 added = _mm512_loadu_ps(sums[1] + at), subtracted = _mm512_loadu_ps(sums[2] + at);
            __m512 found = voxel % 2 ? _mm512_sub_ps(_mm512_sub_ps(added, subtracted), _mm512_loadu_ps(sums[3] + at))
                                     : _mm512_add_ps(_mm512_add_ps(added, subtracted), _mm512_loadu_ps(sums[0] + at));
            store_rounded(to + voxel * outputs + c, _mm512_add_ps(found, more));
        }
    }
}

/* x (batch, in..., inputs), bias (outputs), weights[32 outputs][product][tap of z, y][pair of inputs][output][2], found (batch, out...,
 * outputs); `lines` are worked on together. 1 where there was no memory. */
int64_t convolution(const bfloat16 *restrict x, const bfloat16 *restrict weights, const float *restrict bias, const Sizes *sizes,
                    int64_t lines, bfloat16 *restrict found) {
    const Sizes s = *sizes;
    int64_t I = s.inputs, O = s.outputs, taps = s.kernel[0] * s.kernel[1], rows = lines + s.kernel[1] - 1;
    int64_t of_plane = (s.out[1] + lines - 1) / lines, pieces = (s.out[2] + 2 * TILES - 1) / (2 * TILES), failed = 0;
    int64_t of_row = TILES * I, apart = s.kernel[0] * rows * of_row;
    _Pragma("omp parallel reduction(+ : failed)")
    {
        bfloat16 *laid_out = calloc(PRODUCTS * apart, sizeof(bfloat16)), *none = calloc(I, sizeof(bfloat16));
        float(*sums)[TILES * OUTPUTS] = malloc(PRODUCTS * sizeof *sums);
        Tap *inside = malloc(taps * sizeof *inside);
        failed += !laid_out || !none || !sums || !inside;
        _Pragma("omp for schedule(dynamic)")
        for (int64_t unit = 0; unit < s.batch * s.out[0] * of_plane * pieces; unit++) {
            if (failed)
                continue;
            int64_t piece = unit % pieces * 2 * TILES, y = unit / pieces % of_plane * lines, slice = unit / pieces / of_plane;
            int64_t n = slice / s.out[0], z = slice % s.out[0] - s.padding[0], top = y - s.padding[1];
            int64_t voxels = least(2 * TILES, s.out[2] - piece), tiles = (voxels + 1) / 2;
            for (int64_t down = most(0, -z); down < least(s.kernel[0], s.in[0] - z); down++)
                for (int64_t row = most(0, -top); row < least(rows, s.in[1] - top); row++)
                    lay_out(x + ((n * s.in[0] + z + down) * s.in[1] + top + row) * s.in[2] * I, s.in[2], piece - s.padding[2], tiles, I, none,
                            laid_out + (down * rows + row) * of_row, apart);
            for (int64_t line = 0; line < least(lines, s.out[1] - y); line++) {
                int64_t count = 0;
                for (int64_t tap = 0; tap < taps; tap++) {
                    int64_t down = tap / s.kernel[1], row = line + tap % s.kernel[1];
                    if (z + down >= 0 && z + down < s.in[0] && top + row >= 0 && top + row < s.in[1])
                        inside[count++] = (Tap){ (down * rows + row) * of_row, tap * I * OUTPUTS };
                }
                for (int64_t o = 0; o < O; o += OUTPUTS) {
                    for (int64_t product = 0; product < PRODUCTS; product++) {
                        const bfloat16 *weighted = weights + (o / OUTPUTS * PRODUCTS + product) * taps * I * OUTPUTS;
                        for (int64_t tile = 0; tile < tiles; tile += ABREAST) {
                            const bfloat16 *seen = laid_out + product * apart + tile * I;
                            float *sum = sums[product] + tile * OUTPUTS;
                            if (tiles - tile > ABREAST / 2)
                                multiply(seen, weighted, inside, count, I, ABREAST, sum);
                            else
                                multiply(seen, weighted, inside, count, I, ABREAST / 2, sum);
                        }
                    }
                    answer(sums, bias + o, voxels, O, found + ((slice * s.out[1] + y + line) * s.out[2] + piece) * O + o);
                }
            }
        }
        free(laid_out);
        free(none);
        free(sums);
        free(inside);
    }
    return failed;
}
