/* The gradient of a convolution's weight in bfloat16, for channels-last volumes, strides and dilations of 1, and channels in multiples
 * of 32: what odiff/network/weight_gradient.py otherwise makes of torch's matrix products or leaves to oneDNN. By AMX, or by AVX512's
 * products of pairs. Compiled where a compiler that knows both is at hand when odiff is installed.
 *
 * Some lines of answers, and the lines that they see, are laid out in pairs that lie side by side, so that the taps of a line are
 * products of what lies there, 32 x 32 channels at once, in float32. Laid out are voxels, or, for three taps, Winograd's sums and
 * differences of them: two answers of three taps are six products of voxels and four of these (F(3, 2); Lavin and Gray 2016), which are
 * rounded to bfloat16 once more. Products are left in `parts`, each over an equal share of the lines, so that they do not depend on the
 * number of threads.
 */
#include "bfloat16.h"

#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32 /* channels of each side that are multiplied at once, and twice the pairs that are */
#define PAIRS 16
#define TILE 16
#define OUTPUTS 8 /* whose sums AVX512 keeps in registers */
#define KINDS 4   /* of what is laid out, at most */

typedef struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } __attribute__((packed)) Tiles;
/* Lines of blocks: `wants` of 32 outputs, `sees` of 32 inputs, of which lie so many channels side by side */
typedef struct {
    int64_t lines, blocks, inputs, wants_block, wants_line, sees_line;
} Lines;

/* Linux gives a process the tiles when it asks; 0 where it does. */
int64_t ask_for_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18); }

/* sum[output][input] += wants[output][pair] * sees[pair][input] of all lines, 32 x 32 */
static void multiply_by_amx(const uint32_t *wants, const uint32_t *sees, float *sum, const Lines *of) {
    int64_t I = of->inputs;
    _tile_loadd(0, sum, I * 4);
    _tile_loadd(1, sum + TILE, I * 4);
    _tile_loadd(2, sum + TILE * I, I * 4);
    _tile_loadd(3, sum + TILE * I + TILE, I * 4);
    for (int64_t line = 0; line < of->lines; line++)
        for (int64_t k = 0; k < of->blocks; k++) {
            const uint32_t *wanted = wants + line * of->wants_line + k * of->wants_block, *seen = sees + line * of->sees_line + k * PAIRS * I;
            _tile_loadd(4, wanted, 64);
            _tile_loadd(6, seen, I * 4);
            _tile_loadd(7, seen + TILE, I * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, wanted + TILE * PAIRS, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    _tile_stored(0, sum, I * 4);
    _tile_stored(1, sum + TILE, I * 4);
    _tile_stored(2, sum + TILE * I, I * 4);
    _tile_stored(3, sum + TILE * I + TILE, I * 4);
}

static void multiply_by_avx512(const uint32_t *wants, const uint32_t *sees, float *sum, const Lines *of) {
    int64_t I = of->inputs;
    for (int64_t o = 0; o < BLOCK; o += OUTPUTS) {
        __m512 low[OUTPUTS], high[OUTPUTS];
        for (int64_t k = 0; k < OUTPUTS; k++) {
            low[k] = _mm512_loadu_ps(sum + (o + k) * I);
            high[k] = _mm512_loadu_ps(sum + (o + k) * I + TILE);
        }
        for (int64_t line = 0; line < of->lines; line++)
            for (int64_t block = 0; block < of->blocks; block++) {
                const uint32_t *wanted = wants + line * of->wants_line + block * of->wants_block + o * PAIRS;
                const uint32_t *seen = sees + line * of->sees_line + block * PAIRS * I;
                for (int64_t pair = 0; pair < PAIRS; pair++, seen += I, wanted++) {
                    __m512bh first = (__m512bh)_mm512_loadu_si512(seen), second = (__m512bh)_mm512_loadu_si512(seen + TILE);
                    for (int64_t k = 0; k < OUTPUTS; k++) {
                        __m512bh both = (__m512bh)_mm512_set1_epi32((int32_t)wanted[k * PAIRS]);
                        low[k] = _mm512_dpbf16_ps(low[k], both, first);
                        high[k] = _mm512_dpbf16_ps(high[k], both, second);
                    }
                }
            }
        for (int64_t k = 0; k < OUTPUTS; k++) {
            _mm512_storeu_ps(sum + (o + k) * I, low[k]);
            _mm512_storeu_ps(sum + (o + k) * I + TILE, high[k]);
        }
    }
}

static inline __m512i beside(__m512i low, __m512i high) { return _mm512_or_si512(low, _mm512_slli_epi32(high, 16)); }

/* Two of float32 rounded to bfloat16 side by side */
static inline __m512i rounded(__m512 low, __m512 high) {
    return beside(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low)), _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high)));
}

/* What is laid out of 16 channels of some voxels that follow each other; how many kinds. */
static inline int64_t of_answers(const bfloat16 *const *voxel, int64_t winograd, __m512i *kinds) {
    if (!winograd) {
        kinds[0] = beside(as_words(voxel[0]), as_words(voxel[1]));
        return 1;
    }
    __m512 g[4];
    for (int64_t k = 0; k < 4; k++)
        g[k] = as_floats(voxel[k]);
    kinds[0] = beside(as_words(voxel[0]), as_words(voxel[2]));
    kinds[1] = rounded(_mm512_add_ps(g[0], g[1]), _mm512_add_ps(g[2], g[3]));
    kinds[2] = rounded(_mm512_sub_ps(g[0], g[1]), _mm512_sub_ps(g[2], g[3]));
    kinds[3] = beside(as_words(voxel[1]), as_words(voxel[3]));
    return 4;
}

static inline int64_t of_seen(const bfloat16 *const *voxel, int64_t winograd, __m512i *kinds) {
    if (!winograd) {
        __m512i middle = as_words(voxel[1]);
        kinds[0] = beside(as_words(voxel[0]), middle);
        kinds[1] = beside(middle, as_words(voxel[2]));
        return 2;
    }
    __m512 d[6];
    for (int64_t k = 0; k < 6; k++)
        d[k] = as_floats(voxel[k]);
    kinds[0] = rounded(_mm512_sub_ps(d[0], d[2]), _mm512_sub_ps(d[2], d[4]));
    kinds[1] = rounded(_mm512_add_ps(d[1], d[2]), _mm512_add_ps(d[3], d[4]));
    kinds[2] = rounded(_mm512_sub_ps(d[2], d[1]), _mm512_sub_ps(d[4], d[3]));
    kinds[3] = rounded(_mm512_sub_ps(d[1], d[3]), _mm512_sub_ps(d[3], d[5]));
    return 4;
}

/* Rows of 16 become columns: halves change places in blocks of 1, 2, 4 and 8. */
static inline void transpose(__m512i *rows) {
    const __m512i place = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int size = 1; size < TILE; size *= 2) {
        __mmask16 upper = _mm512_test_epi32_mask(place, _mm512_set1_epi32(size));
        __m512i first = _mm512_mask_add_epi32(place, upper, place, _mm512_set1_epi32(16 - size));
        __m512i second = _mm512_mask_add_epi32(_mm512_add_epi32(place, _mm512_set1_epi32(size)), upper, place, _mm512_set1_epi32(16));
        for (int row = 0; row < TILE; row++)
            if (!(row & size)) {
                __m512i a = rows[row], b = rows[row + size];
                rows[row] = _mm512_permutex2var_epi32(a, first, b);
                rows[row + size] = _mm512_permutex2var_epi32(a, second, b);
            }
    }
}

/* A line of answers as to[kind][block][channel][16 pairs], kinds `apart` */
static void lay_out_answers(const bfloat16 *line, int64_t size, int64_t channels, int64_t blocks, int64_t winograd, const bfloat16 *none,
                            uint32_t *to, int64_t apart) {
    int64_t step = winograd ? 4 : 2;
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t c = 0; c < channels; c += TILE) {
            __m512i kinds[KINDS], rows[KINDS][PAIRS];
            int64_t count = 1;
            for (int64_t pair = 0; pair < PAIRS; pair++) {
                const bfloat16 *voxel[4];
                find(line, size, (block * PAIRS + pair) * step, step, channels, none, voxel);
                for (int64_t k = 0; k < step; k++)
                    voxel[k] += c;
                count = of_answers(voxel, winograd, kinds);
                for (int64_t k = 0; k < count; k++)
                    rows[k][pair] = kinds[k];
            }
            for (int64_t k = 0; k < count; k++) {
                transpose(rows[k]);
                for (int64_t channel = 0; channel < TILE; channel++)
                    _mm512_storeu_si512(to + k * apart + (block * channels + c + channel) * PAIRS, rows[k][channel]);
            }
        }
}

/* A line that is seen, behind a margin, as to[kind][pair][channel], kinds `apart` */
static void lay_out_seen(const bfloat16 *line, int64_t size, int64_t margin, int64_t channels, int64_t pairs, int64_t winograd,
                         const bfloat16 *none, uint32_t *to, int64_t apart) {
    int64_t step = winograd ? 4 : 2, count = winograd ? 6 : 3;
    for (int64_t pair = 0; pair < pairs; pair++) {
        const bfloat16 *voxel[6];
        find(line, size, pair * step - margin, count, channels, none, voxel);
        for (int64_t c = 0; c < channels; c += TILE) {
            __m512i kinds[KINDS];
            int64_t have = of_seen(voxel, winograd, kinds);
            for (int64_t k = 0; k < have; k++)
                _mm512_storeu_si512(to + k * apart + pair * channels + c, kinds[k]);
            for (int64_t k = 0; k < count; k++)
                voxel[k] += TILE;
        }
    }
}

static void take_tiles(Tiles *before) {
    Tiles tiles = { .palette = 1 };
    for (int tile = 0; tile < 8; tile++) {
        tiles.bytes[tile] = 64;
        tiles.rows[tile] = TILE;
    }
    _tile_storeconfig(before);
    _tile_loadconfig(&tiles);
}

static void give_back_tiles(const Tiles *before) {
    if (before->palette) /* oneDNN's, whose next kernel may count on it */
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* found[part][z, y of a tap][product][output][input] += the products of all lines of a part: of each tap, or with `winograd` the four of
 * three taps. 1 where there was no memory.
 * gradient (batch, out..., outputs), x (batch, in..., inputs); `lines` are worked on together; `amx` where the processor has it. */
int64_t weight_gradient(const bfloat16 *restrict gradient, const bfloat16 *restrict x, const Sizes *sizes, int64_t parts, int64_t lines,
                        int64_t winograd, int64_t amx, float *restrict found) {
    const Sizes s = *sizes;
    int64_t I = s.inputs, O = s.outputs, products = winograd ? 4 : s.kernel[2], step = winograd ? 4 : 2;
    int64_t blocks = (s.out[2] + step * PAIRS - 1) / (step * PAIRS), pairs = blocks * PAIRS + (winograd ? 0 : s.kernel[2] / 2);
    int64_t of_plane = (s.out[1] + lines - 1) / lines, groups = s.batch * s.out[0] * of_plane, failed = 0;
    int64_t wants_line = blocks * O * PAIRS, wants_kind = lines * wants_line;
    int64_t sees_line = pairs * I, sees_kind = (lines + s.kernel[1] - 1) * sees_line;
    void (*multiply)(const uint32_t *, const uint32_t *, float *, const Lines *) = amx ? multiply_by_amx : multiply_by_avx512;
    _Pragma("omp parallel reduction(+ : failed)")
    {
        uint32_t *wants = aligned_alloc(64, sizeof(uint32_t) * wants_kind * (winograd ? 4 : 1));
        uint32_t *sees = aligned_alloc(64, sizeof(uint32_t) * sees_kind * (winograd ? 4 : 2));
        bfloat16 *none = calloc(most(I, O), sizeof(bfloat16));
        Tiles before;
        if (amx)
            take_tiles(&before);
        failed += !wants || !sees || !none;
        _Pragma("omp for schedule(static)")
        for (int64_t part = 0; part < parts; part++)
            for (int64_t group = groups * part / parts; group < groups * (part + 1) / parts && !failed; group++) {
                int64_t n = group / (s.out[0] * of_plane), z = group / of_plane % s.out[0], y = group % of_plane * lines;
                int64_t have = least(lines, s.out[1] - y), top = y - s.padding[1]; /* the first line that is seen */
                for (int64_t line = 0; line < have; line++)
                    lay_out_answers(gradient + ((n * s.out[0] + z) * s.out[1] + y + line) * s.out[2] * O, s.out[2], O, blocks, winograd,
                                    none, wants + line * wants_line, wants_kind);
                for (int64_t down = 0; down < s.kernel[0]; down++) {
                    int64_t seen_z = z + down - s.padding[0];
                    if (seen_z < 0 || seen_z >= s.in[0])
                        continue; /* a margin */
                    for (int64_t line = most(0, -top); line < least(have + s.kernel[1] - 1, s.in[1] - top); line++)
                        lay_out_seen(x + ((n * s.in[0] + seen_z) * s.in[1] + top + line) * s.in[2] * I, s.in[2], s.padding[2], I, pairs,
                                     winograd, none, sees + line * sees_line, sees_kind);
                    for (int64_t along = 0; along < s.kernel[1]; along++) {
                        int64_t first = most(0, -top - along), last = least(have, s.in[1] - top - along);
                        const Lines of = { last - first, blocks, I, O * PAIRS, wants_line, sees_line };
                        float *sums = found + ((part * s.kernel[0] + down) * s.kernel[1] + along) * products * O * I;
                        for (int64_t o = 0; o < O; o += BLOCK)
                            for (int64_t i = 0; i < I; i += BLOCK)
                                for (int64_t product = 0; product < products; product++) {
                                    int64_t kind = winograd ? product : product & 1, on = winograd ? 0 : product >> 1;
                                    multiply(wants + (winograd ? kind : 0) * wants_kind + first * wants_line + o * PAIRS,
                                             sees + kind * sees_kind + (first + along) * sees_line + on * I + i,
                                             sums + (product * O + o) * I + i, &of);
                                }
                    }
                }
            }
        if (amx)
            give_back_tiles(&before);
        free(wants);
        free(sees);
        free(none);
    }
    return failed;
}
