/* Writing safetensors files: whole or not at all (base/out_file.h). */
#ifndef DD_FORMAT_SAFETENSORS_WRITE_H
#define DD_FORMAT_SAFETENSORS_WRITE_H

#include "tensor/tensor.h"

/* A tensor to be written: dense values in row-major order. Everything is borrowed for the call. */
typedef struct dd_safetensors_item {
    const char *name; /* UTF-8, not "__metadata__", unique in the file */
    dd_dtype dtype;   /* any but Q8_0 */
    int rank;         /* 0 ... DD_MAX_RANK */
    int64_t shape[DD_MAX_RANK];
    const void *data; /* product(shape) values; NULL: zeros are written */
} dd_safetensors_item;

typedef struct dd_safetensors_pair {
    const char *key, *value; /* UTF-8 */
} dd_safetensors_pair;

/* Writes items[count] and, if pair_count > 0, __metadata__. The order is that of the reference writer: dtypes of wider values
 * first, then by name; the header is padded with spaces so that the data begins at a multiple of 8.
 * Errors: DDIT_ERR_ARGUMENT (a name that is empty, repeated or no UTF-8, a bad shape), DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE. */
ddit_status dd_safetensors_write(const dd_allocator *a, const char *path, const dd_safetensors_item *items, size_t count,
                                 const dd_safetensors_pair *pairs, size_t pair_count, ddit_err *err);

/* A dense view as an item: row stride must equal the row length. */
dd_safetensors_item dd_safetensors_item_of(const char *name, const dd_tensor *t);

#endif
