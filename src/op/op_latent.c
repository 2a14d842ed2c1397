/* Checked calls: pointwise ops, cells and latents, statistics, the free coarse step. */
#include <inttypes.h>

#include "op/op_check.h"

/* ------------------------------------------------------------------------------------------------ pointwise */

ddit_status dd_op_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                         dd_activation activation, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "affine", err);
    DD_TRY(dd_op_slot(b, b->ops->affine, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "y", &y, c.either, -1, -1));
    DD_TRY(dd_op_want_2d(&c, "x", &x, c.either, y.shape[0], y.shape[1]));
    if (z) DD_TRY(dd_op_want_2d(&c, "z", z, c.either, y.shape[0], y.shape[1]));
    DD_TRY(dd_op_require(&c, (unsigned)activation <= DD_ACTIVATION_QUICK_GELU, "activation %d is not known", (int)activation));
    DD_TRY(dd_op_apart_or_same(&c, "y", &y, "x", &x));
    DD_TRY(dd_op_apart_or_same(&c, "y", &y, "z", z));
    return y.shape[0] && y.shape[1] ? b->ops->affine(b, y, ax, x, bz, z, activation, err) : DDIT_OK;
}

ddit_status dd_op_gather_rows(dd_backend *b, dd_tensor y, dd_tensor table, dd_tensor ids, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "gather_rows", err);
    DD_TRY(dd_op_slot(b, b->ops->gather_rows, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "y", &y, c.either, -1, -1));
    DD_TRY(dd_op_want_2d(&c, "table", &table, DD_SET_FLOATS, -1, y.shape[1]));
    DD_TRY(dd_op_want_1d(&c, "ids", &ids, DD_SET_I32, y.shape[0]));
    uint64_t bytes;
    DD_TRY(dd_op_require(&c, dd_dtype_bytes(table.dtype, (uint64_t)table.ld, &bytes) &&
                                 dd_dtype_bytes(table.dtype, (uint64_t)y.shape[1], &bytes),
                         "a row of %" PRId64 " values is no whole number of %s blocks", y.shape[1],
                         dd_dtype_name(table.dtype)));
    DD_TRY(dd_op_apart(&c, "y", &y, "table", &table));
    DD_TRY(dd_op_apart(&c, "y", &y, "ids", &ids));
    return y.shape[0] && y.shape[1] ? b->ops->gather_rows(b, y, table, ids, err) : DDIT_OK;
}

ddit_status dd_op_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "upsample2x", err);
    DD_TRY(dd_op_slot(b, b->ops->upsample2x, c.op, err));
    DD_TRY(dd_op_require(&c, height > 0 && width > 0 && height <= INT32_MAX / 2 && width <= INT32_MAX / 2,
                         "the picture is %" PRId64 " x %" PRId64 " pixels", height, width));
    DD_TRY(dd_op_want_2d(&c, "x", &x, c.either, height * width, -1));
    DD_TRY(dd_op_want_2d(&c, "y", &y, 1u << x.dtype, 4 * height * width, x.shape[1]));
    DD_TRY(dd_op_apart(&c, "y", &y, "x", &x));
    return x.shape[1] ? b->ops->upsample2x(b, y, x, height, width, err) : DDIT_OK;
}

ddit_status dd_op_channels_last(dd_backend *b, dd_tensor y, dd_tensor x, float a, float bias, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "channels_last", err);
    DD_TRY(dd_op_slot(b, b->ops->channels_last, c.op, err));
    DD_TRY(dd_op_want_3d(&c, "x", &x, DD_SET_F32, -1, -1, -1));
    DD_TRY(dd_op_want_2d(&c, "y", &y, c.either, x.shape[1] * x.shape[2], x.shape[0]));
    DD_TRY(dd_op_apart(&c, "y", &y, "x", &x));
    return b->ops->channels_last(b, y, x, a, bias, err);
}

/* ------------------------------------------------------------------------------------------------ cells */

/* A latent [C, h, w] of at least one value. */
static ddit_status check_latent(const dd_op_check *c, const char *name, const dd_tensor *t) {
    DD_TRY(dd_op_want_3d(c, name, t, DD_SET_F32, -1, -1, -1));
    return dd_op_require(c, t->shape[0] > 0 && t->shape[1] > 0 && t->shape[2] > 0,
                         "%s is empty: [%" PRId64 ", %" PRId64 ", %" PRId64 "]", name, t->shape[0], t->shape[1], t->shape[2]);
}

static ddit_status same_latent(const dd_op_check *c, const char *name, const dd_tensor *t, const dd_tensor *as) {
    return dd_op_want_3d(c, name, t, DD_SET_F32, as->shape[0], as->shape[1], as->shape[2]);
}

static ddit_status check_side(const dd_op_check *c, const char *name, int n) {
    return dd_op_require(c, n > 0 && n <= DD_CELL_MAX, "%s is %d, expected 1 to %d", name, n, (int)DD_CELL_MAX);
}

ddit_status dd_op_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "cells_gather", err);
    DD_TRY(dd_op_slot(b, b->ops->cells_gather, c.op, err));
    DD_TRY(check_side(&c, "n", a->n));
    DD_TRY(check_latent(&c, "latent", &a->latent));
    DD_TRY(dd_op_want_2d(&c, "y", &a->y, c.either, -1, a->latent.shape[0] * a->n * a->n));
    DD_TRY(dd_op_want_2d(&c, "origin", &a->origin, DD_SET_I32, a->y.shape[0], 2));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "latent", &a->latent));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "origin", &a->origin));
    return a->y.shape[0] ? b->ops->cells_gather(b, a, err) : DDIT_OK;
}

ddit_status dd_op_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "cells_scatter", err);
    DD_TRY(dd_op_slot(b, b->ops->cells_scatter, c.op, err));
    DD_TRY(check_side(&c, "n", a->n));
    DD_TRY(check_latent(&c, "velocity", &a->velocity));
    int64_t channels = a->velocity.shape[0];
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, DD_SET_F32, -1, channels * a->n * a->n));
    DD_TRY(dd_op_want_2d(&c, "origin", &a->origin, DD_SET_I32, a->x.shape[0], 2));
    DD_TRY(dd_op_require(&c, !a->pixel_weight == !a->pixel_bias, "pixel_weight and pixel_bias come together or not at all"));
    if (a->pixel_weight || a->projection) DD_TRY(same_latent(&c, "z", a->z, &a->velocity));
    if (a->pixel_weight) DD_TRY(dd_op_want_2d(&c, "pixel_weight", a->pixel_weight, DD_SET_F32, channels, channels));
    DD_TRY(dd_op_want_optional_vector(&c, "pixel_bias", a->pixel_bias, channels));
    if (a->projection) DD_TRY(dd_op_want_2d(&c, "projection", a->projection, DD_SET_F32, a->n, a->n));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "x", &a->x));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "origin", &a->origin));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "z", a->z));
    return a->x.shape[0] ? b->ops->cells_scatter(b, a, err) : DDIT_OK;
}

ddit_status dd_op_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "patch_stats", err);
    DD_TRY(dd_op_slot(b, b->ops->patch_stats, c.op, err));
    DD_TRY(check_side(&c, "n", a->n));
    DD_TRY(dd_op_require(&c, a->order >= 1 && a->order <= 3, "the order is %d, expected 1 to 3", a->order));
    DD_TRY(check_latent(&c, "latents[0]", a->latents[0]));
    const dd_tensor *z = a->latents[0];
    for (int i = 1; i <= a->order; i++) DD_TRY(same_latent(&c, "an older latent", a->latents[i], z));
    DD_TRY(dd_op_require(&c, z->shape[0] * a->n * a->n > 1, "a single value has no standard deviation"));
    int64_t blocks = (z->shape[1] / a->n) * (z->shape[2] / a->n);
    DD_TRY(dd_op_require(&c, a->stds || blocks == 0, "there is no memory for %" PRId64 " results", blocks));
    return blocks ? b->ops->patch_stats(b, a, err) : DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ free coarse step */

/* small must be large pooled by k. */
static ddit_status check_pooled(const dd_op_check *c, const char *name, const dd_tensor *small, const dd_tensor *large, int k) {
    DD_TRY(check_side(c, "k", k));
    DD_TRY(dd_op_require(c, large->shape[1] % k == 0 && large->shape[2] % k == 0, "a latent of %" PRId64 " x %" PRId64
                         " does not divide by %d", large->shape[1], large->shape[2], k));
    return dd_op_want_3d(c, name, small, DD_SET_F32, large->shape[0], large->shape[1] / k, large->shape[2] / k);
}

ddit_status dd_op_pool_mean(dd_backend *b, dd_tensor y, dd_tensor x, int k, float factor, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "pool_mean", err);
    DD_TRY(dd_op_slot(b, b->ops->pool_mean, c.op, err));
    DD_TRY(check_latent(&c, "x", &x));
    DD_TRY(check_pooled(&c, "y", &y, &x, k));
    DD_TRY(dd_op_apart(&c, "y", &y, "x", &x));
    return b->ops->pool_mean(b, y, x, k, factor, err);
}

ddit_status dd_op_coarse_lift(dd_backend *b, const dd_coarse_lift_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "coarse_lift", err);
    DD_TRY(dd_op_slot(b, b->ops->coarse_lift, c.op, err));
    DD_TRY(check_latent(&c, "velocity", &a->velocity));
    DD_TRY(same_latent(&c, "z", &a->z, &a->velocity));
    DD_TRY(check_pooled(&c, "z_small", &a->z_small, &a->z, a->k));
    DD_TRY(same_latent(&c, "v_small", &a->v_small, &a->z_small));
    DD_TRY(dd_op_require(&c, a->sigma > 0, "sigma is %g, expected more than 0", (double)a->sigma));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "z", &a->z));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "z_small", &a->z_small));
    DD_TRY(dd_op_apart(&c, "velocity", &a->velocity, "v_small", &a->v_small));
    return b->ops->coarse_lift(b, a, err);
}
