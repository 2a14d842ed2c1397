#include "text/t5_encoder.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "bind/memory_plan.h"

typedef struct t5_block {
    dd_norm_weights norm1, norm2;
    dd_weight *q, *k, *v; /* [I, D], I = heads * d_kv */
    dd_weight *o;         /* [D, I] */
    dd_weight *wi_0, *wi_1; /* [F, D]: gate and value */
    dd_weight *wo;        /* [D, F] */
} t5_block;

/* Views of the one block of backend memory. */
typedef struct t5_buffers {
    dd_tensor x;           /* [N, D] F32: residual stream */
    dd_tensor bias;        /* [A, N, N] F32: position bias, the same in every block */
    dd_tensor h;           /* [N, D]: normed rows */
    dd_tensor heads;       /* [N, I]: the heads' outputs, in the place of h */
    dd_tensor q, k, v;     /* [N, I] */
    dd_tensor value, gated; /* [N, F], in the place of q, k, v */
} t5_buffers;

struct dd_t5_encoder {
    dd_backend *backend;               /* borrowed */
    dd_t5_config config;
    int64_t length;
    const dd_tensor_entry *embedding;  /* borrowed from the files */
    dd_weight_loader loader;
    t5_block *blocks;                  /* owned [num_layers] */
    dd_norm_weights final_norm;
    void *memory;                      /* owned, backend memory */
    t5_buffers buffers;                /* views into memory */
};

/* ------------------------------------------------------------------------------------------------ weights */

enum { DIM_D, DIM_I, DIM_F };

#define LINEAR(name, field, out, in) {name, DD_FIELD_LINEAR, offsetof(t5_block, field), out, in, 0, false}
#define NORM(name, field) {name, DD_FIELD_NORM, offsetof(t5_block, field), DIM_D, 0, 0, false}

static const dd_weight_field block_fields[] = {
    NORM("layer.0.layer_norm", norm1),
    LINEAR("layer.0.SelfAttention.q", q, DIM_I, DIM_D),
    LINEAR("layer.0.SelfAttention.k", k, DIM_I, DIM_D),
    LINEAR("layer.0.SelfAttention.v", v, DIM_I, DIM_D),
    LINEAR("layer.0.SelfAttention.o", o, DIM_D, DIM_I),
    NORM("layer.1.layer_norm", norm2),
    LINEAR("layer.1.DenseReluDense.wi_0", wi_0, DIM_F, DIM_D),
    LINEAR("layer.1.DenseReluDense.wi_1", wi_1, DIM_F, DIM_D),
    LINEAR("layer.1.DenseReluDense.wo", wo, DIM_D, DIM_F),
};

static const dd_weight_field model_fields[] = {
    {"encoder.final_layer_norm", DD_FIELD_NORM, offsetof(dd_t5_encoder, final_norm), DIM_D, 0, 0, false},
};

#define COUNT(table) (sizeof table / sizeof *table)

static int64_t inner_size(const dd_t5_config *c) { return (int64_t)c->num_heads * c->d_kv; }

/* encoder may be NULL when the loader counts. */
static ddit_status walk_weights(dd_t5_encoder *encoder, const dd_t5_config *c, dd_weight_loader *l, ddit_err *err) {
    const int64_t dims[] = {c->d_model, inner_size(c), c->d_ff};
    char prefix[64];
    for (int i = 0; i < c->num_layers; i++) {
        snprintf(prefix, sizeof prefix, "encoder.block.%d.", i);
        t5_block *block = encoder ? &encoder->blocks[i] : NULL;
        DD_TRY(dd_weight_table_walk(l, block_fields, COUNT(block_fields), block, dims, prefix, err));
    }
    return dd_weight_table_walk(l, model_fields, COUNT(model_fields), encoder, dims, "", err);
}

static ddit_status load_weights(dd_t5_encoder *e, const dd_weight_files *files, ddit_err *err) {
    const char *embed_tokens = "encoder.embed_tokens.weight";
    const char *table = dd_weight_files_find(files, embed_tokens) ? embed_tokens : "shared.weight";
    DD_TRY(dd_weight_files_need(files, table, 2, (int64_t[]){e->config.vocab_size, e->config.d_model}, &e->embedding, err));
    DD_TRY(dd_alloc(e->backend->allocator, &e->blocks, (size_t)e->config.num_layers, sizeof *e->blocks, "the T5 blocks", err));
    DD_TRY(walk_weights(NULL, &e->config, &e->loader, err));
    DD_TRY(dd_weight_loader_begin(&e->loader, e->backend, files, err));
    DD_TRY(walk_weights(e, &e->config, &e->loader, err));
    dd_weight_loader_loaded(&e->loader);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ memory */

/* Lays the buffers out from `base` (NULL: sizes only); returns the bytes of the block. */
static uint64_t lay_out(t5_buffers *b, const dd_t5_config *c, int64_t n, dd_dtype act, void *base) {
    dd_memory_plan plan = {.base = base};
    int64_t inner = inner_size(c);
    b->x = dd_plan_take(&plan, DD_DTYPE_F32, n, c->d_model);
    b->bias = dd_plan_take(&plan, DD_DTYPE_F32, c->num_heads * n, n);
    b->bias = dd_tensor_3d(b->bias.data, DD_DTYPE_F32, c->num_heads, n, n);
    uint64_t shared = plan.used;
    b->h = dd_plan_take(&plan, act, n, c->d_model);
    plan.used = shared; /* h is dead once q, k and v are there */
    b->heads = dd_plan_take(&plan, act, n, inner);
    plan.used = shared = plan.largest;
    b->q = dd_plan_take(&plan, act, n, inner);
    b->k = dd_plan_take(&plan, act, n, inner);
    b->v = dd_plan_take(&plan, act, n, inner);
    plan.used = shared;
    b->value = dd_plan_take(&plan, act, n, c->d_ff);
    b->gated = dd_plan_take(&plan, act, n, c->d_ff);
    return plan.largest;
}

/* Host memory while the bias is computed: the learned table, one line of a head, one head. */
static uint64_t bias_scratch_values(const dd_t5_config *c, int64_t n) {
    return (uint64_t)c->relative_attention_num_buckets * (uint64_t)c->num_heads + (uint64_t)(2 * n - 1) + (uint64_t)(n * n);
}

dd_part_bytes dd_t5_encoder_bytes(const dd_t5_config *config, int length, dd_dtype activation) {
    dd_weight_loader l = {.pass = DD_PASS_COUNT, .activation = activation};
    t5_buffers b;
    walk_weights(NULL, config, &l, NULL);
    return (dd_part_bytes){
        .weights = l.matrix_bytes + l.vector_bytes,
        .activations = lay_out(&b, config, length, activation, NULL) + bias_scratch_values(config, length) * sizeof(float),
    };
}

/* ------------------------------------------------------------------------------------------------ position bias */

int dd_t5_position_bucket(int relative, int buckets, int max_distance) {
    int half = buckets / 2, exact = half / 2;
    int distance = relative < 0 ? -relative : relative;
    int side = relative > 0 ? half : 0;
    if (distance < exact) return side + distance;
    float steps = logf((float)distance / (float)exact) / (float)log((double)max_distance / exact) * (float)(half - exact);
    int bucket = exact + (int)steps;
    return side + (bucket < half ? bucket : half - 1);
}

/* bias[head, i, j] = table[bucket(j - i), head]: every row of a head is a piece of one line over 2N - 1 relative positions. */
static void fill_head_bias(float *bias, float *line, const float *table, int head, const dd_t5_config *c, int64_t n) {
    int buckets = c->relative_attention_num_buckets, max_distance = c->relative_attention_max_distance;
    for (int64_t r = 0; r < 2 * n - 1; r++) {
        int bucket = dd_t5_position_bucket((int)(r - (n - 1)), buckets, max_distance);
        line[r] = table[bucket * c->num_heads + head];
    }
    for (int64_t i = 0; i < n; i++) memcpy(bias + i * n, line + (n - 1 - i), (size_t)n * sizeof(float));
}

static ddit_status load_bias(dd_t5_encoder *e, const dd_weight_files *files, ddit_err *err) {
    const dd_t5_config *c = &e->config;
    const dd_allocator *a = e->backend->allocator;
    const int64_t shape[] = {c->relative_attention_num_buckets, c->num_heads}, n = e->length;
    size_t head_bytes = (size_t)n * (size_t)n * sizeof(float);
    const dd_tensor_entry *entry;
    const char *name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    DD_TRY(dd_weight_files_need(files, name, 2, shape, &entry, err));
    float *table;
    DD_TRY(dd_alloc_raw(a, &table, (size_t)bias_scratch_values(c, n), sizeof(float), "the position bias", err));
    float *line = table + shape[0] * shape[1], *bias = line + 2 * n - 1;
    ddit_status status = DDIT_OK;
    DD_GO(dd_tensor_entry_to_f32(entry, table, err));
    for (int head = 0; head < c->num_heads; head++) {
        fill_head_bias(bias, line, table, head, c, n);
        DD_GO(dd_op_upload(e->backend, (uint8_t *)e->buffers.bias.data + (size_t)head * head_bytes, bias, head_bytes, err));
    }
done:
    dd_free(a, table);
    return status;
}

/* ------------------------------------------------------------------------------------------------ open and close */

static ddit_status take_memory(dd_t5_encoder *e, ddit_err *err) {
    dd_dtype act = e->backend->activation;
    uint64_t bytes = lay_out(&e->buffers, &e->config, e->length, act, NULL);
    DD_TRY(dd_op_alloc(e->backend, &e->memory, (size_t)bytes, "the T5 encoder's activations", err));
    lay_out(&e->buffers, &e->config, e->length, act, e->memory);
    return DDIT_OK;
}

ddit_status dd_t5_encoder_open(dd_t5_encoder **out, dd_backend *backend, const dd_weight_files *files,
                               const dd_t5_config *config, int length, ddit_err *err) {
    dd_t5_encoder *e;
    *out = NULL;
    if (length < 1)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "found %d text tokens for the T5 encoder, expected at least 1", length);
    DD_TRY(dd_alloc(backend->allocator, &e, 1, sizeof *e, "the T5 encoder", err));
    e->backend = backend;
    e->config = *config;
    e->length = length;
    e->loader = (dd_weight_loader){.pass = DD_PASS_COUNT, .backend = backend, .activation = backend->activation};
    ddit_status status = DDIT_OK;
    DD_GO(load_weights(e, files, err));
    DD_GO(take_memory(e, err));
    DD_GO(load_bias(e, files, err));
    *out = e;
done:
    if (status != DDIT_OK) dd_t5_encoder_close(e);
    return status;
}

void dd_t5_encoder_close(dd_t5_encoder *e) {
    if (!e) return;
    const dd_allocator *a = e->backend->allocator;
    e->loader.pass = DD_PASS_FREE;
    if (e->blocks) walk_weights(e, &e->config, &e->loader, NULL);
    dd_weight_loader_deinit(&e->loader);
    dd_op_free(e->backend, e->memory);
    dd_free(a, e->blocks);
    dd_free(a, e);
}

/* ------------------------------------------------------------------------------------------------ forward */

static ddit_status norm(const dd_t5_encoder *e, dd_tensor y, const dd_norm_weights *w, ddit_err *err) {
    return dd_op_norm(e->backend, &(dd_norm_args){.y = y, .x = e->buffers.x, .kind = DD_NORM_RMS,
                                                  .eps = e->config.layer_norm_epsilon, .weight = &w->weight}, err);
}

static ddit_status linear(const dd_t5_encoder *e, dd_tensor y, dd_tensor x, const dd_weight *w, ddit_err *err) {
    return dd_op_linear(e->backend, &(dd_linear_args){.y = y, .x = x, .w = w}, err);
}

/* x += linear(y) */
static ddit_status add_linear(const dd_t5_encoder *e, dd_tensor y, const dd_weight *w, ddit_err *err) {
    const dd_tensor *x = &e->buffers.x;
    return dd_op_linear(e->backend, &(dd_linear_args){.y = *x, .x = y, .w = w, .add = x}, err);
}

/* x += o(softmax(q k^T + bias) v) of RMSNorm(x); T5 does not scale q k^T. */
static ddit_status attention(const dd_t5_encoder *e, const t5_block *block, ddit_err *err) {
    const t5_buffers *b = &e->buffers;
    DD_TRY(norm(e, b->h, &block->norm1, err));
    DD_TRY(linear(e, b->q, b->h, block->q, err));
    DD_TRY(linear(e, b->k, b->h, block->k, err));
    DD_TRY(linear(e, b->v, b->h, block->v, err));
    DD_TRY(dd_op_attention(e->backend,
                           &(dd_attention_args){.out = b->heads, .q = b->q, .k = b->k, .v = b->v, .heads = e->config.num_heads,
                                                .scale = 1.0f, .bias = &b->bias},
                           err));
    return add_linear(e, b->heads, block->o, err);
}

/* x += wo(gelu(wi_0 h) * wi_1 h), h = RMSNorm(x) */
static ddit_status gated_mlp(const dd_t5_encoder *e, const t5_block *block, ddit_err *err) {
    const t5_buffers *b = &e->buffers;
    DD_TRY(norm(e, b->h, &block->norm2, err));
    DD_TRY(linear(e, b->value, b->h, block->wi_1, err));
    DD_TRY(dd_op_linear(e->backend, &(dd_linear_args){.y = b->gated, .x = b->h, .w = block->wi_0,
                                                      .activation = DD_ACTIVATION_GELU_TANH, .mul = &b->value}, err));
    return add_linear(e, b->gated, block->wo, err);
}

ddit_status dd_t5_encoder_encode(dd_t5_encoder *e, const int32_t *ids, float *embedding, ddit_err *err) {
    size_t bytes = (size_t)e->length * (size_t)e->config.d_model * sizeof(float);
    /* the caller's buffer has the embeddings' shape: it holds them on their way in and out */
    DD_TRY(dd_embedding_rows(e->embedding, ids, e->length, embedding, err));
    DD_TRY(dd_op_upload(e->backend, e->buffers.x.data, embedding, bytes, err));
    for (int i = 0; i < e->config.num_layers; i++) {
        DD_TRY(attention(e, &e->blocks[i], err));
        DD_TRY(gated_mlp(e, &e->blocks[i], err));
    }
    DD_TRY(norm(e, e->buffers.x, &e->final_norm, err));
    return dd_op_download(e->backend, embedding, e->buffers.x.data, bytes, err);
}
