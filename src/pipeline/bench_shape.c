/* Random weights of FLUX's shape: one double and one single block with everything around them, and an adapter. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/safetensors_write.h"
#include "pipeline/bench.h"

enum { MAX_ITEMS = 96, NAME_SIZE = 128, PART_SIZE = 64, PERIOD = 1 << 20, RANK = 32, TIME_WIDTH = 256, PATH_SIZE = 512 };

/* A file that is being put together. All tensors show the same random numbers: only their number counts here. */
typedef struct file_maker {
    dd_safetensors_item items[MAX_ITEMS];
    char names[MAX_ITEMS][NAME_SIZE];
    int count;
    const uint16_t *random;
} file_maker;

static void tensor(file_maker *m, const char *prefix, const char *name, int rank, int64_t a, int64_t b, int64_t c, int64_t d) {
    if (m->count >= MAX_ITEMS) return;
    char *full = m->names[m->count];
    snprintf(full, NAME_SIZE, "%s%s", prefix, name);
    m->items[m->count++] = (dd_safetensors_item){.name = full, .dtype = DD_DTYPE_BF16, .rank = rank, .shape = {a, b, c, d},
                                                 .data = m->random};
}

static void linear(file_maker *m, const char *prefix, const char *name, int64_t out, int64_t in) {
    char full[PART_SIZE + 8];
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(m, prefix, full, 2, out, in, 0, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(m, prefix, full, 1, out, 0, 0, 0);
}

static void embedder(file_maker *m, const char *name, int64_t in, int64_t d) {
    char prefix[PART_SIZE - 16];
    snprintf(prefix, sizeof prefix, "time_text_embed.%s.", name);
    linear(m, prefix, "linear_1", d, in);
    linear(m, prefix, "linear_2", d, d);
}

static void double_block(file_maker *m, const dd_flux_config *c) {
    static const char *const square[] = {"attn.to_q",       "attn.to_k",       "attn.to_v",       "attn.to_out.0",
                                         "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"};
    static const char *const norms[] = {"attn.norm_q.weight", "attn.norm_k.weight", "attn.norm_added_q.weight",
                                        "attn.norm_added_k.weight"};
    static const char *const streams[] = {"ff", "ff_context"};
    const char *prefix = "transformer_blocks.0.";
    int64_t d = c->hidden;
    char name[PART_SIZE];
    for (size_t i = 0; i < sizeof square / sizeof *square; i++) linear(m, prefix, square[i], d, d);
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) tensor(m, prefix, norms[i], 1, c->attention_head_dim, 0, 0, 0);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.net.0.proj", streams[i]);
        linear(m, prefix, name, c->mlp_hidden, d);
        snprintf(name, sizeof name, "%s.net.2", streams[i]);
        linear(m, prefix, name, d, c->mlp_hidden);
    }
    linear(m, prefix, "norm1.linear", 6 * d, d);
    linear(m, prefix, "norm1_context.linear", 6 * d, d);
}

static void single_block(file_maker *m, const dd_flux_config *c) {
    const char *prefix = "single_transformer_blocks.0.";
    int64_t d = c->hidden;
    linear(m, prefix, "attn.to_q", d, d);
    linear(m, prefix, "attn.to_k", d, d);
    linear(m, prefix, "attn.to_v", d, d);
    linear(m, prefix, "proj_mlp", c->mlp_hidden, d);
    linear(m, prefix, "proj_out", d, d + c->mlp_hidden);
    linear(m, prefix, "norm.linear", 3 * d, d);
    tensor(m, prefix, "attn.norm_q.weight", 1, c->attention_head_dim, 0, 0, 0);
    tensor(m, prefix, "attn.norm_k.weight", 1, c->attention_head_dim, 0, 0, 0);
}

static void transformer(file_maker *m, const dd_flux_config *c) {
    int64_t d = c->hidden;
    linear(m, "", "x_embedder", d, c->in_channels);
    linear(m, "", "context_embedder", d, c->joint_attention_dim);
    linear(m, "", "proj_out", c->out_channels, d);
    linear(m, "", "norm_out.linear", 2 * d, d);
    embedder(m, "timestep_embedder", TIME_WIDTH, d);
    embedder(m, "guidance_embedder", TIME_WIDTH, d);
    embedder(m, "text_embedder", c->pooled_projection_dim, d);
    double_block(m, c);
    single_block(m, c);
}

static void lora(file_maker *m, const char *prefix, const char *module, int64_t out, int64_t in) {
    char name[PART_SIZE];
    snprintf(name, sizeof name, "lora.%s.A", module);
    tensor(m, prefix, name, 2, RANK, in, 0, 0);
    snprintf(name, sizeof name, "lora.%s.B", module);
    tensor(m, prefix, name, 2, out, RANK, 0, 0);
}

static void adapter_factor(file_maker *m, const dd_flux_config *c, int factor) {
    char prefix[16];
    int64_t d = c->hidden, channels = c->latent_channels, n = (int64_t)c->patch * factor;
    snprintf(prefix, sizeof prefix, "ddit.x%d.", factor);
    tensor(m, prefix, "embed.weight", 4, d, channels, n, n);
    tensor(m, prefix, "embed.bias", 1, d, 0, 0, 0);
    tensor(m, prefix, "deembed.weight", 4, channels, n, n, d);
    tensor(m, prefix, "deembed.bias", 3, channels, n, n, 0);
    tensor(m, prefix, "id", 1, d, 0, 0, 0);
    lora(m, prefix, "transformer_blocks.0.ff.net.0.proj", c->mlp_hidden, d);
    lora(m, prefix, "transformer_blocks.0.ff.net.2", d, c->mlp_hidden);
    lora(m, prefix, "transformer_blocks.0.ff_context.net.0.proj", c->mlp_hidden, d);
    lora(m, prefix, "transformer_blocks.0.ff_context.net.2", d, c->mlp_hidden);
    lora(m, prefix, "single_transformer_blocks.0.proj_mlp", c->mlp_hidden, d);
    lora(m, prefix, "single_transformer_blocks.0.proj_out", d, d + c->mlp_hidden);
}

/* ---------------------------------------------------------------------------------------------- files */

/* Uniform numbers of variance 1/width, so that every product keeps the size of its input. */
static ddit_status random_values(const dd_allocator *a, uint16_t **out, size_t count, int width, ddit_err *err) {
    uint64_t state = 0x9E3779B97F4A7C15u;
    float scale = 2.0f * sqrtf(3.0f / (float)width);
    DD_TRY(dd_alloc_raw(a, out, count, sizeof **out, "random weights", err));
    for (size_t i = 0; i < count && i < PERIOD; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        (*out)[i] = dd_bf16_from_f32(((float)(state >> 40) / (float)(1 << 24) - 0.5f) * scale);
    }
    for (size_t i = PERIOD; i < count; i += PERIOD)
        memcpy(*out + i, *out, (count - i < PERIOD ? count - i : PERIOD) * sizeof **out);
    return DDIT_OK;
}

static ddit_status write_model(file_maker *m, const dd_allocator *a, const char *path, const dd_flux_config *c, ddit_err *err) {
    m->count = 0;
    transformer(m, c);
    return dd_safetensors_write(a, path, m->items, (size_t)m->count, NULL, 0, err);
}

static ddit_status write_adapter(file_maker *m, const dd_allocator *a, const char *path, const dd_flux_config *c,
                                 ddit_err *err) {
    static const dd_safetensors_pair pairs[] = {{"format", "ddit-adapter"}, {"version", "1"}, {"arch", "flux"},
                                                {"residual", "none"}};
    m->count = 0;
    adapter_factor(m, c, 2);
    adapter_factor(m, c, 4);
    return dd_safetensors_write(a, path, m->items, (size_t)m->count, pairs, sizeof pairs / sizeof *pairs, err);
}

static ddit_status make_files(dd_bench_shape *shape, const dd_allocator *a, file_maker *m, const char *folder, ddit_err *err) {
    char model[PATH_SIZE + 32], adapter[PATH_SIZE + 32];
    snprintf(model, sizeof model, "%s/model.safetensors", folder);
    snprintf(adapter, sizeof adapter, "%s/adapter.safetensors", folder);
    ddit_status status = write_model(m, a, model, &shape->config, err);
    if (status == DDIT_OK) status = write_adapter(m, a, adapter, &shape->config, err);
    if (status == DDIT_OK) status = dd_weight_files_open(&shape->files, a, model, err);
    if (status == DDIT_OK) status = dd_adapter_open(&shape->adapter, a, adapter, err);
    if (status == DDIT_OK) status = dd_adapter_check(&shape->adapter, &shape->config, err);
    unlink(model);
    unlink(adapter);
    return status;
}

static ddit_status make_in_folder(dd_bench_shape *shape, const dd_allocator *a, file_maker *m, ddit_err *err) {
    const char *root = getenv("TMPDIR");
    char folder[PATH_SIZE];
    int length = snprintf(folder, sizeof folder, "%s/ddit-bench-XXXXXX", root && *root ? root : "/tmp");
    if (length < 0 || (size_t)length >= sizeof folder) return dd_fail(err, DDIT_ERR_ARGUMENT, "$TMPDIR is too long");
    if (!mkdtemp(folder))
        return dd_fail(err, DDIT_ERR_WRITE, "%s: no temporary folder can be made: %s; set $TMPDIR", folder, strerror(errno));
    ddit_status status = make_files(shape, a, m, folder, err);
    rmdir(folder);
    return status;
}

/* ---------------------------------------------------------------------------------------------- shapes */

static bool find_shape(dd_bench_shape *shape, const char *name) {
    static const struct { const char *name; int head, heads, text_width, pooled_width, axes[3], text_tokens; } known[] = {
        {"flux-dev", 128, 24, 4096, 768, {16, 56, 56}, 512}, {"emoji", 64, 4, 256, 256, {8, 28, 28}, 24}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) != 0) continue;
        int d = known[i].head * known[i].heads;
        shape->text_tokens = known[i].text_tokens;
        shape->config = (dd_flux_config){
            .in_channels = 64, .out_channels = 64, .num_layers = 1, .num_single_layers = 1, .attention_head_dim = known[i].head,
            .num_attention_heads = known[i].heads, .joint_attention_dim = known[i].text_width,
            .pooled_projection_dim = known[i].pooled_width, .guidance_embeds = true, .hidden = d, .mlp_hidden = 4 * d,
            .patch = 2, .latent_channels = 16};
        memcpy(shape->config.axes_dims_rope, known[i].axes, sizeof known[i].axes);
        return true;
    }
    return false;
}

ddit_status dd_bench_shape_make(dd_bench_shape *shape, const dd_allocator *a, const char *name, ddit_err *err) {
    file_maker *m = NULL;
    uint16_t *random = NULL;
    ddit_status status;
    *shape = (dd_bench_shape){0};
    if (!find_shape(shape, name)) return dd_fail(err, DDIT_ERR_ARGUMENT, "shape \"%s\": expected flux-dev or emoji", name);
    size_t d = (size_t)shape->config.hidden;
    /* the largest tensor: modulation, or an embedding */
    DD_GO(random_values(a, &random, 6 * d * d + 64 * 16 * d, (int)d, err));
    DD_GO(dd_alloc(a, &m, 1, sizeof *m, "names of random weights", err));
    m->random = random;
    DD_GO(make_in_folder(shape, a, m, err));
done:
    dd_free(a, m);
    dd_free(a, random);
    if (status != DDIT_OK) dd_bench_shape_free(shape);
    return status;
}

void dd_bench_shape_free(dd_bench_shape *shape) {
    dd_adapter_close(&shape->adapter);
    dd_weight_files_close(shape->files);
    *shape = (dd_bench_shape){0};
}
