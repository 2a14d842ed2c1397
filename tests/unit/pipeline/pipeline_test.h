/* Contexts, models and scratch files for the tests of the public interface. */
#ifndef DD_TEST_PIPELINE_TEST_H
#define DD_TEST_PIPELINE_TEST_H

#include <jansson.h>
#include <unistd.h>

#include "harness.h"
#include "pipeline/pipeline.h"

#define TINY_MODEL "tests/golden/flux_head32"
#define TINY_ADAPTER "tests/golden/adapter/adapter.safetensors"

typedef struct opened {
    dd_test_allocator memory; /* the context's */
    ddit_context *context;
    ddit_model *model;
} opened;

static inline ddit_status open_context(opened *o, const char *backend, const char *precision, int threads, ddit_err *err) {
    ddit_context_params p = ddit_context_params_init();
    *o = (opened){0};
    dd_test_allocator_init(&o->memory);
    p.backend = backend;
    p.precision = precision;
    p.threads = threads;
    p.alloc = o->memory.allocator.alloc;
    p.free = o->memory.allocator.free;
    p.user = &o->memory;
    return ddit_context_create(&o->context, &p, err);
}

static inline ddit_status open_tiny(opened *o, const char *adapter, ddit_err *err) {
    DD_TRY(open_context(o, "cpu", "f32", 1, err));
    return ddit_model_open(&o->model, o->context, TINY_MODEL, adapter, err);
}

/* False if memory is still held. The memory stays readable only until *o moves. */
static inline bool close_all(opened *o) {
    ddit_model_close(o->model);
    ddit_context_free(o->context);
    return o->memory.live == 0;
}

/* 96 x 64, 6 steps, factor 1. */
static inline ddit_params tiny_params(void) {
    ddit_params p = ddit_params_init();
    p.prompt = "red apple";
    p.width = 96;
    p.height = 64;
    p.steps = 6;
    p.seed = 7;
    p.max_sequence_length = 16;
    p.patch = "off";
    return p;
}

/* A scratch folder; removed with what is in it by scratch_remove. */
typedef struct scratch {
    char folder[64], path[128];
} scratch;

static inline scratch scratch_make(void) {
    scratch s = {.folder = "/tmp/ddit-test-XXXXXX"};
    if (!mkdtemp(s.folder)) abort();
    return s;
}

static inline const char *scratch_path(scratch *s, const char *name) {
    snprintf(s->path, sizeof s->path, "%s/%s", s->folder, name);
    return s->path;
}

static inline void scratch_write(scratch *s, const char *name, const char *text) {
    FILE *file = fopen(scratch_path(s, name), "wb");
    fwrite(text, 1, strlen(text), file);
    fclose(file);
}

static inline void scratch_remove(scratch *s, const char *const *names, int count) {
    for (int i = 0; i < count; i++) unlink(scratch_path(s, names[i]));
    if (rmdir(s->folder) != 0) printf("  %s is not empty\n", s->folder); /* something half written was left */
}

/* The session's trace, parsed; the caller releases it with json_decref. NULL on failure. */
static inline json_t *trace_of(ddit_session *s) {
    const char *text;
    if (ddit_session_trace(s, &text, NULL) != DDIT_OK) return NULL;
    return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
}

static inline size_t latent_count(const ddit_session *s) {
    const dd_settings *v = &s->settings;
    return (size_t)s->model->config.transformer.latent_channels * (size_t)v->latent_height * (size_t)v->latent_width;
}

static inline bool same_latent(const ddit_session *a, const ddit_session *b) {
    return memcmp(dd_sampler_latent(a->sampler).data, dd_sampler_latent(b->sampler).data, latent_count(a) * sizeof(float)) == 0;
}

#endif
