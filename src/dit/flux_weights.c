#include "dit/flux_weights.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { TIME_WIDTH = 256, NAME_SIZE = 160 };

/* Widths that rows of the tables refer to. */
typedef enum width { WIDTH_D, WIDTH_4D, WIDTH_5D } width;

/* One row: the name after the block's prefix, where the layer lies in the struct, [out, in]. */
typedef struct linear_row {
    const char *name;
    size_t field;
    width out, in;
    bool lora; /* the adapter may carry LoRA for it (docs/adapter_file.md) */
} linear_row;

typedef struct norm_row {
    const char *name;
    size_t field;
} norm_row;

#define IMAGE(field) offsetof(dd_flux_double, image.field)
#define TEXT(field) offsetof(dd_flux_double, text.field)
#define SINGLE(field) offsetof(dd_flux_single, field)

static const linear_row double_linears[] = {
    {"attn.to_q", IMAGE(q), WIDTH_D, WIDTH_D, false},
    {"attn.to_k", IMAGE(k), WIDTH_D, WIDTH_D, false},
    {"attn.to_v", IMAGE(v), WIDTH_D, WIDTH_D, false},
    {"attn.to_out.0", IMAGE(out), WIDTH_D, WIDTH_D, false},
    {"ff.net.0.proj", IMAGE(mlp_in), WIDTH_4D, WIDTH_D, true},
    {"ff.net.2", IMAGE(mlp_out), WIDTH_D, WIDTH_4D, true},
    {"attn.add_q_proj", TEXT(q), WIDTH_D, WIDTH_D, false},
    {"attn.add_k_proj", TEXT(k), WIDTH_D, WIDTH_D, false},
    {"attn.add_v_proj", TEXT(v), WIDTH_D, WIDTH_D, false},
    {"attn.to_add_out", TEXT(out), WIDTH_D, WIDTH_D, false},
    {"ff_context.net.0.proj", TEXT(mlp_in), WIDTH_4D, WIDTH_D, true},
    {"ff_context.net.2", TEXT(mlp_out), WIDTH_D, WIDTH_4D, true},
};

static const norm_row double_norms[] = {
    {"attn.norm_q.weight", IMAGE(norm_q)},
    {"attn.norm_k.weight", IMAGE(norm_k)},
    {"attn.norm_added_q.weight", TEXT(norm_q)},
    {"attn.norm_added_k.weight", TEXT(norm_k)},
};

static const linear_row single_linears[] = {
    {"attn.to_q", SINGLE(q), WIDTH_D, WIDTH_D, false},
    {"attn.to_k", SINGLE(k), WIDTH_D, WIDTH_D, false},
    {"attn.to_v", SINGLE(v), WIDTH_D, WIDTH_D, false},
    {"proj_mlp", SINGLE(mlp_in), WIDTH_4D, WIDTH_D, true},
    {"proj_out", SINGLE(out), WIDTH_D, WIDTH_5D, true},
};

static const norm_row single_norms[] = {
    {"attn.norm_q.weight", SINGLE(norm_q)},
    {"attn.norm_k.weight", SINGLE(norm_k)},
};

#define COUNT(table) ((int)(sizeof table / sizeof *table))

static int64_t width_of(const dd_flux_dit *dit, width w) {
    int64_t d = dit->config.hidden;
    return w == WIDTH_D ? d : w == WIDTH_4D ? dit->config.mlp_hidden : d + dit->config.mlp_hidden;
}

/* Room for one more entry of dit->prepared, so that remembering cannot fail after the weight was made. */
static ddit_status make_room(dd_flux_dit *dit, ddit_err *err) {
    if (dit->prepared_count < dit->prepared_room) return DDIT_OK;
    const dd_allocator *a = dit->backend->allocator;
    int room = dit->prepared_room ? 2 * dit->prepared_room : 64;
    const dd_weight **list;
    DD_TRY(dd_alloc(a, &list, (size_t)room, sizeof *list, "the list of weights", err));
    if (dit->prepared_count) memcpy(list, dit->prepared, (size_t)dit->prepared_count * sizeof *list);
    dd_free(a, dit->prepared);
    dit->prepared = list;
    dit->prepared_room = room;
    return DDIT_OK;
}

static ddit_status prepare(dd_flux_dit *dit, dd_weight **w, const dd_weight_desc *desc, ddit_err *err) {
    *w = NULL;
    DD_TRY(make_room(dit, err));
    DD_TRY(dd_op_weight_prepare(dit->backend, w, desc, err));
    dit->weight_bytes += dd_op_weight_info(dit->backend, *w).bytes;
    dit->prepared[dit->prepared_count++] = *w;
    return DDIT_OK;
}

/* Finds NAME.weight [out, in] and NAME.bias [out]. */
static ddit_status find_linear(dd_flux_dit *dit, const char *name, int64_t out, int64_t in, const dd_tensor_entry **weight,
                               dd_weight_desc *desc, ddit_err *err) {
    char tensor[NAME_SIZE + 8];
    const dd_tensor_entry *bias;
    snprintf(tensor, sizeof tensor, "%s.weight", name);
    DD_TRY(dd_weight_files_need(dit->files, tensor, 2, (int64_t[]){out, in}, weight, err));
    snprintf(tensor, sizeof tensor, "%s.bias", name);
    DD_TRY(dd_weight_files_need(dit->files, tensor, 1, (int64_t[]){out}, &bias, err));
    *desc = (dd_weight_desc){.name = name, .kind = DD_WEIGHT_LINEAR, .dtype = (*weight)->dtype, .out = out, .in = in,
                             .data = (*weight)->data, .bias = bias->data, .bias_dtype = bias->dtype};
    return DDIT_OK;
}

ddit_status dd_flux_linear_once(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, ddit_err *err) {
    const dd_tensor_entry *weight;
    dd_weight_desc desc;
    *w = NULL;
    DD_TRY(find_linear(dit, name, out, in, &weight, &desc, err));
    DD_TRY(dd_op_weight_prepare(dit->backend, w, &desc, err));
    dd_weight_files_release(weight);
    return DDIT_OK;
}

ddit_status dd_flux_linear_prepare(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, unsigned how,
                                   ddit_err *err) {
    const dd_tensor_entry *weight;
    dd_weight_desc desc;
    *w = NULL;
    DD_TRY(find_linear(dit, name, out, in, &weight, &desc, err));
    desc.full_precision = how & DD_FLUX_FULL_PRECISION;
    desc.uses = DD_WEIGHT_FORWARD;
    if (dit->trainable && how & DD_FLUX_INPUT_GRADIENT) desc.uses |= DD_WEIGHT_INPUT_GRADIENT;
    if (dit->all) desc.uses |= DD_WEIGHT_UPDATES;
    DD_TRY(prepare(dit, w, &desc, err));
    dd_weight_files_release(weight);
    return DDIT_OK;
}

ddit_status dd_flux_weight_blank(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, bool bias,
                                 unsigned uses, ddit_err *err) {
    const dd_allocator *a = dit->backend->allocator;
    float *zeros;
    *w = NULL;
    DD_TRY(dd_alloc(a, &zeros, (size_t)(out * in), sizeof *zeros, name, err));
    dd_weight_desc desc = {.name = name, .kind = DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32, .out = out, .in = in, .data = zeros,
                           .bias = bias ? zeros : NULL, .bias_dtype = DD_DTYPE_F32, .uses = uses | DD_WEIGHT_UPDATES};
    ddit_status status = prepare(dit, w, &desc, err);
    dd_free(a, zeros);
    return status;
}

ddit_status dd_flux_entry_prepare(dd_flux_dit *dit, dd_weight **w, const dd_tensor_entry *weight, int64_t out, int64_t in,
                                  const float *bias_host, ddit_err *err) {
    *w = NULL;
    DD_TRY(prepare(dit, w,
                   &(dd_weight_desc){.name = weight->name,
                                     .kind = DD_WEIGHT_LINEAR,
                                     .dtype = weight->dtype,
                                     .out = out,
                                     .in = in,
                                     .data = weight->data,
                                     .bias = bias_host,
                                     .bias_dtype = DD_DTYPE_F32},
                   err));
    dd_tensor_entry_release(weight);
    return DDIT_OK;
}

static ddit_status load_linears(dd_flux_dit *dit, void *block, const char *prefix, const linear_row *rows, int count,
                                ddit_err *err) {
    char name[NAME_SIZE];
    for (int i = 0; i < count; i++) {
        dd_flux_linear *linear = (dd_flux_linear *)((char *)block + rows[i].field);
        snprintf(name, sizeof name, "%s.%s", prefix, rows[i].name);
        DD_TRY(dd_flux_linear_prepare(dit, &linear->w, name, width_of(dit, rows[i].out), width_of(dit, rows[i].in),
                                      DD_FLUX_INPUT_GRADIENT, err));
    }
    return DDIT_OK;
}

/* Converts each norm weight and puts it into the next slot of dit->vectors. */
static ddit_status load_norms(dd_flux_dit *dit, void *block, const char *prefix, const norm_row *rows, int count, float **slot,
                              float *scratch, ddit_err *err) {
    char name[NAME_SIZE];
    int64_t size = dit->config.attention_head_dim;
    for (int i = 0; i < count; i++) {
        const dd_tensor_entry *entry;
        snprintf(name, sizeof name, "%s.%s", prefix, rows[i].name);
        DD_TRY(dd_weight_files_need(dit->files, name, 1, &size, &entry, err));
        DD_TRY(dd_tensor_entry_to_f32(entry, scratch, err));
        DD_TRY(dd_op_upload(dit->backend, *slot, scratch, (size_t)size * sizeof(float), err));
        ((dd_flux_head_norm *)((char *)block + rows[i].field))->weight = dd_tensor_1d(*slot, DD_DTYPE_F32, size);
        *slot += size;
    }
    return DDIT_OK;
}

/* A run computes modulations once and reads their weights then; training computes them at every step and keeps them. */
static ddit_status load_modulation(dd_flux_dit *dit, dd_flux_linear *linear, const char *name, int count, ddit_err *err) {
    int64_t d = dit->config.hidden;
    if (!dit->trainable) return DDIT_OK;
    return dd_flux_linear_prepare(dit, &linear->w, name, count * d, d, dit->all ? DD_FLUX_INPUT_GRADIENT : 0, err);
}

static ddit_status load_blocks(dd_flux_dit *dit, ddit_err *err) {
    const dd_flux_config *c = &dit->config;
    const dd_allocator *a = dit->backend->allocator;
    char prefix[48];
    float *scratch = NULL;
    size_t vectors = (size_t)c->num_layers * COUNT(double_norms) + (size_t)c->num_single_layers * COUNT(single_norms);
    size_t vector_bytes = (vectors + 1) * (size_t)c->attention_head_dim * sizeof(float); /* + 1: never an empty allocation */
    DD_TRY(dd_op_alloc(dit->backend, (void **)&dit->vectors, vector_bytes, "the qk norm weights", err));
    DD_TRY(dd_alloc(a, &scratch, (size_t)c->attention_head_dim, sizeof(float), "a vector", err));
    float *slot = dit->vectors;
    ddit_status status = DDIT_OK;
    for (int i = 0; i < c->num_layers; i++) {
        dd_flux_double *block = &dit->doubles[i];
        snprintf(prefix, sizeof prefix, "transformer_blocks.%d", i);
        DD_GO(load_linears(dit, block, prefix, double_linears, COUNT(double_linears), err));
        DD_GO(load_norms(dit, block, prefix, double_norms, COUNT(double_norms), &slot, scratch, err));
        snprintf(block->image.modulation_name, sizeof block->image.modulation_name, "%s.norm1.linear", prefix);
        snprintf(block->text.modulation_name, sizeof block->text.modulation_name, "%s.norm1_context.linear", prefix);
        DD_GO(load_modulation(dit, &block->image.modulation, block->image.modulation_name, 6, err));
        DD_GO(load_modulation(dit, &block->text.modulation, block->text.modulation_name, 6, err));
    }
    for (int i = 0; i < c->num_single_layers; i++) {
        dd_flux_single *block = &dit->singles[i];
        snprintf(prefix, sizeof prefix, "single_transformer_blocks.%d", i);
        DD_GO(load_linears(dit, block, prefix, single_linears, COUNT(single_linears), err));
        DD_GO(load_norms(dit, block, prefix, single_norms, COUNT(single_norms), &slot, scratch, err));
        snprintf(block->modulation_name, sizeof block->modulation_name, "%s.norm.linear", prefix);
        DD_GO(load_modulation(dit, &block->modulation, block->modulation_name, 3, err));
    }
done:
    dd_free(a, scratch);
    return status;
}

static ddit_status load_embedder(dd_flux_dit *dit, dd_flux_embedder *e, const char *name, int64_t in, ddit_err *err) {
    char layer[NAME_SIZE];
    int64_t d = dit->config.hidden;
    snprintf(layer, sizeof layer, "time_text_embed.%s.linear_1", name);
    DD_TRY(dd_flux_linear_prepare(dit, &e->in, layer, d, in, DD_FLUX_FULL_PRECISION, err));
    snprintf(layer, sizeof layer, "time_text_embed.%s.linear_2", name);
    return dd_flux_linear_prepare(dit, &e->out, layer, d, d,
                                  DD_FLUX_FULL_PRECISION | (dit->all ? DD_FLUX_INPUT_GRADIENT : 0), err);
}

ddit_status dd_flux_weights_load(dd_flux_dit *dit, ddit_err *err) {
    const dd_flux_config *c = &dit->config;
    dd_flux_patch *base = &dit->patch[0];
    DD_TRY(dd_flux_linear_prepare(dit, &base->embed, "x_embedder", c->hidden, c->in_channels, 0, err));
    DD_TRY(dd_flux_linear_prepare(dit, &base->deembed, "proj_out", c->out_channels, c->hidden, DD_FLUX_INPUT_GRADIENT, err));
    base->present = true;
    DD_TRY(dd_flux_linear_prepare(dit, &dit->text_in, "context_embedder", c->hidden, c->joint_attention_dim, 0, err));
    DD_TRY(load_embedder(dit, &dit->time, "timestep_embedder", TIME_WIDTH, err));
    DD_TRY(load_embedder(dit, &dit->pooled, "text_embedder", c->pooled_projection_dim, err));
    if (c->guidance_embeds) DD_TRY(load_embedder(dit, &dit->guidance, "guidance_embedder", TIME_WIDTH, err));
    DD_TRY(load_modulation(dit, &dit->norm_out, "norm_out.linear", 2, err));
    return load_blocks(dit, err);
}

ddit_status dd_flux_lora_walk(dd_flux_dit *dit, dd_flux_lora_visit visit, void *user, ddit_err *err) {
    char module[NAME_SIZE];
    for (int i = 0; i < dit->config.num_layers; i++)
        for (int r = 0; r < COUNT(double_linears); r++) {
            const linear_row *row = &double_linears[r];
            if (!row->lora) continue;
            snprintf(module, sizeof module, "transformer_blocks.%d.%s", i, row->name);
            DD_TRY(visit(user, (dd_flux_linear *)((char *)&dit->doubles[i] + row->field), module, width_of(dit, row->out),
                         width_of(dit, row->in), err));
        }
    for (int i = 0; i < dit->config.num_single_layers; i++)
        for (int r = 0; r < COUNT(single_linears); r++) {
            const linear_row *row = &single_linears[r];
            if (!row->lora) continue;
            snprintf(module, sizeof module, "single_transformer_blocks.%d.%s", i, row->name);
            DD_TRY(visit(user, (dd_flux_linear *)((char *)&dit->singles[i] + row->field), module, width_of(dit, row->out),
                         width_of(dit, row->in), err));
        }
    return DDIT_OK;
}

static ddit_status walk_linears(const dd_flux_visitor *v, void *block, const char *prefix, const linear_row *rows, int count,
                                ddit_err *err) {
    char name[NAME_SIZE];
    for (int i = 0; i < count; i++) {
        dd_flux_linear *linear = (dd_flux_linear *)((char *)block + rows[i].field);
        snprintf(name, sizeof name, "%s.%s", prefix, rows[i].name);
        DD_TRY(v->linear(v->user, linear->w, &linear->at, name, err));
    }
    return DDIT_OK;
}

static ddit_status walk_norms(const dd_flux_visitor *v, void *block, const char *prefix, const norm_row *rows, int count,
                              ddit_err *err) {
    char name[NAME_SIZE];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.%s", prefix, rows[i].name);
        DD_TRY(v->norm(v->user, (dd_flux_head_norm *)((char *)block + rows[i].field), name, err));
    }
    return DDIT_OK;
}

static ddit_status walk_modulation(const dd_flux_visitor *v, dd_flux_linear *linear, const char *name, ddit_err *err) {
    return linear->w ? v->linear(v->user, linear->w, &linear->at, name, err) : DDIT_OK;
}

static ddit_status walk_embedder(const dd_flux_visitor *v, dd_flux_embedder *e, const char *name, ddit_err *err) {
    char layer[NAME_SIZE];
    snprintf(layer, sizeof layer, "time_text_embed.%s.linear_1", name);
    DD_TRY(v->linear(v->user, e->in, &e->in_at, layer, err));
    snprintf(layer, sizeof layer, "time_text_embed.%s.linear_2", name);
    return v->linear(v->user, e->out, &e->out_at, layer, err);
}

ddit_status dd_flux_weights_walk(dd_flux_dit *dit, const dd_flux_visitor *v, ddit_err *err) {
    char prefix[48];
    dd_flux_patch *base = &dit->patch[0];
    DD_TRY(v->linear(v->user, base->embed, &base->embed_at, "x_embedder", err));
    DD_TRY(v->linear(v->user, dit->text_in, &dit->text_in_at, "context_embedder", err));
    DD_TRY(walk_embedder(v, &dit->time, "timestep_embedder", err));
    DD_TRY(walk_embedder(v, &dit->pooled, "text_embedder", err));
    if (dit->config.guidance_embeds) DD_TRY(walk_embedder(v, &dit->guidance, "guidance_embedder", err));
    for (int i = 0; i < dit->config.num_layers; i++) {
        dd_flux_double *block = &dit->doubles[i];
        snprintf(prefix, sizeof prefix, "transformer_blocks.%d", i);
        DD_TRY(walk_modulation(v, &block->image.modulation, block->image.modulation_name, err));
        DD_TRY(walk_modulation(v, &block->text.modulation, block->text.modulation_name, err));
        DD_TRY(walk_linears(v, block, prefix, double_linears, COUNT(double_linears), err));
        DD_TRY(walk_norms(v, block, prefix, double_norms, COUNT(double_norms), err));
    }
    for (int i = 0; i < dit->config.num_single_layers; i++) {
        dd_flux_single *block = &dit->singles[i];
        snprintf(prefix, sizeof prefix, "single_transformer_blocks.%d", i);
        DD_TRY(walk_modulation(v, &block->modulation, block->modulation_name, err));
        DD_TRY(walk_linears(v, block, prefix, single_linears, COUNT(single_linears), err));
        DD_TRY(walk_norms(v, block, prefix, single_norms, COUNT(single_norms), err));
    }
    DD_TRY(walk_modulation(v, &dit->norm_out, "norm_out.linear", err));
    return v->linear(v->user, base->deembed, &base->deembed_at, "proj_out", err);
}

static void free_linears(dd_flux_dit *dit, void *block, const linear_row *rows, int count) {
    for (int i = 0; i < count; i++)
        dd_op_weight_free(dit->backend, ((dd_flux_linear *)((char *)block + rows[i].field))->w);
}

void dd_flux_weights_free(dd_flux_dit *dit) {
    dd_backend *b = dit->backend;
    for (int i = 0; dit->doubles && i < dit->config.num_layers; i++) {
        free_linears(dit, &dit->doubles[i], double_linears, COUNT(double_linears));
        dd_op_weight_free(b, dit->doubles[i].image.modulation.w);
        dd_op_weight_free(b, dit->doubles[i].text.modulation.w);
    }
    for (int i = 0; dit->singles && i < dit->config.num_single_layers; i++) {
        free_linears(dit, &dit->singles[i], single_linears, COUNT(single_linears));
        dd_op_weight_free(b, dit->singles[i].modulation.w);
    }
    dd_op_weight_free(b, dit->norm_out.w);
    dd_weight *others[] = {dit->patch[0].embed, dit->patch[0].deembed, dit->text_in,     dit->time.in,   dit->time.out,
                           dit->guidance.in,    dit->guidance.out,     dit->pooled.in,   dit->pooled.out};
    for (int i = 0; i < COUNT(others); i++) dd_op_weight_free(b, others[i]);
    dd_op_free(b, dit->vectors);
    dd_free(b->allocator, dit->prepared);
}
