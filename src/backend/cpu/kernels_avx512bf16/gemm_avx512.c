/* The two own engines: products of bf16 pairs (vdpbf16ps) and of float32, from one template.
 *
 * Both work on "steps" of 32 bits along k: one float, or two bf16 that one instruction multiplies and adds. An A block is cut
 * into tiles of at most 14 rows, stored step by step (all rows of step 0, then of step 1 …), so the inner loop reads one
 * stream and no power-of-two row distance can exhaust the ways of the L1 cache. B is stored in panels of 32 columns, step by
 * step. The inner loop keeps a 14 x 32 tile of C in 28 of the 32 vector registers: per step two loads of B, 14 broadcasts of
 * A and 28 multiply-adds, so the multipliers (two a cycle on Zen 5) and not the loads (two a cycle) are the limit.
 */
#include <immintrin.h>

#include "backend/cpu/gemm.h"
#include "backend/cpu/kernels/transpose.h"

enum {
    TILE = 14,      /* rows of C in registers */
    PANEL = 32,     /* columns of C in registers: two vectors of 16 */
    BLOCK = 112,    /* rows of an A block: eight tiles share a panel of B while it is in the L2 cache */
    DEPTH = 512,    /* steps done before the next tile: 64 KB of B, 28 KB of A */
    QUERIES = 32,
    AHEAD = 16,     /* rows fetched ahead where they are read across: no hardware prefetcher follows */
};

#define INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------------------------------------ the inner loop */

typedef void (*tile_fn)(int64_t steps, const uint32_t *a, const uint32_t *b, float *c, bool add, const char *ahead,
                        int64_t pace);

/* c[rows, 16 * vectors] (rows PANEL apart) (+)= tile of A times panel of B. rows, vectors and bf16 are constants where this is
 * inlined. `ahead` is fetched to the cache, `pace` (64 or 128) bytes every two steps. */
INLINE void tile_product(const int rows, const int vectors, const bool bf16, int64_t steps, const uint32_t *a,
                         const uint32_t *b, float *c, bool add, const char *ahead, int64_t pace) {
    __m512 sum[TILE][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = add ? _mm512_loadu_ps(c + i * PANEL + 16 * j) : _mm512_setzero_ps();
    }
#pragma GCC unroll 2
    for (int64_t s = 0; s < steps; s++) {
        __m512 bv[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) bv[j] = _mm512_loadu_ps((const float *)b + 16 * j);
        if (s & 1) {
            _mm_prefetch(ahead + 64, _MM_HINT_T0); /* at a pace of 64 the next pair asks again: free, the loads have room */
            ahead += pace;
        } else {
            _mm_prefetch(ahead, _MM_HINT_T0);
        }
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            __m512 av = _mm512_castsi512_ps(_mm512_set1_epi32((int)a[i]));
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++)
                sum[i][j] = bf16 ? _mm512_dpbf16_ps(sum[i][j], (__m512bh)av, (__m512bh)bv[j])
                                 : _mm512_fmadd_ps(av, bv[j], sum[i][j]);
        }
        a += rows;
        b += PANEL;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) _mm512_storeu_ps(c + i * PANEL + 16 * j, sum[i][j]);
    }
}

#define TILE_FUNCTION(rows, vectors, type, bf16)                                                                             \
    static void tile_##type##_##rows##_##vectors(int64_t steps, const uint32_t *a, const uint32_t *b, float *c, bool add,  \
                                                 const char *ahead, int64_t pace) {                                          \
        tile_product(rows, vectors, bf16, steps, a, b, c, add, ahead, pace);                                                 \
    }
#define FOR_EACH_TILE(X, ...)                                                                                                \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)              \
    X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)           \
    X(13, __VA_ARGS__) X(14, __VA_ARGS__)

FOR_EACH_TILE(TILE_FUNCTION, 1, bf16, true)
FOR_EACH_TILE(TILE_FUNCTION, 2, bf16, true)
FOR_EACH_TILE(TILE_FUNCTION, 1, f32, false)
FOR_EACH_TILE(TILE_FUNCTION, 2, f32, false)

#define TILE_NAME(rows, vectors, type) tile_##type##_##rows##_##vectors,
static const tile_fn bf16_tiles[2][TILE] = {{FOR_EACH_TILE(TILE_NAME, 1, bf16)}, {FOR_EACH_TILE(TILE_NAME, 2, bf16)}};
static const tile_fn f32_tiles[2][TILE] = {{FOR_EACH_TILE(TILE_NAME, 1, f32)}, {FOR_EACH_TILE(TILE_NAME, 2, f32)}};

/* ------------------------------------------------------------------------------------------------ blocks */

/* Rows are dealt to as few tiles as possible, as evenly as possible: the first `rest` tiles have one row more. */
typedef struct tiling {
    int tiles, rows, rest;
} tiling;

static tiling tiling_of(int m) {
    int tiles = (m + TILE - 1) / TILE;
    return (tiling){.tiles = tiles, .rows = m / tiles, .rest = m % tiles};
}

static int tile_rows(const tiling *t, int i) { return t->rows + (i < t->rest); }

/* All of k in pieces of DEPTH steps; C waits in the L1 or L2 cache meanwhile. */
static void block_product(const tile_fn tiles[2][TILE], float *c, const uint32_t *a, int m, const uint32_t *b, int n,
                          int64_t steps, bool add, bool ahead) {
    tiling t = tiling_of(m);
    const tile_fn *fns = tiles[n > 16];
    for (int64_t s = 0; s < steps; s += DEPTH) {
        int64_t depth = steps - s < DEPTH ? steps - s : DEPTH;
        const uint32_t *b_piece = b + s * PANEL;
        /* The tiles together fetch the next piece of B, which follows this one in memory: four of them a quarter each, at half
         * the pace of reading, or the first two a half each where there are fewer. Others read on in A by themselves. */
        const char *next = (const char *)(b_piece + depth * PANEL);
        int fetchers = t.tiles < 4 ? 2 : 4;
        int64_t pace = t.tiles < 4 ? 128 : 64;
        for (int i = 0, row = 0; i < t.tiles; i++) {
            int rows = tile_rows(&t, i);
            const uint32_t *a_tile = a + row * steps + s * rows;
            bool fetches = ahead && (fetchers == 4 || i < fetchers);
            const char *fetch = fetches ? next + (i % fetchers) * depth * (pace / 2) : (const char *)(a_tile + depth * rows);
            fns[rows - 1](depth, a_tile, b_piece, c + row * PANEL, add || s > 0, fetch, fetches ? pace : 64);
            row += rows;
        }
    }
}

static void product_bf16(const dd_gemm_plan *plan, int thread, float *c, const void *a, int m, const void *b, int n, int64_t k,
                         bool add, bool ahead) {
    (void)plan, (void)thread;
    block_product(bf16_tiles, c, a, m, b, n, (k + 1) / 2, add, ahead);
}

static void product_f32(const dd_gemm_plan *plan, int thread, float *c, const void *a, int m, const void *b, int n, int64_t k,
                        bool add, bool ahead) {
    (void)plan, (void)thread;
    block_product(f32_tiles, c, a, m, b, n, k, add, ahead);
}

/* ------------------------------------------------------------------------------------------------ layouts */

/* Steps of up to 16 rows side by side: to[s * stride + i] = step s of row i; rows from `rows` to 16 are written as zeros, so
 * `to` must have room for 16 values after the start of its last step. */
INLINE void interleave(uint32_t *to, int stride, const char *from, int64_t row_bytes, int rows, int64_t k, const bool bf16) {
    const int per_vector = bf16 ? 32 : 16;
    for (int64_t at = 0; at < k; at += per_vector) {
        int64_t left = k - at < per_vector ? k - at : per_vector;
        __mmask32 mask = (__mmask32)(left == 32 ? 0xffffffffu : (1u << left) - 1);
        __m512i x[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const char *p = from + i * row_bytes + at * (bf16 ? 2 : 4);
            if (i >= rows) x[i] = _mm512_setzero_si512();
            else x[i] = bf16 ? _mm512_maskz_loadu_epi16(mask, p) : _mm512_maskz_loadu_epi32((__mmask16)mask, p);
        }
        transpose_16x16(x);
        int steps = (int)(bf16 ? (left + 1) / 2 : left);
#pragma GCC unroll 16
        for (int s = 0; s < 16; s++) {
            if (s == steps) break;
            _mm512_storeu_si512(to + s * stride, x[s]);
        }
        to += 16 * stride;
    }
}

/* A tile's last stores reach past it by up to 15 values, into the next tile (written afterwards) or the slack of a_bytes. */
INLINE void pack_rows(uint32_t *to, const char *from, int64_t row_bytes, int m, int64_t k, const bool bf16) {
    tiling t = tiling_of(m);
    int64_t steps = bf16 ? (k + 1) / 2 : k;
    for (int i = 0; i < t.tiles; i++) {
        int rows = tile_rows(&t, i);
        interleave(to, rows, from, row_bytes, rows, k, bf16);
        to += rows * steps;
        from += rows * row_bytes;
    }
}

static void pack_a_bf16(void *to, const void *from, int64_t ld, int m, int64_t k) { pack_rows(to, from, ld * 2, m, k, true); }
static void pack_a_f32(void *to, const void *from, int64_t ld, int m, int64_t k) { pack_rows(to, from, ld * 4, m, k, false); }

static void pack_a_transposed_bf16(void *to, const void *from, int64_t ld, int m, int64_t k) {
    tiling t = tiling_of(m);
    uint32_t *out = to;
    for (int i = 0, row = 0; i < t.tiles; i++) {
        int rows = tile_rows(&t, i);
        __mmask16 mask = (__mmask16)((1u << rows) - 1);
        const uint16_t *p = (const uint16_t *)from + row;
        for (int64_t s = 0; s < k; s += 2, out += rows) {
            __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p + s * ld));
            __m512i odd = _mm512_setzero_si512();
            if (s + 1 < k) odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p + (s + 1) * ld));
            _mm512_storeu_si512(out, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
        row += rows;
    }
}

static void pack_a_transposed_f32(void *to, const void *from, int64_t ld, int m, int64_t k) {
    tiling t = tiling_of(m);
    float *out = to;
    for (int i = 0, row = 0; i < t.tiles; i++) {
        int rows = tile_rows(&t, i);
        __mmask16 mask = (__mmask16)((1u << rows) - 1);
        const float *p = (const float *)from + row;
        for (int64_t s = 0; s < k; s++, out += rows) _mm512_storeu_ps(out, _mm512_maskz_loadu_ps(mask, p + s * ld));
        row += rows;
    }
}

static void pack_a_columns_bf16(void *to, const void *from, int64_t ld, int m, int64_t k, int64_t depth) {
    (void)depth;
    pack_a_transposed_bf16(to, from, ld, m, k);
}

static void pack_a_columns_f32(void *to, const void *from, int64_t ld, int m, int64_t k, int64_t depth) {
    (void)depth;
    pack_a_transposed_f32(to, from, ld, m, k);
}

INLINE void pack_panels(uint32_t *to, const char *from, int64_t row_bytes, int64_t n, int64_t k, const bool bf16) {
    int64_t steps = bf16 ? (k + 1) / 2 : k;
    for (int64_t col = 0; col < n; col += 16) {
        int cols = (int)(n - col < 16 ? n - col : 16);
        uint32_t *panel = to + col / PANEL * PANEL * steps;
        interleave(panel + col % PANEL, PANEL, from + col * row_bytes, row_bytes, cols, k, bf16);
    }
    if ((n + 15) / 16 % 2 == 0) return;
    uint32_t *half = to + n / PANEL * PANEL * steps + 16; /* the last panel's right half, never computed: only kept defined */
    for (int64_t s = 0; s < steps; s++) _mm512_storeu_si512(half + s * PANEL, _mm512_setzero_si512());
}

static void pack_b_bf16(void *to, const void *from, int64_t ld, int64_t n, int64_t k) {
    pack_panels(to, from, ld * 2, n, k, true);
}
static void pack_b_f32(void *to, const void *from, int64_t ld, int64_t n, int64_t k) {
    pack_panels(to, from, ld * 4, n, k, false);
}

/* Rows lie as they are needed: float32 are copied, two rows of bf16 become one of pairs. Columns from n to the end of the last
 * panel are written as zeros. */
static void pack_b_rows_bf16(void *to, const void *from, int64_t ld, int64_t n, int64_t k, int64_t begin, int64_t count) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
                                         4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    int64_t steps = (k + 1) / 2;
    for (int64_t col = 0; col < n; col += PANEL) {
        __mmask32 mask = n - col < PANEL ? (1u << (n - col)) - 1 : 0xffffffffu;
        uint32_t *out = (uint32_t *)to + col * steps + begin / 2 * PANEL;
        const uint16_t *p = (const uint16_t *)from + col;
        for (int64_t s = 0; s < count; s += 2, out += PANEL) {
            _mm_prefetch((const char *)(p + (s + AHEAD) * ld), _MM_HINT_T0);
            _mm_prefetch((const char *)(p + (s + AHEAD + 1) * ld), _MM_HINT_T0);
            __m512i even = _mm512_maskz_loadu_epi16(mask, p + s * ld), odd = _mm512_setzero_si512();
            if (s + 1 < count) odd = _mm512_maskz_loadu_epi16(mask, p + (s + 1) * ld);
            _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(even, high, odd));
        }
    }
}

static void pack_b_rows_f32(void *to, const void *from, int64_t ld, int64_t n, int64_t k, int64_t begin, int64_t count) {
    for (int64_t col = 0; col < n; col += PANEL) {
        uint32_t mask = n - col < PANEL ? (1u << (n - col)) - 1 : 0xffffffffu;
        float *out = (float *)to + col * k + begin * PANEL;
        const float *p = (const float *)from + col;
        for (int64_t s = 0; s < count; s++, out += PANEL) {
            _mm_prefetch((const char *)(p + (s + AHEAD) * ld), _MM_HINT_T0);
            _mm_prefetch((const char *)(p + (s + AHEAD) * ld + 16), _MM_HINT_T0);
            _mm512_storeu_ps(out, _mm512_maskz_loadu_ps((__mmask16)mask, p + s * ld));
            _mm512_storeu_ps(out + 16, _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), p + s * ld + 16));
        }
    }
}

static size_t a_bytes_bf16(int m, int64_t k) { return (size_t)m * (size_t)((k + 1) / 2) * 4 + 64; }
static size_t a_bytes_f32(int m, int64_t k) { return (size_t)m * (size_t)k * 4 + 64; }
static size_t b_bytes_bf16(int64_t n, int64_t k) { return (size_t)((n + PANEL - 1) / PANEL * PANEL * ((k + 1) / 2)) * 4; }
static size_t b_bytes_f32(int64_t n, int64_t k) { return (size_t)((n + PANEL - 1) / PANEL * PANEL * k) * 4; }

/* ------------------------------------------------------------------------------------------------ engines */

const dd_gemm_engine dd_gemm_avx512_bf16 = {
    .name = "AVX512-BF16",
    .dtype = DD_DTYPE_BF16,
    .rows = BLOCK,
    .row_step = TILE,
    .cols = PANEL,
    .query_cols = QUERIES,
    .pairs = true,
    .a_bytes = a_bytes_bf16,
    .b_bytes = b_bytes_bf16,
    .pack_a = pack_a_bf16,
    .pack_a_transposed = pack_a_transposed_bf16,
    .pack_a_columns = pack_a_columns_bf16,
    .pack_b = pack_b_bf16,
    .pack_b_rows = pack_b_rows_bf16,
    .product = product_bf16,
};

const dd_gemm_engine dd_gemm_avx512_f32 = {
    .name = "AVX512",
    .dtype = DD_DTYPE_F32,
    .rows = BLOCK,
    .row_step = TILE,
    .cols = PANEL,
    .query_cols = QUERIES,
    .pairs = false,
    .a_bytes = a_bytes_f32,
    .b_bytes = b_bytes_f32,
    .pack_a = pack_a_f32,
    .pack_a_transposed = pack_a_transposed_f32,
    .pack_a_columns = pack_a_columns_f32,
    .pack_b = pack_b_f32,
    .pack_b_rows = pack_b_rows_f32,
    .product = product_f32,
};
