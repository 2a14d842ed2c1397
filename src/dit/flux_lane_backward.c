/* A sample backward: de-embedding, blocks from the last to the first, embedding. */
#include "dit/flux_trainee.h"
#include "op/op_grad.h"

/* Whether the patch weights of factor index f are parameters. */
static bool is_trained(const dd_flux_pass *p, int f) { return p->all ? f == 0 : f > 0; }

static dd_tensor latent_of(const dd_flux_pass *p, float *buffer) {
    const dd_grid *g = &p->c->layout->grid;
    return dd_tensor_3d(buffer, DD_DTYPE_F32, p->c->dit->config.latent_channels, g->rows * g->patch, g->cols * g->patch);
}

static dd_tensor image_rows(const dd_flux_pass *p, float *buffer) {
    const dd_flux_call *c = p->c;
    return dd_tensor_rows(dd_tensor_2d(buffer, DD_DTYPE_F32, c->rows, c->d), c->text, c->image);
}

/* The gradient of one factor's cells of the velocity: to the residual, the de-embedding and, in lane->dn, its input. */
static ddit_status deembed_factor(const dd_flux_pass *p, int f, dd_flux_factor_rows r, dd_tensor n, ddit_err *err) {
    const dd_flux_call *c = p->c;
    dd_flux_lane *lane = p->lane;
    const dd_flux_patch *patch = &c->dit->patch[f];
    int64_t channels = c->dit->config.latent_channels;
    bool pixel = is_trained(p, f) && patch->has_pixel;
    dd_tensor dcells = dd_flux_cells(c, lane->dcells, r), z = latent_of(p, lane->kept);
    dd_tensor dweight = dd_tensor_2d(pixel ? p->gradient + patch->pixel_at.weight : NULL, DD_DTYPE_F32, channels, channels);
    dd_tensor dbias = dd_tensor_1d(pixel ? p->gradient + patch->pixel_at.bias : NULL, DD_DTYPE_F32, channels);
    DD_TRY(dd_op_cells_scatter_grad(c->b,
                                    &(dd_cells_scatter_grad_args){.dx = dcells, .dvelocity = latent_of(p, lane->velocity),
                                                                  .origin = dd_flux_origins(c, r), .n = r.n, .z = &z,
                                                                  .dpixel_weight = pixel ? &dweight : NULL,
                                                                  .dpixel_bias = pixel ? &dbias : NULL},
                                    err));
    if (is_trained(p, f))
        DD_TRY(dd_flux_layer_gradient(c->b, p->gradient, patch->deembed_at, dcells, dd_tensor_rows(n, r.begin, r.count), err));
    dd_tensor dn = dd_tensor_rows(image_rows(p, lane->dn), r.begin, r.count);
    return dd_op_input_grad(
        c->b, &(dd_input_grad_args){.dx = dn, .dy = dcells, .w = patch->deembed, .scale = 1.0f, .replace = true}, err);
}

ddit_status dd_flux_deembed_backward(const dd_flux_pass *p, dd_tensor x_all, ddit_err *err) {
    const dd_flux_call *c = p->c;
    dd_flux_lane *lane = p->lane;
    dd_tensor dx = dd_tensor_2d(lane->dx, DD_DTYPE_F32, c->rows, c->d), x = dd_tensor_rows(x_all, c->text, c->image);
    dd_tensor n = dd_flux_act(c, c->run->n, c->image, c->d);
    DD_TRY(dd_flux_final_norm(c, n, x, err));
    DD_TRY(dd_op_affine(c->b, dx, 0.0f, x_all, 0.0f, NULL, DD_ACTIVATION_NONE, err)); /* zeros */
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        dd_flux_factor_rows r = dd_flux_rows_at(c, f);
        if (r.count > 0) DD_TRY(deembed_factor(p, f, r, n, err));
    }
    dd_tensor scale = dd_flux_modulation(c, c->tables->final, 2, 0), dscale, dshift;
    if (p->all) {
        dscale = dd_flux_modulation(c, p->dtables->final, 2, 0);
        dshift = dd_flux_modulation(c, p->dtables->final, 2, 1);
    }
    return dd_op_norm_grad(c->b,
                           &(dd_norm_grad_args){.dx = image_rows(p, lane->dx), .dy = image_rows(p, lane->dn), .x = x,
                                                .eps = DD_FLUX_EPS, .scale = &scale, .dscale = p->all ? &dscale : NULL,
                                                .dshift = p->all ? &dshift : NULL},
                           err);
}

/* Weight, bias and id vector of one factor's embedding. The id is added where the bias is, so that both have one gradient; both
 * are kept because the adapter file has both. */
static ddit_status embed_factor(const dd_flux_pass *p, int f, dd_flux_factor_rows r, ddit_err *err) {
    const dd_flux_call *c = p->c;
    const dd_flux_patch *patch = &c->dit->patch[f];
    dd_tensor cells = dd_flux_cells(c, c->run->cells, r), dx = dd_tensor_rows(image_rows(p, p->lane->dx), r.begin, r.count);
    dd_tensor dy = dd_flux_act(c, p->lane->dy, r.count, c->d);
    dd_tensor dw = dd_tensor_2d(p->gradient + patch->embed_at.weight, DD_DTYPE_F32, c->d, r.features);
    dd_tensor db = dd_tensor_1d(p->gradient + patch->embed_at.bias, DD_DTYPE_F32, c->d);
    dd_tensor did = dd_tensor_1d(p->gradient + patch->id_at, DD_DTYPE_F32, c->d);
    DD_TRY(dd_op_cells_gather(c->b, &(dd_cells_gather_args){.y = cells, .latent = latent_of(p, p->lane->kept),
                                                            .origin = dd_flux_origins(c, r), .n = r.n}, err));
    DD_TRY(dd_op_affine(c->b, dy, 1.0f, dx, 0.0f, NULL, DD_ACTIVATION_NONE, err));
    DD_TRY(dd_op_weight_grad(c->b, &(dd_weight_grad_args){.dw = &dw, .dy = dy, .x = &cells, .scale = 1.0f}, err));
    DD_TRY(dd_op_weight_grad(c->b, &(dd_weight_grad_args){.db = &db, .dy = dx, .scale = 1.0f}, err));
    if (f == 0) return DDIT_OK;
    return dd_op_weight_grad(c->b, &(dd_weight_grad_args){.db = &did, .dy = dx, .scale = 1.0f}, err);
}

ddit_status dd_flux_embed_backward(const dd_flux_pass *p, ddit_err *err) {
    const dd_flux_call *c = p->c;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        dd_flux_factor_rows r = dd_flux_rows_at(c, f);
        if (r.count > 0 && is_trained(p, f)) DD_TRY(embed_factor(p, f, r, err));
    }
    if (!p->all) return DDIT_OK;
    dd_tensor dtext = dd_tensor_2d(p->dtables->text, DD_DTYPE_F32, c->text, c->d);
    dd_tensor dx = dd_tensor_2d(p->lane->dx, DD_DTYPE_F32, c->text, c->d);
    return dd_op_affine(c->b, dtext, 1.0f, dtext, 1.0f, &dx, DD_ACTIVATION_NONE, err);
}

/* Blocks from the last to the first: each is run again from its checkpoint, with the tape, and then backward. */
static ddit_status blocks_backward(const dd_flux_pass *p, const dd_flux_call *taped, ddit_err *err) {
    const dd_flux_call *c = p->c;
    int doubles = c->dit->config.num_layers, blocks = doubles + c->dit->config.num_single_layers;
    for (int i = blocks - 1; i >= 0; i--) {
        dd_tensor x = dd_tensor_2d(p->lane->checkpoints + i * c->rows * c->d, DD_DTYPE_F32, c->rows, c->d);
        DD_TRY(dd_op_affine(c->b, dd_flux_residual(c), 1.0f, x, 0.0f, NULL, DD_ACTIVATION_NONE, err));
        if (i < doubles) {
            DD_TRY(dd_flux_double_forward(taped, i, err));
            DD_TRY(dd_flux_double_backward(p, i, x, err));
        } else {
            DD_TRY(dd_flux_single_forward(taped, i - doubles, err));
            DD_TRY(dd_flux_single_backward(p, i - doubles, x, err));
        }
    }
    return DDIT_OK;
}

ddit_status dd_flux_lane_backward(dd_flux_lane *lane, const float *dvelocity, float *gradient, ddit_err *err) {
    dd_flux_batch *batch = lane->batch;
    dd_flux_call c, taped;
    if (!lane->ready) return dd_fail(err, DDIT_ERR_INTERNAL, "a lane's backward pass without a forward pass before it");
    lane->ready = false;
    dd_flux_tables tables = dd_flux_batch_tables(batch, &batch->tables, lane->index), dtables = {0};
    dd_flux_pass p = {.lane = lane, .c = &c, .gradient = gradient, .all = lane->trainee->options.scope == DD_TRAIN_ALL};
    if (p.all) {
        dtables = dd_flux_batch_tables(batch, &batch->dtables, lane->index);
        p.dtables = &dtables;
    }
    DD_TRY(dd_flux_call_begin(&c, lane->run, &tables, lane->index, &lane->layout, batch->text_tokens, err));
    taped = c;
    taped.tape = &lane->tape;
    int blocks = c.dit->config.num_layers + c.dit->config.num_single_layers;
    size_t bytes = (size_t)c.dit->config.latent_channels * (size_t)(lane->layout.grid.rows * lane->layout.grid.patch) *
                   (size_t)(lane->layout.grid.cols * lane->layout.grid.patch) * sizeof(float);
    DD_TRY(dd_op_upload(c.b, lane->velocity, dvelocity, bytes, err));
    DD_TRY(dd_op_upload(c.b, c.run->origin, lane->layout.origin, 2 * sizeof(int32_t) * (size_t)c.image, err));
    DD_TRY(dd_flux_set_positions(&c, err));
    dd_tensor last = dd_tensor_2d(lane->checkpoints + blocks * c.rows * c.d, DD_DTYPE_F32, c.rows, c.d);
    DD_TRY(dd_flux_deembed_backward(&p, last, err));
    DD_TRY(blocks_backward(&p, &taped, err));
    return dd_flux_embed_backward(&p, err);
}
