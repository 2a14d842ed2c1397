#include "schedule/noise_schedule.h"

#include <math.h>

dd_noise_schedule_params dd_noise_schedule_default_params(void) {
    return (dd_noise_schedule_params){.shift = 1, .base_shift = 0.5, .max_shift = 1.15, .base_image_seq_len = 256,
                                      .max_image_seq_len = 4096};
}

/* A straight line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), in the reference's order of
 * operations. */
static double shift_exponent(const dd_noise_schedule_params *p, int image_tokens) {
    double slope = (p->max_shift - p->base_shift) / (p->max_image_seq_len - p->base_image_seq_len);
    double offset = p->base_shift - slope * p->base_image_seq_len;
    return image_tokens * slope + offset;
}

/* Point k of N evenly spaced ones from 1 to 1/N, made in float64 as numpy.linspace does. */
static float even_grid(int k, int steps) {
    double last = 1.0 / steps;
    if (k == 0) return 1.0f;
    if (k == steps - 1) return (float)last;
    double step = (last - 1.0) / (steps - 1);
    return (float)(k * step + 1.0);
}

static float shifted(const dd_noise_schedule_params *p, double mu, float g) {
    if (!p->use_dynamic_shifting) {
        float shift = (float)p->shift, shift_less_one = (float)(p->shift - 1);
        return shift * g / (1.0f + shift_less_one * g);
    }
    float e = p->time_shift_type == DD_TIME_SHIFT_LINEAR ? (float)mu : (float)exp(mu);
    return e / (e + (1.0f / g - 1.0f));
}

float dd_noise_level(const dd_noise_schedule_params *params, int image_tokens, double u) {
    return shifted(params, params->use_dynamic_shifting ? shift_exponent(params, image_tokens) : 0, (float)u);
}

ddit_status dd_noise_schedule_init(dd_noise_schedule *schedule, const dd_allocator *a, const dd_noise_schedule_params *params,
                                   int steps, int image_tokens, ddit_err *err) {
    *schedule = (dd_noise_schedule){.allocator = a};
    ddit_status status;
    if (steps < 1 || steps > DD_MAX_STEPS) {
        status = dd_fail(err, DDIT_ERR_ARGUMENT, "%d steps were asked for; 1 to %d are possible", steps, DD_MAX_STEPS);
        goto done;
    }
    DD_GO(dd_alloc(a, &schedule->sigma, (size_t)steps + 1, sizeof *schedule->sigma, "the noise levels", err));
    DD_GO(dd_alloc(a, &schedule->time, (size_t)steps, sizeof *schedule->time, "the times", err));
    schedule->steps = steps;
    if (params->use_dynamic_shifting) schedule->mu = shift_exponent(params, image_tokens);
    for (int k = 0; k < steps; k++) {
        float sigma = shifted(params, schedule->mu, even_grid(k, steps));
        /* A little over 1 is rounding; written so that NaN fails too. */
        if (!(sigma > 0 && sigma < 1.001f && (k == 0 || sigma <= schedule->sigma[k - 1]))) {
            status = dd_fail(err, DDIT_ERR_FORMAT,
                             "the scheduler's shift gives noise level %g at step %d of %d; levels must fall "
                             "from 1 to 0; check shift, base_shift, max_shift and the two image_seq_len",
                             (double)sigma, k, steps);
            goto done;
        }
        schedule->sigma[k] = sigma;
        schedule->time[k] = sigma * 1000.0f;
    }
    schedule->sigma[steps] = 0;
    return DDIT_OK;
done:
    dd_noise_schedule_deinit(schedule);
    return status;
}

void dd_noise_schedule_deinit(dd_noise_schedule *schedule) {
    if (!schedule->allocator) return;
    dd_free(schedule->allocator, schedule->sigma);
    dd_free(schedule->allocator, schedule->time);
    *schedule = (dd_noise_schedule){0};
}
