/* The tiny transformer of tests/golden as a trainee with lanes, and a source of random samples. */
#ifndef DD_TEST_TRAIN_FIXTURE_H
#define DD_TEST_TRAIN_FIXTURE_H

#include "base/counter_rng.h"
#include "train/trainer.h"
#include "unit/dit/train_test.h"

enum { FIX_TEXT = 6, FIX_SIDE = 16, FIX_PROMPTS = 3, FIX_LANES = 4 };

typedef struct fixture {
    tiny_trainee m;
    dd_train_options options;
    int lane_count;
    dd_backend *backends[FIX_LANES];
    dd_flux_lane *lanes[FIX_LANES];
    dd_pool *pool;
    dd_latent_shape shape;
    dd_grid grid;
    float *embeddings; /* [FIX_PROMPTS][text, pooled] */
    dd_train_prompt prompts[FIX_PROMPTS];
} fixture;

/* Factors 2 and 4, rank 4, all of LoRA, linear+hf. */
static inline dd_train_options fixture_options(void) {
    return (dd_train_options){.scope = DD_TRAIN_ADAPTER, .factor = {false, true, true}, .rank = 4, .alpha = 4,
                              .lora_targets = DD_LORA_ALL, .residual_linear = true, .residual_hf = true};
}

static inline void fixture_prompts(fixture *f) {
    const dd_flux_config *c = &f->m.config.transformer;
    size_t text = FIX_TEXT * (size_t)c->joint_attention_dim, each = text + (size_t)c->pooled_projection_dim;
    f->embeddings = malloc(FIX_PROMPTS * each * sizeof(float));
    for (size_t i = 0; i < FIX_PROMPTS * each; i++) f->embeddings[i] = (float)dd_counter_normal(9, 9, i);
    for (int p = 0; p < FIX_PROMPTS; p++)
        f->prompts[p] = (dd_train_prompt){f->embeddings + (size_t)p * each, f->embeddings + (size_t)p * each + text};
}

/* conditions: how many samples the batch holds. */
static inline ddit_status fixture_open(fixture *f, const dd_train_options *options, int lanes, int conditions, ddit_err *err) {
    *f = (fixture){.options = *options, .lane_count = lanes};
    tiny_kind kind = {"cpu", DD_PRECISION_F32};
    DD_TRY(tiny_trainee_open(&f->m, kind, "flux_head32", options, conditions, FIX_TEXT, err));
    const dd_allocator *a = &f->m.memory.allocator;
    f->shape = (dd_latent_shape){f->m.config.transformer.latent_channels, FIX_SIDE, FIX_SIDE};
    f->grid = (dd_grid){FIX_SIDE / 2, FIX_SIDE / 2, 2};
    dd_flux_lane_params params = {.grid = f->grid, .text_tokens = FIX_TEXT, .max_image_tokens = f->grid.rows * f->grid.cols};
    DD_TRY(dd_pool_create(&f->pool, &dd_allocator_libc, lanes, NULL, err));
    for (int i = 0; i < lanes; i++) {
        if (lanes == 1) f->backends[0] = f->m.b;
        else DD_TRY(dd_op_lane_open(f->m.b, i, &f->backends[i], err));
        DD_TRY(dd_flux_lane_create(&f->lanes[i], f->m.trainee, f->backends[i], &params, err));
    }
    DD_TRY(dd_flux_trainee_start(f->m.trainee, 5, f->m.values, err));
    DD_TRY(dd_flux_trainee_update(f->m.trainee, f->m.values, err));
    fixture_prompts(f);
    (void)a;
    return DDIT_OK;
}

static inline bool fixture_close(fixture *f) {
    for (int i = 0; i < f->lane_count; i++) dd_flux_lane_free(f->lanes[i]);
    for (int i = 0; f->lane_count > 1 && i < f->lane_count; i++) dd_op_lane_close(f->backends[i]);
    dd_pool_free(f->pool);
    free(f->embeddings);
    return tiny_trainee_close(&f->m);
}

/* Random samples; number = step * samples_per_step + i, of which `different` come again and again (0: all differ). */
typedef struct random_source {
    dd_train_source source; /* first */
    const fixture *f;
    int samples_per_step;
    uint64_t different;
    bool has_target;
    uint64_t bad_number; /* this sample's latent is NaN; UINT64_MAX: none */
    bool fails;          /* fetch fails */
} random_source;

static inline uint64_t random_number(const random_source *r, uint64_t step, int i) {
    uint64_t number = step * (uint64_t)r->samples_per_step + (uint64_t)i;
    return r->different ? number % r->different : number;
}

static inline ddit_status random_plan(const dd_train_source *s, uint64_t step, int i, dd_train_sample *out, ddit_err *err) {
    const random_source *r = (const random_source *)s;
    uint64_t number = random_number(r, step, i);
    const dd_train_prompt *p = &r->f->prompts[number % FIX_PROMPTS];
    (void)err;
    *out = (dd_train_sample){.text = p->text, .pooled = p->pooled, .has_target = r->has_target, .guidance = 1.5f,
                             .sigma = 0.2f + 0.7f * (float)dd_counter_uniform(1, 1, number)};
    return DDIT_OK;
}

static inline ddit_status random_fetch(const dd_train_source *s, uint64_t step, int i, float *latent, float *target,
                                       ddit_err *err) {
    const random_source *r = (const random_source *)s;
    uint64_t number = random_number(r, step, i);
    size_t count = dd_latent_values(r->f->shape);
    if (r->fails) return dd_fail(err, DDIT_ERR_READ, "the sample cannot be read");
    for (size_t v = 0; v < count; v++) {
        latent[v] = (float)dd_counter_normal(2, number, v);
        if (r->has_target) target[v] = (float)dd_counter_normal(3, number, v);
    }
    if (number == r->bad_number) latent[count / 2] = NAN;
    return DDIT_OK;
}

static inline random_source random_source_of(const fixture *f, int samples_per_step) {
    return (random_source){.source = {.plan = random_plan, .fetch = random_fetch}, .f = f, .samples_per_step = samples_per_step,
                           .bad_number = UINT64_MAX};
}

#endif
