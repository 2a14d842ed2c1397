/* Latent to tokens and back, one matrix product per factor present. Source: FluxPipeline's packing; docs/method.md 2. */
#include "dit/flux_run.h"

#define SIGMA_FLOOR 0.05f /* the high-frequency residual divides by sigma */

dd_flux_factor_rows dd_flux_rows_at(const dd_flux_call *c, int f) {
    dd_flux_factor_rows r = {.begin = c->layout->cell_begin[f], .count = c->layout->cell_count[f]};
    int channels = c->dit->config.latent_channels;
    for (int i = 0; i < f; i++) {
        int n = c->dit->config.patch * dd_factor_at(i);
        r.offset += (int64_t)c->layout->cell_count[i] * channels * n * n;
    }
    r.n = c->dit->config.patch * dd_factor_at(f);
    r.features = (int64_t)channels * r.n * r.n;
    return r;
}

dd_tensor dd_flux_origins(const dd_flux_call *c, dd_flux_factor_rows r) {
    return dd_tensor_2d(c->run->origin + 2 * r.begin, DD_DTYPE_I32, r.count, 2);
}

ddit_status dd_flux_embed(const dd_flux_call *c, dd_tensor latent, ddit_err *err) {
    const dd_flux_run *run = c->run;
    DD_TRY(dd_op_upload(c->b, run->origin, c->layout->origin, 2 * sizeof(int32_t) * (size_t)c->image, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        dd_flux_factor_rows r = dd_flux_rows_at(c, f);
        if (r.count == 0) continue;
        dd_tensor cells = dd_flux_cells(c, run->cells, r);
        dd_tensor x = dd_tensor_rows(dd_flux_residual(c), c->text + r.begin, r.count);
        DD_TRY(dd_op_cells_gather(
            c->b, &(dd_cells_gather_args){.y = cells, .latent = latent, .origin = dd_flux_origins(c, r), .n = r.n}, err));
        DD_TRY(dd_op_linear(c->b, &(dd_linear_args){.y = x, .x = cells, .w = c->dit->patch[f].embed}, err));
    }
    return DDIT_OK;
}

ddit_status dd_flux_final_norm(const dd_flux_call *c, dd_tensor n, dd_tensor x, ddit_err *err) {
    dd_tensor scale = dd_flux_modulation(c, c->tables->final, 2, 0); /* diffusers' order: scale, then shift */
    dd_tensor shift = dd_flux_modulation(c, c->tables->final, 2, 1);
    return dd_flux_modulate(c, n, x, shift, scale, err);
}

ddit_status dd_flux_deembed(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, ddit_err *err) {
    const dd_flux_run *run = c->run;
    dd_tensor x = dd_tensor_rows(dd_flux_residual(c), c->text, c->image);
    dd_tensor n = dd_flux_act(c, run->n, c->image, c->d);
    DD_TRY(dd_flux_final_norm(c, n, x, err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        dd_flux_factor_rows r = dd_flux_rows_at(c, f);
        if (r.count == 0) continue;
        const dd_flux_patch *patch = &c->dit->patch[f];
        dd_tensor out = dd_tensor_2d(run->out + r.offset, DD_DTYPE_F32, r.count, r.features);
        DD_TRY(dd_op_linear(c->b, &(dd_linear_args){.y = out, .x = dd_tensor_rows(n, r.begin, r.count), .w = patch->deembed},
                            err));
        DD_TRY(dd_op_cells_scatter(c->b, &(dd_cells_scatter_args){
            .velocity = velocity, .x = out, .origin = dd_flux_origins(c, r), .n = r.n, .z = &latent,
            .pixel_weight = patch->has_pixel ? &patch->pixel_weight : NULL,
            .pixel_bias = patch->has_pixel ? &patch->pixel_bias : NULL,
            .projection = patch->has_hf ? &patch->projection : NULL,
            .hf_gain = 1.0f / (sigma > SIGMA_FLOOR ? sigma : SIGMA_FLOOR)}, err));
    }
    return DDIT_OK;
}
