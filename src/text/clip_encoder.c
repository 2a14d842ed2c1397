#include "text/clip_encoder.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "bind/memory_plan.h"

typedef struct clip_layer {
    dd_norm_weights norm1, norm2;
    dd_weight *q, *k, *v, *out; /* [D, D] */
    dd_weight *fc1, *fc2;       /* [F, D], [D, F] */
} clip_layer;

/* Views of the one block of backend memory. */
typedef struct clip_buffers {
    dd_tensor x;       /* [N, D] F32: residual stream */
    dd_tensor h;       /* [N, D]: normed rows, then the heads' outputs */
    dd_tensor q, k, v; /* [N, D] */
    dd_tensor mlp;     /* [N, F], in the place of q, k, v */
} clip_buffers;

struct dd_clip_encoder {
    dd_backend *backend;          /* borrowed */
    dd_clip_config config;
    const dd_tensor_entry *token_embedding, *position_embedding; /* borrowed from the files */
    dd_weight_loader loader;
    clip_layer *layers;           /* owned [num_hidden_layers] */
    dd_norm_weights final_norm;
    void *memory;                 /* owned, backend memory */
    clip_buffers buffers;         /* views into memory */
    float *rows;                  /* owned, host [2, N, D]: embeddings of tokens and of positions */
};

/* ------------------------------------------------------------------------------------------------ weights */

enum { DIM_D, DIM_F };

#define LINEAR(name, field, out, in) {name, DD_FIELD_LINEAR, offsetof(clip_layer, field), out, in, 0, true}
#define NORM(name, field) {name, DD_FIELD_NORM, offsetof(clip_layer, field), DIM_D, 0, 0, true}

static const dd_weight_field layer_fields[] = {
    NORM("layer_norm1", norm1),
    LINEAR("self_attn.q_proj", q, DIM_D, DIM_D),
    LINEAR("self_attn.k_proj", k, DIM_D, DIM_D),
    LINEAR("self_attn.v_proj", v, DIM_D, DIM_D),
    LINEAR("self_attn.out_proj", out, DIM_D, DIM_D),
    NORM("layer_norm2", norm2),
    LINEAR("mlp.fc1", fc1, DIM_F, DIM_D),
    LINEAR("mlp.fc2", fc2, DIM_D, DIM_F),
};

static const dd_weight_field model_fields[] = {
    {"final_layer_norm", DD_FIELD_NORM, offsetof(dd_clip_encoder, final_norm), DIM_D, 0, 0, true},
};

#define COUNT(table) (sizeof table / sizeof *table)

/* encoder may be NULL when the loader counts; `stem` is "text_model." or "". */
static ddit_status walk_weights(dd_clip_encoder *encoder, const dd_clip_config *c, dd_weight_loader *l, const char *stem,
                                ddit_err *err) {
    const int64_t dims[] = {c->hidden_size, c->intermediate_size};
    char prefix[64];
    for (int i = 0; i < c->num_hidden_layers; i++) {
        snprintf(prefix, sizeof prefix, "%sencoder.layers.%d.", stem, i);
        clip_layer *layer = encoder ? &encoder->layers[i] : NULL;
        DD_TRY(dd_weight_table_walk(l, layer_fields, COUNT(layer_fields), layer, dims, prefix, err));
    }
    return dd_weight_table_walk(l, model_fields, COUNT(model_fields), encoder, dims, stem, err);
}

static ddit_status find_embeddings(dd_clip_encoder *e, const dd_weight_files *files, const char *stem, ddit_err *err) {
    char name[64];
    snprintf(name, sizeof name, "%sembeddings.token_embedding.weight", stem);
    const int64_t tokens[] = {e->config.vocab_size, e->config.hidden_size};
    const int64_t positions[] = {e->config.max_position_embeddings, e->config.hidden_size};
    DD_TRY(dd_weight_files_need(files, name, 2, tokens, &e->token_embedding, err));
    snprintf(name, sizeof name, "%sembeddings.position_embedding.weight", stem);
    return dd_weight_files_need(files, name, 2, positions, &e->position_embedding, err);
}

static ddit_status load_weights(dd_clip_encoder *e, const dd_weight_files *files, ddit_err *err) {
    /* transformers 5 writes the names without the prefix that every earlier version wrote */
    const char *stem = dd_weight_files_find(files, "text_model.final_layer_norm.weight") ? "text_model." : "";
    DD_TRY(find_embeddings(e, files, stem, err));
    size_t layers = (size_t)e->config.num_hidden_layers;
    DD_TRY(dd_alloc(e->backend->allocator, &e->layers, layers, sizeof *e->layers, "the CLIP layers", err));
    DD_TRY(walk_weights(NULL, &e->config, &e->loader, stem, err));
    DD_TRY(dd_weight_loader_begin(&e->loader, e->backend, files, err));
    DD_TRY(walk_weights(e, &e->config, &e->loader, stem, err));
    dd_weight_loader_loaded(&e->loader);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ memory */

/* Lays the buffers out from `base` (NULL: sizes only); returns the bytes of the block. */
static uint64_t lay_out(clip_buffers *b, const dd_clip_config *c, dd_dtype act, void *base) {
    dd_memory_plan plan = {.base = base};
    int64_t n = c->max_position_embeddings, d = c->hidden_size;
    b->x = dd_plan_take(&plan, DD_DTYPE_F32, n, d);
    b->h = dd_plan_take(&plan, act, n, d);
    uint64_t shared = plan.used;
    b->q = dd_plan_take(&plan, act, n, d);
    b->k = dd_plan_take(&plan, act, n, d);
    b->v = dd_plan_take(&plan, act, n, d);
    plan.used = shared;
    b->mlp = dd_plan_take(&plan, act, n, c->intermediate_size);
    return plan.largest;
}

static uint64_t row_values(const dd_clip_config *c) {
    return 2 * (uint64_t)c->max_position_embeddings * (uint64_t)c->hidden_size;
}

dd_part_bytes dd_clip_encoder_bytes(const dd_clip_config *config, dd_dtype activation) {
    dd_weight_loader l = {.pass = DD_PASS_COUNT, .activation = activation};
    clip_buffers b;
    walk_weights(NULL, config, &l, "", NULL);
    return (dd_part_bytes){
        .weights = l.matrix_bytes + l.vector_bytes,
        .activations = lay_out(&b, config, activation, NULL) + row_values(config) * sizeof(float),
    };
}

static ddit_status take_memory(dd_clip_encoder *e, ddit_err *err) {
    dd_dtype act = e->backend->activation;
    uint64_t bytes = lay_out(&e->buffers, &e->config, act, NULL);
    DD_TRY(dd_op_alloc(e->backend, &e->memory, (size_t)bytes, "the CLIP encoder's activations", err));
    lay_out(&e->buffers, &e->config, act, e->memory);
    return dd_alloc_raw(e->backend->allocator, &e->rows, (size_t)row_values(&e->config), sizeof(float), "the CLIP embeddings",
                        err);
}

ddit_status dd_clip_encoder_open(dd_clip_encoder **out, dd_backend *backend, const dd_weight_files *files,
                                 const dd_clip_config *config, ddit_err *err) {
    dd_clip_encoder *e;
    *out = NULL;
    DD_TRY(dd_alloc(backend->allocator, &e, 1, sizeof *e, "the CLIP encoder", err));
    e->backend = backend;
    e->config = *config;
    e->loader = (dd_weight_loader){.pass = DD_PASS_COUNT, .backend = backend, .activation = backend->activation};
    ddit_status status = DDIT_OK;
    DD_GO(load_weights(e, files, err));
    DD_GO(take_memory(e, err));
    *out = e;
done:
    if (status != DDIT_OK) dd_clip_encoder_close(e);
    return status;
}

void dd_clip_encoder_close(dd_clip_encoder *e) {
    if (!e) return;
    const dd_allocator *a = e->backend->allocator;
    e->loader.pass = DD_PASS_FREE;
    if (e->layers) walk_weights(e, &e->config, &e->loader, "", NULL);
    dd_weight_loader_deinit(&e->loader);
    dd_op_free(e->backend, e->memory);
    dd_free(a, e->layers);
    dd_free(a, e->rows);
    dd_free(a, e);
}

/* ------------------------------------------------------------------------------------------------ forward */

static dd_activation activation_of(dd_hidden_act act) {
    switch (act) {
        case DD_ACT_GELU_ERF: return DD_ACTIVATION_GELU_ERF;
        case DD_ACT_GELU_TANH: return DD_ACTIVATION_GELU_TANH;
        case DD_ACT_QUICK_GELU: break;
    }
    return DD_ACTIVATION_QUICK_GELU;
}

/* The position whose row is the pooled one. */
static int64_t pooled_position(const dd_clip_config *c, const int32_t *ids) {
    int64_t n = c->max_position_embeddings, largest = 0;
    if (c->eos_token_id == 2) {
        for (int64_t i = 1; i < n; i++)
            if (ids[i] > ids[largest]) largest = i;
        return largest;
    }
    for (int64_t i = 0; i < n; i++)
        if (ids[i] == c->eos_token_id) return i;
    return 0;
}

/* The buffers' first n rows. */
static clip_buffers first_rows(const clip_buffers *b, int64_t n) {
    return (clip_buffers){dd_tensor_rows(b->x, 0, n), dd_tensor_rows(b->h, 0, n), dd_tensor_rows(b->q, 0, n),
                          dd_tensor_rows(b->k, 0, n), dd_tensor_rows(b->v, 0, n), dd_tensor_rows(b->mlp, 0, n)};
}

static ddit_status norm(const dd_clip_encoder *e, dd_tensor y, dd_tensor x, const dd_norm_weights *w, ddit_err *err) {
    return dd_op_norm(e->backend, &(dd_norm_args){.y = y, .x = x, .kind = DD_NORM_LAYER, .eps = e->config.layer_norm_eps,
                                                  .weight = &w->weight, .bias = &w->bias}, err);
}

static ddit_status linear(const dd_clip_encoder *e, dd_tensor y, dd_tensor x, const dd_weight *w, dd_activation activation,
                          const dd_tensor *add, ddit_err *err) {
    return dd_op_linear(e->backend, &(dd_linear_args){.y = y, .x = x, .w = w, .activation = activation, .add = add}, err);
}

/* x += out(attention(LN1(x))) */
static ddit_status attention(const dd_clip_encoder *e, const clip_layer *layer, const clip_buffers *b, ddit_err *err) {
    DD_TRY(norm(e, b->h, b->x, &layer->norm1, err));
    DD_TRY(linear(e, b->q, b->h, layer->q, DD_ACTIVATION_NONE, NULL, err));
    DD_TRY(linear(e, b->k, b->h, layer->k, DD_ACTIVATION_NONE, NULL, err));
    DD_TRY(linear(e, b->v, b->h, layer->v, DD_ACTIVATION_NONE, NULL, err));
    DD_TRY(dd_op_attention(e->backend,
                           &(dd_attention_args){.out = b->h, .q = b->q, .k = b->k, .v = b->v,
                                                .heads = e->config.num_attention_heads,
                                                .scale = 1.0f / sqrtf((float)e->config.head_dim), .causal = true},
                           err));
    return linear(e, b->x, b->h, layer->out, DD_ACTIVATION_NONE, &b->x, err);
}

/* x += fc2(act(fc1(LN2(x)))) */
static ddit_status mlp(const dd_clip_encoder *e, const clip_layer *layer, const clip_buffers *b, ddit_err *err) {
    DD_TRY(norm(e, b->h, b->x, &layer->norm2, err));
    DD_TRY(linear(e, b->mlp, b->h, layer->fc1, activation_of(e->config.hidden_act), NULL, err));
    return linear(e, b->x, b->mlp, layer->fc2, DD_ACTIVATION_NONE, &b->x, err);
}

/* x = token_embedding[ids] + position_embedding, for the first n positions. */
static ddit_status embed(dd_clip_encoder *e, const int32_t *ids, int64_t n, ddit_err *err) {
    size_t count = (size_t)n * (size_t)e->config.hidden_size;
    float *tokens = e->rows, *positions = e->rows + count;
    DD_TRY(dd_embedding_rows(e->token_embedding, ids, n, tokens, err));
    DD_TRY(dd_to_f32(positions, e->position_embedding->data, e->position_embedding->dtype, count, err));
    for (size_t i = 0; i < count; i++) tokens[i] += positions[i];
    return dd_op_upload(e->backend, e->buffers.x.data, tokens, count * sizeof(float), err);
}

ddit_status dd_clip_encoder_encode(dd_clip_encoder *e, const int32_t *ids, float *pooled, ddit_err *err) {
    int64_t last = pooled_position(&e->config, ids);
    clip_buffers b = first_rows(&e->buffers, last + 1);
    DD_TRY(embed(e, ids, last + 1, err));
    for (int i = 0; i < e->config.num_hidden_layers; i++) {
        DD_TRY(attention(e, &e->layers[i], &b, err));
        DD_TRY(mlp(e, &e->layers[i], &b, err));
    }
    dd_tensor row = dd_tensor_rows(b.x, last, 1);
    DD_TRY(norm(e, row, row, &e->final_norm, err));
    return dd_op_download(e->backend, pooled, row.data, (size_t)e->config.hidden_size * sizeof(float), err);
}
