/* Any bytes as a safetensors file: refused with a sentence, or every tensor lies inside the file and can be converted. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    dd_safetensors *file;
    ddit_err err = {0};
    if (dd_safetensors_open_memory(&file, &dd_allocator_libc, data, size, "fuzz", &err) != DDIT_OK) {
        check(!file && err.text[0] != '\0' && err.code < 0);
        return 0;
    }
    for (size_t i = 0; i < dd_safetensors_count(file); i++) {
        const dd_tensor_entry *entry = dd_safetensors_at(file, i);
        char shape[40];
        check(entry->offset <= size && entry->bytes <= size - entry->offset && dd_safetensors_find(file, entry->name) == entry);
        check(strlen(dd_shape_text(shape, sizeof shape, entry->rank, entry->shape)) < sizeof shape);
        if (entry->count > 100000) continue;
        float *values = malloc((size_t)entry->count * sizeof *values + 1);
        uint16_t *halves = malloc((size_t)entry->count * sizeof *halves + 1);
        check(values && halves);
        check(dd_tensor_entry_to_f32(entry, values, &err) == dd_tensor_entry_to_bf16(entry, halves, &err));
        free(values);
        free(halves);
    }
    for (size_t i = 0; i < dd_safetensors_metadata_count(file); i++) {
        const char *key, *value;
        dd_safetensors_metadata_at(file, i, &key, &value);
        check(dd_safetensors_metadata(file, key) == value);
    }
    dd_safetensors_close(file);
    return 0;
}
