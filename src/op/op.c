/* Checked calls: memory, weights, lanes, and the ops on rows. Those on latents are in op_latent.c, the backward passes in
 * op_grad.c. */
#include <inttypes.h>

#include "op/op_check.h"

/* ------------------------------------------------------------------------------------------------ memory */

ddit_status dd_op_alloc(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err) {
    *memory = NULL;
    DD_TRY(dd_op_slot(b, b->ops->alloc && b->ops->free, "alloc", err));
    return b->ops->alloc(b, memory, bytes, what, err);
}

void dd_op_free(dd_backend *b, void *memory) {
    if (memory) b->ops->free(b, memory);
}

ddit_status dd_op_upload(dd_backend *b, void *to, const void *from_host, size_t bytes, ddit_err *err) {
    DD_TRY(dd_op_slot(b, b->ops->upload, "upload", err));
    return b->ops->upload(b, to, from_host, bytes, err);
}

ddit_status dd_op_download(dd_backend *b, void *to_host, const void *from, size_t bytes, ddit_err *err) {
    DD_TRY(dd_op_slot(b, b->ops->download, "download", err));
    return b->ops->download(b, to_host, from, bytes, err);
}

ddit_status dd_op_sync(dd_backend *b, ddit_err *err) {
    DD_TRY(dd_op_slot(b, b->ops->sync, "sync", err));
    return b->ops->sync(b, err);
}

ddit_status dd_op_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "reserve", err);
    DD_TRY(dd_op_slot(b, b->ops->reserve, "reserve", err));
    DD_TRY(dd_op_require(&c, r->attention_queries >= 0 && r->attention_keys >= 0 && r->attention_heads >= 0 &&
                                 r->attention_head_size >= 0 && r->weight_count >= 0 && (r->weights || !r->weight_count) &&
                                 r->gradient_rows >= 0,
                         "a size is negative or the list of weights is missing"));
    return b->ops->reserve(b, r, err);
}

/* ------------------------------------------------------------------------------------------------ weights */

static bool is_float(dd_dtype dtype) { return dtype < DD_DTYPE_COUNT && ((unsigned)DD_SET_FLOATS >> dtype & 1); }

ddit_status dd_op_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err) {
    *out = NULL;
    dd_weight_desc d = *desc;
    if (!d.name) d.name = "without a name";
    dd_op_check c = dd_op_check_begin(b, "weight_prepare", err);
    DD_TRY(dd_op_slot(b, b->ops->weight_prepare && b->ops->weight_free && b->ops->weight_info, "weight_prepare", err));
    bool conv = d.kind == DD_WEIGHT_CONV2D;
    DD_TRY(dd_op_require(&c, d.kind == DD_WEIGHT_LINEAR || conv, "weight %s is of unknown kind %d", d.name, (int)d.kind));
    if (!conv) d.kh = d.kw = 1;
    DD_TRY(dd_op_require(&c, d.data && d.out > 0 && d.in > 0, "weight %s is [%" PRId64 ", %" PRId64 "]%s", d.name, d.out, d.in,
                         d.data ? "" : " without data"));
    DD_TRY(dd_op_require(&c, d.kh == d.kw && (d.kh == 1 || d.kh == 3),
                         "weight %s is a %d x %d convolution, expected 1 x 1 or 3 x 3", d.name, d.kh, d.kw));
    if (!is_float(d.dtype) || (d.bias && !is_float(d.bias_dtype))) {
        dd_dtype wrong = is_float(d.dtype) ? d.bias_dtype : d.dtype;
        return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                       "weight_prepare: weight %s [%" PRId64 ", %" PRId64 "] has %s of dtype %s, expected a "
                       "float dtype", d.name, d.out, d.in, is_float(d.dtype) ? "a bias" : "values",
                       wrong < DD_DTYPE_COUNT ? dd_dtype_name(wrong) : "unknown");
    }
    uint64_t row = 0, all = 0;
    bool whole = dd_mul_u64((uint64_t)d.in, (uint64_t)d.kh * (uint64_t)d.kw, &row) && dd_dtype_bytes(d.dtype, row, &row) &&
                 dd_mul_u64(row, (uint64_t)d.out, &all) && all <= PTRDIFF_MAX;
    DD_TRY(dd_op_require(&c, whole, "weight %s [%" PRId64 ", %" PRId64 "] does not divide into rows of %s", d.name, d.out, d.in,
                         dd_dtype_name(d.dtype)));
    return b->ops->weight_prepare(b, out, &d, err);
}

void dd_op_weight_free(dd_backend *b, dd_weight *w) {
    if (w) b->ops->weight_free(b, w);
}

dd_weight_info dd_op_weight_info(const dd_backend *b, const dd_weight *w) { return b->ops->weight_info(w); }

ddit_status dd_op_weight_update(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err) {
    dd_weight_desc d = *desc;
    if (!d.name) d.name = "without a name";
    dd_op_check c = dd_op_check_begin(b, "weight_update", err);
    DD_TRY(dd_op_slot(b, b->ops->weight_update && b->ops->weight_info, c.op, err));
    DD_TRY(dd_op_require(&c, w, "weight %s is missing", d.name));
    dd_weight_info have = b->ops->weight_info(w);
    if (d.kind != DD_WEIGHT_CONV2D) d.kh = d.kw = 1;
    DD_TRY(dd_op_require(&c, d.kind == have.kind && d.out == have.out && d.in == have.in &&
                                 (have.kind != DD_WEIGHT_CONV2D || (d.kh == have.kh && d.kw == have.kw)),
                         "weight %s is [%" PRId64 ", %" PRId64 "], its new values [%" PRId64 ", %" PRId64 "]%s", d.name,
                         have.out, have.in, d.out, d.in, d.kind == have.kind ? "" : " of another kind"));
    DD_TRY(dd_op_require(&c, d.data, "weight %s has no new values", d.name));
    DD_TRY(dd_op_require(&c, d.dtype == DD_DTYPE_F32, "weight %s has new values of dtype %s, expected F32", d.name,
                         d.dtype < DD_DTYPE_COUNT ? dd_dtype_name(d.dtype) : "unknown"));
    DD_TRY(dd_op_require(&c, !d.bias || is_float(d.bias_dtype), "weight %s has a new bias of an integer dtype", d.name));
    return b->ops->weight_update(b, w, &d, err);
}

/* ------------------------------------------------------------------------------------------------ lanes */

ddit_status dd_op_lane_open(dd_backend *b, int index, dd_backend **lane, ddit_err *err) {
    *lane = NULL;
    dd_op_check c = dd_op_check_begin(b, "lane_open", err);
    DD_TRY(dd_op_slot(b, b->ops->lane_open, c.op, err));
    DD_TRY(dd_op_require(&c, index >= 0 && index < b->threads, "lane %d of %d was asked for", index, b->threads));
    return b->ops->lane_open(b, index, lane, err);
}

void dd_op_lane_close(dd_backend *lane) {
    if (lane) lane->ops->close(lane);
}

/* ------------------------------------------------------------------------------------------------ linear and convolution */

static ddit_status check_lora(const dd_backend *b, const dd_op_check *c, const dd_lora *l, const dd_weight_info *w,
                              int64_t rows) {
    DD_TRY(dd_op_require(c, l->down && l->up, "a weight of an overlay is missing"));
    dd_weight_info down = b->ops->weight_info(l->down), up = b->ops->weight_info(l->up);
    bool fits = down.kind == DD_WEIGHT_LINEAR && up.kind == DD_WEIGHT_LINEAR && down.in == w->in && up.out == w->out &&
                up.in == down.out;
    DD_TRY(dd_op_require(c, fits,
                         "an overlay of down [%" PRId64 ", %" PRId64 "] and up [%" PRId64 ", %" PRId64 "] lies on a weight "
                         "[%" PRId64 ", %" PRId64 "]", down.out, down.in, up.out, up.in, w->out, w->in));
    DD_TRY(dd_op_require(c, down.input_dtype == w->input_dtype, "an overlay and its weight [%" PRId64 ", %" PRId64
                         "] differ in precision", w->out, w->in));
    return dd_op_require(c, 0 <= l->row_begin && l->row_begin <= l->row_end && l->row_end <= rows,
                         "an overlay covers rows %" PRId64 " to %" PRId64 " of %" PRId64, l->row_begin, l->row_end, rows);
}

static ddit_status check_activation(const dd_op_check *c, dd_activation activation) {
    return dd_op_require(c, (unsigned)activation <= DD_ACTIVATION_QUICK_GELU, "activation %d is not known", (int)activation);
}

ddit_status dd_op_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "linear", err);
    DD_TRY(dd_op_slot(b, b->ops->linear, c.op, err));
    DD_TRY(dd_op_require(&c, a->w, "the weight is missing"));
    dd_weight_info w = b->ops->weight_info(a->w);
    DD_TRY(dd_op_require(&c, w.kind == DD_WEIGHT_LINEAR, "the weight [%" PRId64 ", %" PRId64 "] is a convolution", w.out,
                         w.in));
    int64_t rows = a->y.shape[0];
    DD_TRY(dd_op_want_2d(&c, "y", &a->y, c.either, -1, w.out));
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, 1u << w.input_dtype, rows, w.in));
    if (a->mul) DD_TRY(dd_op_want_2d(&c, "mul", a->mul, c.either, rows, w.out));
    DD_TRY(dd_op_want_optional_vector(&c, "gate", a->gate, w.out));
    if (a->add) DD_TRY(dd_op_want_2d(&c, "add", a->add, DD_SET_F32, rows, w.out));
    DD_TRY(check_activation(&c, a->activation));
    DD_TRY(dd_op_require(&c, a->lora_count == 0 || (a->lora_count > 0 && a->lora), "the list of %d overlays is missing",
                         a->lora_count));
    for (int l = 0; l < a->lora_count; l++) DD_TRY(check_lora(b, &c, &a->lora[l], &w, rows));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "x", &a->x));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "mul", a->mul));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "gate", a->gate));
    DD_TRY(dd_op_apart_or_same(&c, "y", &a->y, "add", a->add));
    return rows ? b->ops->linear(b, a, err) : DDIT_OK;
}

ddit_status dd_op_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "conv2d", err);
    DD_TRY(dd_op_slot(b, b->ops->conv2d, c.op, err));
    DD_TRY(dd_op_require(&c, a->w, "the weight is missing"));
    dd_weight_info w = b->ops->weight_info(a->w);
    DD_TRY(dd_op_require(&c, w.kind == DD_WEIGHT_CONV2D, "the weight [%" PRId64 ", %" PRId64 "] is not a convolution", w.out,
                         w.in));
    DD_TRY(dd_op_require(&c, a->height > 0 && a->width > 0 && a->height <= INT32_MAX && a->width <= INT32_MAX,
                         "the picture is %" PRId64 " x %" PRId64 " pixels", a->height, a->width));
    DD_TRY(dd_op_require(&c, a->stride >= 0 && a->stride <= 2, "the stride is %d", a->stride));
    DD_TRY(dd_op_require(&c, a->stride < 2 || (w.kh == 3 && w.kw == 3 && a->height % 2 == 0 && a->width % 2 == 0),
                         "stride 2 with a filter of %d x %d on %" PRId64 " x %" PRId64 " pixels", w.kh, w.kw, a->height,
                         a->width));
    int64_t pixels = a->height * a->width, results = a->stride == 2 ? pixels / 4 : pixels;
    DD_TRY(dd_op_want_2d(&c, "y", &a->y, c.either, results, w.out));
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, 1u << w.input_dtype, pixels, w.in));
    if (a->add) DD_TRY(dd_op_want_2d(&c, "add", a->add, 1u << a->y.dtype, results, w.out));
    DD_TRY(dd_op_apart(&c, "y", &a->y, "x", &a->x));
    DD_TRY(dd_op_apart_or_same(&c, "y", &a->y, "add", a->add));
    return b->ops->conv2d(b, a, err);
}

/* ------------------------------------------------------------------------------------------------ attention */

ddit_status dd_op_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "attention", err);
    DD_TRY(dd_op_slot(b, b->ops->attention, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "q", &a->q, c.act, -1, -1));
    int64_t queries = a->q.shape[0], width = a->q.shape[1];
    DD_TRY(dd_op_want_heads(&c, width, a->heads));
    DD_TRY(dd_op_want_2d(&c, "k", &a->k, c.act, -1, width));
    int64_t keys = a->k.shape[0];
    DD_TRY(dd_op_want_2d(&c, "v", &a->v, c.act, keys, width));
    DD_TRY(dd_op_want_2d(&c, "out", &a->out, c.act, queries, width));
    if (a->bias) DD_TRY(dd_op_want_3d(&c, "bias", a->bias, DD_SET_F32, a->heads, queries, keys));
    if (a->lse) DD_TRY(dd_op_want_2d(&c, "lse", a->lse, DD_SET_F32, a->heads, queries));
    DD_TRY(dd_op_require(&c, keys > 0 || queries == 0, "%" PRId64 " queries have no key to look at", queries));
    DD_TRY(dd_op_apart(&c, "out", &a->out, "q", &a->q));
    DD_TRY(dd_op_apart(&c, "out", &a->out, "k", &a->k));
    DD_TRY(dd_op_apart(&c, "out", &a->out, "v", &a->v));
    return queries ? b->ops->attention(b, a, err) : DDIT_OK;
}

ddit_status dd_op_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "qk_norm_rope", err);
    DD_TRY(dd_op_slot(b, b->ops->qk_norm_rope, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, c.act, -1, -1));
    DD_TRY(dd_op_want_heads(&c, a->x.shape[1], a->heads));
    int64_t rows = a->x.shape[0], width = a->x.shape[1] / a->heads;
    DD_TRY(dd_op_require(&c, width % 2 == 0, "heads of %" PRId64 " values do not divide into pairs", width));
    DD_TRY(dd_op_want_1d(&c, "weight", a->weight, DD_SET_F32, width));
    if (a->rope) DD_TRY(dd_op_want_2d(&c, "rope", a->rope, DD_SET_F32, rows, width));
    DD_TRY(dd_op_apart(&c, "x", &a->x, "weight", a->weight));
    DD_TRY(dd_op_apart(&c, "x", &a->x, "rope", a->rope));
    return rows ? b->ops->qk_norm_rope(b, a, err) : DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ norms */

ddit_status dd_op_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "norm", err);
    DD_TRY(dd_op_slot(b, b->ops->norm, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, c.either, -1, -1));
    int64_t rows = a->x.shape[0], width = a->x.shape[1];
    DD_TRY(dd_op_require(&c, width > 0, "x is [%" PRId64 ", 0]", rows));
    DD_TRY(dd_op_want_2d(&c, "y", &a->y, c.either, rows, width));
    DD_TRY(dd_op_require(&c, a->kind == DD_NORM_LAYER || a->kind == DD_NORM_RMS, "norm %d is not known", (int)a->kind));
    DD_TRY(dd_op_want_optional_vector(&c, "weight", a->weight, width));
    DD_TRY(dd_op_want_optional_vector(&c, "bias", a->bias, width));
    DD_TRY(dd_op_want_optional_vector(&c, "scale", a->scale, width));
    DD_TRY(dd_op_want_optional_vector(&c, "shift", a->shift, width));
    DD_TRY(dd_op_apart_or_same(&c, "y", &a->y, "x", &a->x));
    return rows ? b->ops->norm(b, a, err) : DDIT_OK;
}

ddit_status dd_op_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err) {
    dd_op_check c = dd_op_check_begin(b, "group_norm", err);
    DD_TRY(dd_op_slot(b, b->ops->group_norm, c.op, err));
    DD_TRY(dd_op_want_2d(&c, "x", &a->x, c.act, -1, -1));
    int64_t pixels = a->x.shape[0], channels = a->x.shape[1];
    DD_TRY(dd_op_want_2d(&c, "y", &a->y, c.act, pixels, channels));
    DD_TRY(dd_op_require(&c, a->groups > 0 && channels > 0 && channels % a->groups == 0,
                         "%" PRId64 " channels do not divide into %d groups", channels, a->groups));
    DD_TRY(dd_op_want_1d(&c, "weight", a->weight, DD_SET_F32, channels));
    DD_TRY(dd_op_want_1d(&c, "bias", a->bias, DD_SET_F32, channels));
    DD_TRY(dd_op_require(&c, a->activation == DD_ACTIVATION_NONE || a->activation == DD_ACTIVATION_SILU,
                         "activation %d is not possible here, only none and SiLU", (int)a->activation));
    DD_TRY(dd_op_apart_or_same(&c, "y", &a->y, "x", &a->x));
    return pixels ? b->ops->group_norm(b, a, err) : DDIT_OK;
}
