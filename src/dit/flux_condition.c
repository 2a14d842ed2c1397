/* What does not depend on the latent, once per run: the text's embedding and every block's modulation vectors at all times.
 * 27 % of FLUX's weights are so read once instead of at every step. Source: CombinedTimestepGuidanceTextProjEmbeddings of
 * diffusers. */
#include <math.h>

#include "dit/flux_run.h"

enum { TIME_WIDTH = 256 };

/* Working memory of one call: host and backend. S = time_count. */
typedef struct workspace {
    float *host;   /* [S, max(256, d)] */
    float *in;     /* backend [S, 256] or the pooled vector */
    float *hidden; /* backend [S, d] */
    float *out;    /* backend [S, d] */
    void *vec;     /* backend [S, d] act: SiLU(conditioning vector) */
    float *sum;    /* host [S, d] */
} workspace;

/* [cos(t f_i), sin(t f_i)], f_i = exp(-ln(10000) i / 128). Every operation rounds to float32, as in torch: at t = 1000 an
 * exponent in double would move the angles by 5e-4. */
static void sinusoid(float time, float *out) {
    for (int i = 0; i < TIME_WIDTH / 2; i++) {
        float exponent = (float)-log(10000.0) * (float)i;
        float angle = time * expf(exponent / (TIME_WIDTH / 2));
        out[i] = cosf(angle);
        out[i + TIME_WIDTH / 2] = sinf(angle);
    }
}

/* host [rows, d] = out(SiLU(in(host [rows, width]))), float32. */
static ddit_status embed(dd_flux_dit *dit, workspace *w, const dd_flux_embedder *e, int rows, int64_t width, const float *from,
                         float *to, ddit_err *err) {
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    dd_tensor hidden = dd_tensor_2d(w->hidden, DD_DTYPE_F32, rows, d), out = dd_tensor_2d(w->out, DD_DTYPE_F32, rows, d);
    DD_TRY(dd_op_upload(b, w->in, from, (size_t)rows * (size_t)width * sizeof(float), err));
    DD_TRY(dd_op_linear(b, &(dd_linear_args){.y = hidden, .x = dd_tensor_2d(w->in, DD_DTYPE_F32, rows, width), .w = e->in,
                                             .activation = DD_ACTIVATION_SILU}, err));
    DD_TRY(dd_op_linear(b, &(dd_linear_args){.y = out, .x = hidden, .w = e->out}, err));
    return dd_op_download(b, to, w->out, (size_t)rows * (size_t)d * sizeof(float), err);
}

/* sum[row] += one vector, for all rows */
static void add_to_rows(float *sum, const float *vector, int rows, int64_t d) {
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) sum[r * d + i] += vector[i];
}

/* vec = SiLU((time + guidance) + pooled), all times. */
static ddit_status conditioning_vector(dd_flux_run *run, workspace *w, const float *pooled, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    int rows = run->time_count;
    for (int r = 0; r < rows; r++) sinusoid(run->times[r], w->host + (int64_t)r * TIME_WIDTH);
    DD_TRY(embed(dit, w, &dit->time, rows, TIME_WIDTH, w->host, w->sum, err));
    if (dit->config.guidance_embeds) {
        sinusoid(1000.0f * run->guidance, w->host);
        DD_TRY(embed(dit, w, &dit->guidance, 1, TIME_WIDTH, w->host, w->host, err));
        add_to_rows(w->sum, w->host, rows, d);
    }
    DD_TRY(embed(dit, w, &dit->pooled, 1, dit->config.pooled_projection_dim, pooled, w->host, err));
    add_to_rows(w->sum, w->host, rows, d);
    DD_TRY(dd_op_upload(b, w->out, w->sum, (size_t)rows * (size_t)d * sizeof(float), err));
    return dd_op_affine(b, dd_tensor_2d(w->vec, b->activation, rows, d), 1.0f, dd_tensor_2d(w->out, DD_DTYPE_F32, rows, d),
                        0.0f, NULL, DD_ACTIVATION_SILU, err);
}

/* table [S, count d] = linear NAME(vec): the weight is prepared for this one product and freed. */
static ddit_status modulation_table(dd_flux_run *run, const workspace *w, const char *name, int count, float *table,
                                    ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    dd_backend *b = dit->backend;
    int64_t d = dit->config.hidden;
    dd_weight *weight;
    DD_TRY(dd_flux_linear_once(dit, &weight, name, count * d, d, err));
    ddit_status status = dd_op_linear(b,
                                      &(dd_linear_args){.y = dd_tensor_2d(table, DD_DTYPE_F32, run->time_count, count * d),
                                                        .x = dd_tensor_2d(w->vec, b->activation, run->time_count, d),
                                                        .w = weight},
                                      err);
    dd_op_weight_free(b, weight);
    return status;
}

static ddit_status all_modulations(dd_flux_run *run, const workspace *w, const dd_flux_tables *tables, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    int64_t row = dit->config.hidden * (int64_t)run->time_count;
    for (int i = 0; i < dit->config.num_layers; i++) {
        float *table = tables->doubles + 12 * row * i;
        DD_TRY(modulation_table(run, w, dit->doubles[i].image.modulation_name, 6, table, err));
        DD_TRY(modulation_table(run, w, dit->doubles[i].text.modulation_name, 6, table + 6 * row, err));
    }
    for (int i = 0; i < dit->config.num_single_layers; i++)
        DD_TRY(modulation_table(run, w, dit->singles[i].modulation_name, 3, tables->singles + 3 * row * i, err));
    return modulation_table(run, w, "norm_out.linear", 2, tables->final, err);
}

static ddit_status embed_text(dd_flux_run *run, const dd_flux_tables *tables, const float *text, ddit_err *err) {
    dd_flux_dit *dit = run->dit;
    dd_backend *b = dit->backend;
    int64_t rows = run->text_tokens, width = dit->config.joint_attention_dim;
    float *full = NULL;
    void *act = NULL;
    ddit_status status;
    DD_GO(dd_op_alloc(b, (void **)&full, (size_t)(rows * width) * sizeof(float), "the text embedding", err));
    DD_GO(dd_op_alloc(b, &act, (size_t)(rows * width) * sizeof(float), "the text embedding", err));
    DD_GO(dd_op_upload(b, full, text, (size_t)(rows * width) * sizeof(float), err));
    dd_tensor x = dd_tensor_2d(act, b->activation, rows, width);
    DD_GO(dd_op_affine(b, x, 1.0f, dd_tensor_2d(full, DD_DTYPE_F32, rows, width), 0.0f, NULL, DD_ACTIVATION_NONE, err));
    DD_GO(dd_op_linear(b, &(dd_linear_args){.y = dd_tensor_2d(tables->text, DD_DTYPE_F32, rows, dit->config.hidden), .x = x,
                                            .w = dit->text_in}, err));
done:
    dd_op_free(b, full);
    dd_op_free(b, act);
    return status;
}

static void workspace_free(dd_backend *b, workspace *w) {
    dd_free(b->allocator, w->host);
    dd_free(b->allocator, w->sum);
    dd_op_free(b, w->in);
    dd_op_free(b, w->hidden);
    dd_op_free(b, w->out);
    dd_op_free(b, w->vec);
}

static ddit_status workspace_init(dd_flux_run *run, workspace *w, ddit_err *err) {
    dd_backend *b = run->dit->backend;
    const dd_flux_config *c = &run->dit->config;
    size_t times = (size_t)run->time_count, d = (size_t)c->hidden;
    size_t in = times * TIME_WIDTH > (size_t)c->pooled_projection_dim ? times * TIME_WIDTH : (size_t)c->pooled_projection_dim;
    size_t host = times * TIME_WIDTH > d ? times * TIME_WIDTH : d;
    DD_TRY(dd_alloc_raw(b->allocator, &w->host, host, sizeof(float), "the time embeddings", err));
    DD_TRY(dd_alloc_raw(b->allocator, &w->sum, times * d, sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->in, in * sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->hidden, times * d * sizeof(float), "the time embeddings", err));
    DD_TRY(dd_op_alloc(b, (void **)&w->out, times * d * sizeof(float), "the time embeddings", err));
    return dd_op_alloc(b, &w->vec, times * d * sizeof(float), "the time embeddings", err);
}

ddit_status dd_flux_run_condition(dd_flux_run *run, int branch, const float *text, const float *pooled, ddit_err *err) {
    workspace w = {0};
    ddit_status status;
    const dd_flux_tables *tables = &run->tables[branch];
    DD_GO(workspace_init(run, &w, err));
    DD_GO(conditioning_vector(run, &w, pooled, err));
    DD_GO(all_modulations(run, &w, tables, err));
    DD_GO(embed_text(run, tables, text, err));
done:
    workspace_free(run->dit->backend, &w);
    return status;
}
