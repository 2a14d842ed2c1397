/* From the gradients of modulation tables and embedded texts, which lanes leave behind, to the weights that make them. */
#include "dit/flux_trainee.h"
#include "op/op_grad.h"

typedef struct batch_pass {
    dd_flux_batch *batch;
    dd_flux_dit *dit;
    dd_backend *b;
    float *gradient;
    int64_t count, d;
} batch_pass;

static dd_tensor rows(const batch_pass *p, float *buffer) { return dd_tensor_2d(buffer, DD_DTYPE_F32, p->count, p->d); }

/* One table = linear(vec): its gradient [S, vectors d] to the layer's and, added, to that of vec. */
static ddit_status table_backward(const batch_pass *p, const dd_flux_linear *linear, int vectors, float *dtable, bool first,
                                  ddit_err *err) {
    int64_t width = vectors * p->d;
    dd_tensor dy = dd_tensor_2d(p->batch->dtable, p->b->activation, p->count, width);
    dd_tensor vec = dd_tensor_2d(p->batch->vectors.vec, p->b->activation, p->count, p->d);
    DD_TRY(dd_op_affine(p->b, dy, 1.0f, dd_tensor_2d(dtable, DD_DTYPE_F32, p->count, width), 0.0f, NULL, DD_ACTIVATION_NONE,
                        err));
    DD_TRY(dd_flux_layer_gradient(p->b, p->gradient, linear->at, dy, vec, err));
    return dd_op_input_grad(p->b, &(dd_input_grad_args){.dx = rows(p, p->batch->dvec), .dy = dy, .w = linear->w, .scale = 1.0f,
                                                        .replace = first}, err);
}

static ddit_status modulations_backward(const batch_pass *p, ddit_err *err) {
    dd_flux_dit *dit = p->dit;
    const dd_flux_tables *g = &p->batch->dtables;
    int64_t row = p->d * p->count;
    DD_TRY(table_backward(p, &dit->norm_out, 2, g->final, true, err));
    for (int i = 0; i < dit->config.num_layers; i++) {
        float *table = g->doubles + 12 * row * i;
        DD_TRY(table_backward(p, &dit->doubles[i].image.modulation, 6, table, false, err));
        DD_TRY(table_backward(p, &dit->doubles[i].text.modulation, 6, table + 6 * row, false, err));
    }
    for (int i = 0; i < dit->config.num_single_layers; i++)
        DD_TRY(table_backward(p, &dit->singles[i].modulation, 3, g->singles + 3 * row * i, false, err));
    return DDIT_OK;
}

/* out(SiLU(in(x))), x host [S, width], from the gradient of its result in batch->dvec. */
static ddit_status embedder_backward(const batch_pass *p, const dd_flux_embedder *e, const float *x, int64_t width,
                                     ddit_err *err) {
    dd_flux_batch *batch = p->batch;
    dd_tensor in = dd_tensor_2d(batch->vectors.in, DD_DTYPE_F32, p->count, width), dy = rows(p, batch->dvec);
    dd_tensor before = rows(p, batch->before), inner = rows(p, batch->inner), dinner = rows(p, batch->dinner);
    DD_TRY(dd_op_upload(p->b, in.data, x, (size_t)(p->count * width) * sizeof *x, err));
    DD_TRY(dd_op_linear(p->b, &(dd_linear_args){.y = before, .x = in, .w = e->in}, err));
    DD_TRY(dd_op_affine(p->b, inner, 1.0f, before, 0.0f, NULL, DD_ACTIVATION_SILU, err));
    DD_TRY(dd_flux_layer_gradient(p->b, p->gradient, e->out_at, dy, inner, err));
    DD_TRY(dd_op_input_grad(p->b, &(dd_input_grad_args){.dx = dinner, .dy = dy, .w = e->out, .scale = 1.0f, .replace = true},
                            err));
    DD_TRY(dd_op_activation_grad(
        p->b, &(dd_activation_grad_args){.dx = dinner, .dy = dinner, .x = before, .activation = DD_ACTIVATION_SILU}, err));
    return dd_flux_layer_gradient(p->b, p->gradient, e->in_at, dinner, in, err);
}

static const float *sinusoids(const batch_pass *p, const float *values, float factor) {
    float *host = p->batch->vectors.host;
    for (int64_t i = 0; i < p->count; i++) dd_flux_sinusoid(factor * values[i], host + i * DD_FLUX_TIME_WIDTH);
    return host;
}

ddit_status dd_flux_batch_backward(dd_flux_batch *batch, float *gradient, ddit_err *err) {
    dd_flux_dit *dit = batch->trainee->dit;
    batch_pass p = {batch, dit, dit->backend, gradient, batch->count, dit->config.hidden};
    if (batch->trainee->options.scope != DD_TRAIN_ALL || batch->count == 0)
        return dd_fail(err, DDIT_ERR_INTERNAL, "a batch's backward pass without gradients of its conditions");
    DD_TRY(modulations_backward(&p, err));
    DD_TRY(dd_op_activation_grad(p.b, &(dd_activation_grad_args){.dx = rows(&p, batch->dvec), .dy = rows(&p, batch->dvec),
                                                                 .x = rows(&p, batch->vectors.out),
                                                                 .activation = DD_ACTIVATION_SILU}, err));
    DD_TRY(embedder_backward(&p, &dit->time, sinusoids(&p, batch->times, 1.0f), DD_FLUX_TIME_WIDTH, err));
    if (dit->config.guidance_embeds)
        DD_TRY(embedder_backward(&p, &dit->guidance, sinusoids(&p, batch->guidance, 1000.0f), DD_FLUX_TIME_WIDTH, err));
    DD_TRY(embedder_backward(&p, &dit->pooled, batch->pooled, dit->config.pooled_projection_dim, err));
    int64_t tokens = p.count * batch->text_tokens;
    dd_tensor dtext = dd_tensor_2d(batch->dtext, p.b->activation, tokens, p.d);
    dd_tensor text = dd_tensor_2d(batch->text, p.b->activation, tokens, dit->config.joint_attention_dim);
    DD_TRY(dd_op_affine(p.b, dtext, 1.0f, dd_tensor_2d(batch->dtables.text, DD_DTYPE_F32, tokens, p.d), 0.0f, NULL,
                        DD_ACTIVATION_NONE, err));
    return dd_flux_layer_gradient(p.b, gradient, dit->text_in_at, dtext, text, err);
}
