/* Optimizers on one flat float32 vector, with warm-up, decay, clipping of the gradient's norm, and a moving average of the
 * values.
 *
 * AdamW: Loshchilov & Hutter 2019 (as torch.optim.AdamW). Prodigy: Mishchenko & Defazio 2023 (as the package prodigyopt 1.1,
 * with safeguard_warmup, bias correction and decoupled weight decay), whose lr is a factor, normally 1. Clipping: as
 * torch.nn.utils.clip_grad_norm_.
 */
#ifndef DD_TRAIN_OPTIMIZER_H
#define DD_TRAIN_OPTIMIZER_H

#include "base/alloc.h"
#include "base/pool.h"

typedef enum dd_optimizer_kind { DD_OPTIMIZER_ADAMW, DD_OPTIMIZER_PRODIGY } dd_optimizer_kind;
typedef enum dd_lr_decay { DD_DECAY_NONE, DD_DECAY_LINEAR, DD_DECAY_COSINE } dd_lr_decay;

/* Values that learn faster or slower than the others, as a parameter group of torch's does. */
typedef struct dd_optimizer_part {
    int64_t end;  /* its values end here; they begin where the part before it ends, or at 0 */
    double rate;  /* factor of the learning rate, and so of the weight decay; 0: they stay as they are */
} dd_optimizer_part;

typedef struct dd_optimizer_params {
    dd_optimizer_kind kind;
    double lr, beta1, beta2, eps, weight_decay;
    int64_t warmup_steps; /* lr rises linearly over them */
    dd_lr_decay decay;    /* from the end of the warm-up to total_steps, down to lr * lr_floor */
    int64_t total_steps;
    double lr_floor;
    double clip_norm;     /* 0: no clipping */
    double ema_decay;     /* d of ema = d ema + (1 - d) values, where d is at most (1 + t) / (10 + t) in step t = 0, 1, …;
                           * 0: the average is the values */
    const dd_optimizer_part *parts; /* AdamW only: [part_count], the last one ends at `count`; init copies them. NULL: one part
                                     * with rate 1 */
    int part_count;
} dd_optimizer_params;

/* AdamW: lr 1e-4, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01; Prodigy: the same with lr 1. Both: clipping at norm 1, no
 * warm-up, no decay, no average. */
dd_optimizer_params dd_optimizer_defaults(dd_optimizer_kind kind);

typedef struct dd_optimizer {
    dd_optimizer_params params;
    int64_t count;
    int64_t step;      /* steps done */
    float *values;     /* owned [count]: the parameters */
    float *m, *v;      /* owned [count] */
    float *ema;        /* owned [count]; NULL if ema_decay is 0 */
    float *s, *start;  /* owned [count]; Prodigy only */
    dd_optimizer_part *parts; /* owned [params.part_count]; params.parts points here */
    double d, d_max, d_numerator; /* Prodigy */
    double *sums;      /* owned: sums over the blocks */
    const dd_allocator *allocator;
} dd_optimizer;

/* Copies values[count]. *o is zeroed on failure. Errors: DDIT_ERR_ARGUMENT, naming the parameter that is out of its range;
 * memory. */
ddit_status dd_optimizer_init(dd_optimizer *o, const dd_allocator *a, const dd_optimizer_params *params, const float *values,
                              int64_t count, ddit_err *err);
void dd_optimizer_deinit(dd_optimizer *o);

/* What one step did. */
typedef struct dd_optimizer_report {
    double lr;            /* that was used (for Prodigy times d) */
    double gradient_norm; /* before clipping */
} dd_optimizer_report;

/* One step with gradient[count] (host). A gradient whose norm is not finite changes nothing and returns DDIT_ERR_DIVERGED.
 * The work is divided over the pool (NULL: this thread alone) in blocks of fixed size: the same bytes for any threads. */
ddit_status dd_optimizer_step(dd_optimizer *o, dd_pool *pool, const float *gradient, dd_optimizer_report *report,
                              ddit_err *err);

/* What goes into files: the average if there is one. */
const float *dd_optimizer_average(const dd_optimizer *o);

/* The learning rate (without Prodigy's d) of step t = 0, 1, … */
double dd_optimizer_lr(const dd_optimizer_params *params, int64_t t);

/* The vectors of its state, each [count], borrowed: those that this kind has, always in the same order. Returns how many. */
typedef struct dd_optimizer_vector {
    const char *name;
    float *values;
} dd_optimizer_vector;
enum { DD_OPTIMIZER_VECTORS = 6 };
int dd_optimizer_vectors(const dd_optimizer *o, dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS]);

/* Bytes that an optimizer of `count` parameters owns. */
uint64_t dd_optimizer_bytes(const dd_optimizer_params *params, int64_t count);

#endif
