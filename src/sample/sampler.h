/* The step loop: at every step the policy chooses a layout from the latents so far, the transformer gives the velocity, Euler
 * takes the step. The only caller of schedule and dit together.
 *
 * Anchored coarse steps (our own extension, docs/method.md). A coarse model errs by v_fine - v_coarse, which changes slowly
 * along a path. With anchor = N > 0 a coarse step without a valid correction runs at both sizes: it takes the fine velocity and
 * keeps the difference. The next N steps add that difference to the coarse velocity of the same factor. Mixed layouts run
 * without it.
 *
 * Source: FluxPipeline with FlowMatchEulerDiscreteScheduler of diffusers 0.42; DDiT's scheduler; docs/method.md 3 to 6.
 */
#ifndef DD_SAMPLE_SAMPLER_H
#define DD_SAMPLE_SAMPLER_H

#include "dit/flux_dit.h"
#include "schedule/noise_schedule.h"
#include "schedule/patch_policy.h"

typedef struct dd_sampler dd_sampler;

typedef struct dd_sampler_params {
    int latent_height, latent_width;   /* multiples of the patch */
    int steps;
    dd_noise_schedule_params noise;
    dd_patch_policy policy;            /* its schedule is borrowed until the sampler is freed */
    bool coarse_free;                  /* coarse steps by the free method instead of the adapter */
    float free_detail[DD_FACTOR_COUNT]; /* h of the free step, by index of the factor */
    int anchor;                        /* most steps that one measured correction serves; 0 = none. Our own, see below */
    float guidance;
    float cfg_scale;                   /* > 1: two branches */
    int text_tokens;
    int trimmed_text;                  /* text rows of layouts without factor 1 (adapter's text_tokens); 0 = all */
    bool keep_steps;                   /* keep latents and velocities of all steps on the host */
} dd_sampler_params;

/* What one step did. */
typedef struct dd_step_record {
    int index;
    float sigma, sigma_next;
    float stat[DD_FACTOR_COUNT];   /* the policy's statistic per factor; NaN = not computed; [0] unused */
    int cells[DD_FACTOR_COUNT];
    const char *layout;            /* string form of a mixed layout, else NULL */
    int text_tokens, image_tokens; /* tokens the model ran with */
    bool anchored;                 /* ran at factor 1 as well, to measure the correction; tokens count both */
    double seconds;
} dd_step_record;

/* Called after every step; non-zero cancels the run. */
typedef int (*dd_step_callback)(void *user, const dd_step_record *record);

/* Host and backend bytes that dd_sampler_create takes, beside the weights. */
typedef struct dd_sampler_bytes {
    dd_flux_run_bytes run;
    uint64_t latents; /* history, velocities, statistics */
    uint64_t kept;    /* keep_steps */
} dd_sampler_bytes;
dd_sampler_bytes dd_sampler_measure(const dd_flux_config *config, dd_dtype activation, const dd_sampler_params *params);

/* Whether a sampler can be made, before anything expensive is done: what dd_sampler_create refuses of policy, schedule and
 * steps. */
ddit_status dd_sampler_check(const dd_flux_config *config, const dd_allocator *a, const dd_sampler_params *params,
                             ddit_err *err);

/* Plans everything: nothing is allocated in the step loop. Errors: DDIT_ERR_ARGUMENT (policy, steps, coarse = free with sizes
 * that a factor does not divide or with mixed layouts), DDIT_ERR_MISMATCH, DDIT_ERR_NO_MEMORY; *out is NULL on failure. */
ddit_status dd_sampler_create(dd_sampler **out, dd_flux_dit *dit, const dd_sampler_params *params, ddit_err *err);
void dd_sampler_free(dd_sampler *sampler); /* NULL accepted */

/* The prompt of branch 0 (positive) or 1 (negative): as dd_flux_run_condition. Before the first run. */
ddit_status dd_sampler_condition(dd_sampler *sampler, int branch, const float *text, const float *pooled, ddit_err *err);

/* Runs all steps from noise [C, h, w] (host, float32). Errors: DDIT_ERR_CANCELLED and those of the model. */
ddit_status dd_sampler_run(dd_sampler *sampler, const float *noise, dd_step_callback callback, void *user, ddit_err *err);

/* The latent after the last step: backend memory [C, h, w] F32, owned by the sampler. */
dd_tensor dd_sampler_latent(const dd_sampler *sampler);

/* Records of the steps done, count of them; owned by the sampler, overwritten by the next run. */
const dd_step_record *dd_sampler_records(const dd_sampler *sampler, int *count);

/* keep_steps: latent handed to the model at step K and the velocity used there, host [C, h, w]; NULL if not kept. */
const float *dd_sampler_kept_latent(const dd_sampler *sampler, int step);
const float *dd_sampler_kept_velocity(const dd_sampler *sampler, int step);

/* The noise levels of the run, and the policy's effective threshold. */
const dd_noise_schedule *dd_sampler_noise(const dd_sampler *sampler);
double dd_sampler_tau(const dd_sampler *sampler);

#endif
