/* The memory of a run, item by item, before anything is prepared. Three phases follow each other; the run needs the largest. */
#include <string.h>

#include "pipeline/inspect.h"
#include "text/clip_encoder.h"
#include "text/t5_encoder.h"
#include "vae/flux_vae.h"

enum {
    ENCODE = 1, DENOISE = 2, DECODE = 4, ALWAYS = 7, PHASES = 3,
    PROGRAM_BYTES = 16 << 20,  /* code of the program and of its libraries that is touched, stacks, small things */
    TILE_ROWS = 128,           /* rows of x that a thread lays out for a matrix product, at most */
    SLICE_BYTES = 512 << 10,   /* scores and tiles of a thread in attention, about */
};

static const char *const phase_names[PHASES] = {"encode", "denoise", "decode"};

typedef struct tally {
    json_t *items;
    uint64_t phase[PHASES];
} tally;

static void item(tally *t, const char *name, uint64_t bytes, int when) {
    if (bytes == 0) return;
    json_t *phases = json_array();
    for (int p = 0; p < PHASES; p++) {
        if (!(when & 1 << p)) continue;
        t->phase[p] += bytes;
        json_array_append_new(phases, json_string(phase_names[p]));
    }
    json_array_append_new(t->items, json_pack("{s:s,s:I,s:o}", "name", name, "bytes", (json_int_t)bytes, "phases", phases));
}

/* ---------------------------------------------------------------------------------------------- weights */

static bool is_modulation(const char *name) { return strstr(name, "norm") && strstr(name, ".linear."); }

static bool is_full_precision(const char *name) { return strncmp(name, "time_text_embed.", 16) == 0; }

uint64_t dd_inspect_prepared_bytes(const dd_weight_files *files, dd_dtype activation) {
    uint64_t sum = 0, act = activation == DD_DTYPE_F32 ? 4 : 2;
    for (size_t i = 0; i < dd_weight_files_count(files); i++) {
        const dd_tensor_entry *entry = dd_weight_files_at(files, i);
        if (is_modulation(entry->name)) continue;
        sum += entry->count * (entry->rank < 2 || is_full_precision(entry->name) ? 4 : act);
    }
    return sum;
}

uint64_t dd_inspect_adapter_bytes(const dd_adapter *adapter, dd_dtype activation) {
    uint64_t sum = 0, act = activation == DD_DTYPE_F32 ? 4 : 2;
    for (size_t i = 0; i < dd_safetensors_count(adapter->file); i++) {
        const dd_tensor_entry *entry = dd_safetensors_at(adapter->file, i);
        sum += entry->count * (entry->rank < 2 ? 4 : act);
    }
    return sum;
}

/* ---------------------------------------------------------------------------------------------- items */

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* What the backend holds for a moment or for itself: keys and values laid out for attention, tiles of the threads. */
static uint64_t scratch_bytes(const ddit_model *m, const dd_settings *s, uint64_t act) {
    const dd_flux_config *c = &m->config.transformer;
    uint64_t cells = (uint64_t)(s->latent_height / c->patch) * (uint64_t)(s->latent_width / c->patch);
    uint64_t rows = cells + (uint64_t)s->max_sequence_length, depth = (uint64_t)(c->hidden + c->mlp_hidden);
    uint64_t per_thread = SLICE_BYTES + TILE_ROWS * depth * act;
    return 2 * rows * (uint64_t)c->hidden * act + (uint64_t)m->context->backend->threads * per_thread;
}

static void encode_items(tally *t, const ddit_model *m, const dd_settings *s, uint64_t branches) {
    dd_dtype act = m->context->backend->activation;
    dd_part_bytes clip = dd_clip_encoder_bytes(&m->config.clip, act);
    dd_part_bytes t5 = dd_t5_encoder_bytes(&m->config.t5, s->max_sequence_length, act);
    uint64_t text = (uint64_t)s->max_sequence_length * (uint64_t)m->config.t5.d_model + (uint64_t)m->config.clip.hidden_size;
    bool t5_larger = t5.weights + t5.activations >= clip.weights + clip.activations; /* they are loaded one after the other */
    item(t, t5_larger ? "T5 weights (freed after encoding)" : "CLIP weights (freed after encoding)",
         t5_larger ? t5.weights : clip.weights, ENCODE);
    item(t, t5_larger ? "T5 activations" : "CLIP activations", t5_larger ? t5.activations : clip.activations, ENCODE);
    item(t, "prompt embeddings", branches * text * sizeof(float), ENCODE | DENOISE);
}

static void denoise_items(tally *t, const ddit_model *m, const dd_settings *s) {
    dd_dtype act = m->context->backend->activation;
    dd_sampler_params params = dd_settings_sampler(s, m);
    dd_sampler_bytes bytes = dd_sampler_measure(&m->config.transformer, act, &params);
    uint64_t text = (uint64_t)s->max_sequence_length * (uint64_t)m->config.t5.d_model;
    item(t, "transformer activations", bytes.run.activations, DENOISE | DECODE);
    item(t, "modulation tables", bytes.run.tables, DENOISE | DECODE);
    item(t, "one modulation weight (while preparing)", larger(bytes.run.condition, 2 * text * sizeof(float)), DENOISE);
    item(t, "latents", bytes.latents, DENOISE | DECODE);
    item(t, "latents and velocities kept (--save-steps)", bytes.kept, DENOISE | DECODE);
    item(t, "scratch of matrix products and attention", scratch_bytes(m, s, act == DD_DTYPE_F32 ? 4 : 2), DENOISE | DECODE);
}

static void decode_items(tally *t, const ddit_model *m, const dd_settings *s) {
    dd_part_bytes vae = dd_flux_vae_bytes(&m->config.vae, s->latent_height, s->latent_width, m->context->backend->activation);
    item(t, "autoencoder weights", vae.weights, DECODE);
    item(t, "autoencoder activations", vae.activations, DECODE);
    item(t, "picture", (uint64_t)s->width * (uint64_t)s->height * 3, DECODE);
}

json_t *dd_inspect_memory(const ddit_model *m, const dd_settings *s, uint64_t weights, uint64_t adapter) {
    tally t = {.items = json_array()};
    int branches = s->cfg_scale > 1 ? 2 : 1, peak = 0;
    uint64_t noise = (uint64_t)m->config.transformer.latent_channels * (uint64_t)s->latent_height * (uint64_t)s->latent_width;
    item(&t, "program and libraries (about)", PROGRAM_BYTES, ALWAYS);
    item(&t, "transformer weights", weights, ALWAYS);
    item(&t, "adapter weights", adapter, ALWAYS);
    item(&t, "noise", noise * sizeof(float), ALWAYS);
    encode_items(&t, m, s, (uint64_t)branches);
    denoise_items(&t, m, s);
    decode_items(&t, m, s);
    for (int p = 1; p < PHASES; p++)
        if (t.phase[p] > t.phase[peak]) peak = p;
    json_t *phases = json_object();
    for (int p = 0; p < PHASES; p++) json_object_set_new(phases, phase_names[p], json_integer((json_int_t)t.phase[p]));
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:s,s:o,s:o,s:s,s:I}", "width", s->width, "height", s->height, "steps", s->steps,
                     "text_tokens", s->max_sequence_length, "branches", branches, "device", m->context->device,
                     "items", t.items, "phases", phases, "peak_phase", phase_names[peak], "total", (json_int_t)t.phase[peak]);
}
