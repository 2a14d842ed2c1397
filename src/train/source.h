/* Where training samples come from. A source gives sample `i` of step `step`; the same pair gives the same sample on every
 * machine and in every run with the same seed.
 */
#ifndef DD_TRAIN_SOURCE_H
#define DD_TRAIN_SOURCE_H

#include "dit/flux_train.h"

/* One sample. Conditions are borrowed from the source and live as long as it; buffers belong to the caller. */
typedef struct dd_train_sample {
    const float *text, *pooled; /* as in dd_flux_condition */
    float sigma;                /* noise level, 0..1 */
    float guidance;
    bool has_target;            /* false: the teacher's velocity at factor 1 must be computed */
} dd_train_sample;

typedef struct dd_train_source dd_train_source;
struct dd_train_source {
    /* What the sample is, without its values; cheap. Called by one thread at a time, and before fetch of that sample. */
    ddit_status (*plan)(const dd_train_source *s, uint64_t step, int i, dd_train_sample *out, ddit_err *err);
    /* latent [C, h, w]: the noisy latent z; target [C, h, w]: the velocity (noise minus data) to learn, if has_target.
     * Called from several threads at once. */
    ddit_status (*fetch)(const dd_train_source *s, uint64_t step, int i, float *latent, float *target, ddit_err *err);
};

/* One prompt's condition, host memory. */
typedef struct dd_train_prompt {
    const float *text;   /* [text_tokens, joint_attention_dim] */
    const float *pooled; /* [pooled_projection_dim] */
} dd_train_prompt;

/* Values of one latent. */
typedef struct dd_latent_shape {
    int channels, height, width;
} dd_latent_shape;

static inline size_t dd_latent_values(dd_latent_shape s) { return (size_t)s.channels * (size_t)s.height * (size_t)s.width; }

#endif
