/* The training-free coarse step: the base model on the pooled latent, lifted back. Our own method (docs/method.md 5), no
 * adapter. */
#ifndef DD_SAMPLE_FREE_VELOCITY_H
#define DD_SAMPLE_FREE_VELOCITY_H

#include "dit/flux_dit.h"

typedef struct dd_free_velocity_args {
    dd_flux_run *run;
    int branch;
    int time_index;          /* of the free step's own time, 1000 s' (schedule/free_step.h), in the run's times */
    int factor;              /* 2 or 4; divides the latent's sides in base cells */
    float sigma, detail;     /* s and h */
    const dd_layout *small;  /* uniform(1) on the pooled grid */
    dd_tensor z, velocity;   /* [C, h, w] F32 */
    dd_tensor z_small, v_small; /* [C, h/k, w/k] F32: scratch */
} dd_free_velocity_args;

ddit_status dd_free_velocity(const dd_free_velocity_args *args, dd_backend *b, ddit_err *err);

#endif
