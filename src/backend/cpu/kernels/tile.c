/* Epilogue of linear and softmax of attention on tiles; contracts in tile_kernels.h. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"
#include "backend/cpu/tile_kernels.h"
#if defined(__AVX512F__)
#include "backend/cpu/kernels/transpose.h"
#endif

/* ------------------------------------------------------------------------------------------------ epilogue of linear */

/* x / (1 + 2^t) */
INLINE vf gated(vf x, vf t) { return x * inverse(1.0f + vf_exp2(vf_min(t, splat(126.0f)), false), false); }

/* The activations; for results that are rounded to bf16, cheaper ones (1e-4). */
INLINE vf activated(vf v, const dd_activation activation, const bool precise) {
    const float log2_e = 1.44269504088896341f;
    switch (activation) {
    case DD_ACTIVATION_NONE: return v;
    case DD_ACTIVATION_SILU: return precise ? vf_silu(v) : gated(v, -log2_e * v);
    case DD_ACTIVATION_GELU_TANH:
        return precise ? vf_gelu_tanh(v) : gated(v, v * (-1.5957691216057308f * log2_e * (1.0f + 0.044715f * (v * v))));
    case DD_ACTIVATION_GELU_ERF: return vf_gelu_erf(v);
    case DD_ACTIVATION_QUICK_GELU: return precise ? vf_quick_gelu(v) : gated(v, -1.702f * log2_e * v);
    }
    return v;
}

/* y[at …] = v; rounds with one instruction where there is one. */
INLINE void put(void *y, const bool bf16, int64_t at, vf v) {
#if defined(__AVX512BF16__)
    if (bf16) {
        __m256bh h = _mm512_cvtneps_pbh((__m512)v);
        memcpy((uint16_t *)y + at, &h, sizeof h);
        return;
    }
#endif
    store(y, bf16, at, v);
}

/* `part`: fewer than LANES values, n of them. */
INLINE void finish_lanes(const dd_tile_finish *f, const float *c, int64_t row, int64_t col, const bool part, int64_t n,
                         const dd_activation activation, const bool y_bf16) {
#define LOAD(x, bf16, i) (part ? load_part(x, bf16, i, n) : load(x, bf16, i))
    vf v = LOAD(c, false, col);
    if (f->bias) v += LOAD(f->bias, false, col);
    v = activated(v, activation, !y_bf16);
    if (f->mul) v *= f->mul_bf16 ? LOAD(f->mul, true, row * f->mul_ld + col) : LOAD(f->mul, false, row * f->mul_ld + col);
    if (f->gate) v *= LOAD(f->gate, false, col);
    if (f->add) v += LOAD(f->add, false, row * f->add_ld + col);
#undef LOAD
    int64_t at = row * f->y_ld + col;
    if (part) store_part(f->y, y_bf16, at, v, n);
    else put(f->y, y_bf16, at, v);
}

INLINE void finish_rows(const dd_tile_finish *f, const float *c, int64_t ldc, int64_t m, int64_t n,
                        const dd_activation activation, const bool y_bf16) {
    for (int64_t row = 0; row < m; row++) {
        int64_t col = 0;
        for (; col + LANES <= n; col += LANES) finish_lanes(f, c + row * ldc, row, col, false, LANES, activation, y_bf16);
        if (col < n) finish_lanes(f, c + row * ldc, row, col, true, n - col, activation, y_bf16);
    }
}

INLINE void finish_to(const dd_tile_finish *f, const float *c, int64_t ldc, int64_t m, int64_t n, const bool y_bf16) {
    switch (f->activation) {
    case DD_ACTIVATION_NONE: finish_rows(f, c, ldc, m, n, DD_ACTIVATION_NONE, y_bf16); break;
    case DD_ACTIVATION_SILU: finish_rows(f, c, ldc, m, n, DD_ACTIVATION_SILU, y_bf16); break;
    case DD_ACTIVATION_GELU_TANH: finish_rows(f, c, ldc, m, n, DD_ACTIVATION_GELU_TANH, y_bf16); break;
    case DD_ACTIVATION_GELU_ERF: finish_rows(f, c, ldc, m, n, DD_ACTIVATION_GELU_ERF, y_bf16); break;
    case DD_ACTIVATION_QUICK_GELU: finish_rows(f, c, ldc, m, n, DD_ACTIVATION_QUICK_GELU, y_bf16); break;
    }
}

static void finish(const dd_tile_finish *f, const float *c, int64_t ldc, int64_t m, int64_t n) {
    if (f->y_bf16) finish_to(f, c, ldc, m, n, true);
    else finish_to(f, c, ldc, m, n, false);
}

INLINE void scaled_rows(void *to, const bool bf16, int64_t ld, const float *c, int64_t ldc, int64_t m, int64_t n,
                        float factor) {
    for (int64_t row = 0; row < m; row++) {
        int64_t col = 0;
        for (; col + LANES <= n; col += LANES) store(to, bf16, row * ld + col, factor * load(c, false, row * ldc + col));
        if (col < n) store_part(to, bf16, row * ld + col, factor * load_part(c, false, row * ldc + col, n - col), n - col);
    }
}

static void scaled(void *to, bool to_bf16, int64_t ld, const float *c, int64_t ldc, int64_t m, int64_t n, float factor) {
    if (to_bf16) scaled_rows(to, true, ld, c, ldc, m, n, factor);
    else scaled_rows(to, false, ld, c, ldc, m, n, factor);
}

static void add_scaled(float *to, int64_t ld, const float *c, int64_t ldc, int64_t m, int64_t n, float factor) {
    for (int64_t row = 0; row < m; row++, to += ld, c += ldc) {
        int64_t col = 0;
        for (; col + LANES <= n; col += LANES) store(to, false, col, load(to, false, col) + factor * load(c, false, col));
        if (col == n) continue;
        vf sum = load_part(to, false, col, n - col) + factor * load_part(c, false, col, n - col);
        store_part(to, false, col, sum, n - col);
    }
}

/* ------------------------------------------------------------------------------------------------ softmax of attention */

/* Largest of a column of scores and `top`; four keys at a time so that the maxima overlap. */
INLINE vf column_top(const float *scores, int keys, int cols, vf top) {
    int j = 0;
    for (; j + 4 <= keys; j += 4) {
        const float *s = scores + (int64_t)j * cols;
        vf x = vf_max(load(s, false, 0), load(s, false, cols)), y = vf_max(load(s, false, 2 * cols), load(s, false, 3 * cols));
        top = vf_max(top, vf_max(x, y));
    }
    for (; j < keys; j++) top = vf_max(top, load(scores, false, (int64_t)j * cols));
    return top;
}

/* Probabilities are not negative and not NaN unless a score was: rounding half up will do. */
INLINE vu bf16_low(vf x) { return ((vu)x + 0x8000) >> 16; }
INLINE vu bf16_high(vf x) { return ((vu)x + 0x8000) & 0xffff0000u; }

INLINE void soften_columns(const dd_tile_soften *s, int col, vf top, const dd_tile_form form) {
    const float *scores = s->scores + col;
    vf offset = s->factor * top, sum0 = {0}, sum1 = {0};
    const bool precise = form == DD_TILE_F32;
    int j = 0;
    for (; j + 2 <= s->keys; j += 2) {
        int64_t at = (int64_t)j * s->cols;
        vf p0 = vf_exp2(load(scores, false, at) * s->factor - offset, precise);
        vf p1 = vf_exp2(load(scores, false, at + s->cols) * s->factor - offset, precise);
        sum0 += p0;
        sum1 += p1;
        if (form == DD_TILE_BF16_PAIRS) {
            vu pair = bf16_low(p0) | bf16_high(p1);
            memcpy((uint32_t *)s->p + at / 2 + col, &pair, sizeof pair);
        } else {
            store(s->p, form == DD_TILE_BF16, at + col, p0);
            store(s->p, form == DD_TILE_BF16, at + s->cols + col, p1);
        }
    }
    if (j < s->keys) {
        int64_t at = (int64_t)j * s->cols;
        vf p0 = vf_exp2(load(scores, false, at) * s->factor - offset, precise);
        sum0 += p0;
        if (form == DD_TILE_BF16_PAIRS) {
            vu pair = bf16_low(p0);
            memcpy((uint32_t *)s->p + at / 2 + col, &pair, sizeof pair);
        } else {
            store(s->p, form == DD_TILE_BF16, at + col, p0);
        }
    }
    store(s->sum, false, col, load(s->sum, false, col) * load(s->shrink, false, col) + (sum0 + sum1));
}

/* A new largest score becomes the reference only if it is SLACK powers of two above the old one: until then probabilities stay
 * below 2^SLACK, as exact as ever, and earlier sums need no rescaling. */
static bool soften(const dd_tile_soften *s) {
    enum { SLACK = 8 };
    bool changed = false;
    for (int col = 0; col < s->used; col += LANES) {
        vf old = load(s->top, false, col);
        vf top = column_top(s->scores + col, s->keys, s->cols, old);
        vi grown = (top - old) * s->factor > (float)SLACK;
        top = (vf)((grown & (vi)top) | (~grown & (vi)old));
        store(s->top, false, col, top);
        store(s->shrink, false, col, vf_exp2((old - top) * s->factor, true));
        for (int i = 0; i < LANES; i++) changed |= grown[i] != 0;
        switch (s->form) {
        case DD_TILE_F32: soften_columns(s, col, top, DD_TILE_F32); break;
        case DD_TILE_BF16: soften_columns(s, col, top, DD_TILE_BF16); break;
        case DD_TILE_BF16_PAIRS: soften_columns(s, col, top, DD_TILE_BF16_PAIRS); break;
        }
    }
    return changed;
}

static void scale_columns(float *o, const float *factor, int64_t rows, int cols, int used) {
    for (int col = 0; col < used; col += LANES) {
        vf f = load(factor, false, col);
        for (int64_t row = 0; row < rows; row++) store(o, false, row * cols + col, f * load(o, false, row * cols + col));
    }
}

#if defined(__AVX512F__)
/* 16 queries x 16 values at a time, turned in registers. */
INLINE void attended_block(void *y, const bool bf16, int64_t y_ld, const float *o, vf by_sum, int cols, int queries,
                           int width) {
    __m512i x[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) x[i] = i < width ? (__m512i)(by_sum * load(o, false, (int64_t)i * cols))
                                                     : _mm512_setzero_si512();
    transpose_16x16(x);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        if (i >= queries) break;
        if (width >= 16) put(y, bf16, i * y_ld, (vf)x[i]);
        else store_part(y, bf16, i * y_ld, (vf)x[i], width);
    }
}

INLINE void attended_tile(void *y, const bool bf16, int64_t y_ld, const float *o, const float *sum, int cols, int queries,
                          int width) {
    for (int q = 0; q < queries; q += 16) {
        vf by_sum = 1.0f / load(sum, false, q);
        for (int e = 0; e < width; e += 16) {
            char *to = (char *)y + (q * y_ld + e) * (bf16 ? 2 : 4);
            attended_block(to, bf16, y_ld, o + (int64_t)e * cols + q, by_sum, cols, queries - q, width - e);
        }
    }
}
#else
INLINE void attended_tile(void *y, const bool bf16, int64_t y_ld, const float *o, const float *sum, int cols, int queries,
                          int width) {
    for (int q = 0; q < queries; q++) {
        float by_sum = 1.0f / sum[q];
        for (int e = 0; e < width; e += LANES) {
            int n = width - e < LANES ? width - e : LANES;
            vf v = {0};
            for (int i = 0; i < n; i++) v[i] = by_sum * o[(int64_t)(e + i) * cols + q];
            store_part(y, bf16, q * y_ld + e, v, n);
        }
    }
}
#endif

static void attended(void *y, bool y_bf16, int64_t y_ld, const float *o, const float *sum, int cols, int queries, int width) {
    if (y_bf16) attended_tile(y, true, y_ld, o, sum, cols, queries, width);
    else attended_tile(y, false, y_ld, o, sum, cols, queries, width);
}

/* ------------------------------------------------------------------------------------------------ softmax backwards */

/* P and dS of LANES queries and one key; P is stored. */
INLINE vf score_grad_at(const dd_tile_score_grad *s, int key, int col, vf lse, vf delta, const bool bf16) {
    int64_t at = (int64_t)key * s->cols + col, to = key * s->ld + col;
    vf p = vf_exp2(load(s->scores, false, at) * s->factor - lse, !bf16);
    vf ds = p * (load(s->dp, false, at) - delta);
    put(s->p, bf16, to, p);
    put(s->ds, bf16, to, ds);
    return ds;
}

INLINE void score_grad_columns(const dd_tile_score_grad *s, int col, const dd_tile_form form) {
    const bool bf16 = form != DD_TILE_F32;
    vf lse = load(s->lse, false, col), delta = load(s->delta, false, col);
    int j = 0;
    for (; j + 2 <= s->keys; j += 2) {
        int64_t at = (int64_t)j * s->cols;
        vf ds0 = score_grad_at(s, j, col, lse, delta, bf16), ds1 = score_grad_at(s, j + 1, col, lse, delta, bf16);
        if (form == DD_TILE_BF16_PAIRS) {
            vu pair = bf16_low(ds0) | bf16_high(ds1);
            memcpy((uint32_t *)s->ds_operand + at / 2 + col, &pair, sizeof pair);
        } else {
            put(s->ds_operand, bf16, at + col, ds0);
            put(s->ds_operand, bf16, at + s->cols + col, ds1);
        }
    }
    if (j < s->keys) {
        int64_t at = (int64_t)j * s->cols;
        vf ds0 = score_grad_at(s, j, col, lse, delta, bf16);
        if (form == DD_TILE_BF16_PAIRS) {
            vu pair = bf16_low(ds0);
            memcpy((uint32_t *)s->ds_operand + at / 2 + col, &pair, sizeof pair);
        } else {
            put(s->ds_operand, bf16, at + col, ds0);
        }
    }
}

static void score_grad(const dd_tile_score_grad *s) {
    for (int col = 0; col < s->used; col += LANES) {
        switch (s->form) {
        case DD_TILE_F32: score_grad_columns(s, col, DD_TILE_F32); break;
        case DD_TILE_BF16: score_grad_columns(s, col, DD_TILE_BF16); break;
        case DD_TILE_BF16_PAIRS: score_grad_columns(s, col, DD_TILE_BF16_PAIRS); break;
        }
    }
}

INLINE float row_dot(const void *x, const void *y, const bool bf16, int64_t x_at, int64_t y_at, int width) {
    vf sum0 = {0}, sum1 = {0};
    int i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        sum0 += load(x, bf16, x_at + i) * load(y, bf16, y_at + i);
        sum1 += load(x, bf16, x_at + i + LANES) * load(y, bf16, y_at + i + LANES);
    }
    for (; i < width; i += LANES) {
        int n = width - i < LANES ? width - i : LANES;
        sum0 += load_part(x, bf16, x_at + i, n) * load_part(y, bf16, y_at + i, n);
    }
    return lane_sum(sum0 + sum1);
}

static void dots(float *to, const void *x, int64_t x_ld, const void *y, int64_t y_ld, bool bf16, int64_t rows, int width) {
    for (int64_t i = 0; i < rows; i++)
        to[i] = bf16 ? row_dot(x, y, true, i * x_ld, i * y_ld, width) : row_dot(x, y, false, i * x_ld, i * y_ld, width);
}

const dd_tile_kernels DD_ISA_NAME(dd_tile_kernels) = {
    .finish = finish,
    .scaled = scaled,
    .add_scaled = add_scaled,
    .soften = soften,
    .scale_columns = scale_columns,
    .attended = attended,
    .score_grad = score_grad,
    .dots = dots,
};
