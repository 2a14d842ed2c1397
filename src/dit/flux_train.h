/* The FLUX transformer with gradients.
 *
 * A trainee is a dit some of whose weights are parameters: the adapter's (embedding, de-embedding, id vector, LoRA, residual of
 * the factors 2 and 4) or all of the transformer's. A lane runs one sample at a time, forward and backward; lanes on different
 * backends (dd_op_lane_open) work side by side. A batch holds what depends on prompt, time and guidance of `count` samples.
 *
 * The forward pass is the one of inference (flux_block.c, flux_embed.c), with a tape: block inputs are kept as checkpoints, and
 * each block is computed again in the backward pass with its inner activations kept. Memory of a lane therefore grows with
 * blocks * tokens * hidden * 4 bytes plus one block.
 *
 *     dd_flux_trainee_create(&trainee, dit, &options, err);       params: dd_flux_trainee_params(trainee)
 *     dd_flux_trainee_start(trainee, seed, values, err);          the untrained start, or values read from a file
 *     for every step:
 *         dd_flux_trainee_update(trainee, values, err);
 *         dd_flux_batch_condition(batch, ...);
 *         for every sample, on some lane: dd_flux_lane_forward, loss, dd_flux_lane_backward (gradient += )
 *         for --train all: dd_flux_batch_backward
 *         optimizer: values -= ...
 *
 * Source: DDiT (arXiv 2602.16968), distillation; FLUX.1 (diffusers 0.42); Chen et al. 2016 (checkpointing). docs/training.md.
 */
#ifndef DD_DIT_FLUX_TRAIN_H
#define DD_DIT_FLUX_TRAIN_H

#include "bind/param_list.h"
#include "dit/flux_dit.h"

typedef struct dd_flux_trainee dd_flux_trainee;
typedef struct dd_flux_batch dd_flux_batch;
typedef struct dd_flux_lane dd_flux_lane;

typedef enum dd_train_scope {
    DD_TRAIN_ADAPTER, /* the adapter of dd_train_options.factors; the transformer is frozen */
    DD_TRAIN_ALL,     /* every weight of the transformer, at factor 1; no adapter */
} dd_train_scope;

/* Which linear layers carry LoRA. */
enum {
    DD_LORA_DOUBLE_IMAGE = 1, /* transformer_blocks.N.ff.* */
    DD_LORA_DOUBLE_TEXT = 2,  /* transformer_blocks.N.ff_context.* */
    DD_LORA_SINGLE_MLP = 4,   /* single_transformer_blocks.N.proj_mlp */
    DD_LORA_SINGLE_OUT = 8,   /* single_transformer_blocks.N.proj_out */
    DD_LORA_ALL = 15,
};

typedef struct dd_train_options {
    dd_train_scope scope;
    bool factor[DD_FACTOR_COUNT]; /* [1]: factor 2, [2]: factor 4; ADAPTER only */
    int rank;                     /* of LoRA; 0: none */
    float alpha;                  /* LoRA scale is alpha / rank */
    unsigned lora_targets;        /* DD_LORA_* bits */
    bool residual_linear, residual_hf;
} dd_train_options;

/* Bytes that training takes in backend memory beside the dit's own weights (dd_flux_dit_open), before anything is made. */
typedef struct dd_flux_train_bytes {
    uint64_t weights;     /* what training adds to an open dit: prepared adapter, transposes for input gradients, modulation
                           * weights kept; as matrices are, a backend may pad them (ref keeps views and takes less) */
    uint64_t checkpoints; /* of one lane: blocks * tokens * hidden * 4 */
    uint64_t block;       /* of one lane: buffers of one block, forward and backward, embeddings, latents */
    uint64_t batch;       /* conditions of a batch (and their gradients with DD_TRAIN_ALL) */
} dd_flux_train_bytes;

/* grid: the latent at factor 1. A trained adapter never runs at factor 1 except as teacher (no tape), so that checkpoints are
 * planned for `max_tokens` image tokens (mixed layouts: fewer than the grid's cells). */
typedef struct dd_flux_lane_params {
    dd_grid grid;
    int text_tokens;
    int max_image_tokens; /* most cells of a layout that forward keeps; velocity() takes any */
} dd_flux_lane_params;

/* What a trainee, one lane and a batch of batch_count conditions will take; activation: that of the backend. */
dd_flux_train_bytes dd_flux_train_measure(const dd_flux_config *config, dd_dtype activation, const dd_train_options *options,
                                          const dd_flux_lane_params *lane, int batch_count);

/* Makes a trainee of an open dit without adapter, opened for training (dd_flux_dit_open_trainable). The dit must outlive it and
 * is changed: its factors become runnable (dd_flux_dit_has_factor), dd_flux_run_velocity uses the current values.
 * Errors: DDIT_ERR_NO_MEMORY, those of the backend (DDIT_ERR_UNSUPPORTED without gradients); *out is NULL on failure. */
ddit_status dd_flux_trainee_create(dd_flux_trainee **out, dd_flux_dit *dit, const dd_train_options *options, ddit_err *err);
void dd_flux_trainee_free(dd_flux_trainee *trainee); /* NULL accepted; lanes and batches first */

/* The segments of the flat vector; names are those of docs/adapter_file.md, with DD_TRAIN_ALL diffusers' names. An embedding's
 * bias and its id vector are added to the same rows and have the same gradient; both are parameters because files have both. */
const dd_param_list *dd_flux_trainee_params(const dd_flux_trainee *trainee);

/* Start values, values[total] host memory. ADAPTER: the pseudo-inverse start (docs/training.md: embedding P w, de-embedding
 * B w, id and residual 0, LoRA A uniform in +-1/sqrt(in) by `seed`, B 0). ALL: the dit's own weights from its files. */
ddit_status dd_flux_trainee_start(const dd_flux_trainee *trainee, uint64_t seed, float *values, ddit_err *err);

/* Puts values[total] (host) into the weights. No lane may be at work. */
ddit_status dd_flux_trainee_update(dd_flux_trainee *trainee, const float *values, ddit_err *err);

/* Conditions of up to `count` samples, each with `text_tokens` rows of text; the trainee must outlive it.
 * Errors: DDIT_ERR_NO_MEMORY, those of dd_op_reserve; *out is NULL on failure. */
ddit_status dd_flux_batch_create(dd_flux_batch **out, dd_flux_trainee *trainee, int count, int text_tokens, ddit_err *err);
void dd_flux_batch_free(dd_flux_batch *batch); /* NULL accepted */

/* One sample's condition: host memory, borrowed for the call. */
typedef struct dd_flux_condition {
    const float *text;   /* [text_tokens, joint_attention_dim] */
    const float *pooled; /* [pooled_projection_dim] */
    float time;          /* 1000 sigma */
    float guidance;      /* ignored by models without guidance embedding */
} dd_flux_condition;

/* Computes embedded text and modulation tables of samples 0..count-1, for all of them at once, on the trainee's backend. With
 * DD_TRAIN_ALL what the backward pass needs is kept and the tables' gradients are set to zero. */
ddit_status dd_flux_batch_condition(dd_flux_batch *batch, const dd_flux_condition *samples, int count, ddit_err *err);

/* DD_TRAIN_ALL: from the tables' gradients that lanes left behind to those of modulations, embedders and text embedding.
 * gradient[total] backend memory, added to. */
ddit_status dd_flux_batch_backward(dd_flux_batch *batch, float *gradient, ddit_err *err);

/* A lane on `backend` (borrowed): the trainee's own, or one of its lanes. Its batches must have params->text_tokens rows of
 * text; the trainee must outlive it. Errors: DDIT_ERR_NO_MEMORY, those of dd_op_reserve; *out is NULL on failure. */
ddit_status dd_flux_lane_create(dd_flux_lane **out, dd_flux_trainee *trainee, dd_backend *backend,
                                const dd_flux_lane_params *params, ddit_err *err);
void dd_flux_lane_free(dd_flux_lane *lane); /* NULL accepted */

/* The velocity of sample `index` of the batch, as dd_flux_run_velocity gives it; nothing is kept. Uniform(1) is the frozen
 * teacher. latent, velocity: [C, h, w] host memory. */
ddit_status dd_flux_lane_velocity(dd_flux_lane *lane, const dd_flux_batch *batch, int index, float sigma,
                                  const dd_layout *layout, const float *latent, float *velocity, ddit_err *err);

/* The same, keeping checkpoints for one backward; what the pointers refer to is copied, the batch must stay as it is.
 * Errors: DDIT_ERR_ARGUMENT for more cells than max_image_tokens, with DD_TRAIN_ALL for layouts that are not uniform(1). */
ddit_status dd_flux_lane_forward(dd_flux_lane *lane, dd_flux_batch *batch, int index, float sigma, const dd_layout *layout,
                                 const float *latent, float *velocity, ddit_err *err);

/* From dvelocity [C, h, w] (host) of the last forward to gradient[total] (backend memory of the lane's backend, added to).
 * The batch's tables' gradients of that sample are added to as well with DD_TRAIN_ALL. */
ddit_status dd_flux_lane_backward(dd_flux_lane *lane, const float *dvelocity, float *gradient, ddit_err *err);

#endif
