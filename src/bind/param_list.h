/* Trained parameters as named segments of one flat float32 vector. Optimizers, averages, gradients, checkpoints and reductions
 * over machines see the vector; the list says what its parts are called in a file.
 */
#ifndef DD_BIND_PARAM_LIST_H
#define DD_BIND_PARAM_LIST_H

#include "format/safetensors.h"
#include "format/safetensors_write.h"

typedef struct dd_param {
    char *name;                 /* owned: the name in the file that is written */
    int rank;
    int64_t shape[DD_MAX_RANK];
    int64_t offset, count;      /* values in the flat vector */
} dd_param;

typedef struct dd_param_list {
    dd_param *items;            /* owned [count] */
    int count, room;
    int64_t total;              /* values of all segments: the length of the flat vector */
    const dd_allocator *allocator;
} dd_param_list;

void dd_param_list_init(dd_param_list *list, const dd_allocator *a);
void dd_param_list_deinit(dd_param_list *list);

/* Appends a segment; its offset is *offset (may be NULL). Offsets are multiples of 16 values (the gaps stay zero), so that
 * segments are aligned for the backends. Errors: DDIT_ERR_NO_MEMORY, DDIT_ERR_INTERNAL for a name that is there already. */
ddit_status dd_param_list_add(dd_param_list *list, const char *name, int rank, const int64_t *shape, int64_t *offset,
                              ddit_err *err);

/* NULL if there is none. */
const dd_param *dd_param_list_find(const dd_param_list *list, const char *name);

/* Fills values[total] from the tensors of a file, by name. Every segment must be there with its shape and a float dtype.
 * Errors: DDIT_ERR_MISMATCH naming tensor, found and expected. */
ddit_status dd_param_list_read(const dd_param_list *list, const dd_safetensors *file, float *values, ddit_err *err);

/* Writes all segments, converted to `dtype` (F32 or BF16), with metadata. Errors: those of dd_safetensors_write. */
ddit_status dd_param_list_write(const dd_param_list *list, const char *path, dd_dtype dtype, const float *values,
                                const dd_safetensors_pair *pairs, size_t pair_count, ddit_err *err);

#endif
