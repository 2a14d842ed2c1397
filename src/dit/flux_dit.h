/* The FLUX transformer, told a layout: velocity = dit(latent, layout, condition, step).
 *
 * Two objects. dd_flux_dit holds the weights (immutable after open, shared by runs one at a time on its backend). dd_flux_run
 * belongs to one picture size and one list of times: it owns the buffers, planned for the largest layout before the first step,
 * and the tables of what does not depend on the latent (modulations of all steps, embedded text).
 *
 * Source: FLUX.1 (FluxTransformer2DModel of diffusers 0.42), patch sizes after DDiT (arXiv 2602.16968); exactly: docs/method.md
 * 1, 2.
 */
#ifndef DD_DIT_FLUX_DIT_H
#define DD_DIT_FLUX_DIT_H

#include "format/adapter.h"
#include "format/weights.h"
#include "layout/layout.h"
#include "op/op.h"

typedef struct dd_flux_dit dd_flux_dit;
typedef struct dd_flux_run dd_flux_run;

/* Prepares the weights of a FluxTransformer2DModel. `files` must outlive the model: modulation weights, which a run needs once,
 * are read from it at dd_flux_run_condition. Errors: those of dd_weight_files_need (naming tensor, found, expected) and of the
 * backend; *out is NULL on failure. */
ddit_status dd_flux_dit_open(dd_flux_dit **out, dd_backend *b, const dd_flux_config *config, const dd_weight_files *files,
                             ddit_err *err);

/* The same for training: linear layers are prepared for input gradients too, modulation weights are kept in memory. With `all`
 * every weight can be updated (DD_WEIGHT_UPDATES) and the float32 start values are read from `files`. */
ddit_status dd_flux_dit_open_trainable(dd_flux_dit **out, dd_backend *b, const dd_flux_config *config,
                                       const dd_weight_files *files, bool all, ddit_err *err);

/* Adds the adapter's factors to the model (at most one adapter; it must have passed dd_adapter_check). `adapter` must
 * outlive the model. Errors: those of the backend; the model is then as before. */
ddit_status dd_flux_dit_add_adapter(dd_flux_dit *dit, const dd_adapter *adapter, ddit_err *err);

/* Frees the model; NULL is accepted. Runs must be freed first. */
void dd_flux_dit_close(dd_flux_dit *dit);

const dd_flux_config *dd_flux_dit_config(const dd_flux_dit *dit);
dd_backend *dd_flux_dit_backend(const dd_flux_dit *dit);
bool dd_flux_dit_has_factor(const dd_flux_dit *dit, int factor); /* 1 always; 2 and 4 if the adapter has them */
uint64_t dd_flux_dit_weight_bytes(const dd_flux_dit *dit);       /* prepared weights, adapter included */

typedef struct dd_flux_run_params {
    dd_grid grid;          /* at factor 1, the largest the run will see */
    int text_tokens;       /* rows of the T5 embedding */
    int branches;          /* 1, or 2 with classifier-free guidance */
    float guidance;        /* ignored by models without guidance embedding */
    const float *times;    /* [time_count], 1000 sigma of every call; copied */
    int time_count;
    int trimmed_text;      /* text rows of layouts without a factor 1 cell; 0 = all */
} dd_flux_run_params;

/* Bytes a run takes in backend memory: buffers of a step, tables of all calls, and the most that dd_flux_run_condition needs
 * for a moment. */
typedef struct dd_flux_run_bytes {
    uint64_t activations;
    uint64_t tables;
    uint64_t condition;
} dd_flux_run_bytes;
dd_flux_run_bytes dd_flux_run_measure(const dd_flux_config *config, dd_dtype activation, const dd_flux_run_params *params);

/* Plans and allocates. Errors: DDIT_ERR_NO_MEMORY, DDIT_ERR_BACKEND; *out is NULL on failure. */
ddit_status dd_flux_run_create(dd_flux_run **out, dd_flux_dit *dit, const dd_flux_run_params *params, ddit_err *err);
void dd_flux_run_free(dd_flux_run *run); /* NULL accepted */

/* Computes what depends on the prompt and the times only, for branch 0 or 1: embedded text and every block's modulation vectors
 * at all times (one matrix product per block with time_count rows). text [text_tokens, joint_attention_dim], pooled
 * [pooled_projection_dim]: host memory, float32. */
ddit_status dd_flux_run_condition(dd_flux_run *run, int branch, const float *text, const float *pooled, ddit_err *err);

/* The velocity (noise minus data) of one branch at times[time_index]. latent, velocity: [C, h, w] F32 backend memory; the
 * layout's grid may be smaller than the run's (free coarse step). Cells of factor 2 and 4 need the adapter. sigma is used by
 * the adapter's residual only. Allocates nothing. */
ddit_status dd_flux_run_velocity(dd_flux_run *run, int branch, int time_index, float sigma, const dd_layout *layout,
                                 dd_tensor latent, dd_tensor velocity, ddit_err *err);

/* Text rows that the layout runs with. */
int dd_flux_run_text_rows(const dd_flux_run *run, const dd_layout *layout);

#endif
