/* What a trainer holds. Private to trainer*.c. */
#ifndef DD_TRAIN_TRAINER_PRIVATE_H
#define DD_TRAIN_TRAINER_PRIVATE_H

#include "train/mixed_layout.h"
#include "train/trainer.h"

enum { DD_GRADIENT_ROW = 1024 }; /* a gradient vector is padded to whole rows of so many values */

/* One sample of the batch at hand. */
typedef struct dd_trainer_sample {
    dd_train_sample data;
    uint64_t number;     /* over the whole training */
    int index;           /* in its step */
    dd_layout_kind kind;
    double loss;         /* unweighted */
    double kind_loss[DD_LAYOUT_KINDS]; /* of an evaluation */
} dd_trainer_sample;

/* Buffers of one lane, host memory. */
typedef struct dd_trainer_lane {
    float *latent, *target, *velocity; /* owned [C, h, w]; velocity becomes the loss's gradient */
    float *unguided;                   /* owned [C, h, w]: the teacher without prompt; NULL without teacher */
    dd_layout layout;                  /* a mixed one */
    dd_mixed_layouts mixed;
} dd_trainer_lane;

/* How a task ended; tasks cannot return. */
typedef struct dd_trainer_end {
    ddit_status status;
    ddit_err err;
} dd_trainer_end;

struct dd_trainer {
    const dd_allocator *allocator;
    dd_trainer_params params;
    dd_trainer_parts parts;
    int ranks, rank, local;     /* local: samples of a batch on this rank */
    int step_samples;           /* of a step, all ranks */
    size_t values;              /* of a latent */
    int64_t total, rows;        /* parameters; rows of DD_GRADIENT_ROW values that hold them */
    double weight_scale;
    float **gradients;          /* owned [accumulators], each owned, backend memory [rows, DD_GRADIENT_ROW] */
    float *gradient;            /* owned, host [rows, DD_GRADIENT_ROW] */
    dd_trainer_lane *lanes;     /* owned [lane_count] */
    dd_trainer_sample *samples; /* owned [local] */
    dd_flux_condition *conditions; /* owned [local], [2 local] with teacher */
    dd_trainer_end *ends;       /* owned [max(accumulators, local)] */
    double *load;               /* owned [accumulators]: what each has to do in the batch at hand */
    int *order;                 /* owned [accumulators]: those with most to do first */
    int batch_count;            /* samples of the batch at hand */
    dd_layout uniform[DD_FACTOR_COUNT];
    const dd_train_source *source; /* of the batch at hand */
    uint64_t step;
};

/* Makes sample i of the step the `slot`-th of the batch at hand. */
ddit_status dd_trainer_plan(dd_trainer *t, int slot, int i, ddit_err *err);

/* The batch's conditions, `count` of them, for trainee and teacher. */
ddit_status dd_trainer_condition(dd_trainer *t, int count, ddit_err *err);

/* Loads the sample's latent and target into the lane's buffers. */
ddit_status dd_trainer_load(dd_trainer *t, int lane, int slot, ddit_err *err);

/* The layout of a kind; that of a mixed one is drawn into the lane's. */
const dd_layout *dd_trainer_layout(dd_trainer *t, int lane, dd_layout_kind kind, uint64_t seed, uint64_t number);

/* Mean squared difference of the lane's velocity from its target. */
double dd_trainer_loss(const dd_trainer *t, int lane);

/* Forward, loss and backward of all samples of the batch at hand. */
ddit_status dd_trainer_run_batch(dd_trainer *t, int count, ddit_err *err);

/* The first bad end of `count` tasks. */
ddit_status dd_trainer_first_end(const dd_trainer *t, int count, ddit_err *err);

#endif
