/* What a step's samples have in common with no latent: modulation tables with one row per sample, embedded texts. */
#include "bind/memory_plan.h"
#include "dit/flux_trainee.h"

static void *take(dd_memory_plan *plan, dd_dtype dtype, int64_t rows, int64_t cols) {
    return dd_plan_take(plan, dtype, rows, cols).data;
}

static void plan_tables(dd_flux_tables *t, dd_memory_plan *plan, const dd_flux_config *c, int64_t count, int64_t text_tokens) {
    int64_t d = c->hidden;
    t->text = take(plan, DD_DTYPE_F32, count * text_tokens, d);
    t->doubles = take(plan, DD_DTYPE_F32, (int64_t)c->num_layers * 2 * count, 6 * d);
    t->singles = take(plan, DD_DTYPE_F32, (int64_t)c->num_single_layers * count, 3 * d);
    t->final = take(plan, DD_DTYPE_F32, count, 2 * d);
}

static void plan_batch(dd_flux_batch *batch, dd_memory_plan *plan, const dd_flux_config *c, dd_dtype act, bool all,
                       int64_t count, int64_t text_tokens) {
    int64_t d = c->hidden, width = c->joint_attention_dim;
    batch->full = take(plan, DD_DTYPE_F32, text_tokens, width);
    batch->text = take(plan, act, all ? count * text_tokens : text_tokens, width);
    plan_tables(&batch->tables, plan, c, count, text_tokens);
    if (!all) return;
    plan_tables(&batch->dtables, plan, c, count, text_tokens);
    batch->dtable = take(plan, act, count, 6 * d);
    batch->dtext = take(plan, act, count * text_tokens, d);
    batch->dvec = take(plan, DD_DTYPE_F32, count, d);
    batch->before = take(plan, DD_DTYPE_F32, count, d);
    batch->inner = take(plan, DD_DTYPE_F32, count, d);
    batch->dinner = take(plan, DD_DTYPE_F32, count, d);
}

uint64_t dd_flux_batch_bytes(const dd_flux_config *config, dd_dtype activation, bool all, int count, int text_tokens) {
    dd_flux_batch unused = {0};
    dd_memory_plan plan = {0};
    plan_batch(&unused, &plan, config, activation, all, count, text_tokens);
    return plan.used + dd_flux_vectors_bytes(config, count, count);
}

ddit_status dd_flux_batch_create(dd_flux_batch **out, dd_flux_trainee *trainee, int count, int text_tokens, ddit_err *err) {
    dd_flux_dit *dit = trainee->dit;
    dd_backend *b = dit->backend;
    const dd_allocator *a = b->allocator;
    bool all = trainee->options.scope == DD_TRAIN_ALL;
    dd_flux_batch *batch;
    *out = NULL;
    DD_TRY(dd_alloc(a, &batch, 1, sizeof *batch, "a batch", err));
    batch->trainee = trainee;
    batch->room = count;
    batch->text_tokens = text_tokens;
    dd_memory_plan plan = {0};
    ddit_status status;
    DD_GO(dd_alloc(a, &batch->times, (size_t)count, sizeof *batch->times, "the times of a batch", err));
    DD_GO(dd_alloc(a, &batch->guidance, (size_t)count, sizeof *batch->guidance, "the guidance of a batch", err));
    DD_GO(dd_alloc(a, &batch->pooled, (size_t)count * (size_t)dit->config.pooled_projection_dim, sizeof *batch->pooled,
                   "the pooled texts of a batch", err));
    DD_GO(dd_flux_vectors_init(&batch->vectors, dit, count, count, err));
    plan_batch(batch, &plan, &dit->config, b->activation, all, count, text_tokens);
    DD_GO(dd_op_alloc(b, &batch->memory, plan.used, "the conditions of a batch", err));
    plan = (dd_memory_plan){.base = batch->memory};
    plan_batch(batch, &plan, &dit->config, b->activation, all, count, text_tokens);
    DD_GO(dd_op_reserve(b,
                        &(dd_reserve){.weights = (const dd_weight *const *)dit->prepared, .weight_count = dit->prepared_count,
                                      .gradient_rows = all ? (int64_t)count * (text_tokens > 0 ? text_tokens : 1) : 0},
                        err));
    *out = batch;
    return DDIT_OK;
done:
    dd_flux_batch_free(batch);
    return status;
}

void dd_flux_batch_free(dd_flux_batch *batch) {
    if (!batch) return;
    dd_backend *b = batch->trainee->dit->backend;
    dd_flux_vectors_free(&batch->vectors, b);
    dd_op_free(b, batch->memory);
    dd_free(b->allocator, batch->times);
    dd_free(b->allocator, batch->guidance);
    dd_free(b->allocator, batch->pooled);
    dd_free(b->allocator, batch);
}

/* to = 0 * from: backends have no op that clears. */
static ddit_status clear(dd_backend *b, float *to, float *from, int64_t rows, int64_t cols, ddit_err *err) {
    return dd_op_affine(b, dd_tensor_2d(to, DD_DTYPE_F32, rows, cols), 0.0f, dd_tensor_2d(from, DD_DTYPE_F32, rows, cols), 0.0f,
                        NULL, DD_ACTIVATION_NONE, err);
}

static ddit_status clear_gradients(dd_flux_batch *batch, ddit_err *err) {
    const dd_flux_config *c = &batch->trainee->dit->config;
    dd_backend *b = batch->trainee->dit->backend;
    const dd_flux_tables *t = &batch->tables, *g = &batch->dtables;
    int64_t d = c->hidden, count = batch->count;
    DD_TRY(clear(b, g->text, t->text, count * batch->text_tokens, d, err));
    DD_TRY(clear(b, g->doubles, t->doubles, (int64_t)c->num_layers * 2 * count, 6 * d, err));
    DD_TRY(clear(b, g->singles, t->singles, (int64_t)c->num_single_layers * count, 3 * d, err));
    return clear(b, g->final, t->final, count, 2 * d, err);
}

/* Every text by itself, as inference does it, so that the same text gives the same bytes. */
static ddit_status embed_texts(dd_flux_batch *batch, const dd_flux_condition *samples, ddit_err *err) {
    dd_flux_dit *dit = batch->trainee->dit;
    int64_t tokens = batch->text_tokens, d = dit->config.hidden;
    bool all = batch->trainee->options.scope == DD_TRAIN_ALL;
    size_t text_bytes = (size_t)(tokens * dit->config.joint_attention_dim) * (dit->backend->activation == DD_DTYPE_F32 ? 4 : 2);
    for (int i = 0; i < batch->count; i++) {
        void *act = (char *)batch->text + (all ? (size_t)i * text_bytes : 0);
        float *embedded = batch->tables.text + i * tokens * d;
        DD_TRY(dd_flux_embed_text(dit, batch->text_tokens, samples[i].text, batch->full, act, embedded, err));
    }
    return DDIT_OK;
}

ddit_status dd_flux_batch_condition(dd_flux_batch *batch, const dd_flux_condition *samples, int count, ddit_err *err) {
    dd_flux_dit *dit = batch->trainee->dit;
    int pooled = dit->config.pooled_projection_dim;
    if (count < 1 || count > batch->room)
        return dd_fail(err, DDIT_ERR_INTERNAL, "a batch for %d samples was given %d", batch->room, count);
    batch->count = count;
    batch->tables.times = batch->dtables.times = count;
    for (int i = 0; i < count; i++) {
        batch->times[i] = samples[i].time;
        batch->guidance[i] = samples[i].guidance;
        for (int k = 0; k < pooled; k++) batch->pooled[(size_t)i * (size_t)pooled + (size_t)k] = samples[i].pooled[k];
    }
    dd_flux_vector_input input = {batch->times, batch->guidance, batch->pooled, count, count};
    DD_TRY(dd_flux_vectors_compute(dit, &batch->vectors, count, &input, err));
    DD_TRY(dd_flux_modulations(dit, &batch->vectors, &batch->tables, err));
    DD_TRY(embed_texts(batch, samples, err));
    return batch->trainee->options.scope == DD_TRAIN_ALL ? clear_gradients(batch, err) : DDIT_OK;
}
