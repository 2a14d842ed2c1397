/* Latent to tokens and back, one matrix product per factor present. Source: FluxPipeline's packing; docs/method.md 2. */
#include "dit/flux_run.h"

#define NORM_EPS 1e-6f
#define SIGMA_FLOOR 0.05f /* the high-frequency residual divides by sigma */

/* Rows of one factor in buffers that hold all cells in the order of the layout. n = cell edge, latent pixels. */
typedef struct factor_rows {
    int begin, count, n;
    int64_t features; /* C n n */
    int64_t offset;   /* values before the factor's rows in `cells` and `out` */
} factor_rows;

static factor_rows rows_at(const dd_flux_call *c, int f) {
    factor_rows r = {.begin = c->layout->cell_begin[f], .count = c->layout->cell_count[f]};
    int channels = c->dit->config.latent_channels;
    for (int i = 0; i < f; i++) {
        int n = c->dit->config.patch * dd_factor_at(i);
        r.offset += (int64_t)c->layout->cell_count[i] * channels * n * n;
    }
    r.n = c->dit->config.patch * dd_factor_at(f);
    r.features = (int64_t)channels * r.n * r.n;
    return r;
}

static dd_tensor origins(const dd_flux_call *c, factor_rows r) {
    return dd_tensor_2d(c->run->origin + 2 * r.begin, DD_DTYPE_I32, r.count, 2);
}

ddit_status dd_flux_embed(const dd_flux_call *c, dd_tensor latent, ddit_err *err) {
    const dd_flux_run *run = c->run;
    size_t act_size = c->b->activation == DD_DTYPE_F32 ? 4 : 2;
    DD_TRY(dd_op_upload(c->b, run->origin, c->layout->origin, 2 * sizeof(int32_t) * (size_t)c->image, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        factor_rows r = rows_at(c, f);
        if (r.count == 0) continue;
        dd_tensor cells = dd_flux_act(c, (char *)run->cells + (size_t)r.offset * act_size, r.count, r.features);
        dd_tensor x = dd_tensor_rows(dd_flux_residual(c), c->text + r.begin, r.count);
        DD_TRY(dd_op_cells_gather(
            c->b, &(dd_cells_gather_args){.y = cells, .latent = latent, .origin = origins(c, r), .n = r.n}, err));
        DD_TRY(dd_op_linear(c->b, &(dd_linear_args){.y = x, .x = cells, .w = c->dit->patch[f].embed}, err));
    }
    return DDIT_OK;
}

ddit_status dd_flux_deembed(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, ddit_err *err) {
    const dd_flux_run *run = c->run;
    float *vectors = c->tables->final + (int64_t)c->time_index * 2 * c->d;
    dd_tensor scale = dd_tensor_1d(vectors, DD_DTYPE_F32, c->d); /* diffusers' order: scale, then shift */
    dd_tensor shift = dd_tensor_1d(vectors + c->d, DD_DTYPE_F32, c->d);
    dd_tensor x = dd_tensor_rows(dd_flux_residual(c), c->text, c->image);
    dd_tensor n = dd_flux_act(c, run->n, c->image, c->d);
    DD_TRY(dd_op_norm(
        c->b, &(dd_norm_args){.y = n, .x = x, .kind = DD_NORM_LAYER, .eps = NORM_EPS, .scale = &scale, .shift = &shift}, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        factor_rows r = rows_at(c, f);
        if (r.count == 0) continue;
        const dd_flux_patch *patch = &c->dit->patch[f];
        dd_tensor out = dd_tensor_2d(run->out + r.offset, DD_DTYPE_F32, r.count, r.features);
        DD_TRY(dd_op_linear(c->b, &(dd_linear_args){.y = out, .x = dd_tensor_rows(n, r.begin, r.count), .w = patch->deembed},
                            err));
        DD_TRY(dd_op_cells_scatter(c->b, &(dd_cells_scatter_args){
            .velocity = velocity, .x = out, .origin = origins(c, r), .n = r.n, .z = &latent,
            .pixel_weight = patch->has_pixel ? &patch->pixel_weight : NULL,
            .pixel_bias = patch->has_pixel ? &patch->pixel_bias : NULL,
            .projection = patch->has_hf ? &patch->projection : NULL,
            .hf_gain = 1.0f / (sigma > SIGMA_FLOOR ? sigma : SIGMA_FLOOR)}, err));
    }
    return DDIT_OK;
}
