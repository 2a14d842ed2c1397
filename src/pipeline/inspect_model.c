/* What a model folder holds: its parts with their dimensions, the adapter, the defaults and the memory of a run. */
#include <math.h>
#include <string.h>

#include "pipeline/inspect.h"

static void set(json_t *object, const char *key, int64_t value) {
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static json_t *transformer_json(const dd_flux_config *c) {
    json_t *d = json_object();
    set(d, "double_blocks", c->num_layers);
    set(d, "single_blocks", c->num_single_layers);
    set(d, "hidden", c->hidden);
    set(d, "mlp_hidden", c->mlp_hidden);
    set(d, "heads", c->num_attention_heads);
    set(d, "head_size", c->attention_head_dim);
    set(d, "patch", c->patch);
    set(d, "latent_channels", c->latent_channels);
    set(d, "text_width", c->joint_attention_dim);
    set(d, "pooled_width", c->pooled_projection_dim);
    json_object_set_new(d, "guidance", json_boolean(c->guidance_embeds));
    return d;
}

static json_t *t5_json(const dd_t5_config *c) {
    json_t *d = json_object();
    set(d, "layers", c->num_layers);
    set(d, "width", c->d_model);
    set(d, "heads", c->num_heads);
    set(d, "head_size", c->d_kv);
    set(d, "mlp_hidden", c->d_ff);
    set(d, "vocabulary", c->vocab_size);
    return d;
}

static json_t *clip_json(const dd_clip_config *c) {
    json_t *d = json_object();
    set(d, "layers", c->num_hidden_layers);
    set(d, "width", c->hidden_size);
    set(d, "heads", c->num_attention_heads);
    set(d, "mlp_hidden", c->intermediate_size);
    set(d, "vocabulary", c->vocab_size);
    set(d, "positions", c->max_position_embeddings);
    return d;
}

static json_t *vae_json(const dd_vae_config *c) {
    json_t *d = json_object(), *levels = json_array();
    for (int i = 0; i < c->level_count; i++) json_array_append_new(levels, json_integer(c->block_out_channels[i]));
    set(d, "scale", c->scale);
    set(d, "latent_channels", c->latent_channels);
    json_object_set_new(d, "channels", levels);
    set(d, "layers_per_block", c->layers_per_block);
    set(d, "norm_groups", c->norm_num_groups);
    return d;
}

/* {"name", "class", "path", "parameters" ..., "dimensions"}: takes `dimensions`. `files` is closed unless the caller
 * wants it. */
static ddit_status add_part(json_t *parts, const ddit_model *m, const char *name, const char *kind, json_t *dimensions,
                            dd_weight_files **keep, ddit_err *err) {
    dd_weight_files *files = NULL;
    ddit_status status = dd_model_part_open(m, name, &files, err);
    if (status != DDIT_OK) {
        json_decref(dimensions);
        return status;
    }
    json_t *part = json_pack("{s:s,s:s}", "name", name, "class", kind), *counts = dd_inspect_weights(files);
    json_object_update(part, counts);
    json_decref(counts);
    json_object_set_new(part, "dimensions", dimensions);
    json_array_append_new(parts, part);
    if (keep) *keep = files;
    else dd_weight_files_close(files);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- adapter, defaults */

static json_t *adapter_json(const ddit_model *m) {
    if (!m->adapter.file) return json_null();
    json_t *object = dd_inspect_adapter(&m->adapter);
    json_object_set_new(object, "path", json_string(m->adapter_path));
    return object;
}

/* What a run without options does. */
static json_t *defaults_json(const dd_settings *s) {
    json_t *d = json_object();
    set(d, "width", s->width);
    set(d, "height", s->height);
    set(d, "steps", s->steps);
    set(d, "max_sequence_length", s->max_sequence_length);
    json_object_set_new(d, "guidance", json_real((double)s->guidance));
    json_object_set_new(d, "patch", json_string(s->patch));
    json_object_set_new(d, "coarse", json_string(s->coarse_free ? "free" : "adapter"));
    return d;
}

/* ---------------------------------------------------------------------------------------------- the model */

static ddit_status add_parts(json_t *root, const ddit_model *m, uint64_t *prepared, ddit_err *err) {
    json_t *parts = json_array();
    dd_weight_files *files = NULL;
    json_object_set_new(root, "parts", parts);
    DD_TRY(add_part(parts, m, "transformer", "FluxTransformer2DModel", transformer_json(&m->config.transformer), &files, err));
    *prepared = dd_inspect_prepared_bytes(files, m->context->backend->activation);
    dd_weight_files_close(files);
    DD_TRY(add_part(parts, m, "text_encoder", "CLIPTextModel", clip_json(&m->config.clip), NULL, err));
    DD_TRY(add_part(parts, m, "text_encoder_2", "T5EncoderModel", t5_json(&m->config.t5), NULL, err));
    return add_part(parts, m, "vae", "AutoencoderKL", vae_json(&m->config.vae), NULL, err);
}

static ddit_status describe(json_t *root, ddit_model *m, const ddit_params *params, ddit_err *err) {
    const dd_allocator *a = &m->context->allocator;
    dd_settings settings;
    uint64_t prepared = 0;
    ddit_params p = params ? *params : ddit_params_init();
    if (!p.prompt) p.prompt = "";
    DD_TRY(dd_model_folder_read(&m->config, a, m->folder, err));
    DD_TRY(dd_model_adapter_open(m, NULL, err));
    json_object_set_new(root, "name", json_string(m->config.ddit.name));
    json_object_set_new(root, "license", json_string(m->config.ddit.license));
    json_object_set_new(root, "architecture", json_string("FLUX"));
    DD_TRY(add_parts(root, m, &prepared, err));
    json_object_set_new(root, "adapter", adapter_json(m));
    DD_TRY(dd_settings_resolve(&settings, m, &p, err));
    uint64_t adapter = m->adapter.file ? dd_inspect_adapter_bytes(&m->adapter, m->context->backend->activation) : 0;
    json_object_set_new(root, params ? "settings" : "defaults", defaults_json(&settings));
    json_object_set_new(root, "memory", dd_inspect_memory(m, &settings, prepared, adapter));
    dd_settings_deinit(&settings, a);
    return DDIT_OK;
}

ddit_status dd_inspect_model(json_t **out, ddit_context *context, const char *path, const ddit_params *params, ddit_err *err) {
    const dd_allocator *a = &context->allocator;
    ddit_model m = {.context = context};
    json_t *root = json_pack("{s:s,s:i,s:s,s:s}", "format", "ddit-inspect", "version", 1, "kind", "model", "path", path);
    *out = NULL;
    ddit_status status = dd_strdup(a, &m.folder, path, err);
    if (status == DDIT_OK) status = describe(root, &m, params, err);
    dd_adapter_close(&m.adapter);
    dd_free(a, m.adapter_path);
    dd_free(a, m.folder);
    if (status != DDIT_OK) json_decref(root);
    else *out = root;
    return status;
}
