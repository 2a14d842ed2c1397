#include "ops/op_golden.h"

bool golden_begin(golden *g, dd_test *t, const char *file, const char *family) {
    *g = (golden){.t = t, .family = family};
    char path[128];
    snprintf(path, sizeof path, "tests/golden/ops/%s", file);
    ddit_status status = dd_safetensors_open(&g->file, &dd_allocator_libc, path, &t->err);
    if (status == DDIT_OK) status = dd_ref_open(&g->b, &dd_allocator_libc, &t->err);
    if (status != DDIT_OK) dd_test_fail(t, __FILE__, __LINE__, "%s", t->err.text);
    return status == DDIT_OK;
}

void golden_end(golden *g) {
    for (int i = 0; i < g->count; i++) free(g->copies[i]);
    dd_backend_close(g->b);
    dd_safetensors_close(g->file);
}

/* Memory for a view of this shape, aligned. */
static dd_tensor *add(golden *g, dd_tensor like) {
    size_t bytes = (size_t)(dd_tensor_row_count(&like) * like.ld) * 4;
    float *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory || g->count == GOLDEN_MAX) exit(1);
    memset(memory, 0xff, bytes);
    like.data = g->copies[g->count] = memory;
    g->views[g->count] = like;
    return &g->views[g->count++];
}

dd_tensor *golden_get(golden *g, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%s.%s", g->family, name);
    const dd_tensor_entry *entry = dd_safetensors_find(g->file, full);
    if (!entry) {
        fprintf(stderr, "golden tensor %s is missing\n", full);
        exit(1);
    }
    dd_tensor like = {.dtype = entry->dtype, .rank = entry->rank, .ld = entry->shape[entry->rank - 1]};
    for (int i = 0; i < entry->rank; i++) like.shape[i] = entry->shape[i];
    dd_tensor *v = add(g, like);
    memcpy(v->data, entry->data, (size_t)entry->bytes);
    return v;
}

dd_tensor *golden_blank(golden *g, const dd_tensor *like) { return add(g, *like); }

dd_tensor *golden_zeros(golden *g, const dd_tensor *like) {
    dd_tensor *v = add(g, *like);
    memset(v->data, 0, (size_t)(dd_tensor_row_count(v) * v->ld) * 4);
    return v;
}

void golden_same(golden *g, const dd_tensor *y, const char *name, double bound) {
    const dd_tensor *expected = golden_get(g, name);
    size_t count = (size_t)(dd_tensor_row_count(expected) * expected->ld);
    double error = dd_test_rel_l2(y->data, expected->data, count);
    if (!(error <= bound))
        dd_test_fail(g->t, __FILE__, __LINE__, "%s.%s: relative error %.3g, bound %.3g", g->family, name, error, bound);
    if (getenv("DD_TEST_VERBOSE")) printf("     %s.%s: %.3g of %.3g\n", g->family, name, error, bound);
}

dd_weight *golden_weight(golden *g, const char *name, const dd_tensor *bias) {
    const dd_tensor *v = golden_get(g, name);
    dd_weight_desc desc = {.name = name, .kind = v->rank == 4 ? DD_WEIGHT_CONV2D : DD_WEIGHT_LINEAR, .dtype = DD_DTYPE_F32,
                           .out = v->shape[0], .in = v->shape[1], .kh = (int)v->shape[2], .kw = (int)v->shape[3],
                           .data = v->data, .bias = bias ? bias->data : NULL, .bias_dtype = DD_DTYPE_F32,
                           .uses = DD_WEIGHT_FORWARD | DD_WEIGHT_INPUT_GRADIENT};
    dd_weight *w = NULL;
    DD_OK(g->t, dd_op_weight_prepare(g->b, &w, &desc, &g->t->err));
    return w;
}
