/* The weights of the FLUX transformer as named fields, and the table that maps file names to them. */
#ifndef DD_DIT_FLUX_WEIGHTS_H
#define DD_DIT_FLUX_WEIGHTS_H

#include "dit/flux_dit.h"

/* Where weight and bias lie in a trainee's flat vector. Without meaning while the layer is not trained. */
typedef struct dd_flux_place {
    int64_t weight, bias;
} dd_flux_place;

/* One linear layer with the LoRA of each factor (index of the factor; [0] unused; down NULL = none). */
typedef struct dd_flux_linear {
    dd_weight *w;
    dd_flux_place at; /* DD_TRAIN_ALL */
    struct {
        dd_weight *down, *up;
        int64_t down_at, up_at; /* DD_TRAIN_ADAPTER: where they lie in the trainee's flat vector */
    } lora[DD_FACTOR_COUNT];
} dd_flux_linear;

/* The weight of a per-head norm: [head_dim] F32, a view into dit->vectors. */
typedef struct dd_flux_head_norm {
    dd_tensor weight;
    int64_t at; /* DD_TRAIN_ALL: in the trainee's flat vector */
} dd_flux_head_norm;

/* One stream (image or text) of a double block. d = hidden. */
typedef struct dd_flux_stream {
    dd_flux_linear q, k, v, out;   /* [d, d] */
    dd_flux_linear mlp_in;         /* [4d, d] */
    dd_flux_linear mlp_out;        /* [d, 4d] */
    dd_flux_head_norm norm_q, norm_k;
    dd_flux_linear modulation;     /* [6d, d]; w NULL unless training: a run reads it from the file */
    char modulation_name[96];
} dd_flux_stream;

typedef struct dd_flux_double {
    dd_flux_stream image, text;
} dd_flux_double;

typedef struct dd_flux_single {
    dd_flux_linear q, k, v;  /* [d, d] */
    dd_flux_linear mlp_in;   /* [4d, d] */
    dd_flux_linear out;      /* [d, 5d]: attention columns, then MLP columns */
    dd_flux_head_norm norm_q, norm_k;
    dd_flux_linear modulation; /* [3d, d]; w NULL unless training */
    char modulation_name[96];
} dd_flux_single;

/* Two linear layers with SiLU between: time, guidance and pooled text embedders; float32. */
typedef struct dd_flux_embedder {
    dd_weight *in, *out;
    dd_flux_place in_at, out_at; /* DD_TRAIN_ALL */
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
    dd_flux_place embed_at, deembed_at, pixel_at; /* in the trainee's flat vector, where the factor is trained */
    int64_t id_at;           /* the id vector; adapters only */
} dd_flux_patch;

struct dd_flux_dit {
    dd_backend *backend;               /* borrowed */
    const dd_weight_files *files;      /* borrowed */
    dd_flux_config config;
    bool trainable, all;               /* dd_flux_dit_open_trainable */
    dd_weight *text_in;                /* [d, joint_attention_dim] */
    dd_flux_place text_in_at;          /* DD_TRAIN_ALL */
    dd_flux_linear norm_out;           /* [2d, d]; w NULL unless training */
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

/* How a linear layer is prepared. */
enum {
    DD_FLUX_FULL_PRECISION = 1,
    DD_FLUX_INPUT_GRADIENT = 2, /* in a trainable dit */
};

/* Prepares one linear layer NAME.weight [out, in] (+ NAME.bias), adds its bytes to the model and gives the mapped pages back.
 * *w is NULL on failure. */
ddit_status dd_flux_linear_prepare(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, unsigned how,
                                   ddit_err *err);

/* A weight whose values come later, with dd_op_weight_update: zeros until then. bias: whether it has one. `uses` beside
 * DD_WEIGHT_UPDATES. */
ddit_status dd_flux_weight_blank(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, bool bias,
                                 unsigned uses, ddit_err *err);

/* The same for a weight that is used once and freed by the caller: not counted, not remembered. */
ddit_status dd_flux_linear_once(dd_flux_dit *dit, dd_weight **w, const char *name, int64_t out, int64_t in, ddit_err *err);

/* The same for two tensors of any file, e.g. an adapter's. bias may be NULL; bias_host (float32 [out]) wins over bias. */
ddit_status dd_flux_entry_prepare(dd_flux_dit *dit, dd_weight **w, const dd_tensor_entry *weight, int64_t out, int64_t in,
                                  const float *bias_host, ddit_err *err);

ddit_status dd_flux_weights_load(dd_flux_dit *dit, ddit_err *err);
void dd_flux_weights_free(dd_flux_dit *dit);
void dd_flux_adapter_free(dd_flux_dit *dit);

/* Bilinear upsampling of a patch of two to n <= DD_FLUX_MAX_N values in one dimension, half-pixel centres, edges clamped, and
 * the pseudo-inverse of its transpose (docs/method.md 2). */
enum { DD_FLUX_MAX_N = 8, DD_FLUX_BASE = 2 };
typedef struct dd_flux_upsampling {
    int n;
    double b[DD_FLUX_MAX_N * DD_FLUX_BASE];       /* B1 [n, 2] */
    double pseudo[DD_FLUX_MAX_N * DD_FLUX_BASE];  /* P1 = B1 (B1^T B1)^-1 [n, 2] */
} dd_flux_upsampling;
dd_flux_upsampling dd_flux_upsampling_to(int n);

/* Takes memory for the residual's matrices of all factors: dit->residual_vectors. */
ddit_status dd_flux_residual_alloc(dd_flux_dit *dit, ddit_err *err);

/* Puts the residual of factor index f (patch edge n) into its slot. pixel: [C, C], then [C], host memory, or NULL for none. */
ddit_status dd_flux_residual_set(dd_flux_dit *dit, int f, int n, const float *pixel, bool hf, ddit_err *err);

/* Calls visit for every linear layer that may carry LoRA, with its name in the adapter file. Stops at the first failure. */
typedef ddit_status (*dd_flux_lora_visit)(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in,
                                          ddit_err *err);
ddit_status dd_flux_lora_walk(dd_flux_dit *dit, dd_flux_lora_visit visit, void *user, ddit_err *err);

/* Calls the functions for every weight of the transformer, with its name in the file (".weight" and ".bias" are appended):
 * linear layers with where their place is noted, and head norms. Stops at the first failure. */
typedef struct dd_flux_visitor {
    ddit_status (*linear)(void *user, dd_weight *w, dd_flux_place *at, const char *name, ddit_err *err);
    ddit_status (*norm)(void *user, dd_flux_head_norm *norm, const char *name, ddit_err *err);
    void *user;
} dd_flux_visitor;
ddit_status dd_flux_weights_walk(dd_flux_dit *dit, const dd_flux_visitor *v, ddit_err *err);

#endif
