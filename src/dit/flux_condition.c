/* What does not depend on the latent, once per run: the text's embedding and every block's modulation vectors at all times.
 * 27 % of FLUX's weights are so read once instead of at every step. Source: CombinedTimestepGuidanceTextProjEmbeddings of
 * diffusers. */
#include "dit/flux_condition.h"

#include <math.h>

/* Every operation rounds to float32, as in torch: at t = 1000 an exponent in double would move the angles by 5e-4. */
void dd_flux_sinusoid(float time, float *out) {
    for (int i = 0; i < DD_FLUX_TIME_WIDTH / 2; i++) {
        float exponent = (float)-log(10000.0) * (float)i;
        float angle = time * expf(exponent / (DD_FLUX_TIME_WIDTH / 2));
        out[i] = cosf(angle);
        out[i + DD_FLUX_TIME_WIDTH / 2] = sinf(angle);
    }
}

/* to [rows, d] = out(SiLU(in(from [rows, width]))), float32; host memory. */
static ddit_status embed(dd_flux_dit *dit, dd_flux_vectors *w, const dd_flux_embedder *e, int rows, int64_t width,
                         const float *from, float *to, ddit_err *err) {
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    dd_tensor hidden = dd_tensor_2d(w->hidden, DD_DTYPE_F32, rows, d), out = dd_tensor_2d(w->out, DD_DTYPE_F32, rows, d);
    DD_TRY(dd_op_upload(b, w->in, from, (size_t)rows * (size_t)width * sizeof(float), err));
    DD_TRY(dd_op_linear(b, &(dd_linear_args){.y = hidden, .x = dd_tensor_2d(w->in, DD_DTYPE_F32, rows, width), .w = e->in,
                                             .activation = DD_ACTIVATION_SILU}, err));
    DD_TRY(dd_op_linear(b, &(dd_linear_args){.y = out, .x = hidden, .w = e->out}, err));
    return dd_op_download(b, to, w->out, (size_t)rows * (size_t)d * sizeof(float), err);
}

/* sum[row] += vectors[row % count], for all rows */
static void add_to_rows(float *sum, const float *vectors, int rows, int count, int64_t d) {
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) sum[r * d + i] += vectors[r % count * d + i];
}

ddit_status dd_flux_vectors_compute(dd_flux_dit *dit, dd_flux_vectors *w, int rows, const dd_flux_vector_input *input,
                                    ddit_err *err) {
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    int guidances = input->guidance_rows, pooled = input->pooled_rows;
    for (int r = 0; r < rows; r++) dd_flux_sinusoid(input->times[r], w->host + (int64_t)r * DD_FLUX_TIME_WIDTH);
    DD_TRY(embed(dit, w, &dit->time, rows, DD_FLUX_TIME_WIDTH, w->host, w->sum, err));
    if (dit->config.guidance_embeds) {
        for (int r = 0; r < guidances; r++)
            dd_flux_sinusoid(1000.0f * input->guidance[r], w->host + (int64_t)r * DD_FLUX_TIME_WIDTH);
        DD_TRY(embed(dit, w, &dit->guidance, guidances, DD_FLUX_TIME_WIDTH, w->host, w->host, err));
        add_to_rows(w->sum, w->host, rows, guidances, d);
    }
    DD_TRY(embed(dit, w, &dit->pooled, pooled, dit->config.pooled_projection_dim, input->pooled, w->host, err));
    add_to_rows(w->sum, w->host, rows, pooled, d);
    DD_TRY(dd_op_upload(b, w->out, w->sum, (size_t)rows * (size_t)d * sizeof(float), err));
    return dd_op_affine(b, dd_tensor_2d(w->vec, b->activation, rows, d), 1.0f, dd_tensor_2d(w->out, DD_DTYPE_F32, rows, d),
                        0.0f, NULL, DD_ACTIVATION_SILU, err);
}

/* table [S, count d] = linear(vec). A weight that is not kept is prepared for this one product and freed. */
static ddit_status modulation_table(dd_flux_dit *dit, const dd_flux_vectors *w, const dd_flux_linear *linear, const char *name,
                                    int count, int64_t times, float *table, ddit_err *err) {
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    dd_weight *once = NULL;
    if (!linear->w) DD_TRY(dd_flux_linear_once(dit, &once, name, count * d, d, err));
    ddit_status status = dd_op_linear(b,
                                      &(dd_linear_args){.y = dd_tensor_2d(table, DD_DTYPE_F32, times, count * d),
                                                        .x = dd_tensor_2d(w->vec, b->activation, times, d),
                                                        .w = linear->w ? linear->w : once},
                                      err);
    dd_op_weight_free(b, once);
    return status;
}

ddit_status dd_flux_modulations(dd_flux_dit *dit, const dd_flux_vectors *w, const dd_flux_tables *tables, ddit_err *err) {
    int64_t times = tables->times, row = dit->config.hidden * times;
    for (int i = 0; i < dit->config.num_layers; i++) {
        dd_flux_stream *image = &dit->doubles[i].image, *text = &dit->doubles[i].text;
        float *table = tables->doubles + 12 * row * i;
        DD_TRY(modulation_table(dit, w, &image->modulation, image->modulation_name, 6, times, table, err));
        DD_TRY(modulation_table(dit, w, &text->modulation, text->modulation_name, 6, times, table + 6 * row, err));
    }
    for (int i = 0; i < dit->config.num_single_layers; i++) {
        dd_flux_single *block = &dit->singles[i];
        float *table = tables->singles + 3 * row * i;
        DD_TRY(modulation_table(dit, w, &block->modulation, block->modulation_name, 3, times, table, err));
    }
    return modulation_table(dit, w, &dit->norm_out, "norm_out.linear", 2, times, tables->final, err);
}

ddit_status dd_flux_embed_text(dd_flux_dit *dit, int rows, const float *text, float *full, void *act, float *embedded,
                               ddit_err *err) {
    dd_backend *b = dit->backend;
    int64_t width = dit->config.joint_attention_dim;
    dd_tensor x = dd_tensor_2d(act, b->activation, rows, width);
    DD_TRY(dd_op_upload(b, full, text, (size_t)(rows * width) * sizeof(float), err));
    DD_TRY(dd_op_affine(b, x, 1.0f, dd_tensor_2d(full, DD_DTYPE_F32, rows, width), 0.0f, NULL, DD_ACTIVATION_NONE, err));
    return dd_op_linear(b, &(dd_linear_args){.y = dd_tensor_2d(embedded, DD_DTYPE_F32, rows, dit->config.hidden), .x = x,
                                             .w = dit->text_in}, err);
}

void dd_flux_vectors_free(dd_flux_vectors *w, dd_backend *b) {
    dd_free(b->allocator, w->host);
    dd_free(b->allocator, w->sum);
    dd_op_free(b, w->in);
    dd_op_free(b, w->hidden);
    dd_op_free(b, w->out);
    dd_op_free(b, w->vec);
    *w = (dd_flux_vectors){0};
}

/* Values of w->in. */
static size_t input_size(const dd_flux_config *c, int rows, int pooled_rows) {
    size_t times = (size_t)rows * DD_FLUX_TIME_WIDTH, pooled = (size_t)pooled_rows * (size_t)c->pooled_projection_dim;
    return times > pooled ? times : pooled;
}

uint64_t dd_flux_vectors_bytes(const dd_flux_config *config, int rows, int pooled_rows) {
    return (input_size(config, rows, pooled_rows) + 3 * (uint64_t)rows * (uint64_t)config->hidden) * sizeof(float);
}

ddit_status dd_flux_vectors_init(dd_flux_vectors *w, const dd_flux_dit *dit, int rows, int pooled_rows, ddit_err *err) {
    dd_backend *b = dit->backend;
    const dd_flux_config *c = &dit->config;
    size_t times = (size_t)rows, d = (size_t)c->hidden, in = input_size(c, rows, pooled_rows);
    size_t host = times * (DD_FLUX_TIME_WIDTH > d ? DD_FLUX_TIME_WIDTH : d);
    *w = (dd_flux_vectors){.rows = rows};
    DD_TRY(dd_alloc_raw(b->allocator, &w->host, host, sizeof(float), "the time embeddings", err));
    DD_TRY(dd_alloc_raw(b->allocator, &w->sum, times * d, sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->in, in * sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->hidden, times * d * sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->out, times * d * sizeof(float), "the time embeddings", err));
    return dd_op_alloc(b, &w->vec, times * d * sizeof(float), "the time embeddings", err);
}

static ddit_status embed_text(dd_flux_run *run, const dd_flux_tables *tables, const float *text, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    size_t bytes = (size_t)run->text_tokens * (size_t)dit->config.joint_attention_dim * sizeof(float);
    float *full = NULL;
    void *act = NULL;
    ddit_status status;
    DD_GO(dd_op_alloc(dit->backend, (void **)&full, bytes, "the text embedding", err));
    DD_GO(dd_op_alloc(dit->backend, &act, bytes, "the text embedding", err));
    DD_GO(dd_flux_embed_text(dit, run->text_tokens, text, full, act, tables->text, err));
done:
    dd_op_free(dit->backend, full);
    dd_op_free(dit->backend, act);
    return status;
}

ddit_status dd_flux_run_condition(dd_flux_run *run, int branch, const float *text, const float *pooled, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    const dd_flux_tables *tables = &run->tables[branch];
    dd_flux_vector_input input = {run->times, &run->guidance, pooled, 1, 1};
    dd_flux_vectors w;
    ddit_status status;
    DD_GO(dd_flux_vectors_init(&w, dit, run->time_count, 1, err));
    DD_GO(dd_flux_vectors_compute(dit, &w, run->time_count, &input, err));
    DD_GO(dd_flux_modulations(dit, &w, tables, err));
    DD_GO(embed_text(run, tables, text, err));
done:
    dd_flux_vectors_free(&w, dit->backend);
    return status;
}
