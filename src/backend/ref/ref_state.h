/* What the files of the reference backend share: reading and writing numbers, sums, weights, the list of slots. Private to the
 * room. Sums are kept in float64 and a result is rounded once, to the dtype of its tensor.
 */
#ifndef DD_BACKEND_REF_REF_STATE_H
#define DD_BACKEND_REF_REF_STATE_H

#include <string.h>

#include "backend/ref/ref.h"

/* A weight: the bytes as they are in the file, or its own values if they may be replaced; rows are decoded when they are
 * multiplied. */
struct dd_weight {
    dd_weight_info info;
    const uint8_t *data; /* view of desc.data or of `values`, any alignment, info.out rows of row_bytes */
    dd_dtype dtype;
    size_t row_bytes;
    float *values; /* owned [out, in * kh * kw] with DD_WEIGHT_UPDATES, else NULL */
    float *bias;   /* owned [out], or NULL */
    unsigned uses;
};

static inline float ref_widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* Value i of a tensor's memory, F32 or BF16. */
static inline float ref_at(const dd_tensor *t, int64_t i) {
    return t->dtype == DD_DTYPE_F32 ? ((const float *)t->data)[i] : ref_widen(((const uint16_t *)t->data)[i]);
}

static inline void ref_put(const dd_tensor *t, int64_t i, float value) {
    if (t->dtype == DD_DTYPE_F32) ((float *)t->data)[i] = value;
    else ((uint16_t *)t->data)[i] = dd_bf16_from_f32(value);
}

/* A vector that may be left out. */
static inline double ref_or(const dd_tensor *t, int64_t i, double otherwise) { return t ? ref_at(t, i) : otherwise; }

/* Row `row` of a [rows, cols] tensor as float32: its own memory, or `copy` [cols] when it is BF16. */
const float *dd_ref_row(const dd_tensor *t, int64_t row, int64_t begin, int64_t count, float *copy);

/* sum a[i] b[i] in float64: eight partial sums, so that the order is fixed and the compiler may vectorise. */
double dd_ref_dot(const float *a, const float *b, int64_t n);

double dd_ref_activate(double x, dd_activation activation);

/* Row `row` of a weight as float32: a pointer into the file, or into `copy` [in * kh * kw]. */
ddit_status dd_ref_weight_row(const dd_weight *w, int64_t row, float *copy, const float **out, ddit_err *err);

/* ref_linear.c */
ddit_status dd_ref_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err);
void dd_ref_weight_free(dd_backend *b, dd_weight *w);
dd_weight_info dd_ref_weight_info(const dd_weight *w);
ddit_status dd_ref_weight_update(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err);
ddit_status dd_ref_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err);
/* ref_attention.c, ref_norm.c, ref_conv.c */
ddit_status dd_ref_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err);
ddit_status dd_ref_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err);
ddit_status dd_ref_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err);
ddit_status dd_ref_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err);
ddit_status dd_ref_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err);
/* ref_pointwise.c */
ddit_status dd_ref_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                          dd_activation activation, ddit_err *err);
ddit_status dd_ref_gather_rows(dd_backend *b, dd_tensor y, dd_tensor table, dd_tensor ids, ddit_err *err);
ddit_status dd_ref_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err);
ddit_status dd_ref_channels_last(dd_backend *b, dd_tensor y, dd_tensor x, float a, float bias, ddit_err *err);
/* ref_cells.c */
ddit_status dd_ref_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err);
ddit_status dd_ref_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err);
ddit_status dd_ref_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err);
ddit_status dd_ref_pool_mean(dd_backend *b, dd_tensor y, dd_tensor x, int k, float factor, ddit_err *err);
ddit_status dd_ref_coarse_lift(dd_backend *b, const dd_coarse_lift_args *a, ddit_err *err);
#endif
