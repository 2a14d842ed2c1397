/* The two kinds of blocks, as calls over the run's buffers. Source: FLUX.1's DoubleStreamBlock and SingleStreamBlock
 * (diffusers' FluxTransformerBlock, FluxSingleTransformerBlock); LoRA by rows: docs/method.md 2. */
#include <math.h>

#include "dit/flux_run.h"

#define NORM_EPS 1e-6f
enum { MAX_LORA = 2 * (DD_FACTOR_COUNT - 1) };

/* Which rows of a linear are text and image, so that LoRA finds the rows of each factor. */
typedef struct row_span {
    int text_begin, text_count; /* count 0: no text rows in this call */
    int image_begin;            /* -1: no image rows */
} row_span;

static int lora_list(const dd_flux_call *c, const dd_flux_linear *linear, row_span span, dd_lora list[MAX_LORA]) {
    int count = 0;
    const dd_layout *layout = c->layout;
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        const dd_weight *down = linear->lora[f].down, *up = linear->lora[f].up;
        if (!down || layout->cell_count[f] == 0) continue;
        int begin = span.image_begin + layout->cell_begin[f], end = begin + layout->cell_count[f];
        bool has_image = span.image_begin >= 0, has_text = span.text_count > 0;
        float share = layout->text_share[f];
        if (has_image && has_text && share == 1.0f && span.text_begin + span.text_count == begin) {
            list[count++] = (dd_lora){down, up, c->dit->lora_scale, span.text_begin, end}; /* uniform: one range of rows */
            continue;
        }
        if (has_image) list[count++] = (dd_lora){down, up, c->dit->lora_scale, begin, end};
        if (has_text)
            list[count++] = (dd_lora){down, up, c->dit->lora_scale * share, span.text_begin, span.text_begin + span.text_count};
    }
    return count;
}

/* y = activation(linear(x)), with the rows' LoRA. */
static ddit_status apply(const dd_flux_call *c, const dd_flux_linear *linear, row_span span, dd_tensor y, dd_tensor x,
                         dd_activation activation, ddit_err *err) {
    dd_lora list[MAX_LORA];
    int count = lora_list(c, linear, span, list);
    return dd_op_linear(c->b, &(dd_linear_args){.y = y, .x = x, .w = linear->w, .activation = activation, .lora = list,
                                                .lora_count = count}, err);
}

/* x += gate * linear(y) */
static ddit_status add_gated(const dd_flux_call *c, const dd_flux_linear *linear, row_span span, dd_tensor x, dd_tensor y,
                             dd_tensor gate, ddit_err *err) {
    dd_lora list[MAX_LORA];
    int count = lora_list(c, linear, span, list);
    return dd_op_linear(c->b, &(dd_linear_args){.y = x, .x = y, .w = linear->w, .gate = &gate, .add = &x, .lora = list,
                                                .lora_count = count}, err);
}

/* Vector `index` of the call's row of a modulation table with `count` vectors a row. */
static dd_tensor modulation(const dd_flux_call *c, float *table, int count, int index) {
    return dd_tensor_1d(table + ((int64_t)c->time_index * count + index) * c->d, DD_DTYPE_F32, c->d);
}

static ddit_status modulate(const dd_flux_call *c, dd_tensor y, dd_tensor x, dd_tensor shift, dd_tensor scale, ddit_err *err) {
    return dd_op_norm(
        c->b, &(dd_norm_args){.y = y, .x = x, .kind = DD_NORM_LAYER, .eps = NORM_EPS, .scale = &scale, .shift = &shift}, err);
}

static ddit_status norm_rope(const dd_flux_call *c, dd_tensor x, const dd_tensor *weight, const dd_tensor *rope,
                             ddit_err *err) {
    return dd_op_qk_norm_rope(
        c->b,
        &(dd_qk_norm_rope_args){
            .x = x, .heads = c->dit->config.num_attention_heads, .weight = weight, .rope = rope, .eps = NORM_EPS},
        err);
}

static ddit_status attend(const dd_flux_call *c, dd_tensor out, ddit_err *err) {
    const dd_flux_run *run = c->run;
    const dd_flux_config *config = &c->dit->config;
    return dd_op_attention(c->b, &(dd_attention_args){.out = out, .q = dd_flux_act(c, run->q, c->rows, c->d),
                                                      .k = dd_flux_act(c, run->k, c->rows, c->d),
                                                      .v = dd_flux_act(c, run->v, c->rows, c->d),
                                                      .heads = config->num_attention_heads,
                                                      .scale = 1.0f / sqrtf((float)config->attention_head_dim)}, err);
}

/* ---------------------------------------------------------------------------------------------- double block */

/* One stream's part of a double block: its rows of the run's buffers and its modulation table. */
typedef struct stream_call {
    const dd_flux_call *c;
    const dd_flux_stream *weights;
    float *table;  /* [S, 6d] */
    int begin, count;
    row_span span; /* within the stream */
} stream_call;

static dd_tensor rows_of(const stream_call *s, dd_tensor all) { return dd_tensor_rows(all, s->begin, s->count); }

/* n = modulate(x); q, k, v = linears(n); q and k normed and rotated. */
static ddit_status stream_qkv(const stream_call *s, ddit_err *err) {
    const dd_flux_call *c = s->c;
    const dd_flux_run *run = c->run;
    const dd_flux_stream *w = s->weights;
    bool is_image = s->begin > 0 || c->text == 0;
    dd_tensor x = rows_of(s, dd_flux_residual(c));
    dd_tensor n = rows_of(s, dd_flux_act(c, run->n, c->rows, c->d));
    dd_tensor q = rows_of(s, dd_flux_act(c, run->q, c->rows, c->d));
    dd_tensor k = rows_of(s, dd_flux_act(c, run->k, c->rows, c->d));
    dd_tensor v = rows_of(s, dd_flux_act(c, run->v, c->rows, c->d));
    dd_tensor rope = rows_of(s, dd_tensor_2d(run->rope, DD_DTYPE_F32, c->rows, c->dit->config.attention_head_dim));
    DD_TRY(modulate(c, n, x, modulation(c, s->table, 6, 0), modulation(c, s->table, 6, 1), err));
    DD_TRY(apply(c, &w->q, s->span, q, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->k, s->span, k, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->v, s->span, v, n, DD_ACTIVATION_NONE, err));
    DD_TRY(norm_rope(c, q, &w->norm_q, is_image ? &rope : NULL, err));
    return norm_rope(c, k, &w->norm_k, is_image ? &rope : NULL, err);
}

/* x += gate * out(attention); x += gate * mlp(modulate(x)). attention [rows, d] */
static ddit_status stream_rest(const stream_call *s, dd_tensor attention, ddit_err *err) {
    const dd_flux_call *c = s->c;
    const dd_flux_run *run = c->run;
    dd_tensor x = rows_of(s, dd_flux_residual(c));
    dd_tensor n = rows_of(s, dd_flux_act(c, run->n, c->rows, c->d));
    int64_t mlp_hidden = c->dit->config.mlp_hidden;
    char *after_attention = (char *)run->wide + (size_t)(c->rows * c->d) * (c->b->activation == DD_DTYPE_F32 ? 4 : 2);
    dd_tensor h = rows_of(s, dd_flux_act(c, after_attention, c->rows, mlp_hidden));
    DD_TRY(add_gated(c, &s->weights->out, s->span, x, rows_of(s, attention), modulation(c, s->table, 6, 2), err));
    DD_TRY(modulate(c, n, x, modulation(c, s->table, 6, 3), modulation(c, s->table, 6, 4), err));
    DD_TRY(apply(c, &s->weights->mlp_in, s->span, h, n, DD_ACTIVATION_GELU_TANH, err));
    return add_gated(c, &s->weights->mlp_out, s->span, x, h, modulation(c, s->table, 6, 5), err);
}

ddit_status dd_flux_double_forward(const dd_flux_call *c, int index, ddit_err *err) {
    const dd_flux_double *block = &c->dit->doubles[index];
    int64_t table_size = 6 * c->d * c->run->time_count;
    float *tables = c->tables->doubles + 2 * index * table_size;
    stream_call image = {c, &block->image, tables, c->text, c->image, {0, 0, 0}};
    stream_call text = {c, &block->text, tables + table_size, 0, c->text, {0, c->text, -1}};
    dd_tensor attention = dd_flux_act(c, c->run->wide, c->rows, c->d);
    DD_TRY(stream_qkv(&text, err));
    DD_TRY(stream_qkv(&image, err));
    DD_TRY(attend(c, attention, err));
    DD_TRY(stream_rest(&text, attention, err));
    return stream_rest(&image, attention, err);
}

/* ---------------------------------------------------------------------------------------------- single block */

ddit_status dd_flux_single_forward(const dd_flux_call *c, int index, ddit_err *err) {
    const dd_flux_single *w = &c->dit->singles[index];
    const dd_flux_run *run = c->run;
    const dd_flux_config *config = &c->dit->config;
    float *table = c->tables->singles + index * 3 * c->d * run->time_count;
    row_span span = {0, c->text, c->text};
    dd_tensor x = dd_flux_residual(c);
    dd_tensor n = dd_flux_act(c, run->n, c->rows, c->d);
    dd_tensor q = dd_flux_act(c, run->q, c->rows, c->d);
    dd_tensor k = dd_flux_act(c, run->k, c->rows, c->d);
    dd_tensor v = dd_flux_act(c, run->v, c->rows, c->d);
    dd_tensor wide = dd_flux_act(c, run->wide, c->rows, c->d + config->mlp_hidden); /* [attention | mlp] */
    dd_tensor rope = dd_tensor_2d(run->rope, DD_DTYPE_F32, c->rows, config->attention_head_dim);
    DD_TRY(modulate(c, n, x, modulation(c, table, 3, 0), modulation(c, table, 3, 1), err));
    DD_TRY(apply(c, &w->q, span, q, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->k, span, k, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->v, span, v, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->mlp_in, span, dd_tensor_cols(wide, c->d, config->mlp_hidden), n, DD_ACTIVATION_GELU_TANH, err));
    DD_TRY(norm_rope(c, q, &w->norm_q, &rope, err));
    DD_TRY(norm_rope(c, k, &w->norm_k, &rope, err));
    DD_TRY(attend(c, dd_tensor_cols(wide, 0, c->d), err));
    return add_gated(c, &w->out, span, x, wide, modulation(c, table, 3, 2), err);
}
