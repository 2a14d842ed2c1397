/* Backward passes of the norms, activations, gates and cells; the table of backward passes. */
#include <math.h>

#include "backend/ref/ref_grad.h"

/* ------------------------------------------------------------------------------------------------ layer norm */

/* Row m, with n = LN(x), f = 1 / sqrt(var + eps) and h = dy (1 + scale):  dx += f (h - mean(h) - n mean(h n)).
 * dscale, dshift [D]: float64 sums over the rows, or NULL. */
static void norm_row_grad(const dd_norm_grad_args *g, int64_t m, double *dscale, double *dshift) {
    int64_t width = g->x.shape[1], x = m * g->x.ld, dy = m * g->dy.ld;
    double mean = 0, square = 0, h_mean = 0, hn_mean = 0, count = (double)width;
    for (int64_t i = 0; i < width; i++) mean += ref_at(&g->x, x + i);
    mean /= count;
    for (int64_t i = 0; i < width; i++) {
        double d = ref_at(&g->x, x + i) - mean;
        square += d * d;
    }
    double factor = 1 / sqrt(square / count + g->eps);
    for (int64_t i = 0; i < width; i++) {
        double d = ref_at(&g->dy, dy + i), n = (ref_at(&g->x, x + i) - mean) * factor, h = d * (1 + ref_or(g->scale, i, 0));
        h_mean += h / count;
        hn_mean += h * n / count;
        if (dscale) dscale[i] += d * n;
        if (dshift) dshift[i] += d;
    }
    for (int64_t i = 0; i < width; i++) {
        double n = (ref_at(&g->x, x + i) - mean) * factor, h = ref_at(&g->dy, dy + i) * (1 + ref_or(g->scale, i, 0));
        ref_add(&g->dx, m * g->dx.ld + i, factor * (h - h_mean - n * hn_mean));
    }
}

static ddit_status norm_grad(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err) {
    int64_t width = g->x.shape[1];
    double *sums;
    DD_TRY(dd_alloc(b->allocator, &sums, 2 * (size_t)width, sizeof(double), "norm_grad: sums", err));
    for (int64_t m = 0; m < g->x.shape[0]; m++) norm_row_grad(g, m, sums, sums + width);
    for (int64_t i = 0; i < width; i++) {
        if (g->dscale) ref_add(g->dscale, i, sums[i]);
        if (g->dshift) ref_add(g->dshift, i, sums[width + i]);
    }
    dd_free(b->allocator, sums);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ qk_norm_rope */

/* Value i of row m's gradient before the rotation (the rotation is orthogonal: its transpose turns back), for one head whose
 * values begin at `begin`. */
static double turned_back(const dd_qk_norm_rope_grad_args *g, int64_t m, int64_t begin, int64_t i) {
    int64_t even = i & ~INT64_C(1), at = m * g->dy.ld + begin + even;
    double u = ref_at(&g->dy, at), v = ref_at(&g->dy, at + 1);
    if (!g->rope) return i == even ? u : v;
    double cosine = ref_at(g->rope, m * g->rope->ld + even), sine = ref_at(g->rope, m * g->rope->ld + even + 1);
    return i == even ? u * cosine + v * sine : v * cosine - u * sine;
}

/* One row and head, with n = x f, f = 1 / sqrt(mean(x^2) + eps), d the gradient before the rotation and h = d * weight:
 *   dx = f (h - n mean(h n));  dweight += d n.  h [E] is scratch, dweight [E] float64 sums. */
static void qk_head_grad(const dd_qk_norm_rope_grad_args *g, int64_t m, int64_t begin, int64_t width, double *h,
                         double *dweight) {
    int64_t x = m * g->x.ld + begin;
    double square = 0, hn_mean = 0;
    for (int64_t i = 0; i < width; i++) square += (double)ref_at(&g->x, x + i) * ref_at(&g->x, x + i);
    double factor = 1 / sqrt(square / (double)width + g->eps);
    for (int64_t i = 0; i < width; i++) {
        double d = turned_back(g, m, begin, i), n = ref_at(&g->x, x + i) * factor;
        h[i] = d * ref_at(g->weight, i);
        hn_mean += h[i] * n / (double)width;
        dweight[i] += d * n;
    }
    for (int64_t i = 0; i < width; i++) /* dx may be dy, which is not needed any more */
        ref_put(&g->dx, m * g->dx.ld + begin + i, (float)(factor * (h[i] - ref_at(&g->x, x + i) * factor * hn_mean)));
}

static ddit_status qk_norm_rope_grad(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err) {
    int64_t width = g->x.shape[1] / g->heads;
    double *sums;
    DD_TRY(dd_alloc(b->allocator, &sums, 2 * (size_t)width, sizeof(double), "qk_norm_rope_grad: sums", err));
    for (int64_t m = 0; m < g->x.shape[0]; m++)
        for (int head = 0; head < g->heads; head++) qk_head_grad(g, m, head * width, width, sums + width, sums);
    for (int64_t i = 0; g->dweight && i < width; i++) ref_add(g->dweight, i, sums[i]);
    dd_free(b->allocator, sums);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ pointwise */

/* d/dx of x * sigmoid(a x). */
static double sigmoid_unit_slope(double x, double a) {
    double s = 1 / (1 + exp(-a * x));
    return s + a * x * s * (1 - s);
}

/* The derivative of dd_ref_activate. */
static double activation_slope(double x, dd_activation activation) {
    switch (activation) {
    case DD_ACTIVATION_NONE: return 1;
    case DD_ACTIVATION_SILU: return sigmoid_unit_slope(x, 1);
    case DD_ACTIVATION_GELU_TANH: {
        const double a = 0.79788456080286535588, c = 0.044715;
        double t = tanh(a * (x + c * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * a * (1 + 3 * c * x * x);
    }
    case DD_ACTIVATION_GELU_ERF: /* distribution + x * density of the normal distribution */
        return 0.5 * (1 + erf(x * 0.70710678118654752440)) + x * 0.39894228040143267794 * exp(-0.5 * x * x);
    case DD_ACTIVATION_QUICK_GELU: return sigmoid_unit_slope(x, 1.702);
    }
    return 1;
}

static ddit_status activation_grad(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t m = 0; m < g->x.shape[0]; m++) {
        for (int64_t n = 0; n < g->x.shape[1]; n++) {
            double slope = activation_slope(ref_at(&g->x, m * g->x.ld + n), g->activation);
            ref_put(&g->dx, m * g->dx.ld + n, (float)(ref_at(&g->dy, m * g->dy.ld + n) * slope));
        }
    }
    return DDIT_OK;
}

static ddit_status gate_grad(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t n = 0; n < g->dx.shape[1]; n++) {
        double sum = 0, gate = ref_at(g->gate, n);
        for (int64_t m = 0; m < g->dx.shape[0]; m++) {
            double d = ref_at(&g->dx, m * g->dx.ld + n);
            if (g->dgate) sum += d * ref_at(g->y, m * g->y->ld + n);
            ref_put(&g->dy, m * g->dy.ld + n, (float)(gate * d));
        }
        if (g->dgate) ref_add(g->dgate, n, sum);
    }
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ cells */

/* Index of a pixel of a latent [C, h, w]. */
static int64_t pixel(const dd_tensor *t, int64_t c, int64_t row, int64_t col) { return (c * t->shape[1] + row) * t->ld + col; }

/* Cell m, channel c. *bias [1] and weight [C] receive the sums of the pixel-linear residual, the latter if z is given. */
static void cell_grad(const dd_cells_scatter_grad_args *g, int64_t m, int64_t c, double *bias, double *weight) {
    const int32_t *origin = g->origin.data;
    const int64_t *shape = g->dvelocity.shape;
    int64_t n = g->n, top = origin[m * g->origin.ld], left = origin[m * g->origin.ld + 1];
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            int64_t row = top + i, col = left + j;
            bool inside = row >= 0 && row < shape[1] && col >= 0 && col < shape[2];
            double d = inside ? ref_at(&g->dvelocity, pixel(&g->dvelocity, c, row, col)) : 0;
            ref_put(&g->dx, m * g->dx.ld + (c * n + i) * n + j, (float)d);
            if (!inside) continue;
            *bias += d;
            for (int64_t e = 0; weight && e < shape[0]; e++) weight[e] += d * ref_at(g->z, pixel(g->z, e, row, col));
        }
    }
}

static ddit_status cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err) {
    int64_t channels = g->dvelocity.shape[0];
    double *weight;
    DD_TRY(dd_alloc_raw(b->allocator, &weight, (size_t)channels, sizeof(double), "cells_scatter_grad: sums", err));
    for (int64_t c = 0; c < channels; c++) {
        double bias = 0;
        for (int64_t e = 0; e < channels; e++) weight[e] = 0;
        for (int64_t m = 0; m < g->dx.shape[0]; m++) cell_grad(g, m, c, &bias, g->dpixel_weight ? weight : NULL);
        for (int64_t e = 0; g->dpixel_weight && e < channels; e++)
            ref_add(g->dpixel_weight, c * g->dpixel_weight->ld + e, weight[e]);
        if (g->dpixel_bias) ref_add(g->dpixel_bias, c, bias);
    }
    dd_free(b->allocator, weight);
    return DDIT_OK;
}

const dd_grad_ops dd_ref_grad_ops = {
    .input = dd_ref_input_grad,
    .weight = dd_ref_weight_grad,
    .attention = dd_ref_attention_grad,
    .norm = norm_grad,
    .qk_norm_rope = qk_norm_rope_grad,
    .activation = activation_grad,
    .gate = gate_grad,
    .cells_scatter = cells_scatter_grad,
};
