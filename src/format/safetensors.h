/* Reading safetensors files: named tensors over a mapped file, every rule of the format enforced before any tensor is touched.
 *
 * Source: the format as huggingface/safetensors writes and checks it. Layout: u64 little-endian N, N bytes of JSON
 * {name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {string: string}}, then the data, which the tensors tile
 * without holes, overlaps or trailing bytes. White space before and after the JSON is accepted, duplicate keys are not.
 */
#ifndef DD_FORMAT_SAFETENSORS_H
#define DD_FORMAT_SAFETENSORS_H

#include "base/mapped_file.h"
#include "tensor/tensor.h"

/* A dtype that the format knows and ddit does not compute with (F4, F8_E8M0, C64 ...): the entry is valid, use is refused. */
#define DD_DTYPE_OTHER DD_DTYPE_COUNT

typedef struct dd_safetensors dd_safetensors;

/* One tensor of a file. Borrowed from the file: valid until the file is closed. */
typedef struct dd_tensor_entry {
    const char *name;
    dd_dtype dtype;         /* DD_DTYPE_OTHER for those only the format knows */
    const char *dtype_name; /* as the file spells it */
    int rank;
    const int64_t *shape; /* [rank], slowest axis first */
    uint64_t count;       /* product of the shape: values */
    uint64_t offset;      /* of the first byte, from the beginning of the file */
    uint64_t bytes;
    const uint8_t *data; /* need not be aligned to the size of a value */
    const dd_safetensors *file;
} dd_tensor_entry;

/* Maps and checks the file. Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT (naming file, tensor, offset, what was
 * found and expected), DDIT_ERR_NO_MEMORY. *out is NULL on failure; otherwise the caller closes it. `a` must outlive it. */
ddit_status dd_safetensors_open(dd_safetensors **out, const dd_allocator *a, const char *path, ddit_err *err);

/* The same over bytes that stay the caller's and must outlive *out. `label` stands for the file's name in errors. */
ddit_status dd_safetensors_open_memory(dd_safetensors **out, const dd_allocator *a, const void *data, size_t size,
                                       const char *label, ddit_err *err);

/* Frees everything and unmaps; NULL is accepted. */
void dd_safetensors_close(dd_safetensors *file);

/* The path (or label) it was opened with. */
const char *dd_safetensors_path(const dd_safetensors *file);

/* Size of the whole file in bytes. */
uint64_t dd_safetensors_size(const dd_safetensors *file);

/* Tensors in the order of their names (strcmp); index < count. */
size_t dd_safetensors_count(const dd_safetensors *file);
const dd_tensor_entry *dd_safetensors_at(const dd_safetensors *file, size_t index);

/* The tensor of that name, or NULL. O(log count). */
const dd_tensor_entry *dd_safetensors_find(const dd_safetensors *file, const char *name);

/* The value of a key of __metadata__, or NULL; and the whole table in the order of the keys. */
const char *dd_safetensors_metadata(const dd_safetensors *file, const char *key);
size_t dd_safetensors_metadata_count(const dd_safetensors *file);
void dd_safetensors_metadata_at(const dd_safetensors *file, size_t index, const char **key, const char **value);

/* Tells the system that the tensor's pages need not stay resident: its values were packed elsewhere. They stay readable. */
void dd_tensor_entry_release(const dd_tensor_entry *entry);

/* "[3072, 64]" into text, cut with "..." if it does not fit; size >= 8. Returns text. */
char *dd_shape_text(char *text, size_t size, int rank, const int64_t *shape);

/* Converts the tensor to `count` float32 values. Errors: DDIT_ERR_UNSUPPORTED (naming file, tensor and dtype) for integers and
 * DD_DTYPE_OTHER. dd_tensor_entry_to_bf16 likewise. */
ddit_status dd_tensor_entry_to_f32(const dd_tensor_entry *entry, float *out, ddit_err *err);
ddit_status dd_tensor_entry_to_bf16(const dd_tensor_entry *entry, uint16_t *out, ddit_err *err);

#endif
