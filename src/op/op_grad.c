/* Checked calls of the backward passes. */
#include "op/op_grad.h"

#include <inttypes.h>

#include "op/op_check.h"

/* The slot of op_grad.h, or an error that names backend and op. */
#define GRAD_SLOT(b, slot) dd_op_slot((b), (b)->ops->grad && (b)->ops->grad->slot, c.op, err)

/* A result must not share memory with any input of the list. */
static ddit_status apart_from(const dd_op_check *c, const char *name, const dd_tensor *result, const dd_tensor *const *inputs,
                              const char *const *names, int count) {
    for (int i = 0; result && i < count; i++) DD_TRY(dd_op_apart(c, name, result, names[i], inputs[i]));
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ linear */

ddit_status dd_op_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "input_grad", err);
    DD_TRY(GRAD_SLOT(b, input));
    DD_TRY(dd_op_require(&c, g->w, "the weight is missing"));
    dd_weight_info w = b->ops->weight_info(g->w);
    DD_TRY(dd_op_require(&c, w.kind == DD_WEIGHT_LINEAR, "the weight [%" PRId64 ", %" PRId64 "] is a convolution", w.out,
                         w.in));
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, 1u << w.input_dtype, -1, w.out));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, g->replace ? c.either : DD_SET_F32, g->dy.shape[0], w.in));
    DD_TRY(dd_op_apart(&c, "dx", &g->dx, "dy", &g->dy));
    return g->dy.shape[0] ? b->ops->grad->input(b, g, err) : DDIT_OK;
}

ddit_status dd_op_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "weight_grad", err);
    DD_TRY(GRAD_SLOT(b, weight));
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, c.either, -1, -1));
    int64_t rows = g->dy.shape[0], out = g->dy.shape[1];
    if (g->dw) {
        DD_TRY(dd_op_want_2d(&c, "x", g->x, 1u << g->dy.dtype, rows, -1));
        DD_TRY(dd_op_want_2d(&c, "dw", g->dw, DD_SET_F32, out, g->x->shape[1]));
        DD_TRY(dd_op_apart(&c, "dw", g->dw, "dy", &g->dy));
        DD_TRY(dd_op_apart(&c, "dw", g->dw, "x", g->x));
    }
    DD_TRY(dd_op_want_optional_vector(&c, "db", g->db, out));
    if (g->db) {
        DD_TRY(dd_op_apart(&c, "db", g->db, "dy", &g->dy));
        DD_TRY(dd_op_apart(&c, "db", g->db, "dw", g->dw));
    }
    return rows && (g->dw || g->db) ? b->ops->grad->weight(b, g, err) : DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ attention */

ddit_status dd_op_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "attention_grad", err);
    DD_TRY(GRAD_SLOT(b, attention));
    DD_TRY(dd_op_want_2d(&c, "q", &g->q, c.act, -1, -1));
    int64_t queries = g->q.shape[0], width = g->q.shape[1];
    DD_TRY(dd_op_want_heads(&c, width, g->heads));
    DD_TRY(dd_op_want_2d(&c, "k", &g->k, c.act, -1, width));
    int64_t keys = g->k.shape[0];
    DD_TRY(dd_op_want_2d(&c, "v", &g->v, c.act, keys, width));
    DD_TRY(dd_op_require(&c, keys > 0, "there are no keys"));
    DD_TRY(dd_op_want_2d(&c, "out", &g->out, c.act, queries, width));
    DD_TRY(dd_op_want_2d(&c, "dout", &g->dout, c.act, queries, width));
    DD_TRY(dd_op_want_2d(&c, "lse", &g->lse, DD_SET_F32, g->heads, queries));
    DD_TRY(dd_op_want_2d(&c, "dq", &g->dq, c.act, queries, width));
    DD_TRY(dd_op_want_2d(&c, "dk", &g->dk, c.act, keys, width));
    DD_TRY(dd_op_want_2d(&c, "dv", &g->dv, c.act, keys, width));
    const dd_tensor *results[] = {&g->dq, &g->dk, &g->dv}, *inputs[] = {&g->q, &g->k, &g->v, &g->out, &g->dout, &g->lse};
    static const char *const result_names[] = {"dq", "dk", "dv"}, *const names[] = {"q", "k", "v", "out", "dout", "lse"};
    for (int i = 0; i < 3; i++) {
        DD_TRY(apart_from(&c, result_names[i], results[i], inputs, names, 6));
        DD_TRY(apart_from(&c, result_names[i], results[i], results, result_names, i));
    }
    return b->ops->grad->attention(b, g, err);
}

ddit_status dd_op_qk_norm_rope_grad(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "qk_norm_rope_grad", err);
    DD_TRY(GRAD_SLOT(b, qk_norm_rope));
    DD_TRY(dd_op_want_2d(&c, "x", &g->x, c.act, -1, -1));
    int64_t rows = g->x.shape[0], columns = g->x.shape[1];
    DD_TRY(dd_op_want_heads(&c, columns, g->heads));
    int64_t width = columns / g->heads;
    DD_TRY(dd_op_require(&c, width % 2 == 0, "heads of %" PRId64 " values do not divide into pairs", width));
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, c.act, rows, columns));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, c.act, rows, columns));
    DD_TRY(dd_op_want_1d(&c, "weight", g->weight, DD_SET_F32, width));
    if (g->rope) DD_TRY(dd_op_want_2d(&c, "rope", g->rope, DD_SET_F32, rows, width));
    DD_TRY(dd_op_want_optional_vector(&c, "dweight", g->dweight, width));
    const dd_tensor *inputs[] = {&g->x, g->weight, g->rope, &g->dy, &g->dx};
    static const char *const names[] = {"x", "weight", "rope", "dy", "dx"};
    DD_TRY(dd_op_apart_or_same(&c, "dx", &g->dx, "dy", &g->dy));
    DD_TRY(apart_from(&c, "dx", &g->dx, inputs, names, 3));
    DD_TRY(apart_from(&c, "dweight", g->dweight, inputs, names, 5));
    return rows ? b->ops->grad->qk_norm_rope(b, g, err) : DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ norm and pointwise */

ddit_status dd_op_norm_grad(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "norm_grad", err);
    DD_TRY(GRAD_SLOT(b, norm));
    DD_TRY(dd_op_want_2d(&c, "x", &g->x, DD_SET_F32, -1, -1));
    int64_t rows = g->x.shape[0], width = g->x.shape[1];
    DD_TRY(dd_op_require(&c, width > 0, "x is [%" PRId64 ", 0]", rows));
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, c.either, rows, width));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, DD_SET_F32, rows, width));
    DD_TRY(dd_op_want_optional_vector(&c, "scale", g->scale, width));
    DD_TRY(dd_op_want_optional_vector(&c, "dscale", g->dscale, width));
    DD_TRY(dd_op_want_optional_vector(&c, "dshift", g->dshift, width));
    const dd_tensor *inputs[] = {&g->x, &g->dy, g->scale, &g->dx, g->dscale};
    static const char *const names[] = {"x", "dy", "scale", "dx", "dscale"};
    DD_TRY(apart_from(&c, "dx", &g->dx, inputs, names, 3));
    DD_TRY(apart_from(&c, "dscale", g->dscale, inputs, names, 4));
    DD_TRY(apart_from(&c, "dshift", g->dshift, inputs, names, 5));
    return rows ? b->ops->grad->norm(b, g, err) : DDIT_OK;
}

ddit_status dd_op_activation_grad(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "activation_grad", err);
    DD_TRY(GRAD_SLOT(b, activation));
    DD_TRY(dd_op_want_2d(&c, "x", &g->x, c.either, -1, -1));
    int64_t rows = g->x.shape[0], cols = g->x.shape[1];
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, 1u << g->x.dtype, rows, cols));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, 1u << g->x.dtype, rows, cols));
    DD_TRY(dd_op_require(&c, (unsigned)g->activation <= DD_ACTIVATION_QUICK_GELU, "activation %d is not known",
                         (int)g->activation));
    DD_TRY(dd_op_apart_or_same(&c, "dx", &g->dx, "dy", &g->dy));
    DD_TRY(dd_op_apart(&c, "dx", &g->dx, "x", &g->x));
    return rows && cols ? b->ops->grad->activation(b, g, err) : DDIT_OK;
}

ddit_status dd_op_gate_grad(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "gate_grad", err);
    DD_TRY(GRAD_SLOT(b, gate));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, DD_SET_F32, -1, -1));
    int64_t rows = g->dx.shape[0], cols = g->dx.shape[1];
    DD_TRY(dd_op_want_2d(&c, "dy", &g->dy, c.act, rows, cols));
    DD_TRY(dd_op_want_1d(&c, "gate", g->gate, DD_SET_F32, cols));
    DD_TRY(dd_op_want_optional_vector(&c, "dgate", g->dgate, cols));
    if (g->dgate || g->y) DD_TRY(dd_op_want_2d(&c, "y", g->y, c.either, rows, cols));
    const dd_tensor *inputs[] = {&g->dx, g->gate, g->y, &g->dy};
    static const char *const names[] = {"dx", "gate", "y", "dy"};
    DD_TRY(apart_from(&c, "dy", &g->dy, inputs, names, 3));
    DD_TRY(apart_from(&c, "dgate", g->dgate, inputs, names, 4));
    return rows && cols ? b->ops->grad->gate(b, g, err) : DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ cells */

ddit_status dd_op_cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "cells_scatter_grad", err);
    DD_TRY(GRAD_SLOT(b, cells_scatter));
    DD_TRY(dd_op_require(&c, g->n > 0 && g->n <= DD_CELL_MAX, "n is %d, expected 1 to %d", g->n, (int)DD_CELL_MAX));
    DD_TRY(dd_op_want_3d(&c, "dvelocity", &g->dvelocity, DD_SET_F32, -1, -1, -1));
    const int64_t *shape = g->dvelocity.shape;
    DD_TRY(dd_op_require(&c, shape[0] > 0 && shape[1] > 0 && shape[2] > 0, "dvelocity is empty"));
    DD_TRY(dd_op_want_2d(&c, "dx", &g->dx, c.either, -1, shape[0] * g->n * g->n));
    DD_TRY(dd_op_want_2d(&c, "origin", &g->origin, DD_SET_I32, g->dx.shape[0], 2));
    if (g->dpixel_weight) {
        DD_TRY(dd_op_want_3d(&c, "z", g->z, DD_SET_F32, shape[0], shape[1], shape[2]));
        DD_TRY(dd_op_want_2d(&c, "dpixel_weight", g->dpixel_weight, DD_SET_F32, shape[0], shape[0]));
    }
    DD_TRY(dd_op_want_optional_vector(&c, "dpixel_bias", g->dpixel_bias, shape[0]));
    const dd_tensor *inputs[] = {&g->dvelocity, &g->origin, g->dpixel_weight ? g->z : NULL, &g->dx, g->dpixel_weight};
    static const char *const names[] = {"dvelocity", "origin", "z", "dx", "dpixel_weight"};
    DD_TRY(apart_from(&c, "dx", &g->dx, inputs, names, 3));
    DD_TRY(apart_from(&c, "dpixel_weight", g->dpixel_weight, inputs, names, 4));
    DD_TRY(apart_from(&c, "dpixel_bias", g->dpixel_bias, inputs, names, 5));
    return g->dx.shape[0] ? b->ops->grad->cells_scatter(b, g, err) : DDIT_OK;
}
