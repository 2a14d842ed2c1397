/* A sampler on the tiny model, for the tests of this room. */
#ifndef DD_TEST_SAMPLER_TEST_H
#define DD_TEST_SAMPLER_TEST_H

#include "sample/sampler.h"
#include "unit/dit/dit_test.h"

enum { TINY_H = 16, TINY_W = 24, TINY_STEPS = 9 }; /* latent pixels; 128 x 192 */

static inline dd_sampler_params tiny_params(const tiny_model *m) {
    const dd_scheduler_config *c = &m->config.scheduler;
    dd_sampler_params p = {.latent_height = TINY_H, .latent_width = TINY_W, .steps = TINY_STEPS, .guidance = 3.5f,
                           .cfg_scale = 1, .text_tokens = TINY_TEXT, .keep_steps = true,
                           .policy = dd_patch_policy_default(), .free_detail = {0, 0.36f, 0.51f}};
    p.noise = (dd_noise_schedule_params){.use_dynamic_shifting = c->use_dynamic_shifting, .shift = c->shift,
                                         .base_shift = c->base_shift, .max_shift = c->max_shift,
                                         .base_image_seq_len = c->base_image_seq_len,
                                         .max_image_seq_len = c->max_image_seq_len,
                                         .time_shift_type = DD_TIME_SHIFT_EXPONENTIAL};
    for (int f = 1; f < DD_FACTOR_COUNT; f++) p.policy.allowed[f] = m->adapter.file && m->adapter.factor[f].present;
    return p;
}

/* The policy `kind` with a threshold by hand. */
static inline void tiny_policy(dd_sampler_params *p, dd_patch_kind kind, double tau) {
    p->policy.kind = kind;
    p->policy.tau = tau;
    p->policy.tau_by_hand = true;
}

/* second_prompt: what branch 1 is conditioned with, an index into text. */
static inline ddit_status tiny_sampler(dd_sampler **s, const tiny_model *m, const dd_sampler_params *p, int second_prompt,
                                       ddit_err *err) {
    DD_TRY(dd_sampler_create(s, m->dit, p, err));
    DD_TRY(dd_sampler_condition(*s, 0, m->text[0], m->pooled[0], err));
    return p->cfg_scale > 1 ? dd_sampler_condition(*s, 1, m->text[second_prompt], m->pooled[second_prompt], err) : DDIT_OK;
}

static inline size_t tiny_values(void) { return 16 * (size_t)TINY_H * TINY_W; }

/* Final latents on a cpu or ref backend lie in host memory. */
static inline const float *tiny_latent(const dd_sampler *s) { return dd_sampler_latent(s).data; }

#endif
