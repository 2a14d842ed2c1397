/* A trainee, a batch and a lane from inside. Private to the room. */
#ifndef DD_DIT_FLUX_TRAINEE_H
#define DD_DIT_FLUX_TRAINEE_H

#include "dit/flux_condition.h"
#include "dit/flux_train.h"

/* One weight or vector and where its values lie in the flat vector; -1: it has none. */
typedef struct dd_flux_binding {
    dd_weight *w;             /* NULL: vector */
    dd_tensor vector;         /* F32, backend memory, dense */
    int64_t out, in;
    int64_t weight, bias, id; /* offsets; the id vector is added to the bias */
    const char *name;         /* borrowed from the list of parameters */
} dd_flux_binding;

struct dd_flux_trainee {
    dd_flux_dit *dit;          /* borrowed */
    dd_train_options options;
    dd_param_list params;
    dd_flux_binding *bindings; /* owned */
    int binding_count, binding_room;
    float *bias;               /* owned, host [d]: bias + id */
    uint64_t dit_bytes;        /* what the dit was before the adapter's weights joined it */
    int dit_prepared;
};

/* S = count of samples of a step, T = text_tokens, J = joint_attention_dim. Fields from `dtables` on: DD_TRAIN_ALL only. */
struct dd_flux_batch {
    dd_flux_trainee *trainee;
    int room, count, text_tokens;  /* samples: most, and of the last condition */
    float *times, *guidance;       /* owned, host [room] */
    float *pooled;                 /* owned, host [room, pooled_projection_dim] */
    dd_flux_vectors vectors;
    void *memory;                  /* owned, backend: what follows */
    float *full;                   /* [T, J]: one sample's text, before it is rounded */
    void *text;                    /* [T, J] act; DD_TRAIN_ALL: [S, T, J] */
    dd_flux_tables tables;         /* text [S, T, d] */
    dd_flux_tables dtables;        /* gradients of all of them */
    void *dtable;                  /* [S, 6d] act: gradient of one table */
    void *dtext;                   /* [S T, d] act */
    float *dvec;                   /* [S, d] */
    float *before, *inner, *dinner; /* [S, d]: an embedder's hidden values before and after SiLU, and their gradient */
};

/* The part of the batch's tables that belongs to a sample: text is the sample's; modulations are found by time_index. */
static inline dd_flux_tables dd_flux_batch_tables(const dd_flux_batch *batch, const dd_flux_tables *all, int index) {
    dd_flux_tables t = *all;
    t.text += (int64_t)index * batch->text_tokens * batch->trainee->dit->config.hidden;
    return t;
}

/* N = text_tokens + max_image_tokens, r = rank of LoRA. Backend memory of the lane; d... are gradients. */
struct dd_flux_lane {
    dd_flux_trainee *trainee;
    dd_backend *b;
    dd_flux_lane_params params;
    dd_flux_run *run;      /* owned: buffers of the forward pass */
    void *memory;          /* owned: all buffers below */
    float *checkpoints;    /* [blocks + 1][rows of the layout, d] */
    dd_flux_tape tape;
    float *dx;             /* [N, d]: of the residual stream */
    float *dn;             /* [N, d]: of a norm's result */
    void *dy;              /* [N, d] act: of a branch's result */
    void *dq, *dk, *dv;    /* [N, d] act */
    void *dwide;           /* [N, 5d] act: as run->wide */
    float *stage;          /* [N, 5d]: where LoRA adds to a gradient that is rounded afterwards; with LoRA */
    void *low, *dlow;      /* [N, r] act: x A^T and its gradient; with LoRA */
    void *dcells;          /* [cells, C n n] act */
    float *latent, *kept;  /* [C, h, w]: of any call, and of the last forward */
    float *velocity;       /* [C, h, w]; in the backward pass its gradient */
    bool ready;            /* a forward was made that backward may follow */
    dd_layout layout;      /* owned: of the last forward */
    dd_flux_batch *batch;  /* borrowed: likewise */
    int index;
};

/* One backward pass on its way through the blocks. */
typedef struct dd_flux_pass {
    dd_flux_lane *lane;
    const dd_flux_call *c;
    float *gradient;               /* the flat vector */
    const dd_flux_tables *dtables; /* gradients of modulations; NULL unless DD_TRAIN_ALL */
    bool all;                      /* DD_TRAIN_ALL */
} dd_flux_pass;

/* From the gradient of x after a block to that before it, both lane->dx; x = the checkpoint before the block [rows, d]. The
 * block must just have run with the lane's tape. */
ddit_status dd_flux_double_backward(const dd_flux_pass *p, int index, dd_tensor x, ddit_err *err);
ddit_status dd_flux_single_backward(const dd_flux_pass *p, int index, dd_tensor x, ddit_err *err);

/* From the velocity's gradient (lane->velocity) to lane->dx after the last block; x = its checkpoint. */
ddit_status dd_flux_deembed_backward(const dd_flux_pass *p, dd_tensor x, ddit_err *err);

/* From lane->dx before the first block to the embeddings' gradients. */
ddit_status dd_flux_embed_backward(const dd_flux_pass *p, ddit_err *err);

/* dw += dy^T x and db += sums of dy's columns for a layer at `at`. */
ddit_status dd_flux_layer_gradient(dd_backend *b, float *gradient, dd_flux_place at, dd_tensor dy, dd_tensor x, ddit_err *err);

/* Backend memory of a batch, as dd_flux_batch_create takes it. */
uint64_t dd_flux_batch_bytes(const dd_flux_config *config, dd_dtype activation, bool all, int count, int text_tokens);

#endif
