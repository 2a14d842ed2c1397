/* What ddit_inspect is made of: one function per kind of thing, each giving a JSON object that the caller owns. Private to
 * the room. */
#ifndef DD_PIPELINE_INSPECT_H
#define DD_PIPELINE_INSPECT_H

#include <jansson.h>

#include "pipeline/pipeline.h"

/* Counts of a set of tensors: values, bytes and how many of each dtype. */
json_t *dd_inspect_weights(const dd_weight_files *files);

/* A safetensors file (adapter files have more to say), any folder or index with weights, a picture of ours. *out is NULL on
 * failure. */
ddit_status dd_inspect_safetensors(json_t **out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_inspect_weight_folder(json_t **out, const dd_allocator *a, const char *path, ddit_err *err);
ddit_status dd_inspect_picture(json_t **out, const dd_allocator *a, const char *path, ddit_err *err);

/* Factors, rank, residual and rule of an adapter that is open. */
json_t *dd_inspect_adapter(const dd_adapter *adapter);

/* A diffusers folder: parts, adapter, defaults, memory. params as for a run; NULL = the model's defaults. */
ddit_status dd_inspect_model(json_t **out, ddit_context *context, const char *path, const ddit_params *params, ddit_err *err);

/* The memory of a run with these settings, item by item. `weights`: bytes of the transformer once prepared. The model needs no
 * transformer (dit may be NULL). */
json_t *dd_inspect_memory(const ddit_model *model, const dd_settings *settings, uint64_t weights, uint64_t adapter);

/* Bytes of the transformer's weights and of the adapter's once prepared for a backend with this activation dtype: matrices in
 * it, biases, norms and the embedders of time, guidance and pooled text in float32, modulation weights not at all (a run reads
 * them from the file once). Padding to the engine's tiles is left out. */
uint64_t dd_inspect_prepared_bytes(const dd_weight_files *files, dd_dtype activation);
uint64_t dd_inspect_adapter_bytes(const dd_adapter *adapter, dd_dtype activation);

#endif
