/* One training step: samples -> lanes -> loss -> gradients -> sum over lanes and ranks -> optimizer.
 *
 * Loss of a sample: weight(sigma) * mean over all latent values of (velocity - target)^2, then the mean over the step's
 * samples. Which layout a sample gets is drawn from `share`. Everything about sample i of a step follows from its number
 * step * batch * accumulate + i. The samples of a batch are divided in a row over `accumulators` gradient vectors, each vector
 * is filled by one lane at a time in the samples' order, and the vectors are summed as a tree of pairs over lanes and ranks:
 * the same bytes for any number of lanes, and (scope DD_TRAIN_ADAPTER) for 1, 2, 4 … ranks if there are as many vectors.
 */
#ifndef DD_TRAIN_TRAINER_H
#define DD_TRAIN_TRAINER_H

#include "comm/comm.h"
#include "train/optimizer.h"
#include "train/source.h"

typedef enum dd_layout_kind { DD_LAYOUT_X1, DD_LAYOUT_X2, DD_LAYOUT_X4, DD_LAYOUT_MIXED, DD_LAYOUT_KINDS } dd_layout_kind;

typedef struct dd_trainer_params {
    uint64_t seed;
    int batch;        /* samples whose conditions are held at once, over all ranks; a multiple of their number */
    int accumulate;   /* batches of a step */
    int accumulators; /* gradient vectors of this rank; a power of two */
    bool factor[DD_FACTOR_COUNT];  /* [1], [2]: the trainee has factor 2, 4. None: DD_TRAIN_ALL */
    double share[DD_LAYOUT_KINDS]; /* how often a layout is drawn; sum 1. DD_TRAIN_ALL: X1 alone */
    double weight_floor;     /* weight(sigma) = (sigma^2 / (sigma^2 + w)), scaled to mean 1 over uniform sigma; 0: all 1 */
    float teacher_guidance;  /* DD_TRAIN_ALL, guidance distillation: the guidance input that the teacher is given */
    dd_latent_shape shape;
    dd_grid grid;
} dd_trainer_params;

typedef struct dd_trainer dd_trainer;

/* Everything is borrowed. lanes[i] is used on thread i of the pool. teacher: with guidance distillation lanes of a frozen copy
 * of the model on the same backends (NULL elsewhere): the target is v0 + g (v1 - v0) of the frozen model without and with
 * prompt, g the sample's guidance. */
typedef struct dd_trainer_parts {
    dd_flux_trainee *trainee;
    dd_backend *backend;      /* the trainee's */
    dd_flux_lane *const *lanes;
    int lane_count;
    dd_pool *pool;            /* lane_count threads */
    dd_flux_batch *batch;     /* params.batch / ranks conditions */
    dd_flux_lane *const *teacher;
    dd_flux_batch *teacher_batch; /* twice as many: with prompt, then without */
    const dd_train_prompt *empty; /* the condition of the branch without prompt; with a teacher alone */
    const dd_train_source *source;
    dd_optimizer *optimizer;
    dd_comm *comm;
} dd_trainer_parts;

/* Takes memory for gradients, latents and layouts; all parts must outlive the trainer. params is copied. Errors:
 * DDIT_ERR_ARGUMENT (counts below 1; a batch that is no multiple of the ranks), DDIT_ERR_NO_MEMORY. *out is NULL on failure. */
ddit_status dd_trainer_create(dd_trainer **out, const dd_allocator *a, const dd_trainer_params *params,
                              const dd_trainer_parts *parts, ddit_err *err);
void dd_trainer_free(dd_trainer *trainer); /* NULL accepted */

/* Bytes a trainer owns, backend and host: accumulators, latents, layouts. */
uint64_t dd_trainer_bytes(const dd_trainer_params *params, int lane_count, int64_t param_total);

/* What a step did; losses are unweighted means over the samples of the kind (over all ranks), NaN if there was none. */
typedef struct dd_trainer_report {
    double loss[DD_LAYOUT_KINDS];
    int samples[DD_LAYOUT_KINDS];
    dd_optimizer_report optimizer;
} dd_trainer_report;

/* Step number optimizer->step, which it increases by one. All ranks call it; if one fails, all do. Errors: DDIT_ERR_DIVERGED
 * (a loss or gradient is not finite; nothing was changed), those of source, model and comm. */
ddit_status dd_trainer_step(dd_trainer *trainer, dd_trainer_report *report, ddit_err *err);

/* Unweighted mean losses over samples 0..count-1 of step 0 of another source, every sample at uniform 2 and uniform 4 (those
 * the trainee has) and one fixed mixed layout, with DD_TRAIN_ALL at uniform 1; NaN for the others. values: the parameters to be
 * measured; the next step puts its own back. The ranks share the work and get the same losses. Errors: those of source, model
 * and comm. */
ddit_status dd_trainer_evaluate(dd_trainer *trainer, const float *values, const dd_train_source *source, int count,
                                double loss[DD_LAYOUT_KINDS], ddit_err *err);

#endif
