#include "bind/weight_table.h"

#include <inttypes.h>
#include <stdio.h>

enum { NAME_SIZE = 192, ALIGNMENT = 64 };

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static int64_t kernel_values(const dd_weight_field *f) { return f->kind == DD_FIELD_CONV ? (int64_t)f->size * f->size : 1; }

static void count_field(dd_weight_loader *l, const dd_weight_field *f, const int64_t *dims) {
    uint64_t out = (uint64_t)dims[f->out], vector = out * sizeof(float), matrix = 0;
    if (f->kind == DD_FIELD_NORM) {
        l->vector_bytes += aligned(vector) * (f->bias ? 2 : 1);
        if (out > l->largest_vector) l->largest_vector = out;
        return;
    }
    dd_dtype_bytes(l->activation, out * (uint64_t)dims[f->in] * (uint64_t)kernel_values(f), &matrix);
    l->matrix_bytes += matrix + (f->bias ? vector : 0);
}

static ddit_status need(const dd_weight_loader *l, const dd_weight_field *f, const char *prefix, const char *suffix, int rank,
                        const int64_t *shape, const dd_tensor_entry **entry, ddit_err *err) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s%s%s", prefix, f->name, suffix);
    return dd_weight_files_need(l->files, name, rank, shape, entry, err);
}

/* NAME.weight or NAME.bias as float32 into the next free place of the loader's vectors. */
static ddit_status load_vector(dd_weight_loader *l, dd_tensor *vector, const dd_weight_field *f, const char *prefix,
                               const char *suffix, int64_t size, ddit_err *err) {
    const dd_tensor_entry *entry;
    DD_TRY(need(l, f, prefix, suffix, 1, &size, &entry, err));
    DD_TRY(dd_tensor_entry_to_f32(entry, l->staging, err));
    void *place = l->vectors + l->vectors_used;
    DD_TRY(dd_op_upload(l->backend, place, l->staging, (size_t)size * sizeof(float), err));
    l->vectors_used += aligned((uint64_t)size * sizeof(float));
    *vector = dd_tensor_1d(place, DD_DTYPE_F32, size);
    return DDIT_OK;
}

static ddit_status load_norm(dd_weight_loader *l, dd_norm_weights *norm, const dd_weight_field *f, const int64_t *dims,
                             const char *prefix, ddit_err *err) {
    DD_TRY(load_vector(l, &norm->weight, f, prefix, ".weight", dims[f->out], err));
    if (f->bias) DD_TRY(load_vector(l, &norm->bias, f, prefix, ".bias", dims[f->out], err));
    return DDIT_OK;
}

static ddit_status load_matrix(dd_weight_loader *l, dd_weight **w, const dd_weight_field *f, const int64_t *dims,
                               const char *prefix, ddit_err *err) {
    const int64_t shape[4] = {dims[f->out], dims[f->in], f->size, f->size};
    const dd_tensor_entry *weight, *bias = NULL;
    bool conv = f->kind == DD_FIELD_CONV;
    DD_TRY(need(l, f, prefix, ".weight", conv ? 4 : 2, shape, &weight, err));
    if (f->bias) DD_TRY(need(l, f, prefix, ".bias", 1, shape, &bias, err));
    dd_weight_desc desc = {
        .name = weight->name,
        .kind = f->kind == DD_FIELD_LINEAR ? DD_WEIGHT_LINEAR : DD_WEIGHT_CONV2D,
        .dtype = weight->dtype,
        .out = shape[0],
        .in = shape[1],
        .kh = conv ? f->size : 1,
        .kw = conv ? f->size : 1,
        .data = weight->data,
        .bias = bias ? bias->data : NULL,
        .bias_dtype = bias ? bias->dtype : DD_DTYPE_F32,
        .uses = DD_WEIGHT_FORWARD,
    };
    DD_TRY(dd_op_weight_prepare(l->backend, w, &desc, err));
    if (!dd_op_weight_info(l->backend, *w).is_view) dd_weight_files_release(weight);
    return DDIT_OK;
}

static void free_field(dd_weight_loader *l, const dd_weight_field *f, void *field) {
    if (f->kind == DD_FIELD_NORM) {
        *(dd_norm_weights *)field = (dd_norm_weights){0};
        return;
    }
    dd_op_weight_free(l->backend, *(dd_weight **)field);
    *(dd_weight **)field = NULL;
}

ddit_status dd_weight_table_walk(dd_weight_loader *l, const dd_weight_field *fields, size_t count, void *block,
                                 const int64_t *dims, const char *prefix, ddit_err *err) {
    for (size_t i = 0; i < count; i++) {
        const dd_weight_field *f = &fields[i];
        if (l->pass == DD_PASS_COUNT) {
            count_field(l, f, dims);
            continue;
        }
        void *field = (char *)block + f->offset;
        if (l->pass == DD_PASS_FREE) free_field(l, f, field);
        else if (f->kind == DD_FIELD_NORM) DD_TRY(load_norm(l, field, f, dims, prefix, err));
        else DD_TRY(load_matrix(l, field, f, dims, prefix, err));
    }
    return DDIT_OK;
}

ddit_status dd_weight_loader_begin(dd_weight_loader *l, dd_backend *backend, const dd_weight_files *files, ddit_err *err) {
    l->pass = DD_PASS_LOAD;
    l->backend = backend;
    l->files = files;
    void *vectors = NULL;
    DD_TRY(dd_op_alloc(backend, &vectors, (size_t)l->vector_bytes, "the norm weights", err));
    l->vectors = vectors;
    return dd_alloc_raw(backend->allocator, &l->staging, (size_t)l->largest_vector, sizeof(float), "a norm weight", err);
}

void dd_weight_loader_loaded(dd_weight_loader *l) {
    dd_free(l->backend->allocator, l->staging);
    l->staging = NULL;
}

void dd_weight_loader_deinit(dd_weight_loader *l) {
    if (!l->backend) return;
    dd_free(l->backend->allocator, l->staging);
    dd_op_free(l->backend, l->vectors);
    *l = (dd_weight_loader){0};
}

static ddit_status check_ids(const dd_tensor_entry *table, const int32_t *ids, int64_t count, ddit_err *err) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= table->shape[0])
            return dd_fail(err, DDIT_ERR_MISMATCH,
                           "%s: found token id %" PRId32 " at position %" PRId64 ", tensor \"%s\" has %" PRId64
                           " rows: the tokenizer and the text encoder belong to different models",
                           dd_safetensors_path(table->file), ids[i], i, table->name, table->shape[0]);
    return DDIT_OK;
}

ddit_status dd_embedding_rows(const dd_tensor_entry *table, const int32_t *ids, int64_t count, float *out, ddit_err *err) {
    int64_t width = table->shape[1];
    uint64_t row_bytes;
    DD_TRY(check_ids(table, ids, count, err));
    if (!dd_dtype_bytes(table->dtype, (uint64_t)width, &row_bytes))
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: tensor \"%s\" is %s, whose rows cannot be read singly",
                       dd_safetensors_path(table->file), table->name, table->dtype_name);
    for (int64_t i = 0; i < count; i++)
        DD_TRY(dd_to_f32(out + i * width, table->data + (uint64_t)ids[i] * row_bytes, table->dtype, (size_t)width, err));
    dd_weight_files_release(table);
    return DDIT_OK;
}
