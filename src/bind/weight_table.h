/* Tables that map the names of a weight file to the fields of a model's structs, and what is done with them: counting their
 * memory, loading and freeing. A model has one table per kind of block and one function that walks its blocks; the same walk
 * serves all three passes, so what is counted before loading is what is loaded.
 *
 *     static const dd_weight_field layer_fields[] = {
 *         {"self_attn.q_proj", DD_FIELD_LINEAR, offsetof(layer, q), .out = 0, .in = 0, .bias = true},
 *         {"layer_norm1", DD_FIELD_NORM, offsetof(layer, norm1), .out = 0, .bias = true},
 *     };
 *     dd_weight_table_walk(loader, layer_fields, 2, &layers[i], (int64_t[]){width}, "encoder.layers.0.", err);
 */
#ifndef DD_BIND_WEIGHT_TABLE_H
#define DD_BIND_WEIGHT_TABLE_H

#include "format/weights.h"
#include "op/op.h"

typedef enum dd_field_kind {
    DD_FIELD_LINEAR,    /* dd_weight *, NAME.weight [out, in] */
    DD_FIELD_CONV,      /* dd_weight *, NAME.weight [out, in, size, size] */
    DD_FIELD_POINTWISE, /* dd_weight *, NAME.weight [out, in], used as a 1x1 convolution */
    DD_FIELD_NORM,      /* dd_norm_weights, NAME.weight [out] */
} dd_field_kind;

/* One row of a table. With `bias`, NAME.bias [out] is needed too. */
typedef struct dd_weight_field {
    const char *name;   /* after the block's prefix */
    dd_field_kind kind;
    size_t offset;      /* of the field in the block's struct */
    int out, in;        /* indices into the dims handed to the walk */
    int size;           /* CONV: height and width of the kernel */
    bool bias;
} dd_weight_field;

/* Affine parameters of a norm, F32 [out], views into the loader's vectors. bias.data is NULL where the norm has none. */
typedef struct dd_norm_weights {
    dd_tensor weight, bias;
} dd_norm_weights;

typedef enum dd_weight_pass { DD_PASS_COUNT, DD_PASS_LOAD, DD_PASS_FREE } dd_weight_pass;

/* State of a walk. For COUNT set `activation` only; for LOAD and FREE `backend`, for LOAD also `files`. Belongs to the model
 * from LOAD to FREE, since `vectors` holds its norms. */
typedef struct dd_weight_loader {
    dd_weight_pass pass;
    dd_backend *backend;
    const dd_weight_files *files;
    dd_dtype activation;     /* COUNT: dtype of the prepared matrices */
    uint64_t matrix_bytes;   /* COUNT: matrices and their biases, once, wherever they lie (packed or in the mapped file) */
    uint64_t vector_bytes;   /* COUNT: norms; then the size of `vectors` */
    uint64_t largest_vector; /* COUNT: values */
    uint8_t *vectors;        /* owned, backend memory: all norms */
    uint64_t vectors_used;   /* LOAD: bytes given out */
    float *staging;          /* owned, host, during LOAD only: the largest vector */
} dd_weight_loader;

/* Does the loader's pass for every row. `block` is the struct (ignored by COUNT), `dims` what out and in index. Names in the
 * file are PREFIX + name + ".weight" / ".bias". LOAD releases the mapped pages of what the backend copied; after a failure a
 * FREE pass over the same zero-initialised structs gives everything back.
 * Errors of LOAD: those of dd_weight_files_need and dd_op_weight_prepare. */
ddit_status dd_weight_table_walk(dd_weight_loader *l, const dd_weight_field *fields, size_t count, void *block,
                                 const int64_t *dims, const char *prefix, ddit_err *err);

/* Turns a loader that has COUNTed into one that LOADs: takes backend memory for the norms. End with dd_weight_loader_loaded on
 * success; a failed load is cleaned up by a FREE pass and dd_weight_loader_deinit. */
ddit_status dd_weight_loader_begin(dd_weight_loader *l, dd_backend *backend, const dd_weight_files *files, ddit_err *err);
void dd_weight_loader_loaded(dd_weight_loader *l);

/* Frees the vectors, after the FREE pass; a zeroed loader is accepted. */
void dd_weight_loader_deinit(dd_weight_loader *l);

/* What a part of a model needs, in bytes. */
typedef struct dd_part_bytes {
    uint64_t weights;     /* prepared matrices, norms and tables */
    uint64_t activations; /* the one block taken for the run, and host buffers beside it */
} dd_part_bytes;

/* Writes rows[i] of the [vocabulary, width] table as float32 to out [count, width]. Reads the mapped file only where needed and
 * gives its pages back afterwards. Error: DDIT_ERR_MISMATCH for an id outside the table (the tokenizer is another model's). */
ddit_status dd_embedding_rows(const dd_tensor_entry *table, const int32_t *ids, int64_t count, float *out, ddit_err *err);

#endif
