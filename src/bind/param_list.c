#include "bind/param_list.h"

#include <inttypes.h>
#include <string.h>

enum { ALIGNMENT = 16 }; /* values between the starts of segments divide by this: 64 bytes */

void dd_param_list_init(dd_param_list *list, const dd_allocator *a) { *list = (dd_param_list){.allocator = a}; }

void dd_param_list_deinit(dd_param_list *list) {
    if (!list->allocator) return;
    for (int i = 0; i < list->count; i++) dd_free(list->allocator, list->items[i].name);
    dd_free(list->allocator, list->items);
    *list = (dd_param_list){0};
}

static ddit_status make_room(dd_param_list *list, ddit_err *err) {
    if (list->count < list->room) return DDIT_OK;
    int room = list->room ? 2 * list->room : 64;
    dd_param *items;
    DD_TRY(dd_alloc(list->allocator, &items, (size_t)room, sizeof *items, "the list of parameters", err));
    if (list->count) memcpy(items, list->items, (size_t)list->count * sizeof *items);
    dd_free(list->allocator, list->items);
    list->items = items;
    list->room = room;
    return DDIT_OK;
}

ddit_status dd_param_list_add(dd_param_list *list, const char *name, int rank, const int64_t *shape, int64_t *offset,
                              ddit_err *err) {
    if (dd_param_list_find(list, name))
        return dd_fail(err, DDIT_ERR_INTERNAL, "parameter \"%s\" is in the list already", name);
    dd_param p = {.rank = rank, .offset = list->total, .count = 1};
    for (int i = 0; i < rank; i++) {
        p.shape[i] = shape[i];
        p.count *= shape[i];
    }
    DD_TRY(make_room(list, err));
    DD_TRY(dd_strdup(list->allocator, &p.name, name, err));
    list->items[list->count++] = p;
    list->total += (p.count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (offset) *offset = p.offset;
    return DDIT_OK;
}

const dd_param *dd_param_list_find(const dd_param_list *list, const char *name) {
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

static ddit_status check_entry(const dd_param *p, const dd_tensor_entry *entry, const char *path, ddit_err *err) {
    char expected[96], found[96];
    dd_shape_text(expected, sizeof expected, p->rank, p->shape);
    if (!entry)
        return dd_fail(err, DDIT_ERR_MISMATCH, "%s: tensor \"%s\" is missing, expected shape %s: the file was made with other "
                       "options of training", path, p->name, expected);
    bool same = entry->rank == p->rank;
    for (int i = 0; same && i < p->rank; i++) same = entry->shape[i] == p->shape[i];
    dd_shape_text(found, sizeof found, entry->rank, entry->shape);
    if (!same)
        return dd_fail(err, DDIT_ERR_MISMATCH, "%s: tensor \"%s\" has shape %s, expected %s: the file was made for another "
                       "model or with other options of training", path, p->name, found, expected);
    if (entry->dtype != DD_DTYPE_F32 && entry->dtype != DD_DTYPE_BF16 && entry->dtype != DD_DTYPE_F16)
        return dd_fail(err, DDIT_ERR_MISMATCH, "%s: tensor \"%s\" is %s, expected F32, BF16 or F16", path, p->name,
                       entry->dtype_name);
    return DDIT_OK;
}

ddit_status dd_param_list_read(const dd_param_list *list, const dd_safetensors *file, float *values, ddit_err *err) {
    const char *path = dd_safetensors_path(file);
    for (int i = 0; i < list->count; i++)
        DD_TRY(check_entry(&list->items[i], dd_safetensors_find(file, list->items[i].name), path, err));
    memset(values, 0, (size_t)list->total * sizeof *values); /* the gaps between segments */
    for (int i = 0; i < list->count; i++) {
        const dd_param *p = &list->items[i];
        DD_TRY(dd_tensor_entry_to_f32(dd_safetensors_find(file, p->name), values + p->offset, err));
    }
    return DDIT_OK;
}

/* items[i] of the file from the values, or from their BF16 copy at the same offsets. */
static void fill_items(const dd_param_list *list, dd_safetensors_item *items, dd_dtype dtype, const float *values,
                       const uint16_t *halves) {
    for (int i = 0; i < list->count; i++) {
        const dd_param *p = &list->items[i];
        items[i] = (dd_safetensors_item){.name = p->name, .dtype = dtype, .rank = p->rank,
                                         .data = halves ? (const void *)(halves + p->offset) : values + p->offset};
        memcpy(items[i].shape, p->shape, sizeof p->shape);
    }
}

ddit_status dd_param_list_write(const dd_param_list *list, const char *path, dd_dtype dtype, const float *values,
                                const dd_safetensors_pair *pairs, size_t pair_count, ddit_err *err) {
    const dd_allocator *a = list->allocator;
    dd_safetensors_item *items = NULL;
    uint16_t *halves = NULL;
    ddit_status status;
    if (dtype != DD_DTYPE_F32 && dtype != DD_DTYPE_BF16)
        return dd_fail(err, DDIT_ERR_INTERNAL, "parameters are written as F32 or BF16, not as %s", dd_dtype_name(dtype));
    DD_GO(dd_alloc(a, &items, (size_t)list->count, sizeof *items, "the list of tensors", err));
    if (dtype == DD_DTYPE_BF16) {
        DD_GO(dd_alloc_raw(a, &halves, (size_t)list->total, sizeof *halves, "the parameters as BF16", err));
        DD_GO(dd_to_bf16(halves, values, DD_DTYPE_F32, (size_t)list->total, err));
    }
    fill_items(list, items, dtype, values, halves);
    DD_GO(dd_safetensors_write(a, path, items, (size_t)list->count, pairs, pair_count, err));
done:
    dd_free(a, items);
    dd_free(a, halves);
    return status;
}
