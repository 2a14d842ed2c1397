/* Any bytes as the index of a sharded model, and as model_index.json. */
#include <stdlib.h>

#include "format/config.h"
#include "format/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ddit_err err = {0};
    size_t tensors;
    ddit_status status = dd_weight_index_check(&dd_allocator_libc, (const char *)data, size, "fuzz", &tensors, &err);
    if (status != DDIT_OK && (err.text[0] == '\0' || err.code != status || tensors != 0)) abort();
    if (status == DDIT_OK && tensors == 0) abort();
    err = (ddit_err){0};
    status = dd_model_index_parse((const char *)data, size, "fuzz", &err);
    if (status != DDIT_OK && (err.text[0] == '\0' || err.code != status)) abort();
    return 0;
}
