/* The two kinds of blocks, as calls over the run's buffers. Source: FLUX.1's DoubleStreamBlock and SingleStreamBlock
 * (diffusers' FluxTransformerBlock, FluxSingleTransformerBlock); LoRA by rows: docs/method.md 2. */
#include <math.h>

#include "dit/flux_run.h"

int dd_flux_lora_ranges(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span,
                        dd_flux_lora_range ranges[DD_FLUX_MAX_LORA]) {
    int count = 0;
    const dd_layout *layout = c->layout;
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (!linear->lora[f].down || layout->cell_count[f] == 0) continue;
        int begin = span.image_begin + layout->cell_begin[f], end = begin + layout->cell_count[f];
        bool has_image = span.image_begin >= 0, has_text = span.text_count > 0;
        float share = layout->text_share[f], scale = c->dit->lora_scale;
        if (has_image && has_text && share == 1.0f && span.text_begin + span.text_count == begin) {
            ranges[count++] = (dd_flux_lora_range){f, scale, span.text_begin, end}; /* uniform: one range of rows */
            continue;
        }
        if (has_image) ranges[count++] = (dd_flux_lora_range){f, scale, begin, end};
        if (has_text)
            ranges[count++] = (dd_flux_lora_range){f, scale * share, span.text_begin, span.text_begin + span.text_count};
    }
    return count;
}

static int lora_list(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span, dd_lora list[DD_FLUX_MAX_LORA]) {
    dd_flux_lora_range ranges[DD_FLUX_MAX_LORA];
    int count = dd_flux_lora_ranges(c, linear, span, ranges);
    for (int i = 0; i < count; i++)
        list[i] = (dd_lora){linear->lora[ranges[i].f].down, linear->lora[ranges[i].f].up, ranges[i].scale, ranges[i].begin,
                            ranges[i].end};
    return count;
}

/* y = activation(linear(x)), with the rows' LoRA. */
static ddit_status apply(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span, dd_tensor y, dd_tensor x,
                         dd_activation activation, ddit_err *err) {
    dd_lora list[DD_FLUX_MAX_LORA];
    int count = lora_list(c, linear, span, list);
    return dd_op_linear(c->b, &(dd_linear_args){.y = y, .x = x, .w = linear->w, .activation = activation, .lora = list,
                                                .lora_count = count}, err);
}

static ddit_status copy(const dd_flux_call *c, dd_tensor y, dd_tensor x, dd_activation activation, ddit_err *err) {
    return dd_op_affine(c->b, y, 1.0f, x, 0.0f, NULL, activation, err);
}

/* h = GELU(linear(x)); a tape keeps the values before the activation, rows [begin, ...) of its buffer. */
static ddit_status apply_gelu(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span, dd_tensor h, dd_tensor x,
                              int begin, ddit_err *err) {
    if (!c->tape) return apply(c, linear, span, h, x, DD_ACTIVATION_GELU_TANH, err);
    dd_tensor all = dd_flux_act(c, c->tape->hidden, c->rows, c->dit->config.mlp_hidden);
    dd_tensor before = dd_tensor_rows(all, begin, h.shape[0]);
    DD_TRY(apply(c, linear, span, before, x, DD_ACTIVATION_NONE, err));
    return copy(c, h, before, DD_ACTIVATION_GELU_TANH, err);
}

/* x += gate * linear(y) */
static ddit_status add_gated(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span, dd_tensor x, dd_tensor y,
                             dd_tensor gate, ddit_err *err) {
    dd_lora list[DD_FLUX_MAX_LORA];
    int count = lora_list(c, linear, span, list);
    return dd_op_linear(c->b, &(dd_linear_args){.y = x, .x = y, .w = linear->w, .gate = &gate, .add = &x, .lora = list,
                                                .lora_count = count}, err);
}

/* The same at the end of a block: with a tape only the product is kept, if it is wanted. */
static ddit_status add_gated_last(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span, dd_tensor x,
                                  dd_tensor y, dd_tensor gate, int begin, ddit_err *err) {
    if (!c->tape) return add_gated(c, linear, span, x, y, gate, err);
    if (!c->tape->y) return DDIT_OK;
    dd_tensor product = dd_tensor_rows(dd_flux_act(c, c->tape->y, c->rows, c->d), begin, x.shape[0]);
    return apply(c, linear, span, product, y, DD_ACTIVATION_NONE, err);
}

ddit_status dd_flux_modulate(const dd_flux_call *c, dd_tensor y, dd_tensor x, dd_tensor shift, dd_tensor scale, ddit_err *err) {
    return dd_op_norm(
        c->b, &(dd_norm_args){.y = y, .x = x, .kind = DD_NORM_LAYER, .eps = DD_FLUX_EPS, .scale = &scale, .shift = &shift},
        err);
}

/* kept: the tape's buffer for the values before, or NULL; x are the rows from `begin` on. */
static ddit_status norm_rope(const dd_flux_call *c, dd_tensor x, const dd_flux_head_norm *norm, const dd_tensor *rope,
                             void *kept, int begin, ddit_err *err) {
    if (kept) {
        dd_tensor before = dd_tensor_rows(dd_flux_act(c, kept, c->rows, c->d), begin, x.shape[0]);
        DD_TRY(copy(c, before, x, DD_ACTIVATION_NONE, err));
    }
    return dd_op_qk_norm_rope(
        c->b,
        &(dd_qk_norm_rope_args){
            .x = x, .heads = c->dit->config.num_attention_heads, .weight = &norm->weight, .rope = rope, .eps = DD_FLUX_EPS},
        err);
}

static ddit_status attend(const dd_flux_call *c, dd_tensor out, ddit_err *err) {
    const dd_flux_run *run = c->run;
    const dd_flux_config *config = &c->dit->config;
    dd_tensor lse = dd_tensor_2d(c->tape ? c->tape->lse : NULL, DD_DTYPE_F32, config->num_attention_heads, c->rows);
    return dd_op_attention(c->b, &(dd_attention_args){.out = out, .q = dd_flux_act(c, run->q, c->rows, c->d),
                                                      .k = dd_flux_act(c, run->k, c->rows, c->d),
                                                      .v = dd_flux_act(c, run->v, c->rows, c->d),
                                                      .heads = config->num_attention_heads,
                                                      .scale = 1.0f / sqrtf((float)config->attention_head_dim),
                                                      .lse = c->tape ? &lse : NULL}, err);
}

/* ---------------------------------------------------------------------------------------------- double block */

dd_flux_stream_call dd_flux_image_stream(const dd_flux_call *c, const dd_flux_tables *tables, int index) {
    float *table = tables->doubles + 2 * index * 6 * c->d * tables->times;
    return (dd_flux_stream_call){c, &c->dit->doubles[index].image, table, c->text, c->image, {0, 0, 0}};
}

dd_flux_stream_call dd_flux_text_stream(const dd_flux_call *c, const dd_flux_tables *tables, int index) {
    float *table = tables->doubles + (2 * index + 1) * 6 * c->d * tables->times;
    return (dd_flux_stream_call){c, &c->dit->doubles[index].text, table, 0, c->text, {0, c->text, -1}};
}

/* n = modulate(x); q, k, v = linears(n); q and k normed and rotated. */
static ddit_status stream_qkv(const dd_flux_stream_call *s, ddit_err *err) {
    const dd_flux_call *c = s->c;
    const dd_flux_run *run = c->run;
    const dd_flux_stream *w = s->weights;
    bool is_image = s->begin > 0 || c->text == 0;
    dd_tensor x = dd_flux_stream_rows(s, dd_flux_residual(c));
    dd_tensor n = dd_flux_stream_rows(s, dd_flux_act(c, run->n, c->rows, c->d));
    dd_tensor q = dd_flux_stream_rows(s, dd_flux_act(c, run->q, c->rows, c->d));
    dd_tensor k = dd_flux_stream_rows(s, dd_flux_act(c, run->k, c->rows, c->d));
    dd_tensor v = dd_flux_stream_rows(s, dd_flux_act(c, run->v, c->rows, c->d));
    dd_tensor rope = dd_flux_stream_rows(s, dd_flux_rope_table(c));
    DD_TRY(dd_flux_modulate(c, n, x, dd_flux_modulation(c, s->table, 6, 0), dd_flux_modulation(c, s->table, 6, 1), err));
    DD_TRY(apply(c, &w->q, s->span, q, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->k, s->span, k, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->v, s->span, v, n, DD_ACTIVATION_NONE, err));
    DD_TRY(norm_rope(c, q, &w->norm_q, is_image ? &rope : NULL, c->tape ? c->tape->q : NULL, s->begin, err));
    return norm_rope(c, k, &w->norm_k, is_image ? &rope : NULL, c->tape ? c->tape->k : NULL, s->begin, err);
}

/* x += gate * out(attention); x += gate * mlp(modulate(x)). attention [rows, d] */
static ddit_status stream_rest(const dd_flux_stream_call *s, dd_tensor attention, ddit_err *err) {
    const dd_flux_call *c = s->c;
    const dd_flux_run *run = c->run;
    const dd_flux_stream *w = s->weights;
    dd_tensor x = dd_flux_stream_rows(s, dd_flux_residual(c));
    dd_tensor n = dd_flux_stream_rows(s, dd_flux_act(c, run->n, c->rows, c->d));
    dd_tensor h = dd_flux_stream_rows(s, dd_flux_after_attention(c, run->wide));
    dd_tensor a = dd_flux_stream_rows(s, attention);
    if (c->tape && c->tape->attention_y) {
        dd_tensor y = dd_flux_stream_rows(s, dd_flux_act(c, c->tape->attention_y, c->rows, c->d));
        DD_TRY(apply(c, &w->out, s->span, y, a, DD_ACTIVATION_NONE, err));
    }
    DD_TRY(add_gated(c, &w->out, s->span, x, a, dd_flux_modulation(c, s->table, 6, 2), err));
    DD_TRY(dd_flux_modulate(c, n, x, dd_flux_modulation(c, s->table, 6, 3), dd_flux_modulation(c, s->table, 6, 4), err));
    DD_TRY(apply_gelu(c, &w->mlp_in, s->span, h, n, s->begin, err));
    return add_gated_last(c, &w->mlp_out, s->span, x, h, dd_flux_modulation(c, s->table, 6, 5), s->begin, err);
}

ddit_status dd_flux_double_forward(const dd_flux_call *c, int index, ddit_err *err) {
    dd_flux_stream_call image = dd_flux_image_stream(c, c->tables, index);
    dd_flux_stream_call text = dd_flux_text_stream(c, c->tables, index);
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
    float *table = dd_flux_single_table(c, c->tables, index);
    dd_flux_span span = {0, c->text, c->text};
    dd_tensor x = dd_flux_residual(c);
    dd_tensor n = dd_flux_act(c, run->n, c->rows, c->d);
    dd_tensor q = dd_flux_act(c, run->q, c->rows, c->d);
    dd_tensor k = dd_flux_act(c, run->k, c->rows, c->d);
    dd_tensor v = dd_flux_act(c, run->v, c->rows, c->d);
    dd_tensor wide = dd_flux_act(c, run->wide, c->rows, c->d + config->mlp_hidden); /* [attention | mlp] */
    dd_tensor rope = dd_flux_rope_table(c);
    DD_TRY(dd_flux_modulate(c, n, x, dd_flux_modulation(c, table, 3, 0), dd_flux_modulation(c, table, 3, 1), err));
    DD_TRY(apply(c, &w->q, span, q, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->k, span, k, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply(c, &w->v, span, v, n, DD_ACTIVATION_NONE, err));
    DD_TRY(apply_gelu(c, &w->mlp_in, span, dd_tensor_cols(wide, c->d, config->mlp_hidden), n, 0, err));
    DD_TRY(norm_rope(c, q, &w->norm_q, &rope, c->tape ? c->tape->q : NULL, 0, err));
    DD_TRY(norm_rope(c, k, &w->norm_k, &rope, c->tape ? c->tape->k : NULL, 0, err));
    DD_TRY(attend(c, dd_tensor_cols(wide, 0, c->d), err));
    return add_gated_last(c, &w->out, span, x, wide, dd_flux_modulation(c, table, 3, 2), 0, err);
}
