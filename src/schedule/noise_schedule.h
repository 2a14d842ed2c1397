/* The noise levels (sigmas) and times of a run: flow matching with Euler steps, z = (1 - sigma) * data + sigma * noise.
 *
 * Source: FluxPipeline with FlowMatchEulerDiscreteScheduler of diffusers 0.42.1, bit for bit (float32 at every operation).
 */
#ifndef DD_SCHEDULE_NOISE_SCHEDULE_H
#define DD_SCHEDULE_NOISE_SCHEDULE_H

#include "base/alloc.h"

enum { DD_MAX_STEPS = 1000 };

typedef enum dd_time_shift { DD_TIME_SHIFT_EXPONENTIAL, DD_TIME_SHIFT_LINEAR } dd_time_shift;

/* The keys of scheduler_config.json, by their names there. */
typedef struct dd_noise_schedule_params {
    bool use_dynamic_shifting;    /* true (dev): shift by the number of image tokens; false (schnell): by `shift` */
    double shift;                 /* > 0; 1 leaves the even grid */
    double base_shift, max_shift; /* mu at base_image_seq_len and at max_image_seq_len; not clamped outside */
    double base_image_seq_len, max_image_seq_len;
    dd_time_shift time_shift_type; /* used with dynamic shifting only */
} dd_noise_schedule_params;

/* What diffusers takes for keys that the file lacks: static shift 1, 0.5, 1.15, 256, 4096, exponential. */
dd_noise_schedule_params dd_noise_schedule_default_params(void);

typedef struct dd_noise_schedule {
    int steps;    /* N */
    double mu;    /* what dynamic shifting used; 0 with static shift */
    float *sigma; /* owned [N + 1]: from 1 down to 0; sigma[k] is the level of the latent handed to the model at step k */
    float *time;  /* owned [N]: 1000 * sigma[k], the model's time */
    const dd_allocator *allocator;
} dd_noise_schedule;

/* 1 <= steps <= DD_MAX_STEPS. image_tokens: cells of factor 1 of one picture, whatever the layouts of the run.
 * Errors: DDIT_ERR_ARGUMENT (steps), DDIT_ERR_FORMAT (parameters that give no falling row of finite sigmas),
 * DDIT_ERR_NO_MEMORY; the schedule is then zeroed. Free with dd_noise_schedule_deinit (accepts a zeroed one). */
ddit_status dd_noise_schedule_init(dd_noise_schedule *schedule, const dd_allocator *a, const dd_noise_schedule_params *params,
                                   int steps, int image_tokens, ddit_err *err);
void dd_noise_schedule_deinit(dd_noise_schedule *schedule);

/* The noise level at u in (0, 1], shift included: what the even grid's point u becomes in a run. For training, which meets
 * levels between those of a run. */
float dd_noise_level(const dd_noise_schedule_params *params, int image_tokens, double u);

#endif
