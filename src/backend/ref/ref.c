#include "backend/ref/ref_state.h"

#include <math.h>

/* ------------------------------------------------------------------------------------------------ shared helpers */

const float *dd_ref_row(const dd_tensor *t, int64_t row, int64_t begin, int64_t count, float *copy) {
    int64_t first = row * t->ld + begin;
    if (t->dtype == DD_DTYPE_F32) return (const float *)t->data + first;
    for (int64_t i = 0; i < count; i++) copy[i] = ref_at(t, first + i);
    return copy;
}

double dd_ref_dot(const float *a, const float *b, int64_t n) {
    double sums[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) sums[j] += (double)a[i + j] * b[i + j];
    double rest = 0;
    for (; i < n; i++) rest += (double)a[i] * b[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest;
}

double dd_ref_activate(double x, dd_activation activation) {
    switch (activation) {
    case DD_ACTIVATION_NONE: return x;
    case DD_ACTIVATION_SILU: return x / (1 + exp(-x));
    case DD_ACTIVATION_GELU_TANH: return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case DD_ACTIVATION_GELU_ERF: return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
    case DD_ACTIVATION_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    }
    return x;
}

/* ------------------------------------------------------------------------------------------------ life and memory */

static void ref_close(dd_backend *b) { dd_free(b->allocator, b); }

static ddit_status ref_sync(dd_backend *b, ddit_err *err) {
    (void)b, (void)err;
    return DDIT_OK;
}

static ddit_status ref_alloc(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err) {
    return dd_alloc_raw(b->allocator, memory, bytes, 1, what, err);
}

static void ref_free(dd_backend *b, void *memory) { dd_free(b->allocator, memory); }

static ddit_status ref_upload(dd_backend *b, void *to, const void *from_host, size_t bytes, ddit_err *err) {
    (void)b, (void)err;
    if (bytes) memcpy(to, from_host, bytes);
    return DDIT_OK;
}

static ddit_status ref_download(dd_backend *b, void *to_host, const void *from, size_t bytes, ddit_err *err) {
    (void)b, (void)err;
    if (bytes) memcpy(to_host, from, bytes);
    return DDIT_OK;
}

static ddit_status ref_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err) {
    (void)b, (void)r, (void)err;
    return DDIT_OK;
}

/* No call changes anything but its outputs, so any number of ref backends may use the same weights. */
static ddit_status ref_lane_open(dd_backend *b, int index, dd_backend **lane, ddit_err *err) {
    (void)index;
    DD_TRY(dd_ref_open(lane, b->allocator, err));
    (*lane)->activation = b->activation;
    return DDIT_OK;
}

const dd_backend_ops dd_ref_ops = {
    .name = "ref",
    .close = ref_close,
    .sync = ref_sync,
    .alloc = ref_alloc,
    .free = ref_free,
    .upload = ref_upload,
    .download = ref_download,
    .weight_prepare = dd_ref_weight_prepare,
    .weight_free = dd_ref_weight_free,
    .weight_info = dd_ref_weight_info,
    .reserve = ref_reserve,
    .linear = dd_ref_linear,
    .conv2d = dd_ref_conv2d,
    .attention = dd_ref_attention,
    .norm = dd_ref_norm,
    .group_norm = dd_ref_group_norm,
    .qk_norm_rope = dd_ref_qk_norm_rope,
    .affine = dd_ref_affine,
    .gather_rows = dd_ref_gather_rows,
    .upsample2x = dd_ref_upsample2x,
    .cells_gather = dd_ref_cells_gather,
    .cells_scatter = dd_ref_cells_scatter,
    .patch_stats = dd_ref_patch_stats,
    .pool_mean = dd_ref_pool_mean,
    .coarse_lift = dd_ref_coarse_lift,
    .channels_last = dd_ref_channels_last,
    .weight_update = dd_ref_weight_update,
    .lane_open = ref_lane_open,
    .grad = &dd_ref_grad_ops,
};

ddit_status dd_ref_open(dd_backend **out, const dd_allocator *a, ddit_err *err) {
    *out = NULL;
    dd_backend *b;
    DD_TRY(dd_alloc(a, &b, 1, sizeof *b, "the reference backend", err));
    *b = (dd_backend){
        .ops = &dd_ref_ops, .allocator = a, .activation = DD_DTYPE_F32, .threads = 1, .device = "plain C, 1 thread, float32"};
    *out = b;
    return DDIT_OK;
}
