/* Backward passes of the row kernels; contracts in kernels.h. Loops go over whole vectors, then once more for the rest of a row
 * with `part` set; what a loop does is written once for both. */
#include "backend/cpu/kernels/isa.h"
#include "backend/cpu/kernels/vec.h"

enum { MAX_HEAD = DD_CPU_MAX_HEAD + LANES };

INLINE void *row_of(const dd_tensor *t, int64_t i) {
    return (char *)t->data + (size_t)(i * t->ld) * (t->dtype == DD_DTYPE_BF16 ? 2 : 4);
}

/* n values, zeros after them, or a whole vector. */
INLINE vf get(const void *x, const bool bf16, int64_t i, const bool part, int64_t n) {
    return part ? load_part(x, bf16, i, n) : load(x, bf16, i);
}

INLINE void set(void *y, const bool bf16, int64_t i, vf v, const bool part, int64_t n) {
    if (part) store_part(y, bf16, i, v, n);
    else store(y, bf16, i, v);
}

INLINE void add_to(float *y, int64_t i, vf v, const bool part, int64_t n) {
    set(y, false, i, get(y, false, i, part, n) + v, part, n);
}

static void clear(float *sums, int64_t count) {
    if (sums) memset(sums, 0, (size_t)count * sizeof *sums);
}

/* ------------------------------------------------------------------------------------------------ layer norm */

enum { TOGETHER = 2 }; /* rows: they share loads and stores of the column sums */

typedef struct norm_row {
    float *dx;
    const void *dy;
    const float *x;
    float mean, factor;     /* n = (x - mean) * factor */
    float dn_mean, dnn_mean; /* of dn and of dn * n */
} norm_row;

INLINE float mean_of(const float *x, int64_t size) {
    vf sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
        for (int u = 0; u < 4; u++) sum[u] += load(x, false, i + u * LANES);
    for (; i + LANES <= size; i += LANES) sum[0] += load(x, false, i);
    if (i < size) sum[1] += load_part(x, false, i, size - i);
    return lane_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)size;
}

/* Sums of squares of x - mean, of dn, and of dn * (x - mean). */
typedef struct norm_sums {
    vf square, dn, product;
} norm_sums;

INLINE void sum_at(norm_sums *s, const norm_row *r, const bool bf16, const float *scale, int64_t i, const bool part,
                   int64_t n) {
    vf d = get(r->x, false, i, part, n) - r->mean;
    if (part) d = keep_part(d, n);
    vf dn = get(r->dy, bf16, i, part, n);
    if (scale) dn *= 1.0f + get(scale, false, i, part, n);
    s->square += d * d;
    s->dn += dn;
    s->product += dn * d;
}

INLINE void norm_row_open(norm_row *r, const dd_norm_grad_args *g, const bool bf16, const float *scale, int64_t m) {
    int64_t size = dd_tensor_row_size(&g->x);
    *r = (norm_row){.dx = row_of(&g->dx, m), .dy = row_of(&g->dy, m), .x = row_of(&g->x, m)};
    r->mean = mean_of(r->x, size);
    norm_sums a = {{0}, {0}, {0}}, b = {{0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        sum_at(&a, r, bf16, scale, i, false, LANES);
        sum_at(&b, r, bf16, scale, i + LANES, false, LANES);
    }
    for (; i + LANES <= size; i += LANES) sum_at(&a, r, bf16, scale, i, false, LANES);
    if (i < size) sum_at(&b, r, bf16, scale, i, true, size - i);
    r->factor = 1.0f / sqrtf(lane_sum(a.square + b.square) / (float)size + g->eps);
    r->dn_mean = lane_sum(a.dn + b.dn) / (float)size;
    r->dnn_mean = r->factor * lane_sum(a.product + b.product) / (float)size;
}

INLINE void norm_write_at(const norm_row *rows, const int count, const bool bf16, const float *scale, float *dscale,
                          float *dshift, int64_t i, const bool part, int64_t n) {
    vf gain = splat(1.0f), by_scale = {0}, by_shift = {0};
    if (scale) gain += get(scale, false, i, part, n);
    for (int k = 0; k < count; k++) {
        const norm_row *r = &rows[k];
        vf dy = get(r->dy, bf16, i, part, n), normed = (get(r->x, false, i, part, n) - r->mean) * r->factor;
        add_to(r->dx, i, r->factor * (dy * gain - r->dn_mean - normed * r->dnn_mean), part, n);
        by_scale += dy * normed;
        by_shift += dy;
    }
    if (dscale) add_to(dscale, i, by_scale, part, n);
    if (dshift) add_to(dshift, i, by_shift, part, n);
}

INLINE void norm_write(const norm_row *rows, const int count, const bool bf16, const float *scale, float *dscale,
                       float *dshift, int64_t size) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) norm_write_at(rows, count, bf16, scale, dscale, dshift, i, false, LANES);
    if (i < size) norm_write_at(rows, count, bf16, scale, dscale, dshift, i, true, size - i);
}

INLINE void norm_rows(const dd_norm_grad_args *g, const bool bf16, float *dscale, float *dshift, int64_t begin, int64_t end) {
    int64_t size = dd_tensor_row_size(&g->x), m = begin;
    const float *scale = g->scale ? g->scale->data : NULL;
    norm_row rows[TOGETHER];
    for (; m + TOGETHER <= end; m += TOGETHER) {
        for (int k = 0; k < TOGETHER; k++) norm_row_open(&rows[k], g, bf16, scale, m + k);
        if (dscale && dshift) norm_write(rows, TOGETHER, bf16, scale, dscale, dshift, size);
        else if (!dscale && !dshift) norm_write(rows, TOGETHER, bf16, scale, NULL, NULL, size);
        else norm_write(rows, TOGETHER, bf16, scale, dscale, dshift, size);
    }
    for (; m < end; m++) {
        norm_row_open(&rows[0], g, bf16, scale, m);
        norm_write(rows, 1, bf16, scale, dscale, dshift, size);
    }
}

void DD_ISA_NAME(dd_kernel_norm_grad)(const dd_norm_grad_args *g, float *dscale, float *dshift, int64_t begin, int64_t end) {
    clear(dscale, dd_tensor_row_size(&g->x));
    clear(dshift, dd_tensor_row_size(&g->x));
    if (g->dy.dtype == DD_DTYPE_BF16) norm_rows(g, true, dscale, dshift, begin, end);
    else norm_rows(g, false, dscale, dshift, begin, end);
}

/* ------------------------------------------------------------------------------------------------ norm of heads, rotation */

/* What a row's heads share: dz = dy * same - (dy with pairs exchanged) * other turns the rotation back. */
typedef struct turn_back {
    float same[MAX_HEAD], other[MAX_HEAD], weight[MAX_HEAD];
} turn_back;

INLINE void turn_make(turn_back *t, int64_t size, const float *rope) {
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t n = size - i < LANES ? size - i : LANES;
        vf r = !rope ? even_lanes_one() : n < LANES ? load_part(rope, false, i, n) : load(rope, false, i);
        store(t->same, false, i, even_twice(r));
        store(t->other, false, i, odd_twice_signed(r));
    }
}

typedef struct qk_sums {
    vf square, product;
} qk_sums;

INLINE void qk_sum_at(qk_sums *s, float *dz, const void *dy, const void *x, const bool bf16, const turn_back *t, int64_t i,
                      const bool part, int64_t n) {
    vf d = get(dy, bf16, i, part, n), v = get(x, bf16, i, part, n);
    vf z = d * load(t->same, false, i) - swap_pairs(d) * load(t->other, false, i);
    store(dz, false, i, z);
    s->square += v * v;
    s->product += z * load(t->weight, false, i) * v;
}

/* dx = factor * (g - x * factor^2 * mean(g x)) with g = dz * weight. */
INLINE void qk_write_at(void *dx, float *dweight, const float *dz, const void *x, const bool bf16, const turn_back *t,
                        float factor, float pull, int64_t i, const bool part, int64_t n) {
    vf v = get(x, bf16, i, part, n), z = load(dz, false, i);
    if (dweight) store(dweight, false, i, load(dweight, false, i) + z * v * factor);
    set(dx, bf16, i, factor * (z * load(t->weight, false, i)) - v * pull, part, n);
}

INLINE void qk_head(void *dx, float *dweight, const void *dy, const void *x, const bool bf16, const int64_t size, float eps,
                    const turn_back *t) {
    float dz[MAX_HEAD];
    qk_sums s = {{0}, {0}};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) qk_sum_at(&s, dz, dy, x, bf16, t, i, false, LANES);
    if (i < size) qk_sum_at(&s, dz, dy, x, bf16, t, i, true, size - i);
    float factor = 1.0f / sqrtf(lane_sum(s.square) / (float)size + eps);
    float pull = factor * factor * factor * (lane_sum(s.product) / (float)size);
    for (i = 0; i + LANES <= size; i += LANES) qk_write_at(dx, dweight, dz, x, bf16, t, factor, pull, i, false, LANES);
    if (i < size) qk_write_at(dx, dweight, dz, x, bf16, t, factor, pull, i, true, size - i);
}

/* dweight has room for whole vectors. */
INLINE void qk_rows(const dd_qk_norm_rope_grad_args *g, const bool bf16, const int64_t size, float *dweight, int64_t begin,
                    int64_t end) {
    turn_back t;
    size_t step = (size_t)size * (bf16 ? 2 : 4);
    for (int64_t i = 0; i < size; i += LANES) {
        int64_t n = size - i < LANES ? size - i : LANES;
        store(t.weight, false, i, n < LANES ? load_part(g->weight->data, false, i, n) : load(g->weight->data, false, i));
    }
    if (!g->rope) turn_make(&t, size, NULL);
    for (int64_t m = begin; m < end; m++) {
        char *dx = row_of(&g->dx, m);
        const char *dy = row_of(&g->dy, m), *x = row_of(&g->x, m);
        if (g->rope) turn_make(&t, size, row_of(g->rope, m));
        for (int h = 0; h < g->heads; h++, dx += step, dy += step, x += step)
            qk_head(dx, dweight, dy, x, bf16, size, g->eps, &t);
    }
}

/* Head sizes 64 and 128 are compiled as constants, which unrolls the loops of a head. */
INLINE void qk_of_type(const dd_qk_norm_rope_grad_args *g, const bool bf16, float *dweight, int64_t begin, int64_t end) {
    int64_t size = dd_tensor_row_size(&g->x) / g->heads;
    if (size == 128) qk_rows(g, bf16, 128, dweight, begin, end);
    else if (size == 64) qk_rows(g, bf16, 64, dweight, begin, end);
    else qk_rows(g, bf16, size, dweight, begin, end);
}

void DD_ISA_NAME(dd_kernel_qk_norm_rope_grad)(const dd_qk_norm_rope_grad_args *g, float *dweight, int64_t begin, int64_t end) {
    float sums[MAX_HEAD];
    int64_t size = dd_tensor_row_size(&g->x) / g->heads;
    clear(sums, MAX_HEAD);
    if (g->x.dtype == DD_DTYPE_BF16) qk_of_type(g, true, dweight ? sums : NULL, begin, end);
    else qk_of_type(g, false, dweight ? sums : NULL, begin, end);
    if (dweight) memcpy(dweight, sums, (size_t)size * sizeof *sums);
}

/* ------------------------------------------------------------------------------------------------ activations */

/* 1 / (1 + e^-x) for results that are rounded to bf16, or not. */
INLINE vf sigmoid(vf x, const bool precise) {
    if (precise) return 1.0f / (1.0f + vf_exp(-x));
    return inverse(1.0f + vf_exp2(vf_min(-1.44269504088896341f * x, splat(126.0f)), false), false);
}

/* Of x sigmoid(a x). Beyond the bounds, here and below, slopes are 0 or 1 in float32, and products could overflow. */
INLINE vf swish_slope(vf x, const float a, const bool precise) {
    vf t = clamp(a * x, -80.0f, 80.0f), s = sigmoid(t, precise);
    return s + s * (1.0f - s) * t;
}

INLINE vf gelu_tanh_slope(vf x, const bool precise) {
    x = clamp(x, -16.0f, 16.0f);
    vf square = x * x, s = sigmoid(1.5957691216057308f * x * (1.0f + 0.044715f * square), precise);
    return s + s * (1.0f - s) * x * (1.5957691216057308f * (1.0f + 0.134145f * square));
}

/* Phi(x) + x phi(x) */
INLINE vf gelu_erf_slope(vf x) {
    x = clamp(x, -16.0f, 16.0f);
    vf phi = 0.39894228040143268f * vf_exp(-0.5f * (x * x)), below;
    for (int i = 0; i < LANES; i++) below[i] = 0.5f * erfcf(x[i] * -0.70710678118654752f);
    return below + x * phi;
}

INLINE vf slope(vf x, const dd_activation activation, const bool precise) {
    switch (activation) {
    case DD_ACTIVATION_NONE: return splat(1.0f);
    case DD_ACTIVATION_SILU: return swish_slope(x, 1.0f, precise);
    case DD_ACTIVATION_GELU_TANH: return gelu_tanh_slope(x, precise);
    case DD_ACTIVATION_GELU_ERF: return gelu_erf_slope(x);
    case DD_ACTIVATION_QUICK_GELU: return swish_slope(x, 1.702f, precise);
    }
    return splat(1.0f);
}

INLINE void activation_rows(const dd_activation_grad_args *g, const bool bf16, const dd_activation activation, int64_t begin,
                            int64_t end) {
    int64_t size = dd_tensor_row_size(&g->x);
    for (int64_t m = begin; m < end; m++) {
        void *dx = row_of(&g->dx, m);
        const void *dy = row_of(&g->dy, m), *x = row_of(&g->x, m);
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES)
            store(dx, bf16, i, load(dy, bf16, i) * slope(load(x, bf16, i), activation, !bf16));
        if (i < size) {
            vf d = load_part(dy, bf16, i, size - i) * slope(load_part(x, bf16, i, size - i), activation, !bf16);
            store_part(dx, bf16, i, d, size - i);
        }
    }
}

INLINE void activation_of_type(const dd_activation_grad_args *g, const bool bf16, int64_t begin, int64_t end) {
    switch (g->activation) {
    case DD_ACTIVATION_NONE: activation_rows(g, bf16, DD_ACTIVATION_NONE, begin, end); break;
    case DD_ACTIVATION_SILU: activation_rows(g, bf16, DD_ACTIVATION_SILU, begin, end); break;
    case DD_ACTIVATION_GELU_TANH: activation_rows(g, bf16, DD_ACTIVATION_GELU_TANH, begin, end); break;
    case DD_ACTIVATION_GELU_ERF: activation_rows(g, bf16, DD_ACTIVATION_GELU_ERF, begin, end); break;
    case DD_ACTIVATION_QUICK_GELU: activation_rows(g, bf16, DD_ACTIVATION_QUICK_GELU, begin, end); break;
    }
}

void DD_ISA_NAME(dd_kernel_activation_grad)(const dd_activation_grad_args *g, int64_t begin, int64_t end) {
    if (g->x.dtype == DD_DTYPE_BF16) activation_of_type(g, true, begin, end);
    else activation_of_type(g, false, begin, end);
}

/* ------------------------------------------------------------------------------------------------ gated sums */

enum { GATED = 4 }; /* rows that share loads and stores of the sums */

typedef struct gate_row {
    void *dy;
    const float *dx;
    const void *y;
} gate_row;

INLINE void gate_at(const gate_row *rows, const int count, const bool to_bf16, const bool y_bf16, const float *gate,
                    float *dgate, int64_t i, const bool part, int64_t n) {
    vf factor = get(gate, false, i, part, n), sum = {0};
    for (int k = 0; k < count; k++) {
        vf d = get(rows[k].dx, false, i, part, n);
        if (dgate) sum += d * get(rows[k].y, y_bf16, i, part, n);
        set(rows[k].dy, to_bf16, i, d * factor, part, n);
    }
    if (dgate) add_to(dgate, i, sum, part, n);
}

INLINE void gate_together(const dd_gate_grad_args *g, const int count, const bool to_bf16, const bool y_bf16, float *dgate,
                          int64_t m) {
    gate_row rows[GATED];
    int64_t size = dd_tensor_row_size(&g->dx), i = 0;
    const float *gate = g->gate->data;
    for (int k = 0; k < count; k++)
        rows[k] = (gate_row){row_of(&g->dy, m + k), row_of(&g->dx, m + k), dgate ? row_of(g->y, m + k) : NULL};
    for (; i + LANES <= size; i += LANES) gate_at(rows, count, to_bf16, y_bf16, gate, dgate, i, false, LANES);
    if (i < size) gate_at(rows, count, to_bf16, y_bf16, gate, dgate, i, true, size - i);
}

INLINE void gate_rows(const dd_gate_grad_args *g, const bool to_bf16, const bool y_bf16, float *dgate, int64_t begin,
                      int64_t end) {
    int64_t m = begin;
    for (; m + GATED <= end; m += GATED) {
        if (dgate) gate_together(g, GATED, to_bf16, y_bf16, dgate, m);
        else gate_together(g, GATED, to_bf16, y_bf16, NULL, m);
    }
    for (; m < end; m++) gate_together(g, 1, to_bf16, y_bf16, dgate, m);
}

void DD_ISA_NAME(dd_kernel_gate_grad)(const dd_gate_grad_args *g, float *dgate, int64_t begin, int64_t end) {
    bool to_bf16 = g->dy.dtype == DD_DTYPE_BF16, y_bf16 = dgate && g->y->dtype == DD_DTYPE_BF16;
    clear(dgate, dd_tensor_row_size(&g->dx));
    if (to_bf16 && y_bf16) gate_rows(g, true, true, dgate, begin, end);
    else if (to_bf16) gate_rows(g, true, false, dgate, begin, end);
    else if (y_bf16) gate_rows(g, false, true, dgate, begin, end);
    else gate_rows(g, false, false, dgate, begin, end);
}

/* ------------------------------------------------------------------------------------------------ pixels */

enum { PIXELS = 64, CHANNELS = 4 }; /* that are multiplied at once */

/* weight[c, first + lane] for `count` channels c from `c` on; z is turned: [pixels, LANES]. */
INLINE void product_rows(float *weight, const float *x, const float *z, const int count, int64_t c, int64_t first,
                         int64_t channels, int64_t ld, int64_t pixels) {
    int64_t n = channels - first;
    vf sum[CHANNELS] = {{0}};
    for (int64_t p = 0; p < pixels; p++) {
        vf v = load(z, false, p * LANES);
        for (int k = 0; k < count; k++) sum[k] += x[(c + k) * ld + p] * v;
    }
    for (int k = 0; k < count; k++) add_to(weight, (c + k) * channels + first, sum[k], n < LANES, n);
}

static void product_columns(float *weight, const float *x, const float *z, int64_t channels, int64_t first, int64_t ld,
                            int64_t pixels) {
    float turned[PIXELS * LANES];
    int64_t lanes = channels - first < LANES ? channels - first : LANES, c = 0;
    if (lanes < LANES) clear(turned, PIXELS * LANES);
    for (int64_t e = 0; e < lanes; e++)
        for (int64_t p = 0; p < pixels; p++) turned[p * LANES + e] = z[(first + e) * ld + p];
    for (; c + CHANNELS <= channels; c += CHANNELS)
        product_rows(weight, x, turned, CHANNELS, c, first, channels, ld, pixels);
    for (; c < channels; c++) product_rows(weight, x, turned, 1, c, first, channels, ld, pixels);
}

void DD_ISA_NAME(dd_kernel_channel_products)(float *weight, float *bias, const float *x, const float *z, int64_t channels,
                                             int64_t ld, int64_t count) {
    for (int64_t p = 0; weight && p < count; p += PIXELS)
        for (int64_t first = 0; first < channels; first += LANES)
            product_columns(weight, x + p, z + p, channels, first, ld, count - p < PIXELS ? count - p : PIXELS);
    for (int64_t c = 0; bias && c < channels; c++) {
        vf sum = {0};
        int64_t p = 0;
        for (; p + LANES <= count; p += LANES) sum += load(x, false, c * ld + p);
        if (p < count) sum += load_part(x, false, c * ld + p, count - p);
        bias[c] += lane_sum(sum);
    }
}
