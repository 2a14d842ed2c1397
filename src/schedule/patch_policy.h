/* Who decides the layout of the next step: off, auto (DDiT's rule), region (the same statistic cell by cell), or a schedule.
 *
 * Source: DDiT (arXiv 2602.16968), scheduler: the n-th difference of the latents over the last n steps, its standard deviation
 * per cell, the rho-quantile s of these over all cells of a factor; the largest factor with s < tau runs the step. Beyond the
 * paper: a lowest sigma per factor, tau scaled to the number of steps, and `region`.
 */
#ifndef DD_SCHEDULE_PATCH_POLICY_H
#define DD_SCHEDULE_PATCH_POLICY_H

#include "layout/layout.h"
#include "schedule/patch_schedule.h"

typedef enum dd_patch_kind { DD_PATCH_OFF, DD_PATCH_AUTO, DD_PATCH_REGION, DD_PATCH_SCHEDULE } dd_patch_kind;

enum { DD_MAX_ORDER = 3 };

/* What was asked for. Indices of arrays: dd_factor_index. */
typedef struct dd_patch_policy {
    dd_patch_kind kind;
    double tau;       /* threshold of auto, or of region; in model units of the latent */
    bool tau_by_hand; /* tau is taken as it is, not scaled to the number of steps */
    double tau_steps; /* the number of steps that tau belongs to (50 for the paper) */
    double rho;       /* quantile, 0..1 */
    int order;        /* of the difference, 1..3 */
    double sigma_min[DD_FACTOR_COUNT]; /* a factor is a candidate of auto and region while sigma >= this; 0: always */
    bool allowed[DD_FACTOR_COUNT];     /* factors the run may use; [0] is always taken as true */
    const dd_patch_schedule *schedule; /* borrowed; of DD_PATCH_SCHEDULE only */
} dd_patch_policy;

/* The paper's values: off, tau 0.001 at 50 steps, rho 0.4, order 3, no lowest sigma, only factor 1 allowed. */
dd_patch_policy dd_patch_policy_default(void);

/* tau * (tau_steps / steps)^order, or tau itself if it was given by hand: a difference of order n shrinks with the n-th
 * power of the step. */
double dd_patch_policy_tau(const dd_patch_policy *policy, int steps);

/* Standard deviations of the difference, one per whole cell (wholly inside the latent) of one factor, raster order. */
typedef struct dd_patch_stats {
    const float *std; /* borrowed [rows, cols]; NULL: not computed */
    int rows, cols;   /* grid.rows / factor, grid.cols / factor, rounded down */
} dd_patch_stats;

/* What is known before step `index` of the run. */
typedef struct dd_patch_step {
    int index;   /* 0.. */
    float sigma; /* of the latent handed to the model at this step */
    dd_patch_stats stats[DD_FACTOR_COUNT]; /* [0] unused */
} dd_patch_step;

/* Decides for one picture; holds scratch memory so that a decision allocates nothing. It has no memory of earlier steps. */
typedef struct dd_patch_decider {
    dd_patch_policy policy;
    int steps;
    double tau_effective;
    dd_grid grid;
    float *sorted;   /* owned: copy of a stats array */
    uint8_t *choice; /* owned: per 4p block, see dd_layout_set_choices */
    uint8_t *quad;   /* owned: per 2p quadrant */
    const dd_allocator *allocator;
} dd_patch_decider;

/* Checks the policy against the run: finite tau > 0, rho in 0..1, order 1..3, sigma_min finite, a schedule that fits (see
 * dd_patch_schedule_check). Errors: DDIT_ERR_ARGUMENT, DDIT_ERR_MISMATCH, DDIT_ERR_NO_MEMORY; the decider is then zeroed.
 * Free with dd_patch_decider_deinit (accepts a zeroed one). */
ddit_status dd_patch_decider_init(dd_patch_decider *decider, const dd_allocator *a, const dd_patch_policy *policy, int steps,
                                  dd_grid grid, ddit_err *err);
void dd_patch_decider_deinit(dd_patch_decider *decider);

/* Whether the statistics of `factor` (2 or 4) should be computed before step `index`: from step `order` on, for every factor
 * the run may use, if the policy decides by them or `traced` (a trace wants them). With auto and region this does not look at
 * sigma_min, so that a trace shows the statistic below it too. */
bool dd_patch_needs_stats(const dd_patch_decider *decider, int index, int factor, bool traced);

/* Sets `layout` (made by dd_layout_init for the same grid) to the layout of the step. stat[i] gets the statistic s (the
 * rho-quantile of the stds) of factor dd_factor_at(i), NaN where there are no stds. Factors without stds are no candidates of
 * auto and region, which therefore run factor 1 before step `order`.
 * Errors: DDIT_ERR_INTERNAL for stats whose shape is not the grid's. */
ddit_status dd_patch_decide(dd_patch_decider *decider, const dd_patch_step *step, dd_layout *layout,
                            float stat[DD_FACTOR_COUNT], ddit_err *err);

/* torch.quantile(values, rho) with linear interpolation, float32; NaN if a value is NaN or count is 0. Reorders `values`. */
float dd_quantile(float *values, size_t count, float rho);

#endif
