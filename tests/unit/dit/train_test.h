/* The tiny FLUX transformer of tests/golden opened for training, with a trainee, a batch and a lane. */
#ifndef DD_TEST_TRAIN_TEST_H
#define DD_TEST_TRAIN_TEST_H

#include "dit/flux_train.h"
#include "op/op_grad.h"
#include "unit/dit/dit_test.h"

typedef struct tiny_trainee {
    dd_test_allocator memory;
    dd_backend *b;
    dd_model_folder config;
    dd_weight_files *files;
    dd_flux_dit *dit;
    dd_flux_trainee *trainee;
    dd_flux_batch *batch;
    const dd_param_list *params;
    float *values, *gradient; /* host [params->total] */
    float *accumulator;       /* backend memory [params->total] */
} tiny_trainee;

/* model: a folder of tests/golden. */
static inline ddit_status tiny_trainee_open(tiny_trainee *m, tiny_kind kind, const char *model, const dd_train_options *options,
                                            int samples, int text_tokens, ddit_err *err) {
    char folder[64], transformer[80];
    snprintf(folder, sizeof folder, "tests/golden/%s", model);
    snprintf(transformer, sizeof transformer, "%s/transformer", folder);
    *m = (tiny_trainee){0};
    dd_test_allocator_init(&m->memory);
    const dd_allocator *a = &m->memory.allocator;
    DD_TRY(dd_backend_open(&m->b, kind.name, kind.precision, 2, a, err));
    DD_TRY(dd_model_folder_read(&m->config, a, folder, err));
    DD_TRY(dd_weight_files_open(&m->files, a, transformer, err));
    DD_TRY(dd_flux_dit_open_trainable(&m->dit, m->b, &m->config.transformer, m->files, options->scope == DD_TRAIN_ALL, err));
    DD_TRY(dd_flux_trainee_create(&m->trainee, m->dit, options, err));
    DD_TRY(dd_flux_batch_create(&m->batch, m->trainee, samples, text_tokens, err));
    m->params = dd_flux_trainee_params(m->trainee);
    size_t total = (size_t)m->params->total;
    m->values = calloc(total, sizeof(float));
    m->gradient = calloc(total, sizeof(float));
    DD_TRY(dd_op_alloc(m->b, (void **)&m->accumulator, total * sizeof(float), "a gradient", err));
    return dd_op_upload(m->b, m->accumulator, m->gradient, total * sizeof(float), err);
}

/* false if memory of the allocator is still held. */
static inline bool tiny_trainee_close(tiny_trainee *m) {
    free(m->values);
    free(m->gradient);
    if (m->b) dd_op_free(m->b, m->accumulator);
    dd_flux_batch_free(m->batch);
    dd_flux_trainee_free(m->trainee);
    dd_flux_dit_close(m->dit);
    dd_weight_files_close(m->files);
    dd_backend_close(m->b);
    return m->memory.live == 0;
}

/* Whether this kind computes backward passes; a case over several kinds passes over the others. */
static inline bool tiny_can_train(tiny_kind kind) {
    dd_backend *b;
    if (dd_backend_open(&b, kind.name, kind.precision, 1, &dd_allocator_libc, NULL) != DDIT_OK) return false;
    bool can = b->ops->grad && b->ops->grad->input && b->ops->grad->attention && b->ops->weight_update;
    dd_backend_close(b);
    return can;
}

typedef struct golden {
    dd_safetensors *file;
    const char *model, *adapter, *folder; /* folder: of tests/golden, where the adapter lies */
    bool all;
    float sigma, guidance;
    double loss;
    int text_tokens, h, w;
    size_t count;
    float *latent, *target, *text, *pooled, *velocity;
} golden;

static inline float *values_of(const dd_safetensors *file, const char *name, ddit_err *err) {
    const dd_tensor_entry *entry = dd_safetensors_find(file, name);
    float *values = malloc(entry->count * sizeof *values);
    dd_tensor_entry_to_f32(entry, values, err);
    return values;
}

static inline ddit_status golden_open(golden *g, int index, ddit_err *err) {
    char path[96];
    snprintf(path, sizeof path, "tests/golden/train/grad_%02d.safetensors", index);
    *g = (golden){0};
    DD_TRY(dd_safetensors_open(&g->file, &dd_allocator_libc, path, err));
    const dd_tensor_entry *latent = dd_safetensors_find(g->file, "latent");
    g->model = dd_safetensors_metadata(g->file, "model");
    g->folder = dd_safetensors_metadata(g->file, "folder");
    g->adapter = dd_safetensors_metadata(g->file, "adapter");
    g->all = strcmp(g->adapter, "all") == 0;
    g->sigma = strtof(dd_safetensors_metadata(g->file, "sigma"), NULL);
    g->guidance = strtof(dd_safetensors_metadata(g->file, "guidance"), NULL);
    g->loss = strtod(dd_safetensors_metadata(g->file, "loss"), NULL);
    g->text_tokens = (int)dd_safetensors_find(g->file, "t5")->shape[0];
    g->h = (int)latent->shape[1];
    g->w = (int)latent->shape[2];
    g->count = latent->count;
    g->latent = values_of(g->file, "latent", err);
    g->target = values_of(g->file, "target", err);
    g->text = values_of(g->file, "t5", err);
    g->pooled = values_of(g->file, "pooled", err);
    g->velocity = values_of(g->file, "velocity", err);
    return DDIT_OK;
}

static inline void golden_close(golden *g) {
    free(g->latent);
    free(g->target);
    free(g->text);
    free(g->pooled);
    free(g->velocity);
    dd_safetensors_close(g->file);
}

/* The options that an adapter file was trained with, and its values where it has any. */
static inline ddit_status adapter_options(const golden *g, dd_train_options *o, dd_adapter *adapter, ddit_err *err) {
    char path[96];
    snprintf(path, sizeof path, "tests/golden/%s/%s.safetensors", g->folder, g->adapter);
    DD_TRY(dd_adapter_open(adapter, &dd_allocator_libc, path, err));
    *o = (dd_train_options){.scope = DD_TRAIN_ADAPTER, .rank = adapter->rank, .alpha = adapter->alpha,
                            .lora_targets = DD_LORA_ALL, .residual_linear = adapter->residual_linear,
                            .residual_hf = adapter->residual_hf};
    for (int f = 1; f < DD_FACTOR_COUNT; f++) o->factor[f] = adapter->factor[f].present;
    return DDIT_OK;
}

/* m with the golden's adapter, or all of the transformer, its values in the weights. */
static inline ddit_status open_for(tiny_trainee *m, tiny_kind kind, const golden *g, int samples, ddit_err *err) {
    dd_train_options options = {.scope = DD_TRAIN_ALL};
    dd_adapter adapter = {0};
    ddit_status status;
    if (!g->all) DD_TRY(adapter_options(g, &options, &adapter, err));
    DD_GO(tiny_trainee_open(m, kind, g->model, &options, samples, g->text_tokens, err));
    DD_GO(g->all ? dd_flux_trainee_start(m->trainee, 0, m->values, err)
                 : dd_param_list_read(m->params, adapter.file, m->values, err));
    DD_GO(dd_flux_trainee_update(m->trainee, m->values, err));
done:
    if (adapter.file) dd_adapter_close(&adapter);
    return status;
}

static inline ddit_status layout_of(dd_layout *layout, const golden *g, ddit_err *err) {
    const char *text = dd_safetensors_metadata(g->file, "layout");
    DD_TRY(dd_layout_init(layout, &dd_allocator_libc, (dd_grid){g->h / 2, g->w / 2, 2}, err));
    if (strncmp(text, "uniform ", 8) == 0) {
        dd_layout_set_uniform(layout, atoi(text + 8));
        return DDIT_OK;
    }
    return dd_layout_set_string(layout, text, err);
}

/* The sample at `index`: its loss, and the gradient added to `gradient`. */
static inline ddit_status one_sample(dd_flux_lane *lane, dd_flux_batch *batch, int index, const golden *g, float *gradient,
                              float *velocity, double *loss, ddit_err *err) {
    dd_layout layout;
    float *d = malloc(g->count * sizeof *d);
    ddit_status status;
    DD_GO(layout_of(&layout, g, err));
    DD_GO(dd_flux_lane_forward(lane, batch, index, g->sigma, &layout, g->latent, velocity, err));
    *loss = 0;
    for (size_t i = 0; i < g->count; i++) {
        double off = (double)velocity[i] - g->target[i];
        *loss += off * off / (double)g->count;
        d[i] = (float)(2 * off / (double)g->count);
    }
    dd_layout_deinit(&layout); /* the lane remembers what it needs */
    DD_GO(dd_flux_lane_backward(lane, d, gradient, err));
done:
    free(d);
    return status;
}

#endif
