/* Blocks backward. Each must just have run with the lane's tape: the run's buffers then hold n, q, k, v, the attention's result
 * and the MLP's hidden values, the tape what was overwritten. Source: the chain rule on flux_block.c; LoRA (Hu et al. 2021). */
#include <math.h>

#include "dit/flux_trainee.h"
#include "op/op_grad.h"

ddit_status dd_flux_layer_gradient(dd_backend *b, float *gradient, dd_flux_place at, dd_tensor dy, dd_tensor x,
                                   ddit_err *err) {
    dd_tensor dw = dd_tensor_2d(gradient + at.weight, DD_DTYPE_F32, dy.shape[1], x.shape[1]);
    dd_tensor db = dd_tensor_1d(gradient + at.bias, DD_DTYPE_F32, dy.shape[1]);
    return dd_op_weight_grad(b, &(dd_weight_grad_args){.dw = &dw, .db = &db, .dy = dy, .x = &x, .scale = 1.0f}, err);
}

static ddit_status input(const dd_flux_pass *p, const dd_weight *w, dd_tensor dx, dd_tensor dy, float scale, bool replace,
                         ddit_err *err) {
    const dd_input_grad_args args = {.dx = dx, .dy = dy, .w = w, .scale = scale, .replace = replace};
    return dd_op_input_grad(p->c->b, &args, err);
}

static ddit_status product(const dd_flux_pass *p, int64_t at, dd_tensor dy, dd_tensor x, float scale, ddit_err *err) {
    dd_tensor dw = dd_tensor_2d(p->gradient + at, DD_DTYPE_F32, dy.shape[1], x.shape[1]);
    return dd_op_weight_grad(p->c->b, &(dd_weight_grad_args){.dw = &dw, .dy = dy, .x = &x, .scale = scale}, err);
}

/* One range of y += s (x A^T) B^T: with t = x A^T, dB += s dy^T t; dt = s dy B; dA += dt^T x; dx += dt A. dx F32. */
static ddit_status lora_range(const dd_flux_pass *p, const dd_flux_linear *linear, dd_flux_lora_range range, dd_tensor dy_all,
                              dd_tensor x_all, dd_tensor dx_all, ddit_err *err) {
    const dd_flux_call *c = p->c;
    const dd_weight *down = linear->lora[range.f].down, *up = linear->lora[range.f].up;
    int64_t count = range.end - range.begin, rank = p->lane->trainee->options.rank;
    dd_tensor low = dd_flux_act(c, p->lane->low, count, rank), dlow = dd_flux_act(c, p->lane->dlow, count, rank);
    dd_tensor dy = dd_tensor_rows(dy_all, range.begin, count), x = dd_tensor_rows(x_all, range.begin, count);
    dd_tensor dx = dd_tensor_rows(dx_all, range.begin, count);
    DD_TRY(dd_op_linear(c->b, &(dd_linear_args){.y = low, .x = x, .w = down}, err));
    DD_TRY(product(p, linear->lora[range.f].up_at, dy, low, range.scale, err));
    DD_TRY(input(p, up, dlow, dy, range.scale, true, err));
    DD_TRY(product(p, linear->lora[range.f].down_at, dlow, x, 1.0f, err));
    return input(p, down, dx, dlow, 1.0f, false, err);
}

/* Back through linear with its rows' LoRA: dx (F32: written or added to; act: written) from dy, and what is trained of it. */
static ddit_status linear_backward(const dd_flux_pass *p, const dd_flux_linear *linear, dd_flux_span span, dd_tensor dy,
                                   dd_tensor x, dd_tensor dx, bool replace, ddit_err *err) {
    dd_flux_lora_range ranges[DD_FLUX_MAX_LORA];
    int count = dd_flux_lora_ranges(p->c, linear, span, ranges);
    bool staged = count > 0 && !(dx.dtype == DD_DTYPE_F32); /* LoRA adds, and only to F32 */
    dd_tensor sum = staged ? dd_tensor_2d(p->lane->stage, DD_DTYPE_F32, dx.shape[0], dx.shape[1]) : dx;
    if (p->all) DD_TRY(dd_flux_layer_gradient(p->c->b, p->gradient, linear->at, dy, x, err));
    DD_TRY(input(p, linear->w, sum, dy, 1.0f, replace, err));
    for (int i = 0; i < count; i++) DD_TRY(lora_range(p, linear, ranges[i], dy, x, sum, err));
    return staged ? dd_op_affine(p->c->b, dx, 1.0f, sum, 0.0f, NULL, DD_ACTIVATION_NONE, err) : DDIT_OK;
}

/* Vector `index` of the sample's row of a gradient table, or NULL: *storage is where it is put. */
static const dd_tensor *dmodulation(const dd_flux_pass *p, float *dtable, int count, int index, dd_tensor *storage) {
    if (!p->all) return NULL;
    *storage = dd_flux_modulation(p->c, dtable, count, index);
    return storage;
}

/* Back through n = LN(x) (1 + scale) + shift: lane->dx rows += ... */
static ddit_status norm_backward(const dd_flux_pass *p, dd_tensor dx, dd_tensor dn, dd_tensor x, float *table, float *dtable,
                                 int count, int shift_at, int scale_at, ddit_err *err) {
    dd_tensor scale = dd_flux_modulation(p->c, table, count, scale_at), dscale, dshift;
    return dd_op_norm_grad(p->c->b,
                           &(dd_norm_grad_args){.dx = dx, .dy = dn, .x = x, .eps = DD_FLUX_EPS, .scale = &scale,
                                                .dscale = dmodulation(p, dtable, count, scale_at, &dscale),
                                                .dshift = dmodulation(p, dtable, count, shift_at, &dshift)},
                           err);
}

/* Back through x += gate * y on rows from `begin`: dy from dx. products: the tape's y [rows, d]. */
static ddit_status gate_backward(const dd_flux_pass *p, dd_tensor dy, dd_tensor dx, void *products, int begin, float *table,
                                 float *dtable, int count, int gate_at, ddit_err *err) {
    dd_tensor gate = dd_flux_modulation(p->c, table, count, gate_at), dgate, y;
    if (p->all) y = dd_tensor_rows(dd_flux_act(p->c, products, p->c->rows, p->c->d), begin, dx.shape[0]);
    return dd_op_gate_grad(p->c->b,
                           &(dd_gate_grad_args){.dy = dy, .dx = dx, .gate = &gate, .y = p->all ? &y : NULL,
                                                .dgate = dmodulation(p, dtable, count, gate_at, &dgate)},
                           err);
}

static ddit_status attention_backward(const dd_flux_pass *p, dd_tensor dout, dd_tensor out, ddit_err *err) {
    const dd_flux_call *c = p->c;
    const dd_flux_lane *lane = p->lane;
    const dd_flux_config *config = &c->dit->config;
    return dd_op_attention_grad(
        c->b,
        &(dd_attention_grad_args){.dq = dd_flux_act(c, lane->dq, c->rows, c->d), .dk = dd_flux_act(c, lane->dk, c->rows, c->d),
                                  .dv = dd_flux_act(c, lane->dv, c->rows, c->d), .dout = dout, .out = out,
                                  .q = dd_flux_act(c, c->run->q, c->rows, c->d), .k = dd_flux_act(c, c->run->k, c->rows, c->d),
                                  .v = dd_flux_act(c, c->run->v, c->rows, c->d),
                                  .lse = dd_tensor_2d(lane->tape.lse, DD_DTYPE_F32, config->num_attention_heads, c->rows),
                                  .heads = config->num_attention_heads,
                                  .scale = 1.0f / sqrtf((float)config->attention_head_dim)},
        err);
}

/* The layers that make q, k and v of some rows. */
typedef struct qkv_layers {
    const dd_flux_linear *q, *k, *v;
    const dd_flux_head_norm *norm_q, *norm_k;
    bool rotated;
    int begin, count;
} qkv_layers;

static dd_tensor rows_of(const dd_flux_pass *p, const qkv_layers *l, void *buffer) {
    return dd_tensor_rows(dd_flux_act(p->c, buffer, p->c->rows, p->c->d), l->begin, l->count);
}

static ddit_status head_norm_backward(const dd_flux_pass *p, const qkv_layers *l, const dd_flux_head_norm *norm, void *gradient,
                                      void *before, ddit_err *err) {
    dd_tensor rope = dd_tensor_rows(dd_flux_rope_table(p->c), l->begin, l->count), d = rows_of(p, l, gradient);
    dd_tensor dweight = norm->weight;
    if (p->all) dweight.data = p->gradient + norm->at;
    return dd_op_qk_norm_rope_grad(p->c->b,
                                   &(dd_qk_norm_rope_grad_args){.dx = d, .dy = d, .x = rows_of(p, l, before),
                                                                .heads = p->c->dit->config.num_attention_heads,
                                                                .weight = &norm->weight, .rope = l->rotated ? &rope : NULL,
                                                                .eps = DD_FLUX_EPS, .dweight = p->all ? &dweight : NULL},
                                   err);
}

/* From lane->dq, dk, dv to dn (written); n: what the layers read, in run->n. */
static ddit_status qkv_backward(const dd_flux_pass *p, const qkv_layers *l, dd_tensor dn, ddit_err *err) {
    dd_flux_lane *lane = p->lane;
    const dd_flux_span none = {0, 0, -1};
    dd_tensor n = rows_of(p, l, p->c->run->n);
    DD_TRY(head_norm_backward(p, l, l->norm_q, lane->dq, lane->tape.q, err));
    DD_TRY(head_norm_backward(p, l, l->norm_k, lane->dk, lane->tape.k, err));
    DD_TRY(linear_backward(p, l->q, none, rows_of(p, l, lane->dq), n, dn, true, err));
    DD_TRY(linear_backward(p, l->k, none, rows_of(p, l, lane->dk), n, dn, false, err));
    return linear_backward(p, l->v, none, rows_of(p, l, lane->dv), n, dn, false, err);
}

static dd_tensor act_rows(const dd_flux_pass *p, void *buffer) { return dd_flux_act(p->c, buffer, p->c->rows, p->c->d); }
static dd_tensor f32_rows(const dd_flux_pass *p, float *buffer) {
    return dd_tensor_2d(buffer, DD_DTYPE_F32, p->c->rows, p->c->d);
}

static ddit_status gelu_backward(const dd_flux_pass *p, dd_tensor dh, dd_tensor before, ddit_err *err) {
    return dd_op_activation_grad(
        p->c->b, &(dd_activation_grad_args){.dx = dh, .dy = dh, .x = before, .activation = DD_ACTIVATION_GELU_TANH}, err);
}

/* ---------------------------------------------------------------------------------------------- double block */

/* Back through a stream's second half, to the gradient of its rows of the attention's result (in lane->dwide). */
static ddit_status stream_rest_backward(const dd_flux_pass *p, const dd_flux_stream_call *s, float *dtable, ddit_err *err) {
    const dd_flux_call *c = p->c;
    dd_flux_lane *lane = p->lane;
    const dd_flux_stream *w = s->weights;
    const dd_flux_span none = {0, 0, -1};
    dd_tensor x = dd_flux_stream_rows(s, dd_flux_residual(c)), n = dd_flux_stream_rows(s, act_rows(p, c->run->n));
    dd_tensor h = dd_flux_stream_rows(s, dd_flux_after_attention(c, c->run->wide));
    dd_tensor dh = dd_flux_stream_rows(s, dd_flux_after_attention(c, lane->dwide));
    dd_tensor before = dd_flux_stream_rows(s, dd_flux_act(c, lane->tape.hidden, c->rows, c->dit->config.mlp_hidden));
    dd_tensor dx = dd_flux_stream_rows(s, f32_rows(p, lane->dx)), dn = dd_flux_stream_rows(s, f32_rows(p, lane->dn));
    dd_tensor dy = dd_flux_stream_rows(s, act_rows(p, lane->dy));
    dd_tensor attention = dd_flux_stream_rows(s, act_rows(p, c->run->wide));
    DD_TRY(gate_backward(p, dy, dx, lane->tape.y, s->begin, s->table, dtable, 6, 5, err));
    DD_TRY(linear_backward(p, &w->mlp_out, s->span, dy, h, dh, true, err));
    DD_TRY(gelu_backward(p, dh, before, err));
    DD_TRY(linear_backward(p, &w->mlp_in, s->span, dh, n, dn, true, err));
    DD_TRY(norm_backward(p, dx, dn, x, s->table, dtable, 6, 3, 4, err));
    DD_TRY(gate_backward(p, dy, dx, lane->tape.attention_y, s->begin, s->table, dtable, 6, 2, err));
    return linear_backward(p, &w->out, none, dy, attention, dd_flux_stream_rows(s, act_rows(p, lane->dwide)), true, err);
}

/* Back through a stream's first half, from lane->dq, dk, dv. x: the block's input. */
static ddit_status stream_qkv_backward(const dd_flux_pass *p, const dd_flux_stream_call *s, float *dtable, dd_tensor x_all,
                                       ddit_err *err) {
    const dd_flux_call *c = p->c;
    const dd_flux_stream *w = s->weights;
    qkv_layers layers = {&w->q, &w->k, &w->v, &w->norm_q, &w->norm_k, s->begin > 0 || c->text == 0, s->begin, s->count};
    dd_tensor x = dd_flux_stream_rows(s, x_all), dn = dd_flux_stream_rows(s, f32_rows(p, p->lane->dn));
    if (p->all) { /* the layers' input: the second half has taken its place */
        dd_tensor shift = dd_flux_modulation(c, s->table, 6, 0), scale = dd_flux_modulation(c, s->table, 6, 1);
        DD_TRY(dd_flux_modulate(c, dd_flux_stream_rows(s, act_rows(p, c->run->n)), x, shift, scale, err));
    }
    DD_TRY(qkv_backward(p, &layers, dn, err));
    return norm_backward(p, dd_flux_stream_rows(s, f32_rows(p, p->lane->dx)), dn, x, s->table, dtable, 6, 0, 1, err);
}

ddit_status dd_flux_double_backward(const dd_flux_pass *p, int index, dd_tensor x, ddit_err *err) {
    const dd_flux_call *c = p->c;
    dd_flux_stream_call image = dd_flux_image_stream(c, c->tables, index), text = dd_flux_text_stream(c, c->tables, index);
    float *dimage = p->all ? dd_flux_image_stream(c, p->dtables, index).table : NULL;
    float *dtext = p->all ? dd_flux_text_stream(c, p->dtables, index).table : NULL;
    DD_TRY(stream_rest_backward(p, &text, dtext, err));
    DD_TRY(stream_rest_backward(p, &image, dimage, err));
    DD_TRY(attention_backward(p, act_rows(p, p->lane->dwide), act_rows(p, c->run->wide), err));
    DD_TRY(stream_qkv_backward(p, &image, dimage, x, err));
    bool wanted = index > 0 || p->all; /* an adapter has nothing to learn from the embedded text's gradient */
    return wanted ? stream_qkv_backward(p, &text, dtext, x, err) : DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- single block */

ddit_status dd_flux_single_backward(const dd_flux_pass *p, int index, dd_tensor x, ddit_err *err) {
    const dd_flux_call *c = p->c;
    dd_flux_lane *lane = p->lane;
    const dd_flux_single *w = &c->dit->singles[index];
    int64_t mlp = c->dit->config.mlp_hidden;
    dd_flux_span span = {0, c->text, c->text};
    qkv_layers layers = {&w->q, &w->k, &w->v, &w->norm_q, &w->norm_k, true, 0, c->rows};
    float *table = dd_flux_single_table(c, c->tables, index);
    float *dtable = p->all ? dd_flux_single_table(c, p->dtables, index) : NULL;
    dd_tensor wide = dd_flux_act(c, c->run->wide, c->rows, c->d + mlp);
    dd_tensor dwide = dd_flux_act(c, lane->dwide, c->rows, c->d + mlp), dh = dd_tensor_cols(dwide, c->d, mlp);
    dd_tensor dx = f32_rows(p, lane->dx), dn = f32_rows(p, lane->dn), dy = act_rows(p, lane->dy);
    DD_TRY(gate_backward(p, dy, dx, lane->tape.y, 0, table, dtable, 3, 2, err));
    DD_TRY(linear_backward(p, &w->out, span, dy, wide, dwide, true, err));
    DD_TRY(gelu_backward(p, dh, dd_flux_act(c, lane->tape.hidden, c->rows, mlp), err));
    DD_TRY(attention_backward(p, dd_tensor_cols(dwide, 0, c->d), dd_tensor_cols(wide, 0, c->d), err));
    DD_TRY(qkv_backward(p, &layers, dn, err));
    DD_TRY(linear_backward(p, &w->mlp_in, span, dh, act_rows(p, c->run->n), dn, false, err));
    return norm_backward(p, dx, dn, x, table, dtable, 3, 0, 1, err);
}
