/* The gradient of a convolution's weight in bfloat16 by AMX, for channels-last volumes, strides and dilations of 1, and channels in
 * multiples of 32: what odiff/network/weight_gradient.py otherwise makes of torch's matrix products, which pack their factors for each
 * tap anew. Compiled where a compiler that knows AMX is at hand when odiff is installed.
 *
 * Some lines of answers are turned to (outputs, 32 voxels), the lines that they see are laid out in pairs of voxels, from the first
 * and from the second one on, so that the taps of a line are products of what lies there, 32 x 32 channels at once, in float32. Sums
 * are left in `parts`, each over an equal share of the lines, so that they do not depend on the number of threads.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32 /* voxels of a product */
#define TILE 16

typedef uint16_t bfloat16;
typedef struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } __attribute__((packed)) Tiles;
typedef struct {
    int64_t batch, in[3], out[3], inputs, outputs, kernel[3], padding[3]; /* z, y, x each */
} Sizes;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Linux gives a process the tiles when it asks; 0 where it does. */
int64_t ask_for_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18); }

/* 32 voxels by channels, of which `count` are there, as channels by 32 voxels */
static void turn(const bfloat16 *restrict from, bfloat16 *restrict to, int64_t count, int64_t channels) {
    if (count < BLOCK)
        memset(to, 0, sizeof(bfloat16) * BLOCK * channels);
    for (int64_t first = 0; first < channels; first += TILE)
        for (int64_t voxel = 0; voxel < count; voxel++)
            for (int64_t k = 0; k < TILE; k++)
                to[(first + k) * BLOCK + voxel] = from[voxel * channels + first + k];
}

/* A line of `size` voxels behind a margin: voxels 2j and 2j + 1 of it side by side in `even`, 2j + 1 and 2j + 2 in `odd` */
static void pair(const bfloat16 *restrict line, int64_t size, int64_t margin, int64_t pairs, int64_t channels, const bfloat16 *none,
                 uint32_t *restrict even, uint32_t *restrict odd) {
    for (int64_t j = 0; j < pairs; j++) {
        const bfloat16 *seen[3];
        for (int64_t k = 0; k < 3; k++) {
            int64_t at = 2 * j + k - margin;
            seen[k] = at >= 0 && at < size ? line + at * channels : none;
        }
        for (int64_t k = 0; k < channels; k++) {
            uint32_t middle = seen[1][k];
            even[j * channels + k] = (uint32_t)seen[0][k] | middle << 16;
            odd[j * channels + k] = middle | (uint32_t)seen[2][k] << 16;
        }
    }
}

/* found[part][tap][output][input] += the products of all lines of a part; 1 where there was no memory.
 * gradient (batch, out..., outputs), x (batch, in..., inputs); `lines` are worked on together. */
int64_t weight_gradient(const bfloat16 *restrict gradient, const bfloat16 *restrict x, const Sizes *sizes, int64_t parts, int64_t lines,
                        float *restrict found) {
    const Sizes s = *sizes;
    int64_t I = s.inputs, O = s.outputs, taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
    int64_t blocks = (s.out[2] + BLOCK - 1) / BLOCK, pairs = blocks * BLOCK / 2 + s.kernel[2] / 2 + 1;
    int64_t of_plane = (s.out[1] + lines - 1) / lines, groups = s.batch * s.out[0] * of_plane, failed = 0;
    _Pragma("omp parallel reduction(+ : failed)")
    {
        bfloat16 *turned = aligned_alloc(64, sizeof(bfloat16) * lines * blocks * O * BLOCK);
        uint32_t *even = aligned_alloc(64, sizeof(uint32_t) * lines * pairs * I);
        uint32_t *odd = aligned_alloc(64, sizeof(uint32_t) * lines * pairs * I);
        bfloat16 *none = calloc(I, sizeof(bfloat16));
        Tiles before, tiles = { .palette = 1 };
        for (int tile = 0; tile < 8; tile++) {
            tiles.bytes[tile] = 64;
            tiles.rows[tile] = TILE;
        }
        _tile_storeconfig(&before);
        _tile_loadconfig(&tiles);
        failed += !turned || !even || !odd || !none;
        _Pragma("omp for schedule(static)")
        for (int64_t part = 0; part < parts; part++)
            for (int64_t group = groups * part / parts; group < groups * (part + 1) / parts && !failed; group++) {
                int64_t n = group / (s.out[0] * of_plane), z = group / of_plane % s.out[0], y = group % of_plane * lines;
                int64_t have = least(lines, s.out[1] - y);
                for (int64_t line = 0; line < have; line++)
                    for (int64_t k = 0; k < blocks; k++)
                        turn(gradient + (((n * s.out[0] + z) * s.out[1] + y + line) * s.out[2] + BLOCK * k) * O,
                             turned + (line * blocks + k) * O * BLOCK, least(BLOCK, s.out[2] - BLOCK * k), O);
                for (int64_t over = 0; over < s.kernel[0] * s.kernel[1]; over++) {
                    int64_t seen_z = z + over / s.kernel[1] - s.padding[0], up = over % s.kernel[1] - s.padding[1];
                    int64_t first = most(0, -up - y), last = least(have, s.in[1] - up - y);
                    if (seen_z < 0 || seen_z >= s.in[0] || first >= last)
                        continue; /* they see margins alone */
                    for (int64_t line = first; line < last; line++)
                        pair(x + ((n * s.in[0] + seen_z) * s.in[1] + y + line + up) * s.in[2] * I, s.in[2], s.padding[2], pairs, I, none,
                             even + line * pairs * I, odd + line * pairs * I);
                    for (int64_t o = 0; o < O; o += 2 * TILE)
                        for (int64_t i = 0; i < I; i += 2 * TILE)
                            for (int64_t tap = 0; tap < s.kernel[2]; tap++) {
                                const uint32_t *sees = (tap & 1 ? odd : even) + (tap >> 1) * I + i;
                                float *sum = found + (((part * taps + over * s.kernel[2] + tap) * O) + o) * I + i;
                                _tile_loadd(0, sum, I * 4);
                                _tile_loadd(1, sum + TILE, I * 4);
                                _tile_loadd(2, sum + TILE * I, I * 4);
                                _tile_loadd(3, sum + TILE * I + TILE, I * 4);
                                for (int64_t line = first; line < last; line++)
                                    for (int64_t k = 0; k < blocks; k++) {
                                        const bfloat16 *wants = turned + ((line * blocks + k) * O + o) * BLOCK;
                                        const uint32_t *here = sees + (line * pairs + k * BLOCK / 2) * I;
                                        _tile_loadd(4, wants, 64);
                                        _tile_loadd(6, here, I * 4);
                                        _tile_loadd(7, here + TILE, I * 4);
                                        _tile_dpbf16ps(0, 4, 6);
                                        _tile_loadd(5, wants + TILE * BLOCK, 64);
                                        _tile_dpbf16ps(1, 4, 7);
                                        _tile_dpbf16ps(2, 5, 6);
                                        _tile_dpbf16ps(3, 5, 7);
                                    }
                                _tile_stored(0, sum, I * 4);
                                _tile_stored(1, sum + TILE, I * 4);
                                _tile_stored(2, sum + TILE * I, I * 4);
                                _tile_stored(3, sum + TILE * I + TILE, I * 4);
                            }
                }
            }
        if (before.palette) /* oneDNN's, whose next kernel may count on it */
            _tile_loadconfig(&before);
        else
            _tile_release();
        free(turned);
        free(even);
        free(odd);
        free(none);
    }
    return failed;
}
