/* The tensors of a model part as one name space, whether they lie in one file or in shards. */
#ifndef DD_FORMAT_WEIGHTS_H
#define DD_FORMAT_WEIGHTS_H

#include "format/safetensors.h"

typedef struct dd_weight_files dd_weight_files;

/* Opens the tensors at `path`: a .safetensors file, a .safetensors.index.json file, or a folder that holds one of (in this
 * order) diffusion_pytorch_model.safetensors, diffusion_pytorch_model.safetensors.index.json, model.safetensors,
 * model.safetensors.index.json, then the same with the variants bf16 and fp16 (diffusion_pytorch_model.fp16.safetensors).
 * An index is checked strictly: shard names without folders, every shard there, every tensor in the shard it is said to be in.
 * Tensors of a shard that the index does not name do not exist.
 * Errors: those of dd_safetensors_open; DDIT_ERR_NOT_FOUND (nothing of that kind in the folder, a missing shard),
 * DDIT_ERR_FORMAT (malformed index), DDIT_ERR_MISMATCH (a tensor is not in its shard). *out is NULL on failure. */
ddit_status dd_weight_files_open(dd_weight_files **out, const dd_allocator *a, const char *path, ddit_err *err);
void dd_weight_files_close(dd_weight_files *files);

/* What was opened: the file or the index. */
const char *dd_weight_files_path(const dd_weight_files *files);

/* Tensors in the order of their names; find returns NULL if there is none. O(log count). */
size_t dd_weight_files_count(const dd_weight_files *files);
const dd_tensor_entry *dd_weight_files_at(const dd_weight_files *files, size_t index);
const dd_tensor_entry *dd_weight_files_find(const dd_weight_files *files, const char *name);

/* Bytes of all tensors together. */
uint64_t dd_weight_files_bytes(const dd_weight_files *files);

/* The tensor of that name with exactly that shape and a dtype that converts to float. *out is NULL on failure.
 * Errors: DDIT_ERR_MISMATCH (missing or misshapen), DDIT_ERR_UNSUPPORTED (dtype): file, tensor, found, expected, cure. */
ddit_status dd_weight_files_need(const dd_weight_files *files, const char *name, int rank, const int64_t *shape,
                                 const dd_tensor_entry **out, ddit_err *err);

/* Gives the tensor's pages back to the system after it was packed. */
void dd_weight_files_release(const dd_tensor_entry *entry);

/* Checks the text of an index (for tests and fuzzing): what dd_weight_files_open does before it opens shards.
 * *tensors (may be NULL) is the number of names. */
ddit_status dd_weight_index_check(const dd_allocator *a, const char *text, size_t size, const char *label, size_t *tensors,
                                  ddit_err *err);

#endif
