/* Matrix products of tiles, the inside of linear and attention: C[m,n] = A[m,k] B[k,n] in float32. An engine says how operands
 * are laid out and multiplies two laid-out blocks on the calling thread; loops, threads and everything done to C belong to the
 * callers (cpu_linear.c, cpu_attention.c). Private to the room.
 *
 * An A block holds up to `rows` rows of A. A B operand holds n columns in blocks of `cols`: block j (columns [j * cols, …))
 * starts at dd_gemm_b_block(). C is [m, cols] with rows `cols` values apart. A value of C is summed over k in an order that
 * depends on k alone, so how rows and columns are cut into blocks does not change a bit.
 */
#ifndef DD_BACKEND_CPU_GEMM_H
#define DD_BACKEND_CPU_GEMM_H

#include "op/op.h"

/* Keys of a block of attention: scores of 32 queries then fill 28 KB of the L1 cache. */
enum { DD_GEMM_KEYS = 224 };

/* Plans for products of one k, made beforehand where an engine needs them (oneDNN); NULL elsewhere. */
typedef struct dd_gemm_plan dd_gemm_plan;

/* What a plan is for. */
typedef enum dd_gemm_kind {
    DD_GEMM_LINEAR, /* any m <= rows and n <= cols; B by pack_b */
    DD_GEMM_SCORES, /* exactly m and n; B by pack_b; C's rows n values apart */
    DD_GEMM_VALUES, /* exactly m and n; B [k, n] as softmax leaves it; C's rows n values apart */
} dd_gemm_kind;

typedef struct dd_gemm_engine {
    const char *name; /* e.g. "AVX512-BF16" */
    dd_dtype dtype;   /* of both operands: BF16 or F32 */
    int rows;         /* most rows of an A block */
    int row_step;     /* A blocks of a multiple of this many rows waste nothing */
    int cols;         /* columns of a B block */
    bool adds_aside;  /* product with add uses as much memory again behind C */
    bool whole_keys;  /* products with a transposed A block run over DD_GEMM_KEYS keys: unused rows of B must be zero */
    int query_cols;   /* attention: queries computed at once */
    bool pairs;       /* rows 2j and 2j + 1 of a B operand lie value beside value (VNNI): B[2j][0], B[2j+1][0], B[2j][1], … */

    /* Bytes of an A block of m rows, and of a B operand of n columns; what pack_* may write. */
    size_t (*a_bytes)(int m, int64_t k);
    size_t (*b_bytes)(int64_t n, int64_t k);

    /* Lays out an A block from A's rows (`from` [m, k], rows ld values apart) or from its transpose (`from` [k, m],
     * k <= DD_GEMM_KEYS; room as for k = DD_GEMM_KEYS, and so deep if whole_keys). */
    void (*pack_a)(void *to, const void *from, int64_t ld, int m, int64_t k);
    void (*pack_a_transposed)(void *to, const void *from, int64_t ld, int m, int64_t k);

    /* From the transpose too, `depth` deep with zeros after k: depth as large as a plan needs (whole_keys), else k. */
    void (*pack_a_columns)(void *to, const void *from, int64_t ld, int m, int64_t k, int64_t depth);

    /* Lays out a B operand from the rows of its transpose: `from` [n, k], rows ld values apart, as weights are stored. */
    void (*pack_b)(void *to, const void *from, int64_t ld, int64_t n, int64_t k);

    /* The same operand (LINEAR) from its own rows, as gradients need it: lays out rows [begin, begin + count) of k, `from`
     * [count, n]. begin is even, and count too unless these are the last rows. Rows may be brought in any order. */
    void (*pack_b_rows)(void *to, const void *from, int64_t ld, int64_t n, int64_t k, int64_t begin, int64_t count);

    /* c[m, n] = (or +=, if add) A block times B block, m and n as the plan says (own kernels: any m). Columns from n to the
     * next multiple of 16 may be written too, and rows from m to rows (LINEAR). `ahead`: bring what follows this B block to
     * the cache, because it comes next. */
    void (*product)(const dd_gemm_plan *plan, int thread, float *c, const void *a, int m, const void *b, int n, int64_t k,
                    bool add, bool ahead);

    /* Plans for `threads` calling threads; m and n are 0 for LINEAR. All three are NULL in an engine without plans. */
    ddit_status (*plan_make)(dd_gemm_plan **out, const dd_allocator *a, int threads, dd_gemm_kind kind, int m, int n, int64_t k,
                             ddit_err *err);
    void (*plan_free)(const dd_allocator *a, dd_gemm_plan *plan); /* NULL accepted */
    size_t (*plan_bytes)(const dd_gemm_plan *plan);               /* memory it holds */
} dd_gemm_engine;

/* Own kernels; the processor must have AVX-512 F, BW, DQ, VL and, for the first, BF16 (dd_cpu_has_avx512bf16). */
extern const dd_gemm_engine dd_gemm_avx512_bf16;
extern const dd_gemm_engine dd_gemm_avx512_f32;

/* oneDNN: AMX, and every processor without the kernels above. */
extern const dd_gemm_engine dd_gemm_onednn_bf16;
extern const dd_gemm_engine dd_gemm_onednn_f32;

/* Values of k as stored by an engine: bf16 pairs need an even number. */
static inline int64_t dd_gemm_depth(const dd_gemm_engine *e, int64_t k) { return e->pairs ? (k + 1) / 2 * 2 : k; }

/* The B block that starts at column `col`, a multiple of e->cols. */
static inline const void *dd_gemm_b_block(const dd_gemm_engine *e, const void *b, int64_t col, int64_t k) {
    return (const char *)b + (size_t)(col * dd_gemm_depth(e, k)) * (e->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

#endif
