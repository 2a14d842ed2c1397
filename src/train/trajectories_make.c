/* Drawing the trajectories that are missing, a group at a time. */
#include <math.h>
#include <string.h>

#include "base/counter_rng.h"
#include "base/rng.h"
#include "train/streams.h"
#include "train/trajectories_private.h"

/* One trajectory on its way. */
typedef struct run {
    int number;
    float *latent, *velocity; /* owned [C, h, w] */
    uint16_t *latents, *velocities; /* owned [points, C, h, w] F16 */
    float *sigma;             /* owned [points + 1] */
    ddit_status status;
    ddit_err err;
} run;

/* A group of them. */
typedef struct group {
    dd_trajectories *t;
    const dd_trajectories_makers *makers;
    run *runs; /* owned [makers->group] */
    int count; /* in use */
    int point;
    dd_layout fine; /* uniform 1 */
    dd_flux_condition *conditions; /* owned [makers->group] */
} group;

uint64_t dd_trajectories_making_bytes(const dd_trajectories_params *p, int count) {
    uint64_t values = dd_latent_values(p->shape);
    return (uint64_t)count * values * (2 * sizeof(float) + 2 * (uint64_t)p->points * sizeof(uint16_t));
}

static ddit_status make_run(group *g, run *r, ddit_err *err) {
    const dd_allocator *a = g->t->allocator;
    size_t values = g->t->values, points = (size_t)g->t->params.points;
    DD_TRY(dd_alloc_raw(a, &r->latent, values, sizeof(float), "a latent", err));
    DD_TRY(dd_alloc_raw(a, &r->velocity, values, sizeof(float), "a velocity", err));
    DD_TRY(dd_alloc_raw(a, &r->latents, points * values, sizeof(uint16_t), "a trajectory", err));
    DD_TRY(dd_alloc_raw(a, &r->velocities, points * values, sizeof(uint16_t), "a trajectory", err));
    return dd_alloc_raw(a, &r->sigma, points + 1, sizeof(float), "noise levels", err);
}

static void free_group(group *g) {
    const dd_allocator *a = g->t->allocator;
    for (int i = 0; g->runs && i < g->makers->group; i++) {
        dd_free(a, g->runs[i].latent);
        dd_free(a, g->runs[i].velocity);
        dd_free(a, g->runs[i].latents);
        dd_free(a, g->runs[i].velocities);
        dd_free(a, g->runs[i].sigma);
    }
    dd_free(a, g->runs);
    dd_free(a, g->conditions);
    dd_layout_deinit(&g->fine);
}

static ddit_status make_group(group *g, ddit_err *err) {
    const dd_allocator *a = g->t->allocator;
    dd_latent_shape s = g->t->params.shape;
    int patch = g->t->params.patch;
    size_t count = (size_t)g->makers->group;
    DD_TRY(dd_alloc(a, &g->runs, count, sizeof *g->runs, "the trajectories", err));
    DD_TRY(dd_alloc(a, &g->conditions, count, sizeof *g->conditions, "the trajectories", err));
    for (size_t i = 0; i < count; i++) DD_TRY(make_run(g, &g->runs[i], err));
    return dd_layout_init(&g->fine, a, (dd_grid){s.height / patch, s.width / patch, patch}, err);
}

/* Noise and noise levels of trajectory j: functions of the seed and j alone. */
static ddit_status begin(group *g, run *r, int j, ddit_err *err) {
    const dd_trajectories_params *p = &g->t->params;
    uint64_t noise_seed = dd_counter_bits(p->seed, DD_STREAM_NOISE_SEED, (uint64_t)j);
    uint64_t stream = dd_stream_of(DD_STREAM_NOISE_LEVEL, (uint64_t)j);
    r->number = j;
    for (int k = 0; k < p->points; k++) {
        double inside = k == 0 ? 0 : dd_counter_uniform(p->seed, stream, (uint64_t)k);
        r->sigma[k] = p->sigma_of(p->sigma_user, 1 - (k + inside) / p->points);
    }
    r->sigma[p->points] = 0;
    return dd_randn_torch(noise_seed, g->t->values, r->latent, err);
}

static ddit_status take_step(group *g, run *r, int slot, int worker, ddit_err *err) {
    const dd_trajectories *t = g->t;
    int k = g->point;
    float sigma = r->sigma[k], step = r->sigma[k + 1] - sigma;
    DD_TRY(dd_flux_lane_velocity(g->makers->lanes[worker], g->makers->batch, slot, sigma, &g->fine, r->latent, r->velocity,
                                 err));
    uint16_t *z = r->latents + (size_t)k * t->values, *v = r->velocities + (size_t)k * t->values;
    bool finite = true;
    for (size_t i = 0; i < t->values; i++) {
        z[i] = dd_f16_from_f32(r->latent[i]);
        v[i] = dd_f16_from_f32(r->velocity[i]);
        finite = finite && isfinite(r->velocity[i]);
        r->latent[i] += step * r->velocity[i];
    }
    return finite ? DDIT_OK : dd_fail(err, DDIT_ERR_BACKEND, "trajectory %d: the model's velocity at noise level %g is not a "
                                      "finite number", r->number, (double)sigma);
}

static void step_task(void *user, int64_t task, int worker) {
    group *g = user;
    run *r = &g->runs[task];
    r->status = take_step(g, r, (int)task, worker, &r->err);
}

static ddit_status run_group(group *g, ddit_err *err) {
    const dd_trajectories_params *p = &g->t->params;
    for (g->point = 0; g->point < p->points; g->point++) {
        for (int i = 0; i < g->count; i++) {
            const run *r = &g->runs[i];
            const dd_train_prompt *prompt = &p->prompts[r->number % p->prompt_count];
            g->conditions[i] = (dd_flux_condition){.text = prompt->text, .pooled = prompt->pooled,
                                                   .time = 1000.0f * r->sigma[g->point],
                                                   .guidance = dd_trajectories_guidance(g->t, r->number)};
        }
        DD_TRY(dd_flux_batch_condition(g->makers->batch, g->conditions, g->count, err));
        dd_pool_run(g->makers->pool, g->count, step_task, g);
        for (int i = 0; i < g->count; i++)
            if (g->runs[i].status != DDIT_OK) return dd_fail(err, g->runs[i].status, "%s", g->runs[i].err.text);
    }
    return DDIT_OK;
}

static ddit_status write_run(const group *g, const run *r, ddit_err *err) {
    dd_trajectories *t = g->t;
    dd_latent_shape s = t->params.shape;
    dd_safetensors_item items[3] = {
        {.name = "latent", .dtype = DD_DTYPE_F16, .rank = 4, .data = r->latents,
         .shape = {t->params.points, s.channels, s.height, s.width}},
        {.name = "velocity", .dtype = DD_DTYPE_F16, .rank = 4, .data = r->velocities,
         .shape = {t->params.points, s.channels, s.height, s.width}},
        {.name = "sigma", .dtype = DD_DTYPE_F32, .rank = 1, .data = r->sigma, .shape = {t->params.points}}};
    dd_safetensors_pair pair = {"key", t->key};
    char *path;
    DD_TRY(dd_trajectories_path(t, r->number, &path, err));
    ddit_status status = dd_safetensors_write(t->allocator, path, items, 3, &pair, 1, err);
    dd_free(t->allocator, path);
    if (status == DDIT_OK) t->there[r->number] = true;
    return status;
}

/* The next missing trajectory of this rank from *at on; -1: none. By number, not by place among the missing: another rank may
 * have begun before this one looked. */
static int next_missing(const dd_trajectories *t, int *at) {
    while (*at < t->params.count) {
        int j = (*at)++;
        if (!t->there[j] && j % t->params.ranks == t->params.rank) return j;
    }
    return -1;
}

ddit_status dd_trajectories_make(dd_trajectories *t, const dd_trajectories_makers *makers, ddit_err *err) {
    group g = {.t = t, .makers = makers};
    int at = 0, made = 0, missing = 0;
    while (next_missing(t, &at) >= 0) missing++;
    if (missing == 0) return DDIT_OK;
    at = 0;
    ddit_status status;
    DD_GO(make_group(&g, err));
    while (made < missing) {
        for (g.count = 0; g.count < makers->group && made + g.count < missing; g.count++)
            DD_GO(begin(&g, &g.runs[g.count], next_missing(t, &at), err));
        DD_GO(run_group(&g, err));
        for (int i = 0; i < g.count; i++) DD_GO(write_run(&g, &g.runs[i], err));
        made += g.count;
        if (makers->done && makers->done(makers->user, made, missing))
            DD_GO(dd_fail(err, DDIT_ERR_CANCELLED, "cancelled after %d of %d trajectories; those stay", made, missing));
    }
done:
    free_group(&g);
    return status;
}
