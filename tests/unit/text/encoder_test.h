/* What the tests of both text encoders share: the models with stored results, and backends with the distance each may have. */
#ifndef DD_TEST_ENCODER_TEST_H
#define DD_TEST_ENCODER_TEST_H

#include "backend/registry.h"
#include "format/weights.h"
#include "harness.h"

enum { PATH_SIZE = 256, MODEL_COUNT = 3 };

/* Tiny pipelines with what transformers computes in float32 (tools/make_tiny_models.py). */
typedef struct golden_model {
    const char *folder;
    int cases;
} golden_model;

static const golden_model golden_models[MODEL_COUNT] = {
    {"tests/golden/flux_head32", 3}, {"tests/golden/flux_head64", 3}, {"tests/golden/flux_head128", 2}};

static inline char *golden_path(char *path, const char *folder, const char *name) {
    snprintf(path, PATH_SIZE, "%s/%s", folder, name);
    return path;
}

/* A backend, and how far its results may be from transformers' float32 (relative L2). float32 sums in another order differ by a
 * few 1e-7. transformers' own bf16 is 4e-3 to 1e-2 away on these cases. */
typedef struct tested_backend {
    const char *name;
    dd_precision precision;
    double bar;
} tested_backend;

static const tested_backend on_ref = {"ref", DD_PRECISION_F32, 1e-5};
static const tested_backend on_cpu_f32 = {"cpu", DD_PRECISION_F32, 1e-5};
static const tested_backend on_cpu_bf16 = {"cpu", DD_PRECISION_BF16, 1e-2};

/* NULL, and the case is skipped or failed, if the backend does not open. */
static inline dd_backend *open_backend(dd_test *t, const tested_backend *b, const dd_allocator *a) {
    dd_backend *backend = NULL;
    ddit_status status = dd_backend_open(&backend, b->name, b->precision, 2, a, &t->err);
    if (status == DDIT_ERR_UNSUPPORTED) dd_test_skip(t, "%s", t->err.text);
    else if (status != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s", t->err.text);
    return backend;
}

/* One stored result: `count` values of `name` in case_`index`.safetensors of the folder, as they lie in the file. */
static inline void *load_golden(dd_test *t, const char *folder, int index, const char *name, size_t *count) {
    char path[PATH_SIZE], file[32];
    snprintf(file, sizeof file, "case_%d.safetensors", index);
    dd_safetensors *golden;
    ddit_status status = dd_safetensors_open(&golden, &dd_allocator_libc, golden_path(path, folder, file), &t->err);
    const dd_tensor_entry *entry = status == DDIT_OK ? dd_safetensors_find(golden, name) : NULL;
    void *copy = entry ? malloc(entry->bytes) : NULL;
    if (copy) {
        memcpy(copy, entry->data, entry->bytes);
        *count = (size_t)entry->count;
    } else {
        dd_test_fail(t, __FILE__, __LINE__, "%s of %s cannot be read: %s", name, path, t->err.text);
    }
    if (status == DDIT_OK) dd_safetensors_close(golden);
    return copy;
}

#endif
