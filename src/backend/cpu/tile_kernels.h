/* What is done to tiles of float32 between and after matrix products: the epilogue of linear and the softmax of attention.
 * Compiled once per instruction set from kernels/tile.c, like kernels.h. One thread, no allocation. Private to the room.
 */
#ifndef DD_BACKEND_CPU_TILE_KERNELS_H
#define DD_BACKEND_CPU_TILE_KERNELS_H

#include "op/op.h"

/* The epilogue of dd_linear_args for one tile: all pointers are at the tile's first row and column, distances in values. */
typedef struct dd_tile_finish {
    void *y;
    bool y_bf16;
    int64_t y_ld;
    const float *bias; /* per column, or NULL */
    dd_activation activation;
    const void *mul; /* or NULL */
    bool mul_bf16;
    int64_t mul_ld;
    const float *gate; /* per column, or NULL */
    const float *add;  /* or NULL; may be y */
    int64_t add_ld;
} dd_tile_finish;

/* How dd_tile_soften stores probabilities. */
typedef enum dd_tile_form {
    DD_TILE_F32,        /* [keys, cols] */
    DD_TILE_BF16,       /* [keys, cols] */
    DD_TILE_BF16_PAIRS, /* [keys/2, cols, 2]; an odd last key is paired with zeros */
} dd_tile_form;

/* One block of keys of the online softmax for `cols` queries (a multiple of 16). Scores are transposed, [keys, cols], so that
 * everything runs along the lanes of a vector. */
typedef struct dd_tile_soften {
    const float *scores;
    int keys, cols;
    int used;      /* columns looked at, a multiple of 16, <= cols */
    float factor;  /* probability = 2 ^ (factor * (score - top)), factor > 0 */
    float *top;    /* [cols] the score that has probability 1, about the largest so far; updated */
    float *sum;    /* [cols] sum of probabilities so far, updated */
    float *shrink; /* [cols] written: what earlier sums must be multiplied by */
    void *p;       /* written; may be scores for DD_TILE_F32 */
    dd_tile_form form;
} dd_tile_soften;

/* The softmax of attention backwards for one tile: P = 2 ^ (factor * score - lse), dS = P * (dP - delta), turned on its side as
 * in dd_tile_soften. P and dS go to rows as they lie; dS also to the layout of a B operand. */
typedef struct dd_tile_score_grad {
    const float *scores, *dp; /* [keys, cols] */
    int keys, cols;
    int used;           /* columns looked at, a multiple of 16, <= cols */
    float factor;
    const float *lse;   /* [cols] log-sum-exp in powers of two */
    const float *delta; /* [cols] sum of dout * out */
    void *p, *ds;       /* [keys, ld] bf16, or float32 for DD_TILE_F32; written */
    int64_t ld;
    void *ds_operand; /* dS in `form`; written */
    dd_tile_form form;
} dd_tile_score_grad;

typedef struct dd_tile_kernels {
    /* y = epilogue of c[m, n], rows ldc apart. */
    void (*finish)(const dd_tile_finish *f, const float *c, int64_t ldc, int64_t m, int64_t n);
    /* to[m, n] = bf16 or float32 of factor * c. */
    void (*scaled)(void *to, bool to_bf16, int64_t ld, const float *c, int64_t ldc, int64_t m, int64_t n, float factor);
    /* to[m, n] += factor * c: what gradients are added to. */
    void (*add_scaled)(float *to, int64_t ld, const float *c, int64_t ldc, int64_t m, int64_t n, float factor);
    /* False if every shrink is 1. `top` may stay a little below the largest score, see there. */
    bool (*soften)(const dd_tile_soften *s);
    /* o[rows, cols] *= factor[cols], the first `used` columns */
    void (*scale_columns)(float *o, const float *factor, int64_t rows, int cols, int used);
    /* y[q, e] = o[e, q] / sum[q] for q < queries <= cols, e < width; y's rows y_ld apart. */
    void (*attended)(void *y, bool y_bf16, int64_t y_ld, const float *o, const float *sum, int cols, int queries, int width);
    void (*score_grad)(const dd_tile_score_grad *s);
    /* to[i] = sum over e of x[i, e] * y[i, e] for i < rows, e < width; x and y both bf16 or both float32. */
    void (*dots)(float *to, const void *x, int64_t x_ld, const void *y, int64_t y_ld, bool bf16, int64_t rows, int width);
} dd_tile_kernels;

extern const dd_tile_kernels dd_tile_kernels_baseline;
extern const dd_tile_kernels dd_tile_kernels_avx2;
extern const dd_tile_kernels dd_tile_kernels_avx512;
extern const dd_tile_kernels dd_tile_kernels_avx512bf16; /* kernels_avx512bf16/ */

/* The table for this processor. */
const dd_tile_kernels *dd_tile_kernels_best(void);

#endif
