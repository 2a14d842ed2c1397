/* The tiny FLUX transformer of tests/golden on one backend, for tests of dit and sample. Everything it holds comes from a
 * counting allocator. */
#ifndef DD_TEST_DIT_TEST_H
#define DD_TEST_DIT_TEST_H

#include "backend/registry.h"
#include "format/config.h"
#include "harness.h"
#include "dit/flux_dit.h"

/* Backends under test; bf16 is skipped where the processor lacks it. */
typedef struct tiny_kind {
    const char *name;
    dd_precision precision;
} tiny_kind;

static const tiny_kind tiny_kinds[] = {{"ref", DD_PRECISION_F32}, {"cpu", DD_PRECISION_F32}, {"cpu", DD_PRECISION_BF16}};
enum { TINY_KINDS = 3, TINY_TEXT = 24 };

typedef struct tiny_model {
    dd_test_allocator memory;
    dd_backend *b;
    dd_model_folder config;
    dd_weight_files *files;
    dd_flux_dit *dit;
    dd_adapter adapter;
    float *text[2], *pooled[2]; /* two prompts: random embeddings */
} tiny_model;

static inline ddit_status tiny_adapter(tiny_model *m, const char *adapter, ddit_err *err) {
    char path[160];
    snprintf(path, sizeof path, "tests/golden/adapter/%s.safetensors", adapter);
    DD_TRY(dd_adapter_open(&m->adapter, &m->memory.allocator, path, err));
    DD_TRY(dd_adapter_check(&m->adapter, &m->config.transformer, err));
    return dd_flux_dit_add_adapter(m->dit, &m->adapter, err);
}

/* adapter: a file of tests/golden/adapter, or NULL. */
static inline ddit_status tiny_open(tiny_model *m, tiny_kind kind, const char *adapter, ddit_err *err) {
    const char *folder = "tests/golden/flux_head32";
    *m = (tiny_model){0};
    dd_test_allocator_init(&m->memory);
    DD_TRY(dd_backend_open(&m->b, kind.name, kind.precision, 2, &m->memory.allocator, err));
    DD_TRY(dd_model_folder_read(&m->config, &m->memory.allocator, folder, err));
    DD_TRY(dd_weight_files_open(&m->files, &m->memory.allocator, "tests/golden/flux_head32/transformer", err));
    DD_TRY(dd_flux_dit_open(&m->dit, m->b, &m->config.transformer, m->files, err));
    uint64_t state = 77;
    for (int p = 0; p < 2; p++) {
        size_t text = TINY_TEXT * (size_t)m->config.transformer.joint_attention_dim;
        size_t pooled = (size_t)m->config.transformer.pooled_projection_dim;
        m->text[p] = malloc(text * sizeof(float));
        m->pooled[p] = malloc(pooled * sizeof(float));
        for (size_t i = 0; i < text; i++) m->text[p][i] = dd_test_random(&state);
        for (size_t i = 0; i < pooled; i++) m->pooled[p][i] = dd_test_random(&state);
    }
    return adapter ? tiny_adapter(m, adapter, err) : DDIT_OK;
}

/* Closes everything that was opened; false if memory of the allocator is still held. */
static inline bool tiny_close(tiny_model *m) {
    dd_flux_dit_close(m->dit);
    if (m->adapter.file) dd_adapter_close(&m->adapter);
    dd_weight_files_close(m->files);
    dd_backend_close(m->b);
    for (int p = 0; p < 2; p++) {
        free(m->text[p]);
        free(m->pooled[p]);
    }
    return m->memory.live == 0;
}

/* [16, height, width] values that look like noise: sums of uniform numbers, deviation 1. The caller frees them. */
static inline float *tiny_noise(int height, int width, uint64_t seed) {
    size_t count = 16 * (size_t)height * (size_t)width;
    float *noise = malloc(count * sizeof *noise);
    for (size_t i = 0; i < count; i++) {
        noise[i] = 0;
        for (int k = 0; k < 3; k++) noise[i] += dd_test_random(&seed);
    }
    return noise;
}

/* Whether the processor computes this kind; else the case is marked as skipped in part. */
static inline bool tiny_can_run(tiny_kind kind) {
    dd_backend *b;
    if (dd_backend_open(&b, kind.name, kind.precision, 1, &dd_allocator_libc, NULL) != DDIT_OK) return false;
    dd_backend_close(b);
    return true;
}

#endif
