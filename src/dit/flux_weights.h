/* The weights of the FLUX transformer as named fields, and the table that maps file names to them. */
#ifndef DD_DIT_FLUX_WEIGHTS_H
#define DD_DIT_FLUX_WEIGHTS_H

#include "dit/flux_dit.h"

/* One linear layer with the LoRA of each factor (index of the factor; [0] unused; down NULL = none). */
typedef struct dd_flux_linear {
    dd_weight *w;
    struct { dd_weight *down, *up; } lora[DD_FACTOR_COUNT];
} dd_flux_linear;

/* One stream (image or text) of a double block. d = hidden. */
typedef struct dd_flux_stream {
    dd_flux_linear q, k, v, out;   /* [d, d] */
    dd_flux_linear mlp_in;         /* [4d, d] */
    dd_flux_linear mlp_out;        /* [d, 4d] */
    dd_tensor norm_q, norm_k;      /* [head_dim] F32, views into dit->vectors */
    char modulation_name[96];      /* of the [6d, d] weight that a run reads from the file */
} dd_flux_stream;

typedef struct dd_flux_double {
    dd_flux_stream image, text;
} dd_flux_double;

typedef struct dd_flux_single {
    dd_flux_linear q, k, v;  /* [d, d] */
    dd_flux_linear mlp_in;   /* [4d, d] */
    dd_flux_linear out;      /* [d, 5d]: attention columns, then MLP columns */
    dd_tensor norm_q, norm_k;
    char modulation_name[96]; /* [3d, d] */
} dd_flux_single;

/* Two linear layers with SiLU between: time, guidance and pooled text embedders; float32. */
typedef struct dd_flux_embedder {
    dd_weight *in, *out;
} dd_flux_embedder;

/* Patch embedding, de-embedding and residual of one factor. n = patch * factor. */
typedef struct dd_flux_patch {
    bool present;
    dd_weight *embed;        /* [d, C n n], bias = the file's bias + id vector */
    dd_weight *deembed;      /* [C n n, d] */
    bool has_pixel, has_hf;
    dd_tensor pixel_weight;  /* [C, C] F32 */
    dd_tensor pixel_bias;    /* [C] F32 */
    dd_tensor projection;    /* [n, n] F32 */
} dd_flux_patch;

struct dd_flux_dit {
    dd_backend *backend;               /* borrowed */
    const dd_weight_files *files;      /* borrowed */
    dd_flux_config config;
    dd_weight *text_in;                /* [d, joint_attention_dim] */
    dd_flux_embedder time, guidance, pooled;
    dd_flux_patch patch[DD_FACTOR_COUNT];
    dd_flux_double *doubles;           /* owned [num_layers] */
    dd_flux_single *singles;           /* owned [num_single_layers] */
    float *vectors;                    /* owned, backend memory: qk norm weights */
    float *residual_vectors;           /* owned, backend memory: pixel weights, biases and projections of the adapter */
    float lora_scale;                  /* alpha / rank */
    uint64_t weight_bytes;
    const dd_weight **prepared;        /* owned: every linear weight, for dd_op_reserve */
    int prepared_count, prepared_room;
};

/* Prepares one linear layer NAME.weight [out, in] (+ NAME.bias), adds its bytes to the model and gives the mapped pages back.
 * *w is NULL on failure. */
ddit_status dd_flux_linear_prepare(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in,
                                   bool full_precision, ddit_err *err);

/* The same for a weight that is used once and freed by the caller: not counted, not remembered. */
ddit_status dd_flux_linear_once(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, ddit_err *err);

/* The same for two tensors of any file, e.g. an adapter's. bias may be NULL; bias_host (float32 [out]) wins over bias. */
ddit_status dd_flux_entry_prepare(dd_flux_dit *dit, dd_weight **w, const dd_tensor_entry *weight, int64_t out, int64_t in,
                                  const float *bias_host, ddit_err *err);

ddit_status dd_flux_weights_load(dd_flux_dit *dit, ddit_err *err);
void dd_flux_weights_free(dd_flux_dit *dit);
void dd_flux_adapter_free(dd_flux_dit *dit);

/* Calls visit for every linear layer that may carry LoRA, with its name in the adapter file. Stops at the first failure. */
typedef ddit_status (*dd_flux_lora_visit)(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in,
                                          ddit_err *err);
ddit_status dd_flux_lora_walk(dd_flux_dit *dit, dd_flux_lora_visit visit, void *user, ddit_err *err);

#endif
