#include "format/safetensors_write.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/out_file.h"

/* An item with what was worked out about it. */
typedef struct planned {
    const dd_safetensors_item *item;
    uint64_t bytes;
    int width; /* bytes of one value */
} planned;

static int compare_planned(const void *x, const void *y) {
    const planned *a = x, *b = y;
    if (a->width != b->width) return a->width > b->width ? -1 : 1;
    if (a->item->dtype != b->item->dtype) return a->item->dtype < b->item->dtype ? -1 : 1;
    return strcmp(a->item->name, b->item->name);
}

static int compare_names(const void *x, const void *y) {
    return strcmp(((const planned *)x)->item->name, ((const planned *)y)->item->name);
}

static ddit_status plan_item(planned *p, const char *path, const dd_safetensors_item *item, ddit_err *err) {
    uint64_t count = 1, width = 0;
    if (item->name[0] == '\0' || strcmp(item->name, "__metadata__") == 0)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%s: found a tensor named \"%s\", expected a name of its own", path, item->name);
    if (item->dtype == DD_DTYPE_Q8_0 || !dd_dtype_bytes(item->dtype, 1, &width))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "%s: tensor \"%s\": found dtype %s, expected one of the safetensors format",
                       path, item->name, dd_dtype_name(item->dtype));
    bool fits = item->rank >= 0 && item->rank <= DD_MAX_RANK;
    for (int i = 0; fits && i < item->rank; i++)
        fits = item->shape[i] >= 0 && dd_mul_u64(count, (uint64_t)item->shape[i], &count);
    if (!fits || !dd_dtype_bytes(item->dtype, count, &p->bytes) || p->bytes > INT64_MAX)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "%s: tensor \"%s\": found a negative or too large shape, expected a rank of 0 to %d and a "
                       "product that fits 63 bits",
                       path, item->name, (int)DD_MAX_RANK);
    p->item = item;
    p->width = (int)width;
    return DDIT_OK;
}

static ddit_status plan(planned *plans, const char *path, const dd_safetensors_item *items, size_t count, ddit_err *err) {
    for (size_t i = 0; i < count; i++) DD_TRY(plan_item(&plans[i], path, &items[i], err));
    qsort(plans, count, sizeof *plans, compare_names);
    for (size_t i = 1; i < count; i++)
        if (compare_names(&plans[i - 1], &plans[i]) == 0)
            return dd_fail(err, DDIT_ERR_ARGUMENT, "%s: found two tensors named \"%s\", expected different names", path,
                           plans[i].item->name);
    qsort(plans, count, sizeof *plans, compare_planned);
    return DDIT_OK;
}

static json_t *describe(const planned *p, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < p->item->rank; i++) json_array_append_new(shape, json_integer(p->item->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dd_dtype_name(p->item->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + p->bytes));
}

/* The header's JSON; the caller frees it with free(). NULL with a reason in *err. */
static char *make_header(const char *path, const planned *plans, size_t count, const dd_safetensors_pair *pairs,
                         size_t pair_count, ddit_err *err) {
    json_t *root = json_object(), *metadata = json_object();
    char *text = NULL;
    uint64_t begin = 0;
    for (size_t i = 0; i < pair_count; i++) {
        if (json_object_set_new(metadata, pairs[i].key, json_string(pairs[i].value)) == 0) continue;
        dd_fail(err, DDIT_ERR_ARGUMENT, "%s: metadata key number %zu: found no UTF-8, expected UTF-8", path, i);
        goto done;
    }
    if (pair_count) json_object_set(root, "__metadata__", metadata);
    for (size_t i = 0; i < count; i++) {
        if (json_object_set_new(root, plans[i].item->name, describe(&plans[i], begin)) != 0) {
            dd_fail(err, DDIT_ERR_ARGUMENT, "%s: tensor number %zu: found a name that is no UTF-8, expected UTF-8", path, i);
            goto done;
        }
        if (!dd_add_u64(begin, plans[i].bytes, &begin) || begin > INT64_MAX) {
            dd_fail(err, DDIT_ERR_ARGUMENT, "%s: found more than 2^63 bytes of tensors, expected less", path);
            goto done;
        }
    }
    text = json_dumps(root, JSON_COMPACT);
    if (!text) dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory for the header of a safetensors file", path);
done:
    json_decref(metadata);
    json_decref(root);
    return text;
}

static bool write_zeros(FILE *stream, uint64_t bytes) {
    static const uint8_t zeros[4096];
    for (; bytes > 0; bytes -= bytes < sizeof zeros ? bytes : sizeof zeros) {
        size_t part = bytes < sizeof zeros ? (size_t)bytes : sizeof zeros;
        if (fwrite(zeros, 1, part, stream) != part) return false;
    }
    return true;
}

static bool write_all(FILE *stream, const char *header, const planned *plans, size_t count) {
    size_t length = strlen(header), padded = (length + 7) / 8 * 8;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)padded >> (8 * i));
    if (fwrite(prefix, 1, 8, stream) != 8 || fwrite(header, 1, length, stream) != length) return false;
    if (fwrite("        ", 1, padded - length, stream) != padded - length) return false;
    for (size_t i = 0; i < count; i++) {
        const void *data = plans[i].item->data;
        if (data ? fwrite(data, 1, plans[i].bytes, stream) != plans[i].bytes : !write_zeros(stream, plans[i].bytes))
            return false;
    }
    return true;
}

ddit_status dd_safetensors_write(const dd_allocator *a, const char *path, const dd_safetensors_item *items, size_t count,
                                 const dd_safetensors_pair *pairs, size_t pair_count, ddit_err *err) {
    planned *plans = NULL;
    char *header = NULL;
    dd_out_file file = {0};
    ddit_err reason = {0};
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc(a, &plans, count, sizeof *plans, "a list of tensors to write", err));
    DD_GO(plan(plans, path, items, count, err));
    header = make_header(path, plans, count, pairs, pair_count, &reason);
    if (!header) {
        status = dd_fail(err, reason.code, "%s", reason.text);
        goto done;
    }
    DD_GO(dd_out_file_open(&file, a, path, err));
    if (write_all(file.stream, header, plans, count)) {
        status = dd_out_file_commit(&file, err);
    } else {
        status = dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s", path, strerror(errno));
        dd_out_file_discard(&file);
    }
done:
    free(header); /* made by jansson */
    dd_free(a, plans);
    return status;
}

dd_safetensors_item dd_safetensors_item_of(const char *name, const dd_tensor *t) {
    dd_safetensors_item item = {.name = name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    memcpy(item.shape, t->shape, sizeof item.shape);
    return item;
}
